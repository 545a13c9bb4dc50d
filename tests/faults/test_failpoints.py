"""A run or a verification is killed at every failpoint there is, continued, and loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import autoresearch
from autoresearch.failpoint import EVENTS, NAMES, VARIABLE
from autoresearch.git import Store
from autoresearch.inbox import drop
from autoresearch.journal.view import VERIFYING
from tests.cli.test_verify import EARLY, STEPS, SURE, THREE
from tests.conftest import IDENTITY, Toy, counting, run, until
from tests.faults.story import story
from tests.invariants import Acknowledged, check_invariants

# What a run passes, in its order: until its baseline is decided, and with every experiment.
BEGINNING = (
    "run.locked", "journal.created", "store.created", "store.adopted", "log.begun",
    "journal.run_started", "journal.engine_started", "journal.setup_started", "setup.ran",
    "journal.setup_done", "journal.opened", "journal.proposed", "journal.sealed",
    "journal.attempt", "evaluation.exported", "sample.taken", "journal.sample", "guards.ran",
    "journal.guarded", "journal.decided", "log.appended", "results.rebuilt",
)  # fmt: skip
EXPERIMENT = (
    "journal.opened", "workspace.exported", "agent.ended", "workspace.captured",
    "journal.proposed", "store.sealed", "journal.sealed", "journal.attempt", "sample.taken",
    "journal.sample", "guards.ran", "journal.guarded", "journal.decided", "log.appended",
    "results.appended", "branch.packed", "branch.moved", "journal.delivered",
)  # fmt: skip
# The first time is the baseline's: these are those of an agent's experiment.
LATER = [f"{name}:2" for name in EXPERIMENT if name in BEGINNING]
DECIDED = EXPERIMENT[EXPERIMENT.index("journal.decided") :]
OF_A_VERIFICATION = [f"journal.{kind}" for kind in EVENTS if kind in VERIFYING]
# What a verification passes, too; the later ones are those of a step that was left out.
BESIDE = ("run.locked", "store.sealed", "store.sealed:4", "sample.taken", "guards.ran",
          "branch.packed", "branch.moved")  # fmt: skip
LATER_ON = ("journal.verify_sealed:4", "journal.verify_attempt:9", "journal.verify_sample:9",
            "sample.taken:9")  # fmt: skip
# The short form of a running search has no others.
OF_A_MILESTONE = ("verify_started", "verify_attempt", "verify_sample", "verified",
                  "verify_abandoned")  # fmt: skip
SOURCE = Path(autoresearch.__file__).parent


def _nothing(task: Toy) -> None:
    pass


def _moved_branch_and_ticket(task: Toy) -> None:
    task.git("branch", "--force", "autoresearch/t", "main")
    drop(task.run_folder, {"kind": "ticket", "ticket": "1", "message": "mine", "files": {},
                           "patch": None})  # fmt: skip


def _ask(*kinds: str) -> Callable[[Toy], None]:
    """Ask for something as soon as there is an engine to ask."""

    def ask(task: Toy) -> None:
        until(task.saw(lambda view: view.engine_started and view.ended is None))
        for kind in kinds:
            drop(task.run_folder, {"kind": kind})

    return lambda task: threading.Thread(target=ask, args=(task,), daemon=True).start()


def _idea_and_its_end(task: Toy) -> None:
    drop(task.run_folder, {"kind": "idea", "ticket": "1", "text": "an idea", "patch": "bm9uZQ=="})
    drop(task.run_folder, {"kind": "idea", "ticket": "2", "text": "another", "priority": -1})
    drop(task.run_folder, {"kind": "idea_drop", "idea": 2})


def _damaged_journal(task: Toy) -> None:
    journal = task.run_folder / "journal.db"
    os.truncate(journal, journal.stat().st_size // 2)


def _condensing(task: Toy) -> None:
    contract = task.root / "autoresearch.toml"
    text = contract.read_text().replace('use = "command"', 'use = "command"\ncondense_every = 1')
    contract.write_text(text)
    task.git(*IDENTITY, "commit", "--quiet", "-am", "Condense")


def _lost_object(task: Toy) -> None:
    commit = task.view().kept[0].commit
    (task.run_folder / "store.git" / "objects" / commit[:2] / commit[2:]).unlink()


# How a failpoint is reached: what is done to a run of one experiment, and the command after it.
# All others are reached by the first start of a run.
Scene = tuple[Callable[[Toy], None], list[str], dict[str, str]]
FIRST: Scene = (_nothing, ["--max-experiments", "1"], {})
MOVED: Scene = (_moved_branch_and_ticket, ["--max-experiments", "3"], {})
IDEAS: Scene = (_idea_and_its_end, ["--max-experiments", "3"], {})
FAILING: Scene = (_nothing, ["--max-experiments", "2"], {"AGENT_FAILS": "1"})
SCENES: dict[str, Scene] = {
    "journal.contract_changed": MOVED,
    "journal.warning": MOVED,
    "journal.ticket": MOVED,
    "inbox.removed": MOVED,
    "journal.paused": FAILING,
    "journal.agent_failed": FAILING,
    "journal.resumed": FAILING,
    "journal.condensed": (_condensing, ["--max-experiments", "2"], {}),
    "journal.answered": (_nothing, ["--max-experiments", "2"], {"AGENT_REPEATS": "1"}),
    "journal.stop_requested": (_ask("stop"), ["--max-experiments", "9"], {}),
    "journal.pause_requested": (_ask("pause"), ["--max-experiments", "9"], {}),
    "journal.resume_requested": (_ask("pause", "resume"), ["--max-experiments", "9"], {}),
    "journal.idea": IDEAS,
    "journal.idea_dropped": IDEAS,
    "journal.exhausted": (_nothing, ["--max-experiments", "2", "--agent", "replay"], {}),
    "journal.moved": (_damaged_journal, ["--max-experiments", "2"], {}),
    "journal.restored": (_damaged_journal, ["--max-experiments", "2"], {}),
    "store.moved": (_lost_object, ["--max-experiments", "2"], {}),
    "store.restored": (_lost_object, ["--max-experiments", "2"], {}),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The task before its run, and after one experiment; tests work on copies."""
    # A sample and its confirmation pass the same steps: one is enough.
    fresh = story(tmp_path_factory.mktemp("fresh") / "task", confirm='"never"')
    begun = Toy(tmp_path_factory.mktemp("begun") / "task")
    shutil.copytree(fresh.root, begun.root)
    begun.call("run", "--tag", "t", "--max-experiments", "1")
    assert begun.statuses() == ["keep", "keep"]
    return {False: fresh.root, True: begun.root}


