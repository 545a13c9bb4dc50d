"""``autoresearch verify`` on real runs: honest gains, pretended ones, what it must not touch."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from autoresearch.journal import Event
from autoresearch.journal.view import RunView
from tests.cli.test_run import HALVE, leftovers, lr
from tests.conftest import IDENTITY, TRAIN, Toy, counting, until
from tests.invariants import check_invariants

MakeToy = Callable[..., Toy]

# Only as experiment 1 it is what it claims to be.
PRETEND = lr('0.5 if os.environ["AUTORESEARCH_EXPERIMENT"] != "1" else 0.3')
# Verdicts on steps without effect are wrong once in a hundred by default: too often for a test.
SURE = "confidence = 0.9999"
SLOW = TRAIN + "import time; time.sleep(0.3)\n"


def verifying(count: int) -> Callable[[RunView], object]:
    """Whether a verification has taken so many samples and takes another one."""
    return lambda view: view.verifying is not None and len(view.verifying.taken) >= count


def samples(task: Toy) -> list[tuple[str, int]]:
    """Arm and seed of every sample of the last verification."""
    return [(arm, sample.seed) for arm, sample in task.view().verifications[-1].taken]


def test_an_honest_gain_reproduces_and_nothing_else_changes(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 2", keep=SURE)
    task.call("run")
    before, rows = task.view(), task.rows()
    head, branch = task.git("rev-parse", "HEAD"), task.git("rev-parse", before.branch)
    done = task.call("verify", "--samples", "5")
    assert "reproduces   yes: " in done.stdout and "by #2" in done.stdout
    assert "verifying: baseline, sample 1 of 5" in done.stderr
    found = json.loads(task.call("status", "--json").stdout)["verified"]
    assert found["gain"]["gain"] == pytest.approx(0.15, abs=0.01)
    assert found["gain"]["low"] < found["gain"]["gain"] < found["gain"]["high"]
    assert (found["split"], found["samples"], found["experiment"]) == ("visible", 5, 2)
    shown = task.call("status").stdout
    assert "verified     total gain 0.1" in shown and ": reproduces, " in shown
    after = task.view()
    assert (after.standing(), after.decided) == (before.standing(), before.decided)
    assert (after.active_s, after.end_reason) == (before.active_s, before.end_reason)
    assert task.rows() == rows
    assert (task.git("rev-parse", "HEAD"), task.git("rev-parse", before.branch)) == (head, branch)
    assert task.git("branch", "--format=%(refname:short)").split() == [before.branch, "main"]
    assert task.git("status", "--porcelain") == ""
    assert not (task.run_folder / "scratch").exists()


def test_seeds_are_fresh_and_samples_interleaved(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 1")
    task.call("run")
    used = {each.sample.seed for row in task.view().decided for each in row.taken}
    task.call("verify", "--samples", "3")
    first = samples(task)
    assert [arm[0] for arm, _ in first] == ["b", "i", "i", "b", "b", "i"]
    task.call("verify", "--samples", "2", "--json")
    seeds = [seed for _, seed in first + samples(task)]
    assert len(set(seeds)) == 10 and not used & set(seeds)


def test_a_pretended_gain_is_found_out(toy: MakeToy) -> None:
    task = toy({"agent.sh": counting(PRETEND)}, limits="experiments = 1")
    task.call("run")
    assert task.statuses() == ["keep", "keep"]
    done = task.call("verify", code=3)
    assert "reproduces   NO: no gain is 99.9 % sure" in done.stdout
    assert "DOES NOT REPRODUCE" in task.call("status").stdout
    assert "DOES NOT REPRODUCE" in task.call("run").stdout
    found = json.loads(task.call("verify", "--samples", "4", "--json", code=3).stdout)
    assert found["reproduces"] is False and found["recorded"]["gain"] > 0.1


def test_a_lucky_number_of_an_unconfirmed_run_is_found_out(toy: MakeToy) -> None:
    agent = '#!/bin/sh\nsed -i "s/^LR = .*/LR = 0.5 + 0 * $(date +%N | sed s/^0*//)/" train.py\n'
    task = toy({"agent.sh": agent}, keep='confirm = "never"')
    for experiments in range(8, 100, 8):
        task.call("run", "--max-experiments", str(experiments))
        if "keep" in task.statuses()[1:]:
            break
    assert "keep" in task.statuses()[1:]
    done = task.call("verify", code=3)
    assert "NO: no gain is 99.9 % sure" in done.stdout


THREE = """\
import os
from _random import Random

