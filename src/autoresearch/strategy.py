"""What to try next, and from where: one strategy with a width. Pure: equal views give equal plans.

A frontier of one is greedy: everything starts from the incumbent. A wider one also extends other
lineages, near misses and earlier keeps, chosen by promise, novelty and code size, and exchanges
gains with them. While nothing is kept it escalates: near misses are combined, briefings get bolder,
and changes of structure that were not kept get another chance, as their constants were a first
guess: each is followed for a few experiments, and on while it gets better. Where constants are all
that changes, the rest of the experiments are bold ones by then: a wide search needs many.

A candidate whose parent is not the incumbent is never kept as it is: where it promises a gain, the
engine merges it with the incumbent and measures that. What is looked at is bounded, so a plan costs
the same in a long run. ``bench/strategies.py`` compares widths with greedy and other searches.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .journal.view import Experiment, RunView
from .lessons import gain_of
from .types import OPTIMIZER, Contract, Kind, Metric, Plan, Status

WINDOW = 120  # experiments looked back at
BRANCH_POINTS = 12  # the last keeps, which lineages part from
PATIENCE = 12  # experiments without a keep before it escalates
RESTART = 24  # the same before what was not kept is followed, with every second experiment
EVERY = 4  # while it escalates, one of so many experiments is out of turn
FOLLOW = 4  # experiments that a restarted line gets, and again with each that betters it
NEAR = 2.0  # noise widths by which a near miss may be worse than its incumbent
ASIDE = 0.5  # the part of a wider frontier's experiments that extends other lineages
EXCHANGE = 0.15  # the part of those that takes over what the incumbent gained
NOVELTY = 1.0  # typical effects that count for a place which nobody has extended yet
PRICE = 0.05  # typical effects that ten more syntax tokens count against a place


def next_plan(view: RunView, contract: Contract, number: int, seed: int) -> Plan:
    """What experiment ``number`` is to try; all chance in it comes from ``seed``."""
    rng, lines = random.Random(seed), Lineages.of(view, contract.metric, number)
    if lines.idle >= RESTART:
        if lines.idle % 2 and (plan := _restart(lines)) is not None:
            return plan
        if not lines.idle % 2 and lines.numbers_alone:
            return _explore(lines)
    waited = lines.idle - PATIENCE
    if waited >= 0 and waited % EVERY == 0:
        moves = [_combine, _explore]
        turn = waited // EVERY % len(moves)
        for move in (*moves[turn:], *moves[:turn]):
            if (plan := move(lines)) is not None:
                return plan
    others = contract.parallel.frontier - 1
    aside = _aside(lines, others, rng) if others and rng.random() < ASIDE else None
    return aside or Plan(lines.incumbent.commit, Kind.IMPROVE)


def parting(view: RunView, commit: str, other: str) -> str:
    """Where the ways to two commits part: what to take for the base of their merge."""
    on_the_way = set(_ancestry(view, other))
    return next(each for each in _ancestry(view, commit) if each in on_the_way)


def _ancestry(view: RunView, commit: str) -> Iterator[str]:
    """A commit and its ancestors, as far as the run's base."""
    while True:
        yield commit
        number = view.numbers.get(commit, 0)
        if number == 0:
            yield view.base
            return
        commit = view.experiments[number].parent


# While nothing is kept


def _combine(lines: Lineages) -> Plan | None:
    """The nearest miss that this incumbent does not know, else the two nearest of its own."""
    best, why = lines.incumbent, lines.since_keep
    in_it = {each.combines for each in lines.kept}
    own = [each for each in lines.misses if each.parent == best.commit]
    for miss in lines.misses:
        if miss.parent == best.commit or miss.number in in_it:
            continue
        if (best.commit, miss.number) not in lines.combined:
            reason = f"{why}: what #{miss.number} changed came close, so it is tried on the best"
            return Plan(best.commit, Kind.COMBINE, reason=reason, combines=miss.number)
    for i, miss in enumerate(own):
        for other in own[:i]:
            if (other.commit, miss.number) not in lines.combined:
                reason = f"{why}: #{other.number} and #{miss.number} came close, so both together"
                return Plan(other.commit, Kind.COMBINE, reason=reason, combines=miss.number)
    return None


