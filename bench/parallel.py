"""What several workers bring: samples an hour, their bias, and how busy many of them are kept.

    python bench/parallel.py [--experiments 12] [--rounds 2] [--json]

First the real engine, with full confinement, measures a fixed list of candidates with one worker
and with two, in turn. A sample takes five seconds of wall-clock time and its value says how much
work its core did in them, so that whatever workers take from each other shows in it: the bias is
the difference of the mean values, in standard deviations of one worker's samples.

Then 64 workers get samples from an executor that starts nothing and answers after ten seconds:
the part of their time in which a sample of theirs is in flight is what the engine keeps them busy.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch import config
from autoresearch.bench import available_cores
from autoresearch.cli.run import Begin, drive, hold
from autoresearch.engine import Engine
from autoresearch.journal import Event
from autoresearch.journal.view import RunView
from autoresearch.sandbox import Sandbox, probe
from autoresearch.testing.agent import ScriptedAgent
from autoresearch.testing.executor import FakeExecutor, Ran
from autoresearch.types import Assignment, Level, Proposal

SAMPLE_S, FAKE_S = 5.0, 10.0
MANY = 64
CONTRACT = """\
[task]
editable = ["value.txt"]
[run]
command = "python3 work.py"
budget = "6s"
[metric]
name = "work"
direction = "higher"
min_gain = 1e9
[keep]
confirm = "never"
[agent]
use = "replay"
[agent.replay]
dir = "patches"
"""
# Half in the interpreter, half in memory; the noise of the task itself is its seed's.
WORK = f"""
import os, random, time
block = bytearray(range(256)) * (1 << 12)
end, done = time.monotonic() + {SAMPLE_S}, 0
while time.monotonic() < end:
    sum(i * i for i in range(2000))
    bytes(block).count(7)
    done += 1
print("work:", done * (1 + random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.01)))
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Samples that were taken side by side, and how long all of them took."""

    values: tuple[float, ...]
    voids: int
    seconds: float

    @property
    def an_hour(self) -> float:
        return 3600 * (len(self.values) + self.voids) / self.seconds


def make_task(root: Path, experiments: int) -> None:
    """A task, and one patch an experiment, none of which changes what is measured."""
    (root / "patches").mkdir(parents=True)
    (root / "value.txt").write_text("0\n")
    (root / "work.py").write_text(WORK)
    (root / "autoresearch.toml").write_text(CONTRACT)
    for i in range(1, experiments + 1):
        patch = f"--- a/value.txt\n+++ b/value.txt\n@@ -1 +1 @@\n-0\n+{i}\n"
        (root / "patches" / f"{i:04}.patch").write_text(patch)
    for argv in (
        ["init", "--quiet"],
        ["add", "value.txt", "work.py", "autoresearch.toml"],
        ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "--quiet", "-m", "Start"],
    ):
        subprocess.run(["git", *argv], cwd=root, check=True)


def measure(root: Path, experiments: int, workers: int) -> Measured:
    """Measure the fixed list; the time is from the first to the last sample of a candidate."""
    make_task(root, experiments)
    contract = config.load(root / "autoresearch.toml")
    contract = replace(contract, parallel=replace(contract.parallel, workers=workers))
    moments: list[float] = []
    with hold(contract, Begin()) as held:

        def listen(event: Event, view: RunView) -> None:
            if event.kind in ("attempt", "sample") and event.experiment:
                moments.append(event.clock_s)

        held.listeners.append(listen)
        drive(Engine(held, contract, probe()))
        taken = [each.sample for row in held.view.decided[1:] for each in row.taken]
    values = tuple(sample.value for sample in taken if sample.value is not None)
    return Measured(values, len(taken) - len(values), moments[-1] - moments[0])


def together(found: Sequence[Measured]) -> Measured:
    return Measured(
        tuple(itertools.chain.from_iterable(each.values for each in found)),
        sum(each.voids for each in found), sum(each.seconds for each in found),
    )  # fmt: skip


def busy(root: Path, workers: int, samples: int) -> float:
    """The part of all workers' time in which a sample is in flight, while all of them work."""
    make_task(root, 0)
    contract = config.load(root / "autoresearch.toml")
    parallel = replace(contract.parallel, workers=workers, oversubscribe=True)
    contract = replace(contract, parallel=parallel)
    numbers = itertools.count(1)

    def edit(assignment: Assignment) -> Proposal:
        (assignment.workspace / "value.txt").write_text(f"{next(numbers)}\n")
        return Proposal("another value")

    def program(step: str, cwd: Path, env: object) -> Ran:
        first = (cwd / "value.txt").read_text() == "0\n"
        return Ran("work: 1", seconds=0.01 if first else FAKE_S)

    flights: list[tuple[float, int]] = []
    with hold(contract, Begin(unconfined=True)) as held:

        def listen(event: Event, view: RunView) -> None:
            if event.kind in ("attempt", "sample") and event.experiment:
                flights.append((event.clock_s, 1 if event.kind == "attempt" else -1))
            if event.kind == "sample" and view.samples_taken >= workers * samples:
                engine.request_stop("bench")

        engine = Engine(held, contract, Sandbox(Level.NONE), FakeExecutor(program))
        for each in engine.workers:
            each.desk.agent = ScriptedAgent(edit)
        held.listeners.append(listen)
        asyncio.run(engine.loop())
    return share_in_flight(flights, workers)


