"""Does a first look at a smaller budget order candidates as the whole budget does?

    python bench/screen.py [--seeds 0,1] [--experiments 40] [--train-s 2.0] [--jobs 2]

The real search agent works on ``tinylm`` under the real keep rule, with so many seconds of training
for each run; every candidate is looked at with a part of them as well, which changes nothing that
follows. Printed is, for each part, Spearman's rank correlation with the first whole run, over all
candidates that did not crash; what the engine's rule would have ended, and whether the keep rule
kept any of it; and the part of all training that would have been saved, the looks paid. Runs are
exact for a seed: steps follow from the constants, not from the machine's load.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import tinylm
from referee import Referee
from scipy.stats import spearmanr
from search import Agent

from autoresearch.decide import LOOKS_OF_BASELINE, Rule, decide_look
from autoresearch.hopeless import spared
from autoresearch.size import tokens_added
from autoresearch.types import Status

PARTS = (0.05, 0.1, 0.25, 0.5)
RULE = Rule("lower")


@dataclass
class Tried:
    """One candidate; ``ended`` are the parts of the training with which a look would end it."""

    whole: float
    kept: bool
    runs: int
    looks: dict[float, float] = field(default_factory=dict)
    ended: set[float] = field(default_factory=set)


def follow(seed: int, experiments: int, train_s: float) -> list[Tried]:
    """One search, and what looks would have made of its candidates."""
    task = tinylm.tinylm(seed)
    samples = itertools.count(1)
    first: list[float | None] = []

    def measure(script: str) -> float | None:
        tinylm.TRAIN_S = train_s
        value = task.measure(script, next(samples))
        first.append(value)
        return value

    def look(script: str, part: float) -> float | None:
        tinylm.TRAIN_S = part * train_s
        return task.measure(script, next(samples))

    referee = Referee(measure, task.script)
    best, baseline = {}, {}
    for part in PARTS:
        values = [look(task.script, part) for _ in range(LOOKS_OF_BASELINE)]
        baseline[part] = best[part] = [each for each in values if each is not None]
    tried = []
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(task, Path(folder), seed)
        agent.begin(referee.recorded)
        for number in range(1, experiments + 1):
            script = agent.ask()
            looks = {part: look(script, part) for part in PARTS}
            first.clear()
            before = referee.runs
            size = tokens_added({"train.py": referee.incumbent}, {"train.py": script})
            status, value = referee.experiment(script, size)
            agent.tell(status, value)
            if first[0] is None:
                continue
            made = Tried(first[0], status is Status.KEEP, referee.runs - before)
            tried.append(made)
            for part, seen in looks.items():
                if seen is None:
                    continue
                made.looks[part] = seen
                if decide_look(RULE, baseline[part], best[part], seen) and not spared(
                    hash((seed, number))
                ):
                    made.ended.add(part)
            if made.kept:
                best |= {part: [seen] for part, seen in looks.items() if seen is not None}
    return tried


def report(tried: Sequence[Tried], part: float) -> str:
    """One line for one size of look."""
    both = [each for each in tried if part in each.looks]
    ranks = spearmanr([each.looks[part] for each in both], [each.whole for each in both]).statistic
    ended = [each for each in tried if part in each.ended]
    kept, lost = (sum(each.kept for each in those) for those in (tried, ended))
    runs = sum(each.runs for each in tried)
    saved = sum(each.runs for each in ended) - part * len(tried)
    return (
        f"{100 * part:6.0f} %{ranks:14.2f}{len(ended):10} of {len(tried)}{lost:8} of {kept}"
        f"{100 * saved / runs:12.1f} %"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--experiments", type=int, default=40)
    parser.add_argument("--train-s", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    tinylm.prepare()
    seeds = [int(each) for each in options.seeds.split(",")]
    # Fresh processes: NumPy reads how many threads it may have when it is imported.
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        calls = [(seed, options.experiments, options.train_s) for seed in seeds]
        found = list(pool.map(follow, *zip(*calls, strict=True)))
    print(f"{options.train_s:g} s of training for a run, {len(seeds)} searches")
    print(f"{'look':>8}{'correlation':>14}{'ended':>16}{'kept of them':>14}{'saved':>10}")
    for part in PARTS:
        print(report([each for search in found for each in search], part))
    return 0


if __name__ == "__main__":
    sys.exit(main())
