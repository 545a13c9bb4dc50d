"""Widths of the strategy and the hybrid agent against greedy, TPE, CMA-ES and random search.

    python bench/strategies.py [--quick | --full] [--seeds N] [--only NAME] [--methods A,B]

No model is asked: on tasks with structure (``structures.py``) a scripted coding agent adds parts
whose constants are guesses; on the others the search agent has every turn. The real strategy plans
on the real journal's view, the real keep rule decides on noisy samples, and candidates of other
parents are merged with the incumbent and measured anew, as the engine does. Printed is the
incumbent's TRUE value as the part of the possible gain that is still missing, median over seeds.

``greedy`` never escalates and has one agent: the coding agent, or search where there is no
structure. The samplers are told all constants and parts with their true ranges, which nobody would
know. The default is ``hybrid`` (``search`` without structure) at a frontier of 1. Exits 1 when the
claim fails: the default is nowhere behind the best reference by more than noise, and ahead of it in
most medians.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import optuna
import search
import structures
from landscapes import Task, Value, write
from referee import Referee
from structures import Coder, Structured

from autoresearch import config, strategy
from autoresearch.agents.hybrid import HybridAgent
from autoresearch.agents.search import SearchAgent
from autoresearch.decide import Evidence, decide_overtaken
from autoresearch.journal import Event
from autoresearch.journal.view import Role, RunView, sample_body
from autoresearch.ports import Agent
from autoresearch.size import tokens_added
from autoresearch.strategy import next_plan, parting
from autoresearch.types import (
    Assignment,
    Decision,
    Kind,
    Metric,
    Outcome,
    Parallel,
    Past,
    Plan,
    Sample,
    Status,
)

MARKS = (25, 50, 100, 200)
REFERENCES = ("greedy", "tpe", "cma-es", "random")
DEFAULT = "default"
WIDER = ("frontier 2", "frontier 4")
METHODS = (DEFAULT, *WIDER, *REFERENCES)
METRIC = Metric("loss")
CONTRACT = config.parse(
    '[task]\neditable = ["train.py"]\n[run]\ncommand = "x"\n[metric]\nname = "loss"\n',
    Path("/task/autoresearch.toml"),
)
BETWEEN = "\x1f\n"


# One run of the strategy


class Night:
    """A run of the real strategy and agents; only the measuring is a formula."""

    def __init__(self, task: Task, method: str, seed: int, folder: Path) -> None:
        self.task, self.seed, self.folder = task, seed, folder
        self.escalates = method != "greedy"
        width = int(method.split()[1]) if method.startswith("frontier") else 1
        self.contract = replace(CONTRACT, parallel=Parallel(frontier=width))
        self.agent = _agent(task, method)
        samples = itertools.count(1)
        self.referee = Referee(lambda text: task.measure(text, next(samples)), task.script)
        self.view = RunView()
        self.texts: dict[str, str] = {}
        self.history: list[Past] = []
        self.seconds: list[float] = []
        self._event("run_started", tag="t", contract={}, base="", seed=seed, branch="b")
        values = tuple(each.value for each in self.referee.references)
        self._record(Plan("", Kind.BASELINE), task.script, "baseline", Status.KEEP,
                     statistics.fmean(values), Role.BASELINE, values)  # fmt: skip

    def experiment(self) -> Status:
        """One more, from the plan to the decision."""
        incumbent = self.view.incumbent
        assert incumbent is not None
        plan = Plan(incumbent.commit, Kind.IMPROVE)
        number = self.view.next_number
        if self.view.to_combine:
            won = next(iter(self.view.to_combine))
            plan = Plan(incumbent.commit, Kind.COMBINE, reason="promising", combines=won)
        elif self.escalates:
            began = time.process_time()
            plan = next_plan(self.view, self.contract, number, self.view.seed_of(number, -9))
            self.seconds.append(time.process_time() - began)
        text, kind, said = self._candidate(plan)
        # What is combined may be a step on from the incumbent as it is: then it is measured anew.
        combined = "" if plan.combines is None else self.view.experiments[plan.combines].commit
        tried = {each for commit, each in self.texts.items() if commit != combined}
        if text is None or text in tried:
            return self._record(plan, text or "", said, Status.REJECTED, None)
        size = tokens_added({"train.py": self.texts[plan.parent]}, {"train.py": text})
        plan = replace(plan, kind=kind or plan.kind)
        if plan.parent != incumbent.commit:
            return self._aside(plan, text, said, size)
        status, value = self.referee.experiment(text, size)
        fresh = tuple(each.value for each in self.referee.references) if status == "keep" else ()
        return self._record(plan, text, said, status, value, Role.FRESH, fresh, size)

    def _aside(self, plan: Plan, text: str, said: str, size: int) -> Status:
        """A candidate of another parent: one sample, and a merge where that is promising."""
        value = self.referee.measure(text)
        self.referee.decided += 1
        if value is None:
            return self._record(plan, text, said, Status.CRASH, None, size=size)
        standing, evidence = self.referee.standing(), Evidence(size, value)
        made = decide_overtaken(self.referee.rule, standing, evidence, "of another parent")
        return self._record(
            plan, text, said, made.status, value, Role.SCREEN, (value,), size, made.combine
        )

    def _candidate(self, plan: Plan) -> tuple[str | None, Kind | None, str]:
        if plan.combines is not None:
            other = self.view.experiments[plan.combines].commit
            return self._merged(other, plan.parent), None, f"#{plan.combines} on top"
        file, number = self.folder / "train.py", len(self.history)
        file.write_text(self.texts[plan.parent])
        assignment = Assignment(
            number, self.folder, (file.name,), plan, 1000 * self.seed + number, METRIC, {},
            self.history, self.folder, self.folder,
        )  # fmt: skip
        proposal = asyncio.run(self.agent.propose(assignment))
        return file.read_text(), proposal.kind, proposal.description

    def _merged(self, other: str, onto: str) -> str | None:
        """The change of a lineage on top of a commit; itself where they conflict."""
        base = parting(self.view, other, onto)
        texts = []
        for name, commit in (("onto", onto), ("base", base), ("other", other)):
            lines = self.texts[commit].splitlines(keepends=True)
            (self.folder / name).write_text("".join(f"{line}{BETWEEN}" for line in lines))
            texts.append(str(self.folder / name))
        done = subprocess.run(
            ["git", "merge-file", "-p", *texts], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.replace(BETWEEN, "")
        best = self.view.incumbent
        return self.texts[other] if best is not None and onto == best.commit else None

    # The journal

    def _event(self, kind: str, number: int | None = None, /, **body: object) -> None:
        self.view.apply(Event(self.view.seq + 1, "", kind, number, body))  # type: ignore[arg-type]

    def _record(
        self, plan: Plan, text: str, said: str, status: Status, value: float | None,
        role: Role = Role.FRESH, samples: Sequence[float] = (), size: int = 0,
        combine: bool = False,
    ) -> Status:  # fmt: skip
        number = len(self.history)
        ran = status is not Status.REJECTED
        digest = hashlib.sha1(text.encode()).hexdigest()[:8]
        commit = f"{number}-{digest}" if ran else ""
        self._event("opened", number, **{**asdict(plan), "kind": plan.kind.value, "agent": "a"})
        self._event("proposed", number, description=said, kind=plan.kind.value)
        if ran:
            self.texts[commit] = text
            self._event("sealed", number, commit=commit, tokens_added=size, fingerprint=digest)
        for k, each in enumerate(samples):
            body = sample_body(Sample(commit, k, Outcome.OK, each))
            self._event("sample", number, k=k, role=role.value, **body)
        decision = asdict(Decision(status, "", value, combine=combine)) | {"status": status.value}
        self._event("decided", number, decision=decision)
        sources = {"train.py": text}
        self.history.append(
            Past(number, commit, plan.parent, plan.kind, status, value, said, lambda: sources)
        )
        return status


def _agent(task: Task, method: str) -> Agent:
    if not isinstance(task, Structured):
        return SearchAgent()
    coder = Coder(task)
    return coder if method == "greedy" else HybridAgent({}, coder)


# One run of a sampler


class Told(search.Sampler):
    """A sampler of Optuna that is told every part and every constant."""

    task: Structured

    def __post_init__(self) -> None:
        super().__post_init__()
        off = {part.name: False for part in self.task.parts}
        own = {axis.name: search.inner(axis) for part in self.task.parts for axis in part.axes}
        start = {axis.name: search.inner(axis) for axis in self.task.axes}
        if self.name == "cma-es":
            self.study.sampler = optuna.samplers.CmaEsSampler(seed=self.seed, x0=start | own)
        self.study = optuna.create_study(sampler=self.study.sampler)
        self.study.enqueue_trial(start | own | off)

    def ask(self) -> str:
        self.trial = self.study.ask()
        script = self.task.script
        values: dict[str, Value] = {axis.name: self._suggest(axis) for axis in self.task.axes}
        for part in self.task.parts:
            own = {axis.name: self._suggest(axis) for axis in part.axes}
            if self.trial.suggest_categorical(part.name, (False, True)):
                script = self.task.add(script, part)
                values |= own
        present = self.task.values(script)
        return write(script, {name: value for name, value in values.items() if name in present})


def run(
    name: str, method: str, seed: int, experiments: int, constants: Sequence[tuple[str, float]] = ()
) -> search.Outcome:
    """One method on one task with one seed, with other ``constants`` of the strategy."""
    for constant, value in constants:
        assert hasattr(strategy, constant), constant
        setattr(strategy, constant, value)
    task = structures.TASKS[name](seed)
    true: dict[str, float | None] = {}
    curve: list[float] = []
    crashes = 0

    def note(text: str) -> None:
        if text not in true:
            true[text] = task.truth(text)
        value = true[text]
        assert value is not None, "an incumbent crashes"
        curve.append(value)

    with tempfile.TemporaryDirectory() as folder:
        if method in ("tpe", "cma-es", "random"):
            samples = itertools.count(1)
            referee = Referee(lambda text: task.measure(text, next(samples)), task.script)
            make = Told if isinstance(task, Structured) else search.Sampler
            player = make(task, method, seed)
            player.begin(referee.recorded)
            note(task.script)
            for _ in range(experiments):
                text = player.ask()
                size = tokens_added({"train.py": referee.incumbent}, {"train.py": text})
                status, value = referee.experiment(text, size)
                crashes += status is Status.CRASH
                player.tell(status, value)
                note(referee.incumbent)
            return search.Outcome(tuple(curve), task.best, crashes)
        night = Night(task, method, seed, Path(folder))
        note(task.script)
        for _ in range(experiments):
            crashes += night.experiment() is Status.CRASH
            note(night.referee.incumbent)
        return search.Outcome(tuple(curve), task.best, crashes, tuple(night.seconds))


# The table and the claim


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_true", help="10 seeds, two tasks, 50 experiments")
    form.add_argument("--full", action="store_true", help="20 seeds, all tasks (the default: 10)")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--experiments", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(structures.TASKS), default=[])
    parser.add_argument("--methods", default="")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="of strategy.py"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all curves here")
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + (args.seeds or (20 if args.full else 10)))
    experiments = args.experiments or (50 if args.quick else max(MARKS))
    names = args.only or (["blocks", "basins"] if args.quick else list(structures.TASKS))
    usual = (DEFAULT, *REFERENCES) if args.quick else METHODS
    methods = args.methods.split(",") if args.methods else usual
    pairs = [each.partition("=") for each in args.set]
    constants = [(constant, json.loads(value)) for constant, _, value in pairs]
    marks = [mark for mark in MARKS if mark <= experiments] or [experiments]
    print(f"gain still missing, median of {len(seeds)} seeds (1 = start, 0 = optimum)")
    print(f"{'landscape':11}{'method':12}{''.join(f'{mark:9}' for mark in marks)}{'crashes':>9}")
    began = time.monotonic()
    found: dict[str, dict[str, list[search.Outcome]]] = {}
    verdicts: list[search.Verdict] = []
    for name in names:
        calls = [(name, each, seed, experiments, constants) for each in methods for seed in seeds]
        if args.jobs > 1:
            with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
                curves = list(pool.map(run, *zip(*calls, strict=True)))
        else:
            curves = [run(*call) for call in calls]
        found[name] = {
            method: curves[i * len(seeds) : (i + 1) * len(seeds)]
            for i, method in enumerate(methods)
        }
        verdicts += report(name, found[name], marks)
    print(f"{time.monotonic() - began:.0f} s")
    planned = [
        each for by in found.values() for runs in by.values() for c in runs for each in c.seconds
    ]
    if planned:
        print(f"a plan costs {1e3 * statistics.fmean(planned):.2f} ms of processor time")
    if args.json:
        args.json.write_text(json.dumps({
            name: {method: [each.values for each in runs] for method, runs in by.items()}
            for name, by in found.items()
        }))  # fmt: skip
    return search.claim(verdicts) if verdicts else 0


def report(
    name: str, curves: Mapping[str, Sequence[search.Outcome]], marks: Sequence[int]
) -> list[search.Verdict]:
    """Print one landscape's rows; per mark, how the default did against the best reference."""
    parts = {
        method: [[_missing(each, value) for value in each.values] for each in runs]
        for method, runs in curves.items()
    }
    for method, runs in curves.items():
        row = "".join(f"{search.at(parts[method], mark):9.3f}" for mark in marks)
        crashes = statistics.fmean(each.crashes for each in runs)
        print(f"{name:11}{method:12}{row}{crashes:9.1f}", flush=True)
    others = [method for method in curves if method in REFERENCES]
    if DEFAULT not in curves or not others:
        return []
    found = []
    for mark in marks:
        rival = min(others, key=lambda method: search.at(parts[method], mark))
        ours, theirs = ([curve[mark] for curve in parts[m]] for m in (DEFAULT, rival))
        ahead = statistics.median(ours) <= statistics.median(theirs)
        found.append(search.Verdict(name, mark, rival, ahead, search.worse(ours, theirs)))
    return found


def _missing(curve: search.Outcome, value: float) -> float:
    assert curve.best is not None
    return (value - curve.best) / (curve.values[0] - curve.best)


if __name__ == "__main__":
    sys.exit(main())
