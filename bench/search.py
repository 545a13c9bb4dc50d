"""The search agent against TPE, CMA-ES and random search, from the same start, in the same run.

    python bench/search.py [--quick | --full] [--seeds N] [--only NAME] [--jobs N] [--told]
    python bench/search.py --tinylm [--seeds N] [--experiments N] [--jobs N]

Every method proposes constants of a small train.py; the real keep rule decides on noisy samples
whether a proposal becomes the incumbent. Printed is the incumbent's TRUE value, as the part of the
possible gain that is still missing (1 at the start, 0 at the optimum), median over seeds. The agent
edits source text and infers its ranges; the samplers, with Optuna's defaults, are given the true
ones (``--told`` gives them to the agent too). Exits 1 when the claim fails: nowhere behind the best
other method by more than noise, ahead of it in most medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Protocol

import landscapes
import optuna
from landscapes import Axis, Task, Value
from referee import Referee

from autoresearch.agents.search import SearchAgent
from autoresearch.size import tokens_added
from autoresearch.types import Assignment, Kind, Metric, Past, Plan, Status

MARKS = (12, 25, 50, 100)
METHODS = ("search", "tpe", "cma-es", "random")
CRASHED = 1e3  # a crash is told to samplers as a very bad value: they learn from it

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", module="optuna")


# One run: a method proposes, the real keep rule decides


class Method(Protocol):
    """Proposes scripts and is told how each one ended."""

    def begin(self, value: float) -> None: ...

    def ask(self) -> str: ...

    def tell(self, status: Status, value: float | None) -> None: ...


@dataclass
class Agent:
    """The real agent on real source text in a directory."""

    task: Task
    folder: Path
    seed: int
    told: bool = False
    history: list[Past] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agent = SearchAgent()
        self.incumbent = self.candidate = self.task.script
        self.space = {axis.name: axis.told() for axis in self.task.axes} if self.told else {}

    def begin(self, value: float) -> None:
        self._record(Kind.BASELINE, Status.KEEP, value, "baseline")

    def ask(self) -> str:
        file, number = self.folder / "train.py", len(self.history)
        file.write_text(self.incumbent)
        assignment = Assignment(
            number, self.folder, (file.name,), Plan(_commit(self.incumbent), Kind.TUNE),
            1000 * self.seed + number, Metric("loss"), self.space, self.history,
            self.folder, self.folder,
        )  # fmt: skip
        began = time.process_time()
        self.proposal = asyncio.run(self.agent.propose(assignment))
        self.seconds.append(time.process_time() - began)
        self.candidate = file.read_text()
        return self.candidate

    def tell(self, status: Status, value: float | None) -> None:
        self._record(self.proposal.kind or Kind.TUNE, status, value, self.proposal.description)

    def _record(self, kind: Kind, status: Status, value: float | None, description: str) -> None:
        text = self.candidate
        past = Past(
            len(self.history), _commit(text), _commit(self.incumbent), kind, status, value,
            description, lambda: {"train.py": text},
        )  # fmt: skip
        self.history.append(past)
        if status is Status.KEEP:
            self.incumbent = text


def _commit(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Sampler:
    """A sampler of Optuna with its defaults; the start is its first, enqueued trial."""

    task: Task
    name: str
    seed: int

    def __post_init__(self) -> None:
        start = {axis.name: inner(axis) for axis in self.task.axes}
        numeric = {axis.name: start[axis.name] for axis in self.task.axes if axis.scale != "choice"}
        samplers: dict[str, optuna.samplers.BaseSampler] = {
            "tpe": optuna.samplers.TPESampler(seed=self.seed),
            "cma-es": optuna.samplers.CmaEsSampler(seed=self.seed, x0=numeric),
            "random": optuna.samplers.RandomSampler(seed=self.seed),
        }
        self.study = optuna.create_study(sampler=samplers[self.name])
        self.study.enqueue_trial(start)

    def begin(self, value: float) -> None:
        assert self.ask() == self.task.script
        self.study.tell(self.trial, value)

    def ask(self) -> str:
        self.trial = self.study.ask()
        values = {axis.name: self._suggest(axis) for axis in self.task.axes}
        return landscapes.write(self.task.script, values)

    def tell(self, status: Status, value: float | None) -> None:
        self.study.tell(self.trial, CRASHED if value is None else value)

    def _suggest(self, axis: Axis) -> Value:
        name, low, high = axis.name, axis.low, axis.high
        if axis.scale == "choice":
            picked = self.trial.suggest_categorical(name, axis.choices)
            assert picked is not None
            return picked
        if axis.scale == "pow2":
            low, high = math.log2(low), math.log2(high)
            return 1 << self.trial.suggest_int(name, int(low), int(high))
        if axis.scale in ("int", "intlog"):
            return self.trial.suggest_int(name, int(low), int(high), log=axis.scale == "intlog")
        return self.trial.suggest_float(name, low, high, log=axis.scale == "log")


def inner(axis: Axis) -> Value:
    return int(math.log2(float(axis.start))) if axis.scale == "pow2" else axis.start


@dataclass(frozen=True)
class Outcome:
    """The incumbent's true value at the start and after each experiment, and the agent's cost."""

    values: tuple[float, ...]
    best: float | None
    crashes: int
    seconds: tuple[float, ...] = ()


def run(name: str, method: str, seed: int, experiments: int, told: bool) -> Outcome:
    """One method on one task with one seed."""
    task = _tinylm().tinylm(seed) if name == "tinylm" else landscapes.TASKS[name](seed)
    samples = itertools.count(1)
    referee = Referee(lambda script: task.measure(script, next(samples)), task.script)
    true = {task.script: task.truth(task.script)}
    curve, crashes = [true[task.script]], 0
    with tempfile.TemporaryDirectory() as folder:
        player: Method = (
            Agent(task, Path(folder), seed, told)
            if method == "search"
            else Sampler(task, method, seed)
        )
        player.begin(referee.recorded)
        for _ in range(experiments):
            script = player.ask()
            size = tokens_added({"train.py": referee.incumbent}, {"train.py": script})
            status, value = referee.experiment(script, size)
            crashes += status is Status.CRASH
            player.tell(status, value)
            if referee.incumbent not in true:
                true[referee.incumbent] = task.truth(referee.incumbent)
            curve.append(true[referee.incumbent])
    values = tuple(each for each in curve if each is not None)
    assert len(values) == 1 + experiments, "an incumbent crashes"
    seconds = tuple(player.seconds) if isinstance(player, Agent) else ()
    return Outcome(values, task.best, crashes, seconds)


def _tinylm() -> ModuleType:
    import tinylm  # noqa: PLC0415 (needs NumPy and a corpus)

    return tinylm


# The table and the claim

Curves = Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Verdict:
    """Search against the best other method at one mark of one landscape."""

    landscape: str
    mark: int
    rival: str
    ahead: bool
    worse: bool  # by more than noise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--quick", action="store_true", help="10 seeds, about 3 minutes (the default)"
    )
    form.add_argument("--full", action="store_true", help="25 seeds, about 9 minutes")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--experiments", type=int, default=max(MARKS))
    parser.add_argument("--only", action="append", choices=list(landscapes.TASKS), default=[])
    parser.add_argument("--tinylm", action="store_true", help="the real workload, a second a run")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--told", action="store_true", help="give the agent the true ranges too")
    parser.add_argument("--json", type=Path, help="write all curves here")
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + (args.seeds or (25 if args.full else 10)))
    names = [name for name in landscapes.TASKS if not args.only or name in args.only]
    if args.tinylm:
        _tinylm().prepare()
        names = ["tinylm"]
    methods = args.methods.split(",")
    marks = [mark for mark in MARKS if mark <= args.experiments] or [args.experiments]
    print(f"gain still missing, median of {len(seeds)} seeds (1 = start, 0 = optimum)")
    print(f"{'landscape':13}{'method':9}{''.join(f'{mark:9}' for mark in marks)}{'crashes':>9}")
    began = time.monotonic()
    found: dict[str, dict[str, list[Outcome]]] = {}
    verdicts: list[Verdict] = []
    calls = [
        (name, method, seed, args.experiments, args.told)
        for name in names for method in methods for seed in seeds
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        outcomes: Iterator[Outcome] = itertools.starmap(run, calls)
        if args.jobs > 1 or args.tinylm:
            # Fresh processes: NumPy reads how many threads it may have when it is imported.
            pool = stack.enter_context(ProcessPoolExecutor(args.jobs, get_context("spawn")))
            outcomes = pool.map(run, *zip(*calls, strict=True))
        for name in names:
            found[name] = {
                method: list(itertools.islice(outcomes, len(seeds))) for method in methods
            }
            verdicts += report(name, found[name], marks)
    cost([each.seconds for by in found.values() for each in by.get("search", [])])
    print(f"{time.monotonic() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps({
            name: {method: [each.values for each in runs] for method, runs in by.items()}
            for name, by in found.items()
        }))  # fmt: skip
    return claim(verdicts) if verdicts else 0


def missing(outcomes: Mapping[str, Sequence[Outcome]]) -> Curves:
    """Curves as the part of the possible gain; an unknown optimum is the best that any reached."""
    curves: dict[str, list[list[float]]] = {method: [] for method in outcomes}
    for runs in zip(*outcomes.values(), strict=True):
        best = runs[0].best
        if best is None:
            best = min(min(each.values) for each in runs)
        for curve, each in zip(curves.values(), runs, strict=True):
            gain = each.values[0] - best
            curve.append([(value - best) / gain if gain else 0.0 for value in each.values])
    return curves


def at(curves: Sequence[Sequence[float]], experiment: int) -> float:
    return statistics.median(curve[experiment] for curve in curves)


def report(
    name: str, outcomes: Mapping[str, Sequence[Outcome]], marks: Sequence[int]
) -> list[Verdict]:
    """Print one landscape's rows; per mark, how search did against the best other method."""
    curves = missing(outcomes)
    for method, runs in outcomes.items():
        row = "".join(f"{at(curves[method], mark):9.3f}" for mark in marks)
        crashes = statistics.fmean(each.crashes for each in runs)
        print(f"{name:13}{method:9}{row}{crashes:9.1f}", flush=True)
    others = [method for method in curves if method != "search"]
    if "search" not in curves or not others:
        return []
    verdicts = []
    for mark in marks:
        rival = min(others, key=lambda method: at(curves[method], mark))
        ours, theirs = ([curve[mark] for curve in curves[m]] for m in ("search", rival))
        ahead = statistics.median(ours) <= statistics.median(theirs)
        verdicts.append(Verdict(name, mark, rival, ahead, worse(ours, theirs)))
    if "tpe" in curves:
        last = max(marks)
        goal = at(curves["tpe"], last)
        when = next((k for k in range(1, last + 1) if at(curves["search"], k) <= goal), None)
        print(f"{'':13}search reaches TPE's {last} at {when or f'none of {last}'}", flush=True)
    return verdicts