def _kill_there(
    name: str, task: Toy, *argv: str, variables: Mapping[str, str] | None = None
) -> None:
    """Run a command that dies at a failpoint, and take note of what it said."""
    environment = {**os.environ, **(variables or {}), VARIABLE: name}
    killed = run(task.command(*argv), task.root, environment)
    assert killed.returncode == -signal.SIGKILL, f"never reached: {killed.stdout}{killed.stderr}"
    with task.said.open("a") as said:
        said.write(killed.stdout)


def _catches_up(task: Toy, seen: Acknowledged) -> None:
    """What follows from a decision is made up for at once, not with the next one."""
    task.call("run", "--tag", "t", "--max-experiments", "0")
    check_invariants(task, seen)


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True], ids=["its beginning", "an experiment"])
def test_killed_at_one_step_after_the_other_a_run_goes_on(
    begun: bool, scenes: dict[bool, Path], tmp_path: Path
) -> None:
    task = Toy(tmp_path / "task")
    shutil.copytree(scenes[begun], task.root, symlinks=True)
    seen = Acknowledged()
    seen.read(task)
    for name in EXPERIMENT if begun else BEGINNING:
        _kill_there(name, task, "run", "--tag", "t", "--max-experiments", "50")
        check_invariants(task, seen, recovered=False)
        seen.read(task)
        if begun and name in DECIDED:
            _catches_up(task, seen)
    target = len(task.view().decided)
    argv = ("run", "--tag", "t", "--max-experiments", str(target))
    _kill_there("journal.run_ended", task, *argv)
    assert len(check_invariants(task, seen, recovered=False).decided) == target + 1
    task.call(*argv)
    assert len(check_invariants(task, seen).decided) == target + 1


