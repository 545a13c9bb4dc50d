"""The latency workload: a faster function is kept, and no forged time or answer pays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import autoresearch
from autoresearch.cli.demo import prepare as copy_workload
from autoresearch.types import Status
from tests.conftest import IDENTITY, Toy, counting

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
    "rm test_nearest.py",
)


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


@pytest.fixture
def task(tmp_path: Path) -> Toy:
    toy = Toy(tmp_path / "latency")
    copy_workload("latency", toy.root)
    contract = toy.root / "autoresearch.toml"
    text = contract.read_text().replace('LATENCY_POINTS = "6000"', 'LATENCY_POINTS = "3000"')
    agent = '[agent]\nuse = "command"\n[agent.command]\nargv = ["./agent.sh"]\n'
    contract.write_text(f"{text}\n{agent}")
    (toy.root / "agent.sh").write_text(counting(*CASES))
    (toy.root / "agent.sh").chmod(0o755)
    toy.git("add", "--all")
    toy.git(*IDENTITY, "commit", "--quiet", "-m", "Try")
    return toy


def test_only_honest_speed_pays(task: Toy) -> None:
    task.call("run", "--max-experiments", str(len(CASES)))
    decisions = [each.decision for each in task.view().decided]
    baseline, faster, forged, wrong, early, no_data, forked, guard = (d for d in decisions if d)
    assert (faster.status, baseline.status) == (Status.KEEP, Status.KEEP)
    assert baseline.value is not None and faster.value is not None
    assert faster.value < 0.75 * baseline.value
    for cheat in (forged, forked):
        # Their processes are ours to count: what they say about themselves is not.
        assert cheat.value is not None and cheat.value > 0.5 * faster.value
    assert forked.status is not Status.KEEP
    assert wrong.status is Status.CRASH and wrong.reason == "answer 0 of 750 is wrong"
    assert (early.status, early.reason) == (Status.CRASH, "no answers were written")
    assert (no_data.status, no_data.reason) == (Status.CRASH, "the answers are not JSON")
    assert guard.status is Status.REJECTED and "test_nearest.py" in guard.reason