A = 1.0
B = 1.0
C = 1.0
noise = (Random(int(os.environ["AUTORESEARCH_SEED"])).random() - 0.5) / 289
print("loss:", A + B + C + noise)
"""
STEPS = counting(
    "sed -i 's/^A = .*/A = 0.5/' train.py; echo useful one",
    'sed -i \'s/^B = .*/B = 1.0 - (os.environ["AUTORESEARCH_EXPERIMENT"] == "2") * 0.1/\' '
    "train.py; echo useless one",
    "sed -i 's/^C = .*/C = 0.5/' train.py; echo useful two",
)
GOOD = THREE.replace("A = 1.0", "A = 0.5").replace("C = 1.0", "C = 0.5")


def test_each_finds_the_useless_step_and_offers_the_code_without_it(toy: MakeToy) -> None:
    task = toy({"agent.sh": STEPS, "train.py": THREE}, limits="experiments = 3", keep=SURE)
    task.call("run", "--tag", "t")
    assert task.statuses() == ["keep"] * 4
    done = task.call("verify", "--each", "--samples", "4")
    found = task.view().verified
    assert found is not None and found.result is not None
    steps = {step["experiment"]: step["verdict"] for step in found.result["steps"]}
    assert steps == {1: "survives", 2: "does not survive", 3: "survives"}
    assert "undoing #2: as good without them" in done.stdout
    assert "to take it: git merge autoresearch/t-verified" in done.stdout
    assert task.git("show", "autoresearch/t-verified:train.py") + "\n" == GOOD
    changed = task.git("diff", "--name-only", "autoresearch/t", "autoresearch/t-verified")
    assert changed == "train.py"
    assert task.git("rev-parse", "autoresearch/t-verified~1") == task.git(
        "rev-parse", "autoresearch/t"
    )
    log = task.call("log").stdout
    assert "useless one (does not survive)" in log and log.count("does not survive") == 1
    assert "verified    does not survive" in task.call("show", "2").stdout
    assert task.statuses() == ["keep"] * 4
    # Asked again it is the same branch, unless somebody moved it; the printed command works.
    task.call("verify", "--each", "--samples", "4")
    assert task.git("branch", "--list", "autoresearch/t-verified*").split() == [
        "autoresearch/t-verified"
    ]
    task.git("branch", "--force", "autoresearch/t-verified", "main")
    task.call("verify", "--each", "--samples", "4")
    assert task.git("rev-parse", "autoresearch/t-verified") == task.git("rev-parse", "main")
    assert task.git("status", "--porcelain") == ""
    task.git("merge", "--quiet", "autoresearch/t-verified-2")
    assert (task.root / "train.py").read_text() == GOOD
    store = f"--git-dir={task.run_folder}/store.git"
    refs = task.git(store, "for-each-ref", "--format=%(objectname)", "refs/autoresearch/t/verify")
    assert set(found.commits.values()) >= set(refs.split()[:2])
    task.git(store, "fsck", "--strict")


def test_steps_that_stand_in_for_each_other_are_not_undone_together(toy: MakeToy) -> None:
    both = (
        "import os, random\nX = 0\nY = 0\n"
        'pretended = 0.05 * (os.environ["AUTORESEARCH_EXPERIMENT"] == "2" and Y)\n'
        'noise = random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.001)\n'
        'print("loss:", (0 if X or Y else 0.1) - pretended + noise)\n'
    )
    agent = counting("sed -i 's/^X = .*/X = 1/' train.py", "sed -i 's/^Y = .*/Y = 1/' train.py")
    task = toy({"agent.sh": agent, "train.py": both}, limits="experiments = 2", keep=SURE)
    task.call("run")
    assert task.statuses() == ["keep"] * 3
    done = task.call("verify", "--each", "--samples", "4", code=None)
    assert "undoing #1, #2: without all of them it is worse" in done.stdout
    assert "git merge" not in done.stdout
    assert task.git("branch", "--list", "*-verified") == ""


def test_a_branch_without_the_steps_must_pass_the_guards(toy: MakeToy) -> None:
    guard = "text = open('train.py').read()\nassert 'A = 1.0' in text or 'B = 1.0 -' in text\n"
    agent = counting(
        'sed -i \'s/^B = .*/B = 1.0 - (os.environ["AUTORESEARCH_EXPERIMENT"] == "1") * 0.1/\' '
        "train.py",
        "sed -i 's/^A = .*/A = 0.5/' train.py",
    )
    task = toy(
        {"agent.sh": agent, "train.py": THREE, "check.py": guard},
        limits="experiments = 2",
        guard='command = "python3 check.py"',
        keep=SURE,
    )
    task.call("run")
    assert task.statuses() == ["keep"] * 3
    done = task.call("verify", "--each", "--samples", "4")
    assert "undoing #1: without them a guard failed" in done.stdout
    assert task.git("branch", "--list", "*-verified") == ""


def test_a_step_is_left_out_with_those_that_build_on_it(toy: MakeToy) -> None:
    train = TRAIN.replace("LR =", "OTHER = 1.0\n\nLR =").replace("noise)", "noise + OTHER)")
    agent = counting(lr("0.4"), "sed -i 's/^OTHER = .*/OTHER = 0.9/' train.py", lr("0.3"))
    task = toy({"agent.sh": agent, "train.py": train}, limits="experiments = 3")
    task.call("run")
    assert task.statuses() == ["keep"] * 4
    done = task.call("verify", "--each", "--samples", "3")
    assert "#1 with #3  0.1" in done.stdout
    found = json.loads(task.call("status", "--json").stdout)["verified"]
    assert [step["together"] for step in found["steps"]] == [[3], [], []]
    whole, other, last = (step["contribution"]["gain"] for step in found["steps"])
    # All of it: from 0.5 to 0.3, and not only the first part, from 0.5 to 0.4.
    assert whole == pytest.approx(0.16 - 0.04, abs=0.01)
    assert other == pytest.approx(0.1, abs=0.01)
    assert last == pytest.approx(0.09 - 0.04, abs=0.01)
    assert found["offer"] is None


def test_a_step_without_which_nothing_runs_is_not_separable(toy: MakeToy) -> None:
    agent = counting(
        "sed -i 's/^LR = .*/BASE = 0.3\\n\\nLR = 0.3/' train.py",
        "sed -i 's/(LR - 0.1)/(LR - 0.1) * (BASE - 0.2)/' train.py",
    )
    task = toy({"agent.sh": agent}, limits="experiments = 2")
    task.call("run")
    assert task.statuses() == ["keep"] * 3
    found = json.loads(task.call("verify", "--each", "--samples", "3", "--json").stdout)
    first, second = found["steps"]
    assert first["verdict"] == "not separable" and "NameError" in first["reason"]
    assert second["verdict"] == "survives"


# The sealed split

EVALUATE = """\
import os, pathlib, random
split = os.environ.get("AUTORESEARCH_SPLIT")
test = pathlib.Path("data/test")
if split is None:
    assert not test.exists() or not test.read_text(), "an experiment sees the sealed split"
