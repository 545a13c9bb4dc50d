"""The benchmark of the strategies runs, and its tasks are what they say."""

from __future__ import annotations

import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))
structures, strategies = import_module("structures"), import_module("strategies")


def test_it_runs_and_says_whether_the_claim_holds() -> None:
    options = ["--seeds", "2", "--experiments", "12", "--only", "blocks"]
    methods = "default,frontier 2,greedy,random"
    argv = [sys.executable, str(BENCH / "strategies.py"), *options, "--methods", methods]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == int("THE CLAIM FAILS" in done.stdout)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("blocks")]
    assert [row[-3] for row in rows] == ["default", "2", "greedy", "random"]
    assert all(0 < float(row[-2]) <= 1 for row in rows)


@pytest.mark.parametrize("name", ["blocks", "loud", "routes"])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_is_reached_by_the_right_parts_and_constants_alone(name: str, seed: int) -> None:
    task = structures.TASKS[name](seed)
    rng, start = random.Random(seed), task.truth(task.script)
    assert start > task.best
    for _ in range(200):
        script = task.script
        for part in rng.sample(task.parts, rng.randint(0, len(task.parts))):
            script = task.add(script, part)
        value = task.truth(script)
        assert value is None or value >= task.best


def test_parts_of_one_family_exclude_each_other() -> None:
    task = structures.routes(1)
    first, second = (part for part in task.parts if part.family)
    script = task.add(task.add(task.script, first), second)
    assert [part.name for part in task.present(script)] == [second.name]
    assert task.remove(script, second) == task.script


def test_a_night_is_the_same_again() -> None:
    curves = [strategies.run("routes", "frontier 3", 1, 15) for _ in range(2)]
    assert curves[0].values == curves[1].values
