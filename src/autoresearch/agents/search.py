"""The agent that needs no key and no model: it varies the named constants of the editable files.

Every proposal is a local move of a few constants around the incumbent. Which one follows from the
history alone: a small additive Gaussian process over all measured values, crashes included, says
where a gain is likely; learned directions are followed further. Now and then it tries to simplify.
It remembers nothing between calls: equal assignments give equal edits. What it keeps in memory are
parsed sources by commit, a cache.
"""

from __future__ import annotations

import ast
import hashlib
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add, mul
from pathlib import Path

from ..errors import AgentError
from ..types import Assignment, Json, Kind, Metric, Past, Proposal, Range, Status
from . import constants as consts
from .constants import Constant, Dimension, Value

Key = tuple[str, str]
Vector = tuple[float, ...]

MOST_AT_ONCE = 4
ROWS = 56
LATEST = 32
PATIENCE = 6
CACHED = 2048
SCRIPTS = 20
SCRIPT_BYTES = 200_000

# The prior, in units of what one natural step of one constant typically does.
REACH = 2.0
TOGETHER = 3.0
INTERACTION = 0.5
CURVATURE = 0.12
CRASH = 2.5
NOISES = (0.004, 0.02, 0.08, 0.32)
OTHER_CHOICE = 1.5
DOUBT = 6.0
PRIOR = 2.0
RELEVANCE = 1.5
ENOUGH = 8


class SearchAgent:
    """Proposes constants; see the module's docstring."""

    def __init__(self, options: Mapping[str, Json] | None = None) -> None:
        self._parsed: dict[str, Parsed] = {}

    async def propose(self, assignment: Assignment) -> Proposal:
        """Edit a few constants in the workspace, or remove some code.

        Raises:
            AgentError: there is nothing to vary, or the contract names an unknown constant.
        """
        files = _files(assignment.workspace, assignment.editable)
        others = _others(assignment.workspace, assignment.editable)
        here = Parsed.of({path: text for path, (text, _) in files.items()})
        trials = self._trials(assignment.history)
        dimensions = _dimensions(here, trials, assignment, others)
        rng = random.Random(f"{assignment.seed}/{assignment.number}")
        simpler = None
        if not dimensions or _time_to_simplify(assignment):
            simpler = next(_simplifications(here, assignment, others, rng), None)
        if simpler is not None:
            _write(assignment.workspace, files, {simpler.path: simpler.source})
            return Proposal(simpler.description, simpler.hypothesis, kind=Kind.SIMPLIFY)
        if not dimensions:
            raise AgentError(
                f"search found no named constants in {', '.join(assignment.editable)}",
                fix="put the numbers to vary into module-level constants such as "
                "LEARNING_RATE = 3e-4, or choose another agent: agent.use",
            )
        moved = Landscape.of(here, dimensions, trials, assignment.metric).propose(rng)
        if moved is None:
            raise AgentError(
                f"search has tried every value of {_some(here.names[key] for key in dimensions)}",
                fix="widen [search.space] or add constants to the editable files",
            )
        return _tune(assignment.workspace, files, here, dimensions, moved)

    def _trials(self, history: Sequence[Past]) -> list[Trial]:
        """Past experiments with their constants; sources are read and parsed once a commit."""
        if len(self._parsed) > CACHED:
            self._parsed.clear()
        trials = []
        for past in history:
            if past.status in (Status.REJECTED, Status.VOID) or not past.commit:
                continue
            if past.commit not in self._parsed:
                self._parsed[past.commit] = Parsed.of(past.sources())
            trials.append(Trial(past, self._parsed[past.commit]))
        return trials


