"""One run on a laptop, on a cluster with many workers, and on the laptop again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Toy, until
from tests.executors.cluster import Cluster
from tests.invariants import check_invariants

# Counts its own starts outside of what a run looks at, and lasts as long as the test wants.
TRAIN = """\
import os, time
from random import Random

LR = 0.5
DECAY = 0.3
SCALE = 2.0
seed = os.environ["AUTORESEARCH_SEED"]
with open(STARTS, "a") as file:
    print(os.environ["AUTORESEARCH_EXPERIMENT"], seed, file=file)
while os.path.exists(HOLD):
    time.sleep(0.1)
loss = (LR - 0.1) ** 2 + (DECAY - 0.1) ** 2 + (SCALE - 1) ** 2
print("loss:", loss + Random(int(seed)).gauss(0, 0.01))
"""
WORKERS = 16
PARALLEL = 'oversubscribe = true\n[parallel.slurm]\npoll = "0.5s"\nlost = "5s"\n'


def test_a_run_goes_from_a_laptop_to_a_cluster_and_back(
    tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "none")  # so that a program can say when it runs
    starts, hold = tmp_path / "starts", tmp_path / "hold"
    train = f"STARTS, HOLD = {str(starts)!r}, {str(hold)!r}\n{TRAIN}"
    run = f'command = "python3 -S train.py"\nbudget = "60s"\nreadable = ["{tmp_path}"]'
    sections = {"run": run, "agent": 'use = "search"', "parallel": PARALLEL}
    task = Toy(tmp_path / "task", {"train.py": train}, sections).create()

    def started() -> list[str]:
        return starts.read_text().splitlines()

    def running() -> list[str]:
        return slurm.call("squeue", "--noheader", "--states=R", "--format=%j").split()

    here = ("run", "--tag", "t", "--unconfined", "--workers", "2", "--max-experiments")
    there = ("run", "--unconfined", "--executor", "slurm", "--workers", str(WORKERS))
    task.call(*here, "4")
    engine = task.start(*there, "--max-experiments", "40")
    until(task.saw(lambda view: len(view.decided) > 8), 120)
    hold.touch()
    until(lambda: len(running()) == WORKERS, 120)
    os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()
    hold.unlink()
    task.call(*there, "--max-experiments", "40")
    assert not running()
    task.call(*here, "44")
    view = check_invariants(task)
    assert len(view.decided) == 45
    assert len(set(started())) == len(started()), "a sample was taken twice"
    nodes = [{sample.node for sample in each.own} for each in view.decided]
    assert all(each <= {"n1", "n2"} for each in nodes[5:41])
    assert not any(each & {"n1", "n2"} for each in (*nodes[:5], *nodes[41:]))
