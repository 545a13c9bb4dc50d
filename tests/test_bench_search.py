"""The benchmark of the search agent runs, and says so when its claim fails."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))
landscapes, search = import_module("landscapes"), import_module("search")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(BENCH / "search.py"), "--seeds", "2", "--only", "sparse", *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


def test_it_beats_random_search_and_exits_zero() -> None:
    done = run("--experiments", "25", "--methods", "search,random")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the claim holds" in done.stdout


def test_a_failed_claim_exits_one() -> None:
    good = search.Verdict("sparse", 12, "tpe", ahead=True, worse=False)
    bad = search.Verdict("sparse", 25, "tpe", ahead=False, worse=True)
    assert search.claim([good, good]) == 0
    assert search.claim([good, good, bad]) == 1
    assert search.worse([3.0, 4.0, 5.0, 6.0], [0.0, 1.0, 2.0, 2.5])
    assert not search.worse([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("name", landscapes.TASKS)
def test_a_task_starts_measurable_and_reads_what_it_writes(name: str) -> None:
    task = landscapes.TASKS[name](3)
    start = landscapes.read(task.script, task.axes)
    assert start == {axis.name: axis.start for axis in task.axes}
    assert landscapes.write(task.script, start) == task.script
    assert task.truth(task.script) > task.best
    assert task.measure(task.script, 1) == task.measure(task.script, 1)
    moved = {a.name: a.choices[-1] if a.choices else type(a.start)(a.high) for a in task.axes}
    assert landscapes.read(landscapes.write(task.script, moved), task.axes) == moved


def test_the_tinylm_task_starts_where_the_workload_does() -> None:
    tinylm = import_module("tinylm")
    task = tinylm.tinylm(0)
    start = landscapes.read(task.script, task.axes)
    assert start == {axis.name: axis.start for axis in task.axes}
    doubled = start | {"HIDDEN": 2 * int(start["HIDDEN"])}
    assert 1 < tinylm.steps(doubled) < tinylm.steps(start)