@pytest.mark.parametrize(
    "name", [*(name for name in NAMES if name not in OF_A_VERIFICATION), *LATER]
)
def test_killed_there_a_run_continues(
    name: str, scenes: dict[bool, Path], tmp_path: Path, endurance: bool
) -> None:
    if name not in SCENES and not endurance:
        pytest.skip("only with --endurance: killed there after other steps, a run goes on as well")
    prepare, argv, variables = SCENES.get(name, FIRST)
    task = Toy(tmp_path / "task")
    shutil.copytree(scenes[name in SCENES], task.root, symlinks=True)
    seen = Acknowledged()
    seen.read(task)
    prepare(task)
    _kill_there(name, task, "run", "--tag", "t", *argv, variables=variables)
    before = len(seen.rows)
    seen.read(task)
    if name not in ("journal.moved", "store.moved", "store.restored"):
        check_invariants(task, seen, recovered=False)
    else:
        assert len(seen.rows) == before
    if name not in BEGINNING and name.removesuffix(":2") in DECIDED:
        _catches_up(task, seen)
    target = len(seen.rows) + 1
    task.call("run", "--tag", "t", "--max-experiments", str(target))
    view = check_invariants(task, seen)
    assert len(view.decided) == target + 1
    if SCENES.get(name) is IDEAS:
        assert [each.ticket for each in view.ideas.all] == ["1", "2"]
        assert view.ideas.all[0].experiments == [2], "tried not exactly once"


