"""Clocks that are set and engines that are stopped: durations are true, nobody is blamed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoresearch.runner import descendants
from autoresearch.types import Outcome
from tests.conftest import IDENTITY, until
from tests.faults.story import story
from tests.faults.test_kills import phase
from tests.invariants import check_invariants
from tests.started import Running


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_moves_no_limit(hours: int, tmp_path: Path) -> None:
    # The real engine with its one source of the time of day changed: no namespace covers it.
    task = story(tmp_path / "task")
    script = (
        "from datetime import timedelta\n"
        "from autoresearch.journal import Clock\n"
        "from autoresearch import cli\n"
        "now, calls = Clock.now, []\n"
        "def set_clock(self):\n"
        "    calls.append(0)\n"
        f"    return now(self) + timedelta(hours={hours} * (len(calls) > 20))\n"
        "Clock.now = set_clock\n"
        "cli.main()\n"
    )
    argv = ["run", "--tag", "t", "--max-experiments", "2", "--max-hours", "0.5"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], cwd=task.root, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    took_s = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    view = check_invariants(task)
    assert view.end_reason == "limit reached: experiments 2"
    assert 0 < view.active_s <= took_s
    # Back in true time, the next engine goes on.
    task.call("run", "--max-experiments", "3", "--max-hours", "0.5")
    assert check_invariants(task).end_reason == "limit reached: experiments 3"


def stop_all(engine: Running, *, children: bool) -> list[int]:
    """Stop an engine and its runner, as Ctrl-Z or a debugger does; perhaps all below them, too."""
    pids = [engine.pid]
    for pid in descendants(engine.pid):
        said = Path(f"/proc/{pid}/cmdline").read_bytes()
        if children or b"runner.py" in said:
            pids.append(pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


@pytest.mark.parametrize("children", [False, True], ids=["engine and runner", "everything"])
def test_a_stopped_engine_blames_nobody(children: bool, tmp_path: Path) -> None:
    task = story(tmp_path / "task", pause_s=1.0)
    contract = task.root / "autoresearch.toml"
    contract.write_text(contract.read_text().replace('"5s"', '"2s"\ntimeout = "4s"'))
    task.git(*IDENTITY, "commit", "--quiet", "--all", "-m", "Shorter")
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: measuring(view.unfinished)), 120)
    pids: list[int] = []
    while not pids:
        until(lambda: phase(engine.pid) == "command")
        pids = stop_all(engine, children=children)
        if phase(engine.pid) != "command":  # it ended just before: a stop between two steps
            go_on(pids)
            pids = []
    time.sleep(8)
    go_on(pids)
    until(lambda: len(task.view().decided) >= 2, 120)
    task.call("stop")
    assert engine.wait(60) == 0
    view = check_invariants(task)
    samples = [each.sample for record in view.decided[1:] for each in record.taken]
    voids = [sample for sample in samples if sample.outcome is Outcome.VOID]
    # A busy machine makes others void, too; none may count against the candidate.
    assert any(void.reason.startswith("we were stopped for") for void in voids), samples
    assert all(sample.outcome in (Outcome.OK, Outcome.VOID) for sample in samples)
    for record in view.decided:
        assert record.decision is not None
        assert record.decision.status.value in ("keep", "discard", "void"), record.decision


def go_on(pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def measuring(experiment: object) -> bool:
    """Whether a candidate's sample is in flight."""
    number, flight = getattr(experiment, "number", 0), getattr(experiment, "in_flight", None)
    return number > 0 and flight is not None


def test_an_agent_that_never_answers_is_asked_again(tmp_path: Path) -> None:
    task = story(tmp_path / "task")
    agent = task.root / "agent.sh"
    agent.write_text("#!/bin/sh\nsleep 60\n")
    contract = task.root / "autoresearch.toml"
    contract.write_text(contract.read_text().replace("[agent]", '[agent]\ntimeout = "1s"'))
    task.git(*IDENTITY, "commit", "--quiet", "--all", "-m", "Slower")
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: view.paused), 60)
    assert "agent.sh failed" in (task.view().paused or "")
    engine.terminate()
    assert engine.wait(30) == 130
    check_invariants(task)