def _explore(lines: Lineages) -> Plan:
    reason = f"{lines.since_keep}: what is near by seems exhausted, so something bolder"
    return Plan(lines.incumbent.commit, Kind.EXPLORE, reason=reason)


def _restart(lines: Lineages) -> Plan | None:
    """Go on with the line that was followed last while it gets better, else with another one."""
    alive = [each for each in lines.lines() if each.alive]
    if not alive:
        return None
    line = max(alive, key=lambda each: (each.followed, each.promise))
    head, first = line.head, line.first
    where = f"#{head.number}" + ("" if head is first else f", which began as #{first.number}")
    reason = f"{lines.since_keep}: another chance for {where}"
    return Plan(head.commit, Kind.IMPROVE, reason=reason)


# A wider frontier


def _aside(lines: Lineages, width: int, rng: random.Random) -> Plan | None:
    """Extend one of the best ``width`` other lineages, or bring the incumbent's gains into it."""
    heads = lines.heads()[:width]
    if not heads:
        return None
    head, best = rng.choice(heads), lines.incumbent
    if rng.random() < EXCHANGE and lines.root(head) != best.commit:
        reason = f"#{head.number} is of another lineage and takes over what #{best.number} gained"
        return Plan(head.commit, Kind.COMBINE, reason=reason, combines=best.number)
    reason = f"#{head.number} is of another lineage, which began at {lines.at(head)}, and promising"
    return Plan(head.commit, Kind.IMPROVE, reason=reason)


@dataclass(frozen=True, slots=True)
class Line:
    """What descends from one change that was not kept: its ``first``, and its best, the ``head``.

    ``followed`` is the number of the newest that extends it, 0 if none does; ``promise`` the gain
    of its head over the incumbent, in metric units.
    """

    first: Experiment
    head: Experiment
    followed: int
    alive: bool
    promise: float