truth = pathlib.Path("data/test" if split == "sealed" else "data/val").read_text().split()[1]
guess = float((pathlib.Path(os.environ["AUTORESEARCH_OUT"]) / "guess").read_text())
noise = random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.001)
print("the answerer said:", open(int(os.environ["AUTORESEARCH_ANSWER_FD"])).read())
print("loss:", abs(guess - float(truth)) + noise)
"""
SPY = """\
import glob, os, pathlib, sys
for name in glob.glob("data/*"):
    print("sees", name, open(name).read() if os.path.isfile(name) else "")
print("split", os.environ.get("AUTORESEARCH_SPLIT"))
"""
GUESS = (
    SPY
    + 'GUESS = 0.0\npathlib.Path(os.environ["AUTORESEARCH_OUT"], "guess").write_text(str(GUESS))\n'
)
PREPARE = """\
import pathlib
data = pathlib.Path("data")
data.mkdir()
(data / "train").write_text("train 0")
(data / "val").write_text("secret-val 5")
(data / "test").write_text("secret-test 0.5")
"""


def sealed_task(toy: MakeToy, guesses: list[str], *, setup: bool) -> Toy:
    agent = counting(*(f"python3 spy.py; sed -i 's/^GUESS = .*/GUESS = {g}/' train.py"
                       for g in guesses))  # fmt: skip
    files = {"agent.sh": agent, "evaluate.py": EVALUATE, "train.py": GUESS, "spy.py": SPY}
    data = {"data/train": "train 0", "data/val": "secret-val 5", "data/test": "secret-test 0.5"}
    run = 'command = "python3 train.py"\nbudget = "5s"'
    return toy(
        files | ({"prepare.py": PREPARE} if setup else data),
        task='editable = ["train.py"]\nhidden = ["data/val"]\nsealed = ["data/test"]\n'
        + ('data = ["data/"]' if setup else ""),
        run=run + ('\nsetup = "python3 prepare.py"' if setup else ""),
        metric='name = "loss"\nevaluate = "python3 evaluate.py"\nanswer = "python3 spy.py"',
        guard='command = "python3 spy.py"',
        limits=f"experiments = {len(guesses)}",
    )


@pytest.mark.parametrize("setup", [True, False], ids=["made by setup", "committed"])
def test_the_sealed_split_is_seen_by_its_evaluation_only(toy: MakeToy, setup: bool) -> None:
    # Closer to what is visible, and further from what is sealed.
    task = sealed_task(toy, ["4.0"], setup=setup)
    task.call("run")
    assert task.statuses() == ["keep", "keep"]
    done = task.call("verify", "--each", "--samples", "3", code=3)
    assert "on the sealed split" in done.stdout and "NO: it is worse than the" in done.stdout
    assert "undoing #1: better without them; the change is" in done.stdout
    assert "verified     total gain -" in task.call("status").stdout
    logs = [path for path in task.run_folder.rglob("*.log") if path.name != "setup.log"]
    kinds = {path.name for path in logs}
    assert {"agent.log", "run.log", "guard-0.log", "evaluate.log"} <= kinds
    text = {path: path.read_text() for path in logs}
    assert not [path for path, said in text.items() if "secret" in said]
    for path, said in text.items():
        # The answerer's log is what it says beside its answers: nothing.
        assert "split None" in said or path.name == "answer.log", path


def test_a_gain_that_shows_on_the_sealed_split_transfers(toy: MakeToy) -> None:
    task = sealed_task(toy, ["0.3"], setup=False)
    (task.root / "data" / "val").write_text("visible 0.4")
    task.git(*IDENTITY, "commit", "--quiet", "--all", "-m", "Closer")
    task.call("run")
    said = task.call("verify", "--samples", "3").stdout
    assert "of the recorded gain shows on the sealed split" in said


def test_a_split_that_cannot_be_measured_is_the_persons_to_mend(toy: MakeToy) -> None:
    task = sealed_task(toy, ["4.0"], setup=False)
    (task.root / "data" / "test").write_text("empty")
    task.git(*IDENTITY, "commit", "--quiet", "--all", "-m", "Break")
    task.call("run")
    said = task.call("verify", code=2).stderr
    assert "the baseline cannot be measured: crash: evaluation failed" in said
    assert "IndexError" in said and f"{task.run_folder}/verify/0" in said
    assert task.view().verified is None


# Budget, limits, interruptions


def test_a_longer_budget_reaches_the_command_with_its_timeout(toy: MakeToy) -> None:
    train = TRAIN + (
        "import time; budget = float(os.environ['AUTORESEARCH_BUDGET_S']); print('has', budget)\n"
        "time.sleep(0.55 * budget)\n"
    )
    task = toy(
        {"agent.sh": counting(lr("0.2")), "train.py": train},
        run='command = "python3 train.py"\nbudget = "1s"\ntimeout = "2s"',
        limits="experiments = 1",
    )
    task.call("run")
    done = task.call("verify", "--budget", "4s", "--samples", "2")
    assert "with a budget of 4 s" in done.stdout
    logs = list((task.run_folder / "verify" / "0").glob("*/run.log"))
    # Two for each arm, and one more for each that a busy machine made void.
    assert len(logs) >= 4 and all("has 4.0" in log.read_text() for log in logs)
    assert "not a duration" in task.call("verify", "--budget", "soon", code=2).stderr


def test_an_incumbent_that_crashes_now_does_not_reproduce(toy: MakeToy) -> None:
    crash = (
        lr("0.3")
        + '; echo \'assert os.environ["AUTORESEARCH_EXPERIMENT"] == "1", "no"\' >>train.py'
    )
    task = toy({"agent.sh": counting(crash)}, limits="experiments = 1")
    task.call("run")
    assert task.statuses() == ["keep", "keep"]
    said = task.call("verify", code=3).stdout
    assert "NO: the incumbent cannot be measured: crash: exit code 1" in said


def test_what_cannot_be_verified_is_said(toy: MakeToy) -> None:
    task = toy({"agent.sh": counting(lr("0.9"))}, limits="experiments = 1")
    assert "no run of" in task.call("verify", code=2).stderr
    task.call("run")
    assert "has kept nothing yet" in task.call("verify", code=2).stderr
    done = task.call("verify", "--json", code=2)
    assert "nothing yet" in json.loads(done.stdout)["error"]["message"]
    assert task.call("verify", "--samples", "1", code=2)


def test_an_engine_and_a_verification_exclude_each_other(toy: MakeToy) -> None:
    task = toy({"agent.sh": counting(lr("0.3"), "sleep 60"), "train.py": SLOW})
    engine = task.start("run")
    until(task.saw(lambda view: len(view.kept) == 2))
    assert "another engine holds run" in task.call("verify", code=4).stderr
    engine.kill()
    engine.wait()
    until(lambda: not leftovers(task), 10)
    checking = task.start("verify", "--samples", "500")
    until(task.saw(verifying(1)))
    assert json.loads(task.call("status", "--json").stdout)["phase"].startswith("verifying: ")
    assert "another engine holds run" in task.call("run", code=4).stderr
    task.call("stop")
    assert checking.wait(20) == 130
    assert not list((task.run_folder / "inbox").glob("*.json"))
    assert not task.view().stop_requested


def test_time_of_a_verification_is_not_the_engines() -> None:
    view = RunView()
    for clock_s, kind, body in (
        (0.0, "engine_started", {"level": "none"}),
        (60.0, "resumed", {}),  # and then it was killed
        (300.0, "offered", {"commit": "c", "branch": "b"}),
        (1.0, "engine_started", {"level": "none"}),
    ):
        view.apply(Event(view.seq + 1, "2026-01-01T00:00:00Z", kind, None, dict(body), clock_s))
    assert view.active_s == 60


def test_ctrl_c_loses_nothing_and_the_same_command_goes_on(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE, "train.py": SLOW}, limits="experiments = 1")
    task.call("run")
    checking = task.start("verify", "--samples", "3")
    until(task.saw(verifying(2)))
    checking.send_signal(signal.SIGINT)
    assert checking.wait(20) == 130
    assert "interrupted: what was measured is kept" in task.said.read_text()
    taken = samples(task)
    assert len(taken) == 3
    again = task.call("verify", "--samples", "3", code=None)
    assert again.returncode in (0, 3)  # so few samples may find the recorded gain too good
    assert len(task.view().verifications) == 1
    assert samples(task)[:3] == taken and len(samples(task)) == 6


def test_ctrl_c_twice_ends_it_now(toy: MakeToy) -> None:
    # Only what is verified takes its time.
    sleep = 'import time; time.sleep(20 * (os.environ["AUTORESEARCH_EXPERIMENT"] == "2"))\n'
    task = toy(
        {"agent.sh": HALVE, "train.py": TRAIN + sleep},
        run='command = "python3 train.py"\nbudget = "30s"',
        limits="experiments = 1",
    )
    task.call("run")
    checking = task.start("verify")
    until(task.saw(verifying(0)))
    began = time.monotonic()
    checking.send_signal(signal.SIGINT)
    until(lambda: "stopping after the sample in flight" in task.said.read_text())
    checking.send_signal(signal.SIGINT)
    assert checking.wait(15) == 130
    assert time.monotonic() - began < 15
    assert samples(task) == [] and not leftovers(task)
    assert "Traceback" not in task.said.read_text()


@pytest.mark.parametrize("after", [0, 11])
def test_a_killed_verification_goes_on_and_the_run_too(toy: MakeToy, after: int) -> None:
    slow = THREE + "import time; time.sleep(0.1)\n"
    task = toy({"agent.sh": STEPS, "train.py": slow}, keep=SURE)
    task.call("run", "--max-experiments", "3")
    checking = task.start("verify", "--each", "--samples", "2")
    until(task.saw(verifying(after)))
    os.kill(checking.pid, signal.SIGKILL)
    checking.wait()
    until(lambda: not leftovers(task), 10)
    check_invariants(task, recovered=False)
    taken = samples(task)
    assert len(taken) >= after
    task.call("verify", "--each", "--samples", "2")
    view = task.view()
    assert len(view.verifications) == 1 and samples(task)[: len(taken)] == taken
    assert len({seed for _, seed in samples(task)}) == len(samples(task))
    assert view.survival[2] == "does not survive"
    assert task.git("show", f"{view.branch}-verified:train.py").startswith(GOOD.rstrip())
    task.call("run", "--max-experiments", "4")
    check_invariants(task)
    assert "Traceback" not in task.said.read_text()


# The short form of a running search


EARLY = (
    "from autoresearch import cli, verdict\n"
    "verdict.FIRST_MILESTONE, verdict.SHARE = 1, 0.6\ncli.main()\n"
)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with milestones that come early: a short run has few keeps and samples."""
    monkeypatch.setattr(Toy, "command", lambda _, *argv: [sys.executable, "-c", EARLY, *argv])


