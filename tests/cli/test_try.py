"""``autoresearch try``: a person's own edit, with and without an engine running."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.conftest import TRAIN, Toy

MakeToy = Callable[..., Toy]


def edit(task: Toy, value: str) -> None:
    (task.root / "train.py").write_text(TRAIN.replace("0.5", value))


def test_a_better_edit_is_kept_and_files_stay_as_they_are(toy: MakeToy) -> None:
    task = toy()
    edit(task, "0.2")
    done = task.call("try", "-m", "lower\tLR")
    assert done.stdout.startswith("keep  loss 0.0")
    assert "(was 0.1" in done.stdout and "% sure" in done.stdout
    assert (task.root / "train.py").read_text() == TRAIN.replace("0.5", "0.2")
    row = task.experiment(1)
    assert row.open and row.description == "lower LR" and row.agent == "try"
    assert task.git("show", f"{task.view().branch}:train.py") + "\n" == TRAIN.replace("0.5", "0.2")
    assert "(open)" in task.call("log").stdout
    contract = task.root / "autoresearch.toml"
    contract.write_text(contract.read_text().replace("./agent.sh", "./lower.sh"))
    (task.root / "lower.sh").write_text("#!/bin/sh\nsed -i 's/^LR = .*/LR = 0.11/' train.py\n")
    (task.root / "lower.sh").chmod(0o755)
    said = task.call("run", "--max-experiments", "2").stdout
    assert (
        task.statuses()[-1] == "keep" and "lower is better (self-reported, built on open)" in said
    )


def test_a_worse_edit_exits_zero_too(toy: MakeToy) -> None:
    task = toy()
    edit(task, "0.9")
    found = json.loads(task.call("try", "-m", "higher", "--json").stdout)
    assert found["status"] == "discard" and found["open"] is True
    assert found["gain"] < 0 and found["was"] is not None and "confidence" in found


def test_no_change_and_repeats_are_said(toy: MakeToy) -> None:
    task = toy()
    assert task.call("try", "-m", "nothing").stdout.startswith("rejected  no change")
    edit(task, "0.9")
    task.call("try", "-m", "higher")
    assert "exact repeat of #2" in task.call("try", "-m", "again").stdout


def test_a_patch_applies_to_the_incumbent(toy: MakeToy) -> None:
    task = toy()
    edit(task, "0.3")
    (task.root / "my.patch").write_text(task.git("diff") + "\n")
    task.git("checkout", "--quiet", "train.py")
    assert task.call("try", "-m", "patched", "my.patch").stdout.startswith("keep")
    said = task.call("try", "-m", "stale", "my.patch").stdout
    assert said.startswith("rejected  the patch does not apply: ")
    assert task.statuses()[-1] == "rejected"
    assert task.experiment(2).description == "stale"


def test_changes_of_protected_files_are_said_to_be_left_out(toy: MakeToy) -> None:
    task = toy({"prepare.py": "pass\n"})
    edit(task, "0.9")
    (task.root / "prepare.py").write_text("changed = True\n")
    said = task.call("try", "-m", "more").stderr
    assert "note: protected, so not tried: prepare.py" in said


def test_a_running_engine_takes_it_next(toy: MakeToy) -> None:
    agent = '#!/bin/sh\nsed -i "s/^LR = .*/LR = 0.9$(date +%N | cut -c1-6)/" train.py\n'
    task = toy({"agent.sh": agent, "train.py": TRAIN + "import time; time.sleep(0.3)\n"})
    engine = task.start("run")
    give_up = time.monotonic() + 30
    while not task.saw(lambda view: view.decided)():
        assert time.monotonic() < give_up
        time.sleep(0.05)
    (task.root / "train.py").write_text(TRAIN.replace("0.5", "0.1"))
    done = task.call("try", "-m", "mine")
    assert done.stdout.startswith("keep  loss ")
    assert [each.description for each in task.view().decided].count("mine") == 1
    task.call("stop")
    assert engine.wait(30) == 0
    assert not list((task.run_folder / "inbox").glob("*.json"))