@dataclass(frozen=True, slots=True)
class Parsed:
    """The editable files of one commit: their constants, and a hash of all the rest."""

    sources: Mapping[str, str]
    constants: Mapping[Key, Constant]
    skeleton: str
    names: Mapping[Key, str]

    @classmethod
    def of(cls, sources: Mapping[str, str]) -> Parsed:
        found: dict[Key, Constant] = {}
        digest = hashlib.sha256()
        sources = {path: text.removeprefix("\ufeff") for path, text in sources.items()}
        for path in sorted(sources):
            here = consts.read(sources[path], path) if path.endswith(".py") else []
            found |= {each.key: each for each in here}
            rest, at = [], 0
            for each in sorted(here, key=lambda each: each.start):
                rest.append(sources[path][at : each.start])
                at = each.end
            text = "\0".join((path, *rest, sources[path][at:]))
            # However the journal decoded and ended its lines, it is the same code.
            digest.update(text.replace("\r\n", "\n").encode("ascii", "ignore"))
        return cls(sources, found, digest.hexdigest(), consts.named(found.values()))


@dataclass(frozen=True, slots=True)
class Trial:
    """One past experiment and what its files said."""

    past: Past
    parsed: Parsed


def _files(workspace: Path, editable: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Text and encoding of the editable files that can be written back unharmed."""
    found = {}
    for path in editable:
        file = workspace / path
        if file.is_file() and (decoded := consts.decode(file.read_bytes())):
            found[path] = decoded
    return found


def _others(workspace: Path, editable: Sequence[str]) -> str:
    """What the protected scripts beside the editable files say: they may use names of these."""
    folders = {(workspace / path).parent for path in editable}
    scripts = sorted(file for folder in folders for file in folder.glob("*.py"))
    mine = {workspace / path for path in editable}
    texts = [
        file.read_bytes()[:SCRIPT_BYTES].decode("utf-8", "replace")
        for file in scripts[:SCRIPTS]
        if file not in mine and file.is_file()
    ]
    return "\n".join(texts)


def _write(
    workspace: Path, files: Mapping[str, tuple[str, str]], changed: Mapping[str, str]
) -> None:
    for path, text in changed.items():
        (workspace / path).write_bytes(text.encode(files[path][1]))


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (" ..." if len(listed) > 5 else "")


# What may vary


def _dimensions(
    here: Parsed,
    trials: Sequence[Trial],
    assignment: Assignment,
    others: str,
) -> dict[Key, Dimension]:
    """The scale of every constant to vary, guessed from the baseline so that it stays put."""
    first: Mapping[Key, Constant] = trials[0].parsed.constants if trials else {}
    _check_space(assignment.space, (*here.constants, *first), here, assignment.editable)
    found = {}
    for key, constant in here.constants.items():
        told = assignment.space.get(here.names[key], assignment.space.get(constant.name))
        if told is None and _mentions(constant.name, here, others) < 2:
            continue
        origin = first.get(key, constant)
        if type(origin.value) is not type(constant.value):
            origin = constant
        try:
            guess = consts.dimension(origin, told)
        except ValueError as error:
            raise AgentError(f"search.space.{error}", fix="correct [search.space]") from None
        if guess is not None and len(_reachable(guess)) > 1:
            found[key] = guess
    return found


def _reachable(dimension: Dimension) -> tuple[float, ...]:
    low, high = dimension.bounds()
    return (low,) if low == high else (low, high)


def _check_space(
    space: Mapping[str, Range], keys: Sequence[Key], here: Parsed, editable: Sequence[str]
) -> None:
    known = {name for _, name in keys} | {f"{path}:{name}" for path, name in keys}
    if unknown := [name for name in space if name not in known]:
        raise AgentError(
            f"search.space.{unknown[0]}: no such constant in {', '.join(editable)}",
            fix=f"use one of {_some(here.names.values()) or 'its module-level NAME = literal'}, "
            f"or delete the entry from [search.space]",
        )


def _mentions(name: str, here: Parsed, others: str) -> int:
    """How often the code says a name; code that looks names up may mean any of them."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    texts = (*here.sources.values(), others)
    if any("globals()" in text or "getattr(" in text for text in texts):
        return 2
    return sum(len(word.findall(text)) for text in texts)


# Where to go


@dataclass(frozen=True, slots=True)
class Landscape:
    """What the history says about the surroundings of the incumbent, in natural steps.

    ``rows`` are measured places with ``worse``: how much worse than the incumbent each was, in
    typical effects of one step; a crash counts as clearly worse.
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

    @classmethod
    def of(
        cls,
        here: Parsed,
        dimensions: Mapping[Key, Dimension],
        trials: Sequence[Trial],
        metric: Metric,
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
        base = next((trial.past.value for trial in reversed(kept)), None)
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
            if not failed and (trial.past.value is None or base is None):
                continue
            rows.append(tuple(a.place(v) for a, v in zip(axes, values, strict=True)))
            losses.append(None if failed else -metric.gain(trial.past.value or 0.0, base or 0.0))
        rows, losses = _nearest(start, rows, losses)
        worse = _standardised(start, rows, losses)
        crashed = tuple(1.0 if loss is None else 0.0 for loss in losses)
        return cls(
            axes, now, start, tuple(rows), worse, crashed, frozenset(tried),
            _momentum(kept, keys, axes, start), _idle(trials),
        )  # fmt: skip

    def propose(self, rng: random.Random) -> tuple[Value, ...] | None:
        """The values to try next: the most promising untried move, None if there is none."""
        model = Model(self)
        best: tuple[float, tuple[Value, ...]] | None = None
        scored: list[tuple[float, Vector]] = []
        for move in self._moves(rng):
            self._consider(model, move, scored)
        scored.sort(key=lambda each: -each[0])
        for move in self._combined(scored, rng):
            self._consider(model, move, scored)
        for score, place in scored:
            values = self._values(place)
            if best is None or score > best[0]:
                best = score, values
        return best[1] if best else self._anything(rng)

    def _consider(self, model: Model, move: Vector, scored: list[tuple[float, Vector]]) -> None:
        values = self._values(tuple(a + b for a, b in zip(self.start, move, strict=True)))
        if values in self.tried:
            return
        place = tuple(a.place(v) for a, v in zip(self.dimensions, values, strict=True))
        scored.append((model.promise(place), place))

    def _values(self, place: Vector) -> tuple[Value, ...]:
        return tuple(
            now if at == start else axis.value(at)
            for axis, at, start, now in zip(
                self.dimensions, place, self.start, self.now, strict=True
            )
        )

    def _moves(self, rng: random.Random) -> Iterator[Vector]:
        """Single steps both ways, the last success repeated and enlarged, and random mixtures."""
        count = len(self.dimensions)
        radius = max(0.35, 1.2 * 0.93**self.idle)
        for i in range(count):
            for sign in (1, -1):
                move = [0.0] * count
                move[i] = self._step(i, sign * radius * rng.choice((0.7, 1.0, 1.6)), rng)
                yield tuple(move)
        if any(self.momentum):
            for factor in (0.5, 1.0, 2.0):
                yield tuple(factor * each for each in self.momentum)
        for _ in range(16):
            yield self._mixture(rng, radius)

    def _mixture(self, rng: random.Random, radius: float) -> Vector:
        count = len(self.dimensions)
        move = [0.0] * count
        for i in rng.sample(range(count), min(count, rng.randint(2, MOST_AT_ONCE))):
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
            move = self._mixture(rng, 1 + attempt / 40)
            values = self._values(tuple(a + b for a, b in zip(self.start, move, strict=True)))
            if values not in self.tried:
                return values
        return None


def _nearest(
    start: Vector, rows: list[Vector], losses: list[float | None]
) -> tuple[list[Vector], list[float | None]]:
    """The rows that say most about the surroundings, so that the cost stays flat."""
    if len(rows) <= ROWS:
        return rows, losses
    order = sorted(range(len(rows)), key=lambda i: (_distance(start, rows[i]), -i))
    chosen = sorted(order[:ROWS])
    return [rows[i] for i in chosen], [losses[i] for i in chosen]


def _distance(a: Vector, b: Vector) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _standardised(
    start: Vector, rows: Sequence[Vector], losses: Sequence[float | None]
) -> tuple[float, ...]:
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


def _idle(trials: Sequence[Trial]) -> int:
    """How many experiments ended since the last keep."""
    for count, trial in enumerate(reversed(trials)):
        if trial.past.status is Status.KEEP:
            return count
    return len(trials)


class Model:
    """An additive Gaussian process with interactions, over places in natural steps."""

    def __init__(self, landscape: Landscape) -> None:
        axes, rows = landscape.dimensions, landscape.rows
        self.count = len(axes)
        self.start = landscape.start
        self.gaps = [0.0 if axis.ordered else OTHER_CHOICE for axis in axes]
        self.shares = _scaled([axis.weight for axis in axes])
        residual = [w - self._prior(row) for w, row in zip(landscape.worse, rows, strict=True)]
        latest, lately = rows[-LATEST:], residual[-LATEST:]
        noise = self._likely_noise(latest, lately)
        if len(latest) >= ENOUGH:
            self.shares = self._relevance(latest, lately, noise)
            noise = self._likely_noise(latest, lately)
        self._fit(rows, residual, noise)
        self.crash_alpha = _solve_up(self.factor, _solve_down(self.factor, landscape.crashed))
        self.own = sum(self.shares) + INTERACTION * self.count
        squares = [self._squares(i, at, len(rows)) for i, at in enumerate(self.start)]
        self.near = [
            [(share / (1 + each), each) for each in column]
            for share, column in zip(self.shares, squares, strict=True)
        ]
        self.alike, self.apart = self._parts(self.start, len(rows))
        here = self._joined(self.alike, self.apart)
        self.at_start = sum(map(mul, here, self.alpha))
        self.start_down = _solve_down(self.factor, here)
        self.start_variance = self.own - sum(map(mul, self.start_down, self.start_down))

    def _fit(self, rows: Sequence[Vector], residual: Sequence[float], noise: float) -> None:
        """Weigh the rows; ``scale`` is how large effects turned out, in prior units."""
        self.factor = _cholesky(self._matrix(rows), noise)
        down = _solve_down(self.factor, residual)
        self.alpha = _solve_up(self.factor, down)
        self.scale = math.sqrt(_scale_sq(down))

    def _likely_noise(self, rows: Sequence[Vector], residual: Sequence[float]) -> float:
        """The noise that explains the rows best."""
        kernel, costs = self._matrix(rows), []
        for noise in NOISES:
            factor = _cholesky(kernel, noise)
            down = _solve_down(factor, residual)
            fit = (len(rows) + DOUBT) / 2 * math.log(_scale_sq(down))
            costs.append(fit + sum(math.log(row[-1]) for row in factor))
        return NOISES[costs.index(min(costs))]

    def _relevance(
        self, rows: Sequence[Vector], residual: Sequence[float], noise: float
    ) -> list[float]:
        """How much each constant turned out to matter, against what was thought before."""
        self._fit(rows, residual, noise)
        shares = []
        for i, share in enumerate(self.shares):
            effects: dict[float, float] = {}
            for row, weight in zip(rows, self.alpha, strict=True):
                effects[row[i]] = effects.get(row[i], 0.0) + weight
            effects.setdefault(self.start[i], 0.0)
            likeness = {at: self._likeness(i, at, effects) for at in effects}
            level = sum(map(mul, likeness[self.start[i]], effects.values()))
            seen, expected = 0.0, 0.0
            for row in rows:
                if row[i] != self.start[i]:
                    effect = sum(map(mul, likeness[row[i]], effects.values())) - level
                    seen += (share * effect) ** 2
                    expected += 2 * share * (1 - self._alike(i, row[i], self.start[i]))
            expected *= self.scale**2
            shares.append(share * (PRIOR + RELEVANCE * seen) / (PRIOR + expected))
        return _scaled(shares)

    def _alike(self, i: int, a: float, b: float) -> float:
        return 1.0 if a == b else 1 / (1 + ((self.gaps[i] or a - b) / REACH) ** 2)

    def _likeness(self, i: int, at: float, others: Iterable[float]) -> list[float]:
        return [self._alike(i, at, other) for other in others]

    def _matrix(self, rows: Sequence[Vector]) -> list[list[float]]:
        self.columns = [[row[i] for row in rows] for i in range(self.count)]
        return [self._kernel(row, j + 1) for j, row in enumerate(rows)]

    def promise(self, place: Vector) -> float:
        """Expected gain over the incumbent, less what its chance of crashing costs."""
        near, alike = self._kernel_from_start(place)
        gain = self.at_start - self._prior(place) - sum(map(mul, near, self.alpha))
        down = _solve_down(self.factor, near)
        variance = self.own - sum(map(mul, down, down))
        shared = alike - sum(map(mul, down, self.start_down))
        spread = self.scale * math.sqrt(max(1e-12, variance + self.start_variance - 2 * shared))
        crash: float = min(0.95, max(0.0, sum(map(mul, near, self.crash_alpha))))
        return (1 - crash) * _expected(gain, spread)

    def _prior(self, place: Vector) -> float:
        """Defaults are decent: leaving them far behind rarely helps."""
        return CURVATURE * sum(
            (gap or a - b) ** 2
            for gap, a, b in zip(self.gaps, place, self.start, strict=True)
            if a != b
        )

    def _squares(self, i: int, at: float, count: int) -> list[float]:
        """Squared distances along one constant to the first ``count`` rows, in reaches."""
        column = self.columns[i] if count == len(self.columns[i]) else self.columns[i][:count]
        if gap := self.gaps[i]:
            far = (gap / REACH) ** 2
            return [0.0 if at == each else far for each in column]
        scale = 1 / REACH**2
        return [(at - each) * (at - each) * scale for each in column]

    def _parts(self, place: Vector, count: int) -> tuple[list[float], list[float]]:
        """To each row: the additive likeness, and the squared distance over all constants."""
        alike, apart = [0.0] * count, [0.0] * count
        for i, at in enumerate(place):
            share, squares = self.shares[i], self._squares(i, at, count)
            alike = [a + share / (1 + s) for a, s in zip(alike, squares, strict=True)]
            apart = list(map(add, apart, squares))
        return alike, apart

    def _joined(self, alike: list[float], apart: list[float]) -> list[float]:
        joint = INTERACTION * self.count * TOGETHER
        return [a + joint / (TOGETHER + s) for a, s in zip(alike, apart, strict=True)]

    def _kernel(self, place: Vector, count: int) -> list[float]:
        return self._joined(*self._parts(place, count))

    def _kernel_from_start(self, place: Vector) -> tuple[list[float], float]:
        """Likeness of a move to every row and to the start, from the constants that it moves."""
        alike, apart = self.alike, self.apart
        own, away = 0.0, 0.0
        for i, (at, start) in enumerate(zip(place, self.start, strict=True)):
            if at == start:
                own += self.shares[i]
                continue
            share = self.shares[i]
            new, old = self._squares(i, at, len(alike)), self.near[i]
            alike = [a + share / (1 + n) - o for a, n, (o, _) in zip(alike, new, old, strict=True)]
            apart = [a + n - o for a, n, (_, o) in zip(apart, new, old, strict=True)]
            square = ((self.gaps[i] or at - start) / REACH) ** 2
            own += share / (1 + square)
            away += square
        return self._joined(alike, apart), own + self._joined([0.0], [away])[0]


def _expected(gain: float, spread: float) -> float:
    z = gain / spread
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return gain * 0.5 * (1 + math.erf(z / math.sqrt(2))) + spread * density


def _scaled(weights: Sequence[float]) -> list[float]:
    """The weights with a mean of one."""
    total = sum(weights)
    return [weight * len(weights) / total for weight in weights]


def _scale_sq(down: Sequence[float]) -> float:
    return (DOUBT + sum(map(mul, down, down))) / (DOUBT + len(down))


def _cholesky(lower: Sequence[Sequence[float]], noise: float) -> list[list[float]]:
    factor: list[list[float]] = []
    for row in lower:
        done: list[float] = []
        for j, other in enumerate(factor):
            done.append((row[j] - sum(map(mul, done, other))) / other[j])
        left = row[-1] + noise - sum(map(mul, done, done))
        done.append(math.sqrt(max(left, 1e-9)))
        factor.append(done)
    return factor


def _solve_down(factor: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    solved: list[float] = []
    for row, value in zip(factor, right, strict=True):
        solved.append((value - sum(map(mul, solved, row))) / row[-1])
    return solved


def _solve_up(factor: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    left = list(right)
    for i in range(len(left) - 1, -1, -1):
        left[i] /= factor[i][i]
        at = left[i]
        for j, each in enumerate(factor[i][:i]):
            left[j] -= at * each
    return left


# Writing a move


def _tune(
    workspace: Path,
    files: Mapping[str, tuple[str, str]],
    here: Parsed,
    dimensions: Mapping[Key, Dimension],
    values: Sequence[Value],
) -> Proposal:
    changes = [
        (here.constants[key], value)
        for key, value in zip(dimensions, values, strict=True)
        if value != here.constants[key].value
    ]
    changed = {}
    for path in {constant.path for constant, _ in changes}:
        mine = [each for each in changes if each[0].path == path]
        changed[path] = consts.splice(files[path][0], mine)
    _write(workspace, files, changed)
    moves = [
        f"{here.names[constant.key]} {constant.text} -> {consts.render(value, constant.text)}"
        for constant, value in changes
    ]
    names = [here.names[constant.key] for constant, _ in changes]
    plural = "these changes together help" if len(names) > 1 else "this change helps"
    hypothesis = f"Going by the experiments so far, {plural}: {', '.join(names)}."
    return Proposal(", ".join(moves), hypothesis, kind=Kind.TUNE)


# Simplifying


@dataclass(frozen=True, slots=True)
class Simpler:
    """One file with something taken out."""

    path: str
    source: str
    description: str
    hypothesis: str = field(default="The same result with less code.")


def _time_to_simplify(assignment: Assignment) -> bool:
    """When asked to, and now and then when tuning has not helped for a while."""
    if assignment.plan.kind is Kind.SIMPLIFY:
        return True
    decided = [p for p in assignment.history if p.status not in (Status.REJECTED, Status.VOID)]
    recent = decided[-PATIENCE:]
    return len(decided) > PATIENCE and not any(
        past.status is Status.KEEP or past.kind is Kind.SIMPLIFY for past in recent
    )


def _simplifications(
    here: Parsed, assignment: Assignment, others: str, rng: random.Random
) -> Iterator[Simpler]:
    """Untried removals, the safest first; each leaves a file that parses."""
    tried = {past.description for past in assignment.history}
    for path in sorted(here.sources):
        if not path.endswith(".py"):
            continue
        options = list(removals(path, here, others))
        rng.shuffle(options)
        options.sort(key=lambda option: option[0])
        for _, node, what in options:
            source = without(here.sources[path], node)
            if what not in tried and source is not None:
                yield Simpler(path, source, what)


def removals(path: str, here: Parsed, others: str = "") -> Iterator[tuple[int, ast.stmt, str]]:
    """Statements that may go, with how risky that is and what to call it."""
    source = here.sources[path]
    tree = consts.parse(source)
    if tree is None:
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.decorator_list:
            continue
        if _mentions(node.name, here, others) == 1:
            yield 0, node, f"remove unused {node.name}"
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.For | ast.While):
            continue
        for node in function.body:
            if len(function.body) > 1 and _dispensable(node):
                text = " ".join((ast.get_source_segment(source, node) or "").split())
                yield 1, node, f"remove `{text[:60]}{'...' if len(text) > 60 else ''}`"


def _dispensable(node: ast.stmt) -> bool:
    """Whether all names stay bound without this statement: ``x = f(x)``, ``x *= 2``, ``if``."""
    if isinstance(node, ast.AugAssign):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        return isinstance(target, ast.Name) and any(
            isinstance(each, ast.Name) and each.id == target.id for each in ast.walk(node.value)
        )
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and not any(
            isinstance(each, ast.Return | ast.Raise | ast.Break | ast.Continue)
            for each in ast.walk(node)
        )
    )


def without(source: str, node: ast.stmt) -> str | None:
    """The source without the lines of a statement, if it has them to itself and the rest parses."""
    lines = consts.split_lines(source)
    first, last = node.lineno - 1, node.end_lineno or node.lineno
    own = "".join(lines[first:last]).strip()
    segment = ast.get_source_segment(source, node) or ""
    if not own.startswith(segment.strip()) or own[len(segment.strip()) :].lstrip()[:1] not in (
        "",
        "#",
    ):
        return None
    rest = "".join(lines[:first] + lines[last:])
    return rest if consts.parse(rest) is not None else None
