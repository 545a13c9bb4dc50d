"""What a killed sample held, a device above all, is nobody's afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Toy, until

MakeToy = Callable[..., Toy]
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
# Holds what HELD names in itself, in a child, and in a grandchild that left its session.
HOLD = """\
import os
import time

held = open(os.environ["HELD"])
if os.fork() == 0:
    os.setsid()
    os.fork()
time.sleep(1e6)
"""


def holders(path: Path) -> list[int]:
    """Processes that have a file open, as they are seen from outside of every confinement."""
    wanted, found = path.stat(), []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            opened = [each.stat() for each in (process / "fd").iterdir() if each.exists()]
        except OSError:
            continue  # it has ended, or is somebody else's
        if any((each.st_dev, each.st_ino) == (wanted.st_dev, wanted.st_ino) for each in opened):
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("how", ["timeout", "engine terminated", "engine killed"])
@pytest.mark.parametrize("device", [False, pytest.param(True, marks=pytest.mark.gpu)])
def test_nothing_holds_it_after_a_kill(
    toy: MakeToy, tmp_path: Path, how: str, device: bool
) -> None:
    held = Path("/dev/nvidia0") if device else tmp_path / "device"
    if not device:
        held.touch()
    agent = f"#!/bin/sh\ncat >train.py <<'END'\n{HOLD}END\n"
    limits = f'timeout = "{"8s" if how == "timeout" else "5m"}"\ngpus = {int(device)}'
    task = toy(
        files={"agent.sh": agent},
        run=f'command = "python3 train.py"\nbudget = "5s"\n{limits}\n'
        f'readable = ["{tmp_path}"]\nenv = {{ HELD = "{held}" }}',
    )
    before = set(holders(held))
    running = task.start("run", "--max-experiments", "1")
    until(lambda: len(set(holders(held)) - before) == 3, 120)
    if how != "timeout":
        os.kill(running.pid, signal.SIGTERM if how == "engine terminated" else signal.SIGKILL)
    until(lambda: running.poll() is not None, 60)
    until(lambda: not set(holders(held)) - before, 15)
    if how == "timeout":
        assert task.statuses() == ["keep", "timeout"]