def share_in_flight(flights: Sequence[tuple[float, int]], workers: int) -> float:
    """From when all had begun until the last was begun."""
    flying, area, since, until = 0, 0.0, None, max(at for at, step in flights if step > 0)
    for (at, step), (then, _) in itertools.pairwise(flights):
        flying += step
        if since is None and flying == workers:
            since = at
        if since is not None and at < until:
            area += flying * (min(then, until) - at)
    assert since is not None, "never were all at work"
    return area / (workers * (until - since))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=6, help="of each of the 64")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-parallel-"))
    figures: dict[str, float] = {}
    try:
        if len(available_cores()) >= 2:
            rounds = [
                [measure(folder / f"{i}-{n}", options.experiments, n) for n in (1, 2)]
                for i in range(options.rounds)
            ]
            one, two = (together([each[n] for each in rounds]) for n in (0, 1))
            sigma = statistics.stdev(one.values)
            means = [statistics.fmean(each.values) for each in (one, two)]
            figures |= {
                "one_an_hour": one.an_hour, "two_an_hour": two.an_hour,
                "two_over_one": two.an_hour / one.an_hour,
                "bias_sigma": (means[1] - means[0]) / sigma,
                "bias_error_sigma": (1 / len(one.values) + 1 / len(two.values)) ** 0.5,
                "one_voids": one.voids, "two_voids": two.voids, "samples": len(one.values),
            }  # fmt: skip
        figures["busy_share"] = busy(folder / "many", MANY, options.samples)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures))
        return 0
    if "two_over_one" in figures:
        print(f"samples of {SAMPLE_S:g} s on {os.cpu_count()} cores, {figures['samples']:g} each")
        print(f"  one worker      {figures['one_an_hour']:6.0f} an hour,"
              f" {figures['one_voids']:g} void")  # fmt: skip
        print(f"  two workers     {figures['two_an_hour']:6.0f} an hour,"
              f" {figures['two_voids']:g} void: {figures['two_over_one']:.2f} times")  # fmt: skip
        print(f"  bias of two     {figures['bias_sigma']:+6.2f} sigma"
              f" (standard error {figures['bias_error_sigma']:.2f})")  # fmt: skip
    else:
        print("one core: two workers cannot be compared with one here")
    print(f"{MANY} workers, samples of {FAKE_S:g} s that run nowhere:"
          f" {100 * figures['busy_share']:.1f} % of their time in flight")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