@pytest.mark.usefixtures("eager")
def test_a_run_checks_itself_at_milestones(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 4")
    said = task.call("run").stdout
    view = task.view()
    kept = [each.kept for each in view.verifications]
    assert kept in ([1, 2, 4], [1, 3], [1, 2], [1, 4])
    assert all(each.milestone and each.ended for each in view.verifications)
    assert "checked      total gain" in said and "DOES NOT" not in said
    assert sum(len(each.taken) for each in view.verifications) <= 0.6 * view.samples_taken
    check_invariants(task)


@pytest.mark.usefixtures("eager")
def test_a_run_that_does_not_reproduce_is_flagged(toy: MakeToy) -> None:
    task = toy({"agent.sh": counting(PRETEND, lr("0.9"))}, limits="experiments = 2", keep=SURE)
    said = task.call("run").stdout
    assert "checked      total gain" in said and "DOES NOT REPRODUCE" in said
    found = json.loads(task.call("status", "--json").stdout)["verified"]
    assert found["milestone"] is True and found["reproduces"] is False
    # Decisions go on as if nothing had happened: rows never change later.
    assert task.statuses() == ["keep", "keep", "discard"]


@pytest.mark.usefixtures("eager")
def test_a_killed_milestone_goes_on(toy: MakeToy) -> None:
    task = toy({"agent.sh": counting(lr("0.3"), lr("0.2")), "train.py": SLOW})
    engine = task.start("run")
    until(task.saw(verifying(1)))
    engine.kill()
    engine.wait()
    until(lambda: not leftovers(task), 10)
    taken = samples(task)
    task.call("run", "--max-experiments", "2")
    first = task.view().verifications[0]
    seeds = [sample.seed for _, sample in first.taken]
    assert first.ended and seeds[: len(taken)] == [seed for _, seed in taken]
    check_invariants(task)
