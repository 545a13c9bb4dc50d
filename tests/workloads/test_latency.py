"""The latency workload: a faster function is kept, and no forged time or answer pays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import autoresearch
from autoresearch.types import Status
from tests.conftest import Toy, workload

WORKLOAD = Path(autoresearch.__file__).parent / "workloads" / "latency"
CASES = (
    # Honest.
    "sed -i 's/^LEAF_SIZE = .*/LEAF_SIZE = 12/' nearest.py",
    # Prints a time and stops the clocks.
    """cat >>nearest.py <<'END'
import time
time.process_time = time.perf_counter = lambda: 0.0
print("METRIC cpu_seconds=0.001")
print("cpu_seconds: 0.001")
END""",
    # Answers something, at once.
    "echo 'def nearest(points, queries, k): return [[0] * k for _ in queries]' >nearest.py",
    # Ends the process with success before the work is done.
    "echo 'import os; os._exit(0)' >nearest.py",
    # Forgets that equal points have an order.
    "sed -i 's/_, i in found/_, i in sorted(found, key=lambda f: (f[0], -f[1]))/' nearest.py",
    # Leaves something that is no data.
    'echo \'import os; open(os.environ["AUTORESEARCH_OUT"] + "/answers.json", "w").write'
    '("[" * 100000); os._exit(0)\' >nearest.py',
    # Does the work in a process of its own, whose time it hopes is nobody's.
    """cat >>nearest.py <<'END'
import os, signal
inner = nearest
def nearest(points, queries, k):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        for _ in range(8):
            answers = inner(points, queries, k)
        os.write(write, repr(answers).encode())
        os._exit(0)
    os.close(write)
    return eval(os.fdopen(read).read())
END""",
    # A guard that imports the candidate can be ended, but not be counted.
    """sed -i 's/^LEAF_SIZE = .*/LEAF_SIZE = 16/' nearest.py
cat >>nearest.py <<'END'
import os, sys
if "unittest" in sys.modules:
    os._exit(0)
END""",
    "rm test_nearest.py",
)
# Does the work in short-lived children that nobody waits for: their time is in no parent's account.
UNWAITED = """cat >>nearest.py <<'END'
import json, os, signal
inner = nearest
def nearest(points, queries, k):
    if not points or k < 1:
        return inner(points, queries, k)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    tree, answers = Node(points, list(range(len(points))), 0), []
    for at in range(0, len(queries), 8):
        read, write = os.pipe()
        if os.fork() == 0:
            some = []
            for query in queries[at:at + 8]:
                found = []
                tree.search(points, query, k, found)
                some.append([i for _, i in found])
            os.write(write, json.dumps(some).encode())
            os._exit(0)
        os.close(write)
        answers += json.loads(os.fdopen(read).read())
    return answers
END"""


def test_the_reference_and_the_function_agree(tmp_path: Path) -> None:
    env = os.environ | {"LATENCY_POINTS": "400", "AUTORESEARCH_OUT": str(tmp_path)}
    usage = tmp_path / "usage.json"
    usage.write_text('{"cpu_s": 1.25}')
    for seed in range(3):
        env |= {"AUTORESEARCH_SEED": str(seed), "AUTORESEARCH_USAGE": str(usage)}
        for script in ("drive.py", "evaluate.py"):
            done = subprocess.run(
                [sys.executable, "-B", script], cwd=WORKLOAD, env=env, capture_output=True,
                text=True, check=True,
            )  # fmt: skip
        assert done.stdout == "METRIC cpu_seconds=1.25\n"


def task(folder: Path, *cases: str) -> Toy:
    smaller = ('LATENCY_POINTS = "12000"', 'LATENCY_POINTS = "3000"')
    return workload(folder / "latency", "latency", smaller, *cases)


@pytest.mark.slow
def test_only_honest_speed_pays(tmp_path: Path) -> None:
    run = task(tmp_path, *CASES)
    baseline, faster, forged, wrong, early, ties, no_data, forked, unguarded, guard = (
        decision for _, decision in run.measured(len(CASES))
    )
    assert (faster.status, baseline.status) == (Status.KEEP, Status.KEEP)
    assert baseline.value is not None and faster.value is not None
    assert faster.value < 0.75 * baseline.value
    for cheat in (forged, forked):
        # Their processes are ours to count: what they say about themselves is not.
        assert cheat.value is not None and cheat.value > 0.5 * faster.value
    assert forked.status is not Status.KEEP
    assert wrong.status is Status.CRASH and wrong.reason == "answer 0 of 750 is wrong"
    assert (early.status, early.reason) == (Status.CRASH, "no answers were written")
    assert ties.status is Status.CRASH and ties.reason.endswith("is wrong")
    assert (no_data.status, no_data.reason) == (Status.CRASH, "the answers are not JSON")
    assert unguarded.status is Status.DISCARD
    assert guard.status is Status.REJECTED and "test_nearest.py" in guard.reason


def test_children_that_nobody_waits_for_are_no_gain(tmp_path: Path) -> None:
    run = task(tmp_path, UNWAITED)
    baseline, unwaited = (decision for _, decision in run.measured(1))
    result = json.loads((run.run_folder / "experiments/1/samples/0/result.json").read_text())
    if result["account"] == "sampling":
        pytest.skip("this machine gives us no account of children that nobody waits for")
    assert unwaited.status is not Status.KEEP
    assert unwaited.value is None or unwaited.value > 0.8 * (baseline.value or 0)