def claim(verdicts: Sequence[Verdict]) -> int:
    """Print where search is not ahead and whether the claim holds; the exit code."""
    for each in verdicts:
        if not each.ahead:
            how = "by more than noise" if each.worse else "within noise"
            print(f"behind {each.rival} on {each.landscape} at {each.mark}, {how}")
    ahead = sum(each.ahead for each in verdicts)
    print(f"ahead of the best other method in {ahead} of {len(verdicts)} medians")
    held = ahead > len(verdicts) / 2 and not any(each.worse for each in verdicts)
    print("the claim holds" if held else "THE CLAIM FAILS")
    return 0 if held else 1


def worse(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether our losses are larger, by a one-sided rank test at 5 %."""
    gaps = [(a > b) - (a < b) for a in ours for b in theirs]
    n, m = len(ours), len(theirs)
    spread = math.sqrt(n * m * (n + m + 1) / 12)
    return sum(gaps) / 2 / spread > 1.645


def cost(seconds: Sequence[Sequence[float]]) -> None:
    """Print what the agent's proposals cost."""
    if not seconds:
        return
    mean = statistics.fmean(t for each in seconds for t in each)
    late = statistics.fmean(each[-1] for each in seconds)
    print(f"a proposal costs {1e3 * mean:.1f} ms of processor time, the last {1e3 * late:.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
