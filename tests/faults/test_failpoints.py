"""A run is killed at every failpoint there is, continued, and loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import autoresearch
from autoresearch.cli.stop import drop
from autoresearch.failpoint import EVENTS, NAMES, VARIABLE
from autoresearch.journal.view import VERIFYING
from autoresearch.run import held_by_engine
from tests.conftest import Toy, until
from tests.faults.story import story
from tests.invariants import Acknowledged, check_invariants

# The first time is the baseline's: these are those of an agent's experiment.
LATER = [f"{name}:2" for name in (
    "journal.opened", "journal.proposed", "journal.sealed", "journal.guarded", "journal.decided",
    "log.appended",
)]  # fmt: skip
DECIDED = (
    "journal.decided:2", "log.appended:2", "results.appended", "branch.packed", "branch.moved",
    "journal.delivered",
)  # fmt: skip
SOURCE = Path(autoresearch.__file__).parent


def _nothing(task: Toy) -> None:
    pass


def _moved_branch_and_ticket(task: Toy) -> None:
    task.git("branch", "--force", "autoresearch/t", "main")
    drop(task.run_folder, {"kind": "ticket", "ticket": "1", "message": "mine", "files": {},
                           "patch": None})  # fmt: skip


def _stop(task: Toy) -> None:
    """Ask for a stop as soon as there is somebody to ask."""

    def ask() -> None:
        until(lambda: held_by_engine(task.run_folder))
        drop(task.run_folder, {"kind": "stop"})

    threading.Thread(target=ask, daemon=True).start()


def _damaged_journal(task: Toy) -> None:
    journal = task.run_folder / "journal.db"
    os.truncate(journal, journal.stat().st_size // 2)


def _lost_object(task: Toy) -> None:
    commit = task.view().kept[0].commit
    (task.run_folder / "store.git" / "objects" / commit[:2] / commit[2:]).unlink()


# How a failpoint is reached: what is done to a run of one experiment, and the command after it.
# All others are reached by the first start of a run.
Scene = tuple[Callable[[Toy], None], list[str], dict[str, str]]
FIRST: Scene = (_nothing, ["--max-experiments", "1"], {})
MOVED: Scene = (_moved_branch_and_ticket, ["--max-experiments", "3"], {})
FAILING: Scene = (_nothing, ["--max-experiments", "2"], {"AGENT_FAILS": "1"})
SCENES: dict[str, Scene] = {
    "journal.contract_changed": MOVED,
    "journal.warning": MOVED,
    "journal.ticket": MOVED,
    "inbox.removed": MOVED,
    "journal.paused": FAILING,
    "journal.resumed": FAILING,
    "journal.stop_requested": (_stop, ["--max-experiments", "9"], {}),
    "journal.exhausted": (_nothing, ["--max-experiments", "2", "--agent", "replay"], {}),
    "journal.moved": (_damaged_journal, ["--max-experiments", "2"], {}),
    "journal.restored": (_damaged_journal, ["--max-experiments", "2"], {}),
    "store.moved": (_lost_object, ["--max-experiments", "2"], {}),
    "store.restored": (_lost_object, ["--max-experiments", "2"], {}),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The task before its run, and after one experiment; tests work on copies."""
    fresh = story(tmp_path_factory.mktemp("fresh") / "task")
    begun = Toy(tmp_path_factory.mktemp("begun") / "task")
    shutil.copytree(fresh.root, begun.root)
    begun.call("run", "--tag", "t", "--max-experiments", "1")
    assert begun.statuses() == ["keep", "keep"]
    return {False: fresh.root, True: begun.root}


@pytest.mark.parametrize("name", [*NAMES, *LATER])
def test_killed_there_a_run_continues(name: str, scenes: dict[bool, Path], tmp_path: Path) -> None:
    prepare, argv, variables = SCENES.get(name, FIRST)
    task = Toy(tmp_path / "task")
    shutil.copytree(scenes[name in SCENES], task.root, symlinks=True)
    seen = Acknowledged()
    seen.read(task)
    prepare(task)
    killed = subprocess.run(
        task.command("run", "--tag", "t", *argv), cwd=task.root, capture_output=True, text=True,
        env={**os.environ, **variables, VARIABLE: name}, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, f"never reached: {killed.stdout}{killed.stderr}"
    with task.said.open("a") as said:
        said.write(killed.stdout)
    before = len(seen.rows)
    seen.read(task)
    if name not in ("journal.moved", "store.moved", "store.restored"):
        check_invariants(task, seen, recovered=False)
    else:
        assert len(seen.rows) == before
    if name in DECIDED:
        # What follows from a decision is made up for at once, not with the next one.
        task.call("run", "--tag", "t", "--max-experiments", "0")
        check_invariants(task, seen)
    target = len(seen.rows) + 1
    task.call("run", "--tag", "t", "--max-experiments", str(target))
    view = check_invariants(task, seen)
    assert len(view.decided) == target + 1


def test_every_failpoint_is_in_the_list() -> None:
    text = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    passed = set(re.findall(r'\bfailpoint\("([a-z_.]+)"\)', text))
    appended = set(re.findall(r'(?:\.append|\.run\.append)\(\s*"([a-z_]+)"', text))
    appended &= set(re.findall(r"def _on_([a-z_]+)", text)) | set(EVENTS)
    assert passed == {name for name in NAMES if not name.startswith("journal.")} | {
        "journal.created", "journal.moved", "journal.restored",
    }  # fmt: skip
    # Those of a verification are not killed at yet: it begins again, and decides nothing.
    assert appended - VERIFYING == set(EVENTS)
    assert set(re.findall(r"def _on_([a-z_]+)", text)) <= set(EVENTS) | VERIFYING


def test_an_unknown_failpoint_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["python3", "-c", "import autoresearch.failpoint"],
        env={**os.environ, VARIABLE: "no.such"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "journal.decided" in done.stderr
