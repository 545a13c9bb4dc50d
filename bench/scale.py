"""What a long run costs: an experiment at its end, memory, disk, a resume, ``status`` and ``log``.

    python bench/scale.py [--experiments 10000] [--workers 1] [--rows 100000] [--json]
                          [--folder /dev/shm]

The real engine, run, journal, store, briefing and decisions work through the experiments in this
process; only the agent is scripted, what programs print is made up, and time passes only where
something waits. Then the same run is resumed and read by the command line. Reading is measured
once more on a journal of ``--rows`` experiments: the real one, and its last thousand over and over.

Processor time is that of this process and of git, the only other one. What ``status`` and ``log``
take is said beyond a bare interpreter that imports what they import.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch import config, git
from autoresearch.bench import Places
from autoresearch.engine import Engine
from autoresearch.journal import Event, Journal, restore
from autoresearch.journal.view import RunView
from autoresearch.run import FOLDER, Run
from autoresearch.sandbox import Sandbox
from autoresearch.snapshot import EVERY, Snapshots
from autoresearch.testing.agent import ScriptedAgent
from autoresearch.testing.clock import FakeClock, run_simulated
from autoresearch.testing.executor import FakeExecutor, Ran
from autoresearch.types import Assignment, Contract, Level, Proposal

TAG = "scale"
CONTRACT = """\
[task]
editable = ["train.py"]
[run]
command = "python3 train.py"
budget = "5s"
[metric]
name = "loss"
[agent]
use = "command"
[agent.command]
argv = ["./agent.sh"]
"""
COPIED = 1000
PROGRESS = 1000
REPEATS = 5
START = [sys.executable, "-c", "import autoresearch.cli.views"]
COMMAND = [sys.executable, "-m", "autoresearch"]
# What an engine does with a journal when it starts, and then holds in memory.
FOLD = """
import sys
from pathlib import Path
import autoresearch.engine
from autoresearch.journal import Journal
from autoresearch.journal.view import RunView
view = RunView(Journal(Path(sys.argv[1]), read_only=True).events())
print(Path("/proc/self/statm").read_text().split()[1])
"""


def cpu_s() -> tuple[float, float]:
    """Processor seconds of this process, and of its children, those that still run included."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    children_s = reaped.ru_utime + reaped.ru_stime + ticks / os.sysconf("SC_CLK_TCK")
    return own.ru_utime + own.ru_stime, children_s


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def make_task(root: Path) -> None:
    root.mkdir()
    (root / "train.py").write_text("LR = 0.5\n")
    (root / "agent.sh").write_text("#!/bin/sh\n")
    (root / config.NAME).write_text(CONTRACT)
    (root / ".gitignore").write_text(f"{FOLDER}/\n")
    for argv in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "--quiet", "-m", "Start"],
    ):
        subprocess.run(["git", *argv], cwd=root, check=True)


def program(step: str, cwd: Path, env: Mapping[str, str]) -> Ran:
    """What a run of ``train.py`` would print; one in fifty crashes."""
    rate = float((cwd / "train.py").read_text().split("=")[1])
    rng = random.Random(int(env["AUTORESEARCH_SEED"]))
    if int(env["AUTORESEARCH_EXPERIMENT"]) and rng.random() < 0.02:
        return Ran("Traceback: no luck", "failed", 1.0, 1)
    return Ran(f"loss: {(rate - 0.1) ** 2 + rng.gauss(0, 0.001)}", seconds=rng.uniform(1, 5))


def edit(assignment: Assignment) -> Proposal:
    """Another rate, better than the first at times, and what an agent would say of it."""
    rate = random.Random(assignment.seed).uniform(0.1, 0.9)
    (assignment.workspace / "train.py").write_text(f"LR = {rate:.9f}\n")
    return Proposal(
        f"rate 0.5 -> {rate:.4f}", hypothesis="it overshoots", expected="-0.01",
        tokens=1000, cost_usd=0.01,
    )  # fmt: skip


