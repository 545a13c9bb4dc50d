"""What rivals on a machine do to a measurement, and which samples that makes void.

    python bench/contention.py [--rounds 8] [--seconds 4] [--json]

Runs the same processor-bound work through the real runner, pinned to one core as a sample is:
alone, beside rivals of several kinds, and with rivals of its own making, one round after the
other. The work itself knows what it lacked: wall-clock time less its processor time. Beside it
stand what the runner found, how much more processor time the same work took, and how many samples
would be void on a machine that is usually quiet. The machine need not be quiet: what is compared
is what was lacked and what was found.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from autoresearch.attempt import RUNNER
from autoresearch.bench import Slot, available_cores
from autoresearch.contention import LIMITS, contention_of
from autoresearch.sandbox import Box, Sandbox
from autoresearch.types import Level

# Half of it in the interpreter, half of it in memory larger than the nearest caches.
WORK = """
import sys, time
block = bytearray(range(256)) * (1 << 13)
time.sleep(1.0)
began, before, done = time.monotonic(), time.process_time(), 0
while time.monotonic() < began + float(sys.argv[1]):
    sum(i * i for i in range(3000))
    bytes(block).count(7)
    done += 1
used = time.process_time() - before
print(1 - used / (time.monotonic() - began), used / done)
"""
# Works the given share of the time, in memory or not, as long as whoever started it lives.
RIVAL = """
import os, sys, time
core, share, heavy = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "memory"
os.sched_setaffinity(0, [core])
block, parent = bytearray(1 << 24), os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + 0.2 * share
    while time.monotonic() < end:
        bytes(block) if heavy else sum(range(2000))
    time.sleep(0.2 * (1 - share))
"""
OWN = "import os\nif os.fork() == 0:\n while True: pass\n"
# Before the rest of a busy machine, where the kernel allows it (root, with scheduling by session).
FIRST = """
try:
    open("/proc/self/autogroup", "w").write("-19")
except OSError:
    pass
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """Who competes: (core, share of the time, kind) each; and what the work does first."""

    name: str
    rivals: Sequence[tuple[str, float, str]] = ()
    before: str = ""


EDGES = (0, 2, 4, 6, 8, 12, 20, 40, 60, 100)
CONDITIONS = (
    Condition("alone"),
    Condition("alone, goes first", before=FIRST),
    Condition("5 % of the time", [("same", 0.05, "light")]),
    Condition("20 % of the time", [("same", 0.20, "light")]),
    Condition("20 %, in memory", [("same", 0.20, "memory")]),
    Condition("one rival", [("same", 1.0, "light")]),
    Condition("one rival, in memory", [("same", 1.0, "memory")]),
    Condition("two rivals", [("same", 1.0, "light"), ("same", 1.0, "light")]),
    Condition("on the other core", [("other", 1.0, "light")]),
    Condition("other core, memory", [("other", 1.0, "memory")]),
    Condition("its own child", before=OWN),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One sample: the share of its core that it lacked by its own clocks, and what we found.

    ``each_s`` are processor seconds for a unit of work.
    """

    condition: str
    lacked: float
    found: float
    each_s: float


@contextlib.contextmanager
def rivals(condition: Condition, core: int) -> Iterator[None]:
    """Let the rivals of a condition work."""
    free = sorted(os.sched_getaffinity(0) - {core}) or [core]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, str(core if where == "same" else free[-1]),
             str(share), kind]
        )
        for where, share, kind in condition.rivals
    ]  # fmt: skip
    time.sleep(0.3 if started else 0.0)
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def sample(condition: Condition, core: int, seconds: float, work: Path) -> Point:
    """Do the work once through the runner."""
    folder = Path(tempfile.mkdtemp(dir=work))
    code = condition.before + WORK
    log = folder / "log"
    box = Box([sys.executable, "-c", code, str(seconds)], Path("/"), {}, log)
    job = {
        "nonce": "n", "result": None, "cores": [core], "cpus": 1, "inherit": [],
        "steps": [{"name": "command", "deadline_s": 60.0 + seconds,
                   "processes": [Sandbox(Level.NONE).process(box)]}],
        "memory_bytes": 1 << 31, "processes": 64, "log_bytes": 1 << 16,
        "output_bytes": 1 << 20, "disk_bytes": 1 << 30,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    with rivals(condition, core):
        argv = [sys.executable, "-I", "-S", str(RUNNER), "--attempt", str(folder)]
        subprocess.run(argv, check=True)
    result = json.loads((folder / "result.json").read_text())
    lacked, each_s = (float(word) for word in log.read_text().split())
    return Point(condition.name, lacked, contention_of(result).share, each_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    core = Slot().share(available_cores(), 1)[0]
    with tempfile.TemporaryDirectory(prefix="autoresearch-contention-") as folder:
        points = [
            sample(condition, core, options.seconds, Path(folder))
            for _ in range(options.rounds)
            for condition in CONDITIONS
        ]
    if options.json:
        print(json.dumps([asdict(point) for point in points]))
        return 0
    print(f"{options.rounds} rounds of {options.seconds:g} s, in per cent of a core's time")
    _conditions(points)
    _shares(points)
    return 0


def _conditions(points: Sequence[Point]) -> None:
    """What each condition does to a sample."""
    own = [point.each_s for point in points if point.condition == "alone"]
    usual_s = statistics.median(own)
    print(f"{'':24}{'lacked':>16}{'found':>16}{'processor time':>18}{'void':>13}")
    print(f"{'rivals':24}{'median highest':>16}{'median highest':>16}{'more  spread':>18}"
          f"{'wall   cpu':>13}")  # fmt: skip
    for condition in CONDITIONS:
        chosen = [point for point in points if point.condition == condition.name]
        lacked = [100 * point.lacked for point in chosen]
        found = [100 * point.found for point in chosen]
        more = [100 * (point.each_s / usual_s - 1) for point in chosen]
        print(
            f"{condition.name:24}{statistics.median(lacked):8.1f}{max(lacked):8.1f}"
            f"{statistics.median(found):8.1f}{max(found):8.1f}"
            f"{statistics.median(more):10.1f}{_spread(more):8.1f}"
            f"{_void(chosen, 'wall'):8.0f}{_void(chosen, 'cpu'):6.0f}"
        )


def _shares(points: Sequence[Point]) -> None:
    """How well what was found tells what was lacked, rivals of its own making left out."""
    chosen = [point for point in points if point.condition != "its own child"]
    errors = [100 * (point.found - point.lacked) for point in chosen]
    print(f"found - lacked: mean {statistics.fmean(errors):.1f}, spread {_spread(errors):.1f}")
    x, y = [point.found for point in chosen], [point.each_s for point in chosen]
    line = statistics.linear_regression(x, y)
    print(f"processor time: {100 * line.slope / line.intercept:.0f} % more where all is lost")
    print(f"{'lacked':16}{'samples':>8}{'void, wall':>12}{'void, cpu':>12}")
    for low, high in itertools.pairwise(EDGES):
        some = [point for point in chosen if low <= 100 * point.lacked < high]
        if some:
            print(f"{f'{low} to {high}':16}{len(some):8}{_void(some, 'wall'):12.0f}"
                  f"{_void(some, 'cpu'):12.0f}")  # fmt: skip


def _void(points: Sequence[Point], clock: str) -> float:
    """Per cent of samples that are void on a machine that is usually quiet."""
    return 100 * statistics.fmean(point.found > LIMITS[clock] for point in points)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    sys.exit(main())