@pytest.mark.parametrize("name", ["store.created", "store.sealed", "journal.run_started"])
def test_killed_while_it_begins_a_run_keeps_uncommitted_changes(
    name: str, scenes: dict[bool, Path], tmp_path: Path
) -> None:
    task = Toy(tmp_path / "task")
    shutil.copytree(scenes[False], task.root, symlinks=True)
    train = task.root / "train.py"
    train.write_text(train.read_text() + "# mine\n")
    argv = ("run", "--tag", "t", "--max-experiments", "0")
    _kill_there(name, task, *argv, "--dirty")
    if name != "journal.run_started":
        assert "uncommitted changes" in task.call(*argv, code=2).stderr
    task.call(*argv, "--dirty")
    store = Store(task.run_folder / "store.git")
    base = task.view().base
    assert store.read(store.tree(base)["train.py"].oid).endswith(b"# mine\n")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three kept steps, of which one is worth nothing; tests work on copies."""
    sections = {"keep": SURE, "guard": 'command = "true"'}
    task = Toy(
        tmp_path_factory.mktemp("kept") / "task", {"agent.sh": STEPS, "train.py": THREE}, sections
    ).create()
    task.call("run", "--tag", "t", "--max-experiments", "3")
    assert task.statuses() == ["keep"] * 4
    return task.root


def _unmeasurable(root: Path) -> Toy:
    """A task whose baseline crashes wherever a verification after one experiment measures it."""
    crash = 'if os.environ["AUTORESEARCH_EXPERIMENT"] == "2":\n    raise SystemExit(1)\n'
    return Toy(root, {"agent.sh": STEPS, "train.py": THREE + crash}, {"keep": SURE}).create()


def _measured(task: Toy) -> list[list[tuple[str, int, float | None]]]:
    """Every sample of every verification: what it was of, its seed and its value."""
    return [
        [(arm, sample.seed, sample.value) for arm, sample in each.taken]
        for each in task.view().verifications
    ]


def _goes_on(task: Toy, seen: Acknowledged, *argv: str, code: int) -> None:
    """Run the command that was killed again: it goes on, and loses nothing that was measured."""
    view = check_invariants(task, seen, recovered=False)
    before = _measured(task)
    ended = [each.result or each.abandoned for each in view.verifications if each.ended]
    task.call(*argv, code=code)
    view, after = check_invariants(task, seen), _measured(task)
    assert [now[: len(then)] for then, now in zip(before, after, strict=False)] == before
    assert all(each.ended for each in view.verifications)
    assert [each.result or each.abandoned for each in view.verifications[: len(ended)]] == ended
    # A verification that had ended is another one the next time; one that was cut short goes on.
    assert len(after) == len(ended) + 1
    seeds = [seed for each in after for _, seed, _ in each]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("name", [*OF_A_VERIFICATION, *BESIDE, *LATER_ON])
def test_killed_there_a_verification_goes_on(
    name: str, kept: Path, tmp_path: Path, endurance: bool
) -> None:
    if name not in OF_A_VERIFICATION and not endurance:
        pytest.skip("only with --endurance: a run is killed there as well")
    task = Toy(tmp_path / "task")
    abandoned = name == "journal.verify_abandoned"
    if abandoned:
        task = _unmeasurable(task.root)
        task.call("run", "--tag", "t", "--max-experiments", "1")
    else:
        shutil.copytree(kept, task.root, symlinks=True)
    seen = Acknowledged()
    seen.read(task)
    argv = ("verify", "--each", "--samples", "2")
    _kill_there(name, task, *argv)
    _goes_on(task, seen, *argv, code=2 if abandoned else 0)
    view = task.view()
    if not abandoned:
        assert view.survival == {1: "survives", 2: "does not survive", 3: "survives"}
        offered = f"{view.branch}-verified"
        names = task.git("for-each-ref", "--format=%(refname:short)", "refs/heads/autoresearch/")
        assert names.split() == [view.branch, offered], "not offered exactly once"
        assert task.git("rev-parse", offered) in view.offers
    task.call("run", "--max-experiments", str(len(view.decided)))
    assert len(check_invariants(task, seen).decided) == len(view.decided) + 1


@pytest.mark.parametrize("kind", OF_A_MILESTONE)
def test_killed_there_a_milestone_goes_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endurance: bool
) -> None:
    if kind not in ("verify_sample", "verified") and not endurance:
        pytest.skip("only with --endurance: a verification is killed there as well")
    monkeypatch.setattr(Toy, "command", lambda _, *argv: [sys.executable, "-c", EARLY, *argv])
    task = Toy(tmp_path / "task")
    if kind == "verify_abandoned":
        task = _unmeasurable(task.root)
    else:
        steps = counting("sed -i 's/^A = .*/A = 0.5/' train.py", "echo 'two = 2' >>train.py")
        task = Toy(task.root, {"agent.sh": steps, "train.py": THREE}, {"keep": SURE}).create()
    seen = Acknowledged()
    argv = ("run", "--tag", "t", "--max-experiments", "2")
    _kill_there(f"journal.{kind}", task, *argv)
    seen.read(task)
    before = _measured(task)
    check_invariants(task, seen, recovered=False)
    task.call(*argv)
    view, after = check_invariants(task, seen), _measured(task)
    assert len(after) == 1 and after[0][: len(before[0])] == before[0]
    assert view.verifications[0].milestone and view.verifications[0].ended
    assert len(view.decided) == 3


def test_every_failpoint_is_in_the_list() -> None:
    text = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    passed = set(re.findall(r'\bfailpoint\("([a-z_.]+)"\)', text))
    appended = set(re.findall(r'(?:\.append|\.run\.append)\(\s*"([a-z_]+)"', text))
    appended &= set(re.findall(r"def _on_([a-z_]+)", text)) | set(EVENTS)
    assert passed == {name for name in NAMES if not name.startswith("journal.")} | {
        "journal.created", "journal.moved", "journal.restored",
    }  # fmt: skip
    assert appended == set(EVENTS)
    steps = {*BEGINNING, *EXPERIMENT, "journal.run_ended"}
    assert steps | set(SCENES) | set(OF_A_VERIFICATION) == set(NAMES)
    assert set(re.findall(r"def _on_([a-z_]+)", text)) <= set(EVENTS)


def test_an_unknown_failpoint_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["python3", "-c", "import autoresearch.failpoint"],
        env={**os.environ, VARIABLE: "no.such"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "journal.decided" in done.stderr