@dataclass(frozen=True, slots=True)
class Lineages:
    """The last experiments by where they come from.

    A lineage is what descends from one branch point, a kept experiment, without being kept.
    ``noise`` is one sigma of a sample, ``effect`` the median of what recent candidates changed, at
    least the noise; both in metric units.
    """

    metric: Metric
    incumbent: Experiment
    idle: int
    kept: tuple[Experiment, ...]
    recent: tuple[Experiment, ...]
    combined: frozenset[tuple[str, int]]
    noise: float
    effect: float
    of_commit: dict[str, Experiment] = field(default_factory=dict)

    @classmethod
    def of(cls, view: RunView, metric: Metric, number: int) -> Lineages:
        best = view.incumbent
        assert best is not None and best.decision is not None and best.decision.value is not None
        recent = tuple(each for each in view.decided[-WINDOW:] if each.commit)
        kept = tuple(view.kept[-BRANCH_POINTS:])
        noise, _ = view.noise.sigma(abs(best.decision.value))
        changes = [abs(gain) for each in recent if (gain := gain_of(each, metric)) is not None]
        effect = max(noise, statistics.median(changes) if changes else 0.0) or 1.0
        commits = {each.commit: each for each in (*recent, *kept) if _measured(each)}
        # By numbers, so that workers that plan at one time do not all do the same out of turn.
        idle = max(0, number - 1 - best.number)
        combined = frozenset(
            (each.parent, each.combines)
            for each in (*view.decided[-WINDOW:], *view.in_flight.values())
            if each.combines is not None
        )
        return cls(metric, best, idle, kept, recent, combined, noise, effect, commits)

    @property
    def since_keep(self) -> str:
        return f"nothing was kept for {self.idle} experiments"

    @property
    def numbers_alone(self) -> bool:
        """Whether nobody changed the structure: then far moves alone lead out of a basin."""
        return all(each.kind is not Kind.IMPROVE for each in self.recent)

    @property
    def misses(self) -> list[Experiment]:
        """Discards that were about as good as the incumbent of their time, the best first.

        Not those of constants alone: the optimizer knows them, and goes on from there.
        """
        found = [
            (gain, each.number, each)
            for each in self.of_commit.values()
            if each.decision is not None
            and each.decision.status is Status.DISCARD
            and each.kind not in OPTIMIZER
            and (gain := gain_of(each, self.metric)) is not None
            and gain > -NEAR * self.noise
        ]
        return [each for *_, each in sorted(found, reverse=True)]

    def root(self, experiment: Experiment) -> str:
        """The branch point that an experiment descends from; empty where it is out of sight."""
        kept = {each.commit for each in self.kept}
        for ancestor in self._line(experiment):
            if ancestor.commit in kept:
                return ancestor.commit
        return ""

    def at(self, experiment: Experiment) -> str:
        """That branch point in words."""
        return f"#{self.of_commit[self.root(experiment)].number}"

    def lines(self) -> list[Line]:
        """The changes of structure, and the bold ones, that no keep came of."""
        kept = {each.commit for each in self.kept}
        found = []
        for first in self.of_commit.values():
            bold = first.kind is Kind.EXPLORE
            changed = bold or (first.tokens_added and first.kind not in OPTIMIZER)
            if changed and first.parent in kept and first.commit not in kept:
                found.append(self._followed(first))
        return found

    def _followed(self, first: Experiment) -> Line:
        members, head, followed, tried, steps = {first.commit}, first, 0, 0, 0
        for each in self.recent:
            if each.parent in members:
                tried, followed = tried + 1, each.number
                members.add(each.commit)
                if each.commit in self.of_commit and self._gain(each, head) > self.noise:
                    head, steps = each, steps + 1
        alive = tried < FOLLOW * (1 + steps)
        return Line(first, head, followed, alive, self._gain(head, self.incumbent))

    def _gain(self, experiment: Experiment, other: Experiment) -> float:
        assert experiment.decision is not None and other.decision is not None
        value, reference = experiment.decision.value, other.decision.value
        assert value is not None and reference is not None
        return self.metric.gain(value, reference)

    def heads(self) -> list[Experiment]:
        """The best place of every lineage, the best lineage first."""
        children = Counter(each.parent for each in self.recent)
        best: dict[str, tuple[float, int, Experiment]] = {}
        for each in self.of_commit.values():
            root = self.root(each)
            if root and each.commit != self.incumbent.commit:
                scored = self._score(each, children[each.commit]), each.number, each
                best[root] = max(best.get(root, scored), scored)
        return [each for *_, each in sorted(best.values(), reverse=True)]

    def _score(self, experiment: Experiment, extended: int) -> float:
        """Promise, novelty and code size of a place to go on from, in typical effects."""
        promise = self._gain(experiment, self.incumbent) / self.effect
        code = self._code(experiment) - self._code(self.incumbent)
        return promise + NOVELTY / (1 + extended) - PRICE * code / 10

    def _code(self, experiment: Experiment) -> int:
        """Syntax tokens that an experiment has more than the oldest ancestor in sight."""
        return sum(each.tokens_added for each in self._line(experiment))

    def _line(self, experiment: Experiment | None) -> Iterator[Experiment]:
        """An experiment and its ancestors as far as they are in sight."""
        for _ in range(WINDOW):
            if experiment is None:
                return
            yield experiment
            experiment = self.of_commit.get(experiment.parent)


def _measured(experiment: Experiment) -> bool:
    made = experiment.decision
    return (
        made is not None
        and made.status in (Status.KEEP, Status.DISCARD)
        and made.value is not None
        and bool(experiment.commit)
    )
