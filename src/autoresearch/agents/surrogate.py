"""What the search agent believes: a small Gaussian process over places in natural steps.

A loss is a sum of one effect per constant, an interaction of all of them, and noise. It says where
a gain over the incumbent is likely. This module knows nothing of files, names or randomness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import mul

from .constants import Dimension

Vector = tuple[float, ...]

# The prior, in units of what one natural step of one constant typically does.
REACH = 2.0  # natural steps over which the effect of a constant stays alike
TOGETHER = 3.0  # the same for the interaction, in squared reaches over all constants
INTERACTION = 0.5  # variance of the interaction, for each constant
CURVATURE = 0.12  # how much worse a step off the incumbent is, squared in its length
OTHER_CHOICE = 1.5  # natural steps from one unordered choice to any other
NOISES = (0.004, 0.02, 0.08, 0.32)  # variances tried; the likeliest is taken
DOUBT = 6.0  # observations that the prior scale of effects counts as
PRIOR = 2.0  # the same for how much each constant matters
RELEVANCE = 1.5  # makes up for effects being shrunk by the prior
ENOUGH = 8  # rows from which relevance is learned at all
PAIRS_KEPT = 4096  # in memory, so that a proposal costs less


class Surrogate:
    """Answers how much gain a place promises, given rows and how much worse each was."""

    def __init__(
        self,
        axes: Sequence[Dimension],
        start: Vector,
        rows: Sequence[Vector],
        worse: Sequence[float],
        crashed: Sequence[float],
    ) -> None:
        self.count = len(axes)
        self.gaps = tuple(0.0 if axis.ordered else (OTHER_CHOICE / REACH) ** 2 for axis in axes)
        self.start = _in_reaches(start)
        rows = [_in_reaches(row) for row in rows]
        self.columns = list(zip(*rows, strict=True)) or [()] * self.count
        pairs = [
            [_pair(self.gaps, row, other) for other in rows[: j + 1]] for j, row in enumerate(rows)
        ]
        self.likes = [[likes for likes, _ in row] for row in pairs]
        self.joints = [[self._joint(away) for _, away in row] for row in pairs]
        self.shares = _scaled([axis.weight for axis in axes])
        from_start = [_squares(self.gaps, row, self.start) for row in rows]
        self.near = [[1 / (1 + each) for each in pair] for pair in from_start]
        self.away = [sum(pair) for pair in from_start]
        self._fit([w - self._prior(pair) for w, pair in zip(worse, from_start, strict=True)])
        self.crash_alpha = _solve_up(self.factor, _solve_down(self.factor, crashed))
        # By constant, so that a move of a few constants costs only those.
        self.near_columns = [
            list(zip(likes, squares, strict=True))
            for likes, squares in zip(
                zip(*self.near, strict=True), zip(*from_start, strict=True), strict=True
            )
        ] or [[]] * self.count
        self.own = sum(self.shares) + INTERACTION * self.count
        self.alike = [sum(map(mul, self.shares, pair)) for pair in self.near]
        here = self._joined(self.alike, self.away)
        self.at_start = sum(map(mul, here, self.alpha))
        self.start_down = _solve_down(self.factor, here)
        self.start_variance = self.own - sum(map(mul, self.start_down, self.start_down))

    def promise(self, place: Vector) -> float:
        """Expected gain over the incumbent, less what its chance of crashing costs."""
        place = _in_reaches(place)
        near, alike = self._kernel_from_start(place)
        prior = self._prior(_squares(self.gaps, place, self.start))
        gain = self.at_start - prior - sum(map(mul, near, self.alpha))
        down = _solve_down(self.factor, near)
        variance = self.own - sum(map(mul, down, down))
        shared = alike - sum(map(mul, down, self.start_down))
        spread = self.scale * math.sqrt(max(1e-12, variance + self.start_variance - 2 * shared))
        crash: float = min(0.95, max(0.0, sum(map(mul, near, self.crash_alpha))))
        return (1 - crash) * _expected(gain, spread)

    # Learning

    def _fit(self, residual: Sequence[float]) -> None:
        """Learn noise and relevance, then weigh the rows."""
        self._weigh(residual)
        if len(residual) >= ENOUGH:
            self.shares = self._relevance()
            self._weigh(residual)

    def _weigh(self, residual: Sequence[float]) -> None:
        """At the likeliest noise; ``scale`` is how large effects turned out, in prior units."""
        kernel, lowest = self._matrix(), math.inf
        for noise in NOISES:
            factor = _cholesky(kernel, noise)
            down = _solve_down(factor, residual)
            scale_sq = _scale_sq(down)
            cost = (len(down) + DOUBT) / 2 * math.log(scale_sq)
            cost += sum(math.log(row[-1]) for row in factor)
            if cost < lowest:
                lowest, self.factor, self.scale = cost, factor, math.sqrt(scale_sq)
                self.alpha = _solve_up(factor, down)

    def _relevance(self) -> list[float]:
        """How much each constant turned out to matter, against what was thought before."""
        shares = []
        for i, (share, start) in enumerate(zip(self.shares, self.start, strict=True)):
            column, gap = self.columns[i], self.gaps[i]
            weights = dict.fromkeys(column, 0.0)
            for at, alpha in zip(column, self.alpha, strict=True):
                weights[at] += alpha
            seen, expected = 0.0, 0.0
            level = _effect(start, weights, gap)
            effects = {at: share * (_effect(at, weights, gap) - level) for at in weights}
            for at in column:
                seen += effects[at] ** 2
                expected += 2 * share * (1 - _likeness(at, start, gap))
            shares.append(share * (PRIOR + RELEVANCE * seen) / (PRIOR + expected * self.scale**2))
        return _scaled(shares)

    # Likeness

    def _joint(self, away: float) -> float:
        return INTERACTION * self.count * TOGETHER / (TOGETHER + away)

    def _joined(self, alike: Sequence[float], away: Sequence[float]) -> list[float]:
        joint = INTERACTION * self.count * TOGETHER
        return [a + joint / (TOGETHER + s) for a, s in zip(alike, away, strict=True)]

    def _matrix(self) -> list[list[float]]:
        """The lower half of the likeness of every row to every other."""
        shares = self.shares
        return [
            [sum(map(mul, shares, like)) + joint for like, joint in zip(likes, joints, strict=True)]
            for likes, joints in zip(self.likes, self.joints, strict=True)
        ]

    def _prior(self, squares: Sequence[float]) -> float:
        """Defaults are decent: leaving them far behind rarely helps."""
        return CURVATURE * REACH**2 * sum(squares)

    def _kernel_from_start(self, place: Vector) -> tuple[list[float], float]:
        """Likeness of a move to every row and to the start, from the constants that it moves."""
        alike, away = self.alike, self.away
        own, square = 0.0, 0.0
        for i, (at, start) in enumerate(zip(place, self.start, strict=True)):
            share, gap = self.shares[i], self.gaps[i]
            if at == start:
                own += share
                continue
            old = self.near_columns[i]
            if gap:
                new = [0.0 if at == each else gap for each in self.columns[i]]
            else:
                new = [(at - each) * (at - each) for each in self.columns[i]]
            alike = [
                a + share * (1 / (1 + n) - o) for a, n, (o, _) in zip(alike, new, old, strict=True)
            ]
            away = [a + n - o for a, n, (_, o) in zip(away, new, old, strict=True)]
            own += share * _likeness(at, start, gap)
            square += gap or (at - start) * (at - start)
        return self._joined(alike, away), own + self._joint(square)


def _squares(gaps: Sequence[float], place: Vector, other: Vector) -> list[float]:
    """The squared distance along each constant."""
    return [
        0.0 if a == b else gap or (a - b) * (a - b)
        for gap, a, b in zip(gaps, place, other, strict=True)
    ]


@lru_cache(maxsize=PAIRS_KEPT)
def _pair(gaps: Vector, row: Vector, other: Vector) -> tuple[Vector, float]:
    """How alike two rows are along each constant, and their squared distance.

    From one proposal to the next, most pairs are the same.
    """
    squares = _squares(gaps, row, other)
    return tuple(1 / (1 + each) for each in squares), sum(squares)


def _in_reaches(place: Vector) -> Vector:
    return tuple(at / REACH for at in place)


def _likeness(a: float, b: float, gap: float) -> float:
    return 1.0 if a == b else 1 / (1 + (gap or (a - b) * (a - b)))


def _effect(at: float, weights: dict[float, float], gap: float) -> float:
    return sum(weight * _likeness(at, other, gap) for other, weight in weights.items())


def _expected(gain: float, spread: float) -> float:
    """Mean of a normal gain where losses count as nothing."""
    z = gain / spread
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return gain * 0.5 * (1 + math.erf(z / math.sqrt(2))) + spread * density


def _scaled(weights: Sequence[float]) -> list[float]:
    """The weights with a mean of one."""
    total = sum(weights)
    return [weight * len(weights) / total for weight in weights]


def _scale_sq(down: Sequence[float]) -> float:
    """Variance of effects in prior units, from whitened losses."""
    squares: float = sum(map(mul, down, down))
    return (DOUBT + squares) / (DOUBT + len(down))


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