def search(root: Path, experiments: int, workers: int) -> dict[str, float]:
    """Do the experiments, and say what they cost; milliseconds of processor time each."""
    contract = config.load(root / config.NAME)
    parallel = replace(contract.parallel, workers=workers, oversubscribe=True)
    contract = replace(contract, parallel=parallel)
    clock = FakeClock()
    run = Run(Places(root / FOLDER / TAG, root, root), TAG, clock=clock)
    marks: list[tuple[float, float]] = []

    def listen(event: Event, view: RunView) -> None:
        if event.kind == "decided":
            marks.append(cpu_s())
            if len(marks) % PROGRESS == 0:
                took = 1000 * (sum(marks[-1]) - sum(marks[-PROGRESS])) / (PROGRESS - 1)
                print(f"{len(marks)} decided, {took:.1f} ms each", file=sys.stderr, flush=True)
            if len(view.decided) > experiments:
                engine.request_stop("bench")

    run.listeners.append(listen)
    run.begin(contract, git.head(root), {})
    engine = Engine(run, contract, Sandbox(Level.NONE), FakeExecutor(program))
    for each in engine.workers:
        each.desk.agent = ScriptedAgent(edit)
    run_simulated(clock, engine.loop)
    memory_mb = resident_mb()
    run.release()
    window = min(1000, experiments // 2)

    def each_ms(first: int, last: int) -> float:
        return 1000 * (sum(marks[last]) - sum(marks[first])) / (last - first)

    own, children = (marks[-1][i] - marks[0][i] for i in (0, 1))
    first, last = each_ms(0, window), each_ms(experiments - window, experiments)
    return {
        "experiments": experiments, "workers": workers, "window": window,
        "first_ms": first, "last_ms": last,
        "last_over_first": last / first, "git_share": children / (own + children),
        "memory_mb": memory_mb,
    }  # fmt: skip


def disk(run: Path) -> dict[str, tuple[float, int]]:
    """Megabytes on disk and files of each part of a run's directory, workers' parts together."""
    found: dict[str, tuple[float, int]] = {}
    for part in sorted(run.iterdir()):
        name = part.name.rstrip("0123456789").rstrip("-")
        size_mb, files = found.get(name, (0.0, 0))
        stats = [each.lstat() for each in (part, *part.rglob("*"))]
        size_mb += sum(each.st_blocks for each in stats) * 512 / 1e6
        found[name] = (size_mb, files + len(stats))
    return found


def spent(argv: list[str], cwd: Path, repeats: int = REPEATS) -> tuple[float, float]:
    """Processor and wall milliseconds of a command, medians."""
    found = []
    for _ in range(repeats):
        began = time.monotonic()
        process = subprocess.Popen(argv, cwd=cwd, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{argv} ended with {process.returncode}")
        cpu = usage.ru_utime + usage.ru_stime
        found.append((1000 * cpu, 1000 * (time.monotonic() - began)))
    cpu_ms, wall_ms = (statistics.median(column) for column in zip(*found, strict=True))
    return cpu_ms, wall_ms


def reading(root: Path) -> dict[str, tuple[float, float]]:
    """What the commands that only read take beyond their start, processor and wall milliseconds."""
    start = spent(START, root)
    found = {"start": start}
    for argv, repeats in (
        (["status"], REPEATS), (["log"], REPEATS), (["log", "--limit", "0"], 1),
    ):  # fmt: skip
        took = spent([*COMMAND, *argv], root, repeats)
        found[" ".join(argv)] = (took[0] - start[0], took[1] - start[1])
    return found


def lengthened(events: list[Event], rows: int) -> Iterator[Event]:
    """The events of a run, and then its last experiments over and over until it has so many."""
    yield from events
    decided = sum(event.kind == "decided" for event in events)
    seq, clock_s = events[-1].seq, events[-1].clock_s
    since = decided - min(COPIED, decided - 1)
    parts = ("opened", "proposed", "sealed", "attempt", "sample", "decided")
    copied = [
        each for each in events
        if each.kind in parts and each.experiment is not None and since <= each.experiment < decided
    ]  # fmt: skip
    number = decided
    while number < rows:
        for each in copied:
            body = dict(each.body)
            if each.kind == "sealed":
                body |= {"fingerprint": f"{number:032x}", "form": f"{number:032x}"}
            if each.kind == "decided" and isinstance(made := body["decision"], dict):
                body["decision"] = made | {"status": "discard"}
            seq += 1
            yield replace(each, seq=seq, experiment=number, body=body, clock_s=clock_s)
            if each.kind == "decided":
                number += 1
                if number == rows:
                    break


def lengthen(run: Path, contract: Contract, rows: int) -> None:
    """Replace a run's journal by one of so many experiments, with a snapshot near its end."""
    path = run / "journal.db"
    journal = Journal(path, read_only=True)
    events = list(journal.events())
    journal.close()
    restore(path, lengthened(events, rows))
    journal = Journal(path)
    Snapshots(run, contract.metric).write(RunView(journal.events()), journal.digest)
    journal.close()
    # As late as one can be: what follows it is read as events.
    restore(path, lengthened(events, rows + EVERY - 1))


def measured(root: Path, experiments: int, workers: int, rows: int) -> dict[str, Any]:
    make_task(root)
    found: dict[str, Any] = {"search": search(root, experiments, workers)}
    run = root / FOLDER / TAG
    found["disk"] = disk(run)
    # At its limit already: it takes the run, brings everything up to date, and ends.
    limit = ["--max-experiments", str(experiments), "--unconfined"]
    start = spent([*COMMAND, "--help"], root)
    took = spent([*COMMAND, "run", *limit], root, 1)
    found["resume"] = (took[0] - start[0], took[1] - start[1])
    found["reading"] = reading(root)
    if rows > experiments:
        lengthen(run, config.load(root / config.NAME), rows)
        found["reading more"] = reading(root)
        fold = [sys.executable, "-c", FOLD, str(run / "journal.db")]
        pages = int(subprocess.run(fold, check=True, capture_output=True).stdout)
        found["view"] = (*spent(fold, root, 1), pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    return found


def report(found: dict[str, Any], rows: int) -> None:
    made = found["search"]
    many, window = made["experiments"], made["window"]
    print(
        f"{many} experiments, workers: {made['workers']}; processor time of engine and git for one"
    )
    print(f"  first {window:<6} {made['first_ms']:9.1f} ms")
    print(f"  last {window:<6}  {made['last_ms']:9.1f} ms")
    print(f"  last / first {made['last_over_first']:9.2f}")
    print(f"  git's share  {100 * made['git_share']:9.0f} %")
    print(f"resident memory {made['memory_mb']:.0f} MB")
    print("on disk")
    for name, (size_mb, files) in found["disk"].items():
        if size_mb >= 0.1:
            print(f"  {name:<12} {size_mb:9.1f} MB  {files} files")
    cpu_ms, wall_ms = found["resume"]
    print(f"a resume: {cpu_ms:.0f} ms of the processor, {wall_ms:.0f} ms")
    for key, count in (("reading", many), ("reading more", rows)):
        if key in found:
            start = found[key].pop("start")
            print(f"{count} experiments, beyond a start of {start[0]:.0f} ms: processor, wall")
            for name, (cpu_ms, wall_ms) in found[key].items():
                print(f"  {name:<16} {cpu_ms:7.0f} ms {wall_ms:7.0f} ms")

    if "view" in found:
        cpu_ms, _, memory_mb = found["view"]
        print(f"a view of {rows} experiments from all events: {cpu_ms / 1000:.1f} s of the")
        print(f"  processor, {memory_mb:.0f} MB with the engine")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=int, default=100_000, help="for reading; 0 for none more")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to work; in memory it waits for no disk")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-scale-", dir=options.folder))
    try:
        found = measured(folder / "task", options.experiments, options.workers, options.rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(found))
    else:
        report(found, options.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
