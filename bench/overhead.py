"""What the engine itself costs: processor time per experiment, next to its primitives.

    python bench/overhead.py [--experiments 1000]

Runs the real engine with full confinement and durability on a trivial task, with the ``replay``
agent. Counted is the processor time of the engine, its runner, git and bubblewrap; not that of
the agent, the command and the evaluation, which is measured beside it and taken off. Prints the
first 50 experiments against the last 50, the primitives in the same run, and what ``--help`` costs
next to a bare click program's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autoresearch import config
from autoresearch.cli.run import Begin, drive, hold
from autoresearch.engine import Engine
from autoresearch.journal import Event, Journal
from autoresearch.journal.view import RunView
from autoresearch.sandbox import probe

CONTRACT = """\
[task]
editable = ["value.txt"]
[run]
command = "cat value.txt"
budget = "5s"
[metric]
name = "score"
evaluate = "cat answer.txt"
[agent]
use = "replay"
[agent.replay]
dir = "patches"
"""
BARE_CLICK = "import click; click.group()(lambda: None)()"
WINDOW = 50


def cpu_s() -> float:
    """Processor seconds of this process and of all its children that were reaped."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def runner_cpu_s() -> float:
    """Processor seconds of our child processes that still run, and of what they reaped."""
    total = 0
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def make_task(root: Path, experiments: int) -> None:
    """A task that does nothing, and one patch an experiment, each a change nobody keeps."""
    (root / "patches").mkdir(parents=True)
    (root / "value.txt").write_text("score: 0\n")
    (root / "answer.txt").write_text("score: 1\n")
    (root / "autoresearch.toml").write_text(CONTRACT)
    for i in range(1, experiments + 1):
        (root / "patches" / f"{i:05d}.patch").write_text(
            f"--- a/value.txt\n+++ b/value.txt\n@@ -1 +1 @@\n-score: 0\n+score: {i}\n"
        )
    for argv in (
        ["init", "--quiet"],
        ["add", "value.txt", "answer.txt", "autoresearch.toml"],
        ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "--quiet", "-m", "Start"],
    ):
        subprocess.run(["git", *argv], cwd=root, check=True)


def measure(root: Path, experiments: int) -> list[float]:
    """Processor seconds of the engine's own work by experiment."""
    make_task(root, experiments)
    contract = config.load(root / "autoresearch.toml")
    marks: list[float] = []

    with hold(contract, Begin()) as held:
        engine = Engine(held, contract, probe())

        def listen(event: Event, view: RunView) -> None:
            if event.kind == "decided":
                marks.append(cpu_s() + runner_cpu_s())

        held.listeners.append(listen)
        drive(engine)
    return [after - before for before, after in itertools.pairwise(marks)]


def spent(argv: list[str], repeats: int = 40) -> float:
    """Median processor seconds of a command."""
    found = []
    for _ in range(repeats):
        before = cpu_s()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        found.append(cpu_s() - before)
    return statistics.median(found)


def journal_row_s(folder: Path, repeats: int = 200) -> tuple[float, float]:
    """Processor and wall seconds of one synced journal row."""
    journal = Journal(folder / "bench.db")
    before, began = cpu_s(), time.monotonic()
    for i in range(repeats):
        journal.append("bench", i, text="x" * 200)
    return (cpu_s() - before) / repeats, (time.monotonic() - began) / repeats


def git_commit_s(folder: Path, repeats: int = 20) -> float:
    """Processor seconds of an ordinary git commit."""
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    command = ["git", "-C", str(folder), "-c", "user.name=b", "-c", "user.email=b@b"]
    found = []
    for i in range(repeats):
        (folder / "file").write_text(str(i))
        before = cpu_s()
        subprocess.run([*command, "add", "file"], check=True)
        subprocess.run([*command, "commit", "--quiet", "-m", "x"], check=True)
        found.append(cpu_s() - before)
    return statistics.median(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-overhead-"))
    try:
        began = time.monotonic()
        costs = measure(folder / "task", options.experiments)
        wall_s = (time.monotonic() - began) / len(costs)
        # The trivial command and evaluation, and the patch that the replay agent applies.
        inside = 2 * spent(["cat", "/dev/null"])
        agent = spent(["git", "--version"])
        own = [cost - inside - agent for cost in costs]
        first, last = statistics.fmean(own[:WINDOW]), statistics.fmean(own[-WINDOW:])
        (folder / "git").mkdir()
        row_cpu_s, row_wall_s = journal_row_s(folder)
        figures = {
            "first_ms": 1000 * first,
            "last_ms": 1000 * last,
            "last_over_first": last / first,
            "wall_ms": 1000 * wall_s,
            "bare_interpreter_ms": 1000 * spent([sys.executable, "-I", "-S", "-c", "pass"]),
            "git_commit_ms": 1000 * git_commit_s(folder / "git"),
            "journal_row_cpu_ms": 1000 * row_cpu_s,
            "journal_row_wall_ms": 1000 * row_wall_s,
            "help_ms": 1000 * spent([sys.executable, "-m", "autoresearch", "--help"]),
            "bare_click_help_ms": 1000 * spent([sys.executable, "-c", BARE_CLICK, "--help"]),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures))
    else:
        print(f"engine's own processor time an experiment, {len(costs)} experiments")
        print(f"  first {WINDOW}          {figures['first_ms']:7.1f} ms")
        print(f"  last {WINDOW}           {figures['last_ms']:7.1f} ms")
        print(f"  last / first      {figures['last_over_first']:7.2f}")
        print(f"  wall, all of it   {figures['wall_ms']:7.1f} ms")
        print("primitives in the same run, processor time")
        print(f"  bare interpreter  {figures['bare_interpreter_ms']:7.1f} ms")
        print(f"  git add, commit   {figures['git_commit_ms']:7.1f} ms")
        row = f"wall {figures['journal_row_wall_ms']:.1f}, sqlite {sqlite3.sqlite_version}"
        print(f"  journal row       {figures['journal_row_cpu_ms']:7.1f} ms  ({row})")
        ratio = figures["help_ms"] / figures["bare_click_help_ms"]
        print(
            f"autoresearch --help {figures['help_ms']:7.1f} ms,"
            f" {ratio:.2f} times a bare click program's"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
