"""``kill -9`` at random moments, with everything a run has in flight at one time or another."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from autoresearch.runner import children, descendants
from tests.faults.story import SCRIPTS, story
from tests.invariants import Acknowledged, check_invariants, newest
from tests.started import Running

PHASES = {
    "agent.sh": "agent", "train.sh": "command", "evaluate.sh": "evaluation", "check.sh": "guard",
    "prepare.sh": "setup",
}  # fmt: skip
PAUSE_S = 0.1


def commands(pid: int) -> list[tuple[int, str]]:
    """The processes below one, and what they run."""
    found = []
    for each in descendants(pid):
        try:
            said = Path(f"/proc/{each}/cmdline").read_bytes()
        except OSError:
            continue
        found.append((each, said.replace(b"\0", b" ").decode(errors="replace")))
    return found


def phase(pid: int) -> str:
    """What an engine is doing, by the processes it has."""
    running = commands(pid)
    for script in SCRIPTS:
        if any(f" {script} " in f"{said} " or f"/{script} " in f"{said} " for _, said in running):
            return PHASES[script]
    return "engine"


def wait_for(wanted: str, engine: Running, seconds: float) -> None:
    """Wait until an engine does something, or not any longer."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and engine.poll() is None and phase(engine.pid) != wanted:
        time.sleep(0.02)


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(
    tmp_path: Path, endurance: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = 500 if endurance else 100
    task = story(tmp_path / "task", pause_s=PAUSE_S)
    rng = random.Random(kills)
    seen, hit = Acknowledged(), Counter[str]()
    runners = 0
    began = time.monotonic()
    for number in range(kills):
        engine = task.start("run")
        if not hit["setup"] and not seen.rows:
            wait_for("setup", engine, 5.0)  # it happens once, at the start of a run
        elif number % 2:
            time.sleep(rng.uniform(0.05, 1.5))
        else:
            # Else the short phases would hardly ever be met.
            wait_for(rng.choice(sorted(PHASES.values())), engine, 5.0)
            time.sleep(rng.uniform(0.0, PAUSE_S))
        hit[phase(engine.pid)] += 1
        if number % 10 == 9 and (below := children(engine.pid)):
            runners += 1
            os.kill(rng.choice(below), signal.SIGKILL)
            time.sleep(rng.uniform(0.0, 0.3))
        if engine.poll() is not None:  # without git, it could not even begin
            assert "was killed by signal 9" in task.said.read_text().splitlines()[-2]
        engine.kill()
        engine.wait()
        # Restarted at once every other time, while what it had started may still be dying.
        if number % 2:
            check_invariants(task, seen, recovered=False)
            seen.read(task)
    total = len(seen.rows) + 1
    task.call("run", "--max-experiments", str(total))
    view = check_invariants(task, seen)
    assert len(view.decided) == total + 1
    assert "Traceback" not in task.said.read_text()
    folder = newest(task)
    assert folder is not None and not list(folder.glob("*damaged*")), "taken for damage"
    redone = sum(each.attempts - len(each.taken) for each in view.experiments.values())
    took_s = time.monotonic() - began
    with capsys.disabled():
        print(
            f"\n{kills} kills of the engine, {runners} of them after one of its children,"
            f" in {took_s:.0f} s: {total} experiments, {redone} attempts redone, 0 violations;"
            f" hit while: {', '.join(f'{name} {count}' for name, count in hit.most_common())}"
        )
    assert set(PHASES.values()) | {"engine"} <= set(hit), f"not every phase was met: {hit}"
