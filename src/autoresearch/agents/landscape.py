"""Where the search agent goes next: local moves around the incumbent, the most promising first.

Knows constants and past values; nothing of files. Equal histories and seeds give equal moves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..types import Kind, Metric, Past, Status
from .constants import Dimension, Value, is_learning_rate
from .sources import Key, Parsed, Trial
from .surrogate import Surrogate, Vector
from .wide import Wide

MOST_AT_ONCE = 4  # constants changed together
ROWS = 40  # measured places looked at, the nearest: what bounds the cost of a proposal
PENDING = 16  # the same of those that are being measured
OPENING = 2.0  # natural steps of all learning rates together in the first experiments
ATTEMPTS = 20  # draws of a far move until one is new
CRASH = 2.5  # how much worse a crash counts, in typical effects of one step


@dataclass(frozen=True, slots=True)
class Landscape:
    """What the history says about the surroundings of the incumbent, in natural steps.

    ``rows`` are measured places with ``worse``: how much worse than the incumbent each was, in
    typical effects of one step; a crash counts as clearly worse. A place that is being measured
    counts as no better (the constant liar of Ginsbourger et al., 2010), or many workers would all
    try what is beside it.
    """

    dimensions: tuple[Dimension, ...]
    now: tuple[Value, ...]
    start: Vector
    rows: tuple[Vector, ...]
    worse: tuple[float, ...]
    crashed: tuple[float, ...]
    tried: frozenset[tuple[Value, ...]]
    momentum: Vector
    idle: int
    rates: frozenset[int]  # which dimensions are learning rates
    winning: bool  # all experiments were kept, but for one at most
    origin: Vector  # where the run began
    bold: tuple[tuple[float, Vector], ...]  # far moves in order, and how much worse each was

    @classmethod
    def of(
        cls,
        here: Parsed,
        dimensions: Mapping[Key, Dimension],
        trials: Sequence[Trial],
        metric: Metric,
        parent: str = "",
    ) -> Landscape:
        keys = tuple(dimensions)
        axes = tuple(dimensions.values())
        now = tuple(here.constants[key].value for key in keys)
        start = tuple(axis.place(value) for axis, value in zip(axes, now, strict=True))
        kept = [trial for trial in trials if trial.past.status is Status.KEEP]
        known = {trial.parsed.skeleton for trial in kept} | {here.skeleton}
        tried = {now}
        rows: list[Vector] = []
        losses: list[float | None] = []
        waiting: list[Vector] = []
        bold: list[tuple[float, Vector]] = []
        base = kept[-1].past.value if kept else None
        places: list[dict[Value, float]] = [{} for _ in axes]
        for trial in trials:
            if trial.parsed.skeleton not in known:
                continue
            theirs = trial.parsed.constants
            values = tuple(
                theirs[key].value if key in theirs else value
                for key, value in zip(keys, now, strict=True)
            )
            if trial.parsed.skeleton == here.skeleton:
                tried.add(values)
            failed = trial.past.status in (Status.CRASH, Status.TIMEOUT)
            pending = trial.past.status is None
            if not (failed or pending) and (trial.past.value is None or base is None):
                continue
            for axis, place, value in zip(axes, places, values, strict=True):
                if value not in place:
                    place[value] = axis.place(value)
            row = tuple(map(dict.__getitem__, places, values))
            if pending:
                waiting.append(row)
                continue
            rows.append(row)
            losses.append(None if failed else -metric.gain(trial.past.value or 0.0, base or 0.0))
            if trial.past.kind is Kind.EXPLORE:
                bold.append((math.inf if losses[-1] is None else losses[-1], row))
        origin = rows[0] if rows else start
        rows, losses = _nearest(start, rows, losses, ROWS)
        waiting, told = _nearest(start, waiting, [0.0] * len(waiting), PENDING)
        rows, losses = rows + waiting, losses + told
        # How far moves go follows from what is known.
        trials = [trial for trial in trials if trial.past.status is not None]
        worse = _standardised(losses)
        crashed = tuple(1.0 if loss is None else 0.0 for loss in losses)
        return cls(
            axes, now, start, tuple(rows), worse, crashed, frozenset(tried),
            _momentum(kept, keys, axes, start), _idle(trials, parent, metric),
            frozenset(
                i for i, ((_, name), axis) in enumerate(dimensions.items())
                if is_learning_rate(name) and axis.scale == "log"
            ),
            len(trials) - len(kept) < 2, origin, tuple(bold),
        )  # fmt: skip

    @property
    def radius(self) -> float:
        """How far a move goes, in natural steps: finer the longer nothing is kept."""
        return max(0.35, 1.2 * 0.93**self.idle)

    def propose(
        self, rng: random.Random, *, among: Sequence[int] = (), bold: bool = False
    ) -> tuple[Value, ...] | None:
        """The values to try next: the most promising untried move, None if there is none.

        ``among`` are the dimensions to move, all of them by default; ``bold`` asks for a far move.
        """
        if bold:
            return self._far(rng)
        for move in () if among else self._openings():
            if (values := self._values(self._after(move))) not in self.tried:
                return values
        model = Surrogate(self.dimensions, self.start, self.rows, self.worse, self.crashed)
        scored: list[tuple[float, Vector]] = []
        for move in self._moves(rng, among or range(len(self.start)), self.radius):
            self._consider(model, move, scored)
        scored.sort(key=lambda each: -each[0])
        for move in self._combined(scored, rng):
            self._consider(model, move, scored)
        if not scored:
            return self._anything(rng)
        return self._values(max(scored, key=lambda each: each[0])[1])

    def _far(self, rng: random.Random) -> tuple[Value, ...] | None:
        """What the wide search over all constants tries next, whatever the incumbent is."""
        wide = Wide.after(self.bold, self.dimensions, self.origin)
        for _ in range(ATTEMPTS):
            values = self._values(wide.draw(rng))
            if values not in self.tried:
                return values
        return self._anything(rng)

    def _openings(self) -> Iterator[Vector]:
        """All learning rates together, up or else down; twice as far while that is kept."""
        moved = {i for i, each in enumerate(self.momentum) if each}
        if len(self.rates) < 2:
            return
        if not moved and len(self.rows) < 3:
            for size in (OPENING, -OPENING):
                yield tuple(size if i in self.rates else 0.0 for i in range(len(self.start)))
        elif moved and moved <= self.rates and self.winning:
            yield tuple(2 * each for each in self.momentum)

    def _consider(self, model: Surrogate, move: Vector, scored: list[tuple[float, Vector]]) -> None:
        values = self._values(self._after(move))
        if values in self.tried:
            return
        place = tuple(a.place(v) for a, v in zip(self.dimensions, values, strict=True))
        scored.append((model.promise(place), place))

    def _after(self, move: Vector) -> Vector:
        return tuple(a + b for a, b in zip(self.start, move, strict=True))

    def _values(self, place: Vector) -> tuple[Value, ...]:
        return tuple(
            now if at == start else axis.value(at)
            for axis, at, start, now in zip(
                self.dimensions, place, self.start, self.now, strict=True
            )
        )

    def _moves(self, rng: random.Random, axes: Sequence[int], radius: float) -> Iterator[Vector]:
        """Single steps both ways, the last success repeated and enlarged, and random mixtures."""
        for i in axes:
            for sign in (1, -1):
                move = [0.0] * len(self.start)
                move[i] = self._step(i, sign * radius * rng.choice((0.7, 1.0, 1.6)), rng)
                yield tuple(move)
        if any(self.momentum) and len(axes) == len(self.start):
            for factor in (0.5, 1.0, 2.0):
                yield tuple(factor * each for each in self.momentum)
        for _ in range(16):
            yield self._mixture(rng, axes, radius)

    def _mixture(self, rng: random.Random, axes: Sequence[int], radius: float) -> Vector:
        move = [0.0] * len(self.start)
        for i in rng.sample(axes, min(len(axes), rng.randint(2, MOST_AT_ONCE))):
            move[i] = self._step(i, radius * rng.gauss(0, 1), rng)
        return tuple(move)

    def _step(self, i: int, size: float, rng: random.Random) -> float:
        """A move along one dimension that changes its value, if it can."""
        axis = self.dimensions[i]
        if axis.scale == "choice" and not axis.ordered:
            others = [k for k in range(len(axis.choices)) if k != self.start[i]]
            return rng.choice(others) - self.start[i]
        low, high = axis.bounds()
        if not low <= self.start[i] + math.copysign(1e-6, size) <= high:
            size = -size
        if axis.whole or axis.scale == "choice":
            now = axis.value(self.start[i])
            for stretch in (1.0, 1.5, 2.0, 3.0):
                if axis.value(self.start[i] + stretch * size) != now:
                    return stretch * size
        return size

    def _combined(
        self, scored: Sequence[tuple[float, Vector]], rng: random.Random
    ) -> Iterator[Vector]:
        """The most promising moves of different constants, together."""
        moves = [
            tuple(b - a for a, b in zip(self.start, place, strict=True)) for _, place in scored[:8]
        ]
        for first in range(min(4, len(moves))):
            total = moves[first]
            for other in moves[first + 1 :]:
                if not any(a and b for a, b in zip(total, other, strict=True)):
                    joined = tuple(a + b for a, b in zip(total, other, strict=True))
                    if sum(map(bool, joined)) <= MOST_AT_ONCE:
                        yield joined
                        total = joined

    def _anything(self, rng: random.Random) -> tuple[Value, ...] | None:
        """Any untried values near by: for small spaces that are nearly exhausted."""
        for attempt in range(400):
            move = self._mixture(rng, range(len(self.start)), 1 + attempt / 40)
            values = self._values(self._after(move))
            if values not in self.tried:
                return values
        return None


def _nearest(
    start: Vector, rows: list[Vector], losses: list[float | None], most: int
) -> tuple[list[Vector], list[float | None]]:
    """The rows that say most about the surroundings, so that the cost stays flat."""
    if len(rows) <= most:
        return rows, losses
    order = sorted(range(len(rows)), key=lambda i: (_distance(start, rows[i]), -i))
    chosen = sorted(order[:most])
    return [rows[i] for i in chosen], [losses[i] for i in chosen]


def _distance(a: Vector, b: Vector) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _standardised(losses: Sequence[float | None]) -> tuple[float, ...]:
    """Losses in units of a typical one-step effect; very bad ones count as just bad."""
    sizes = sorted(abs(loss) for loss in losses if loss)
    unit = sizes[len(sizes) // 2] / 1.5 if sizes else 1.0
    return tuple(CRASH if loss is None else _squashed(loss / unit) for loss in losses)


def _squashed(loss: float) -> float:
    return loss if loss < 2 else 2 + math.log(loss - 1)


def _momentum(
    kept: Sequence[Trial], keys: Sequence[Key], axes: Sequence[Dimension], start: Vector
) -> Vector:
    """The last kept move of numbers."""
    if len(kept) < 2:
        return (0.0,) * len(axes)
    before = kept[-2].parsed.constants
    return tuple(
        at - axis.place(before[key].value)
        if key in before and (axis.scale != "choice" or axis.ordered)
        else 0.0
        for key, axis, at in zip(keys, axes, start, strict=True)
    )


def _idle(trials: Sequence[Trial], parent: str, metric: Metric) -> int:
    """How many experiments ended since the last keep; of another line, since the best of it."""
    pasts = {trial.past.commit: trial.past for trial in trials}
    first = pasts.get(parent)
    while first is not None and first.status is not Status.KEEP:
        before = pasts.get(first.parent)
        if before is None or before.status is Status.KEEP:
            return _since_best(trials, first, metric)
        first = before
    for count, trial in enumerate(reversed(trials)):
        if trial.past.status is Status.KEEP:
            return count
    return len(trials)


def _since_best(trials: Sequence[Trial], first: Past, metric: Metric) -> int:
    """How many experiments on from ``first`` ended since the best of them."""
    line, best, idle = {first.commit}, first.value, 0
    for past in (trial.past for trial in trials):
        if past.parent in line:
            line.add(past.commit)
            idle += 1
            if past.value is not None and (best is None or metric.gain(past.value, best) > 0):
                best, idle = past.value, 0
    return idle
