"""The wide search for a deeper basin: a population of far moves over all constants at once.

A cross-entropy search in generations: each is drawn around the mean of the best half of the one
before, as widely as that half spread. It follows from the far moves so far, in their order, and
knows nothing of the incumbent, whose basin it is to leave.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from .constants import Dimension
from .surrogate import Vector

GENERATION = 8  # far moves that are judged by each other alone
SPREAD = 1 / 6  # sigma of the first ones, in parts of the range
LEARNS = 0.5  # what the spread of the best half counts against the one before
DONE = 0.35  # natural steps: when no constant is spread wider, it begins anew
ANY = 0.3  # the chance that a choice is drawn from all, not from the best half


@dataclass(frozen=True, slots=True)
class Wide:
    """Where the next generation is drawn: ``best`` are the better half of the last, best first."""

    dimensions: Sequence[Dimension]
    mean: Vector
    spread: Vector
    best: tuple[Vector, ...] = ()

    @classmethod
    def after(
        cls,
        moves: Sequence[tuple[float, Vector]],
        dimensions: Sequence[Dimension],
        origin: Vector,
    ) -> Wide:
        """After these moves, each with how bad it was; around ``origin`` at first."""
        first = cls(dimensions, origin, tuple(SPREAD * _range(each) for each in dimensions))
        now = first
        for i in range(0, len(moves) - GENERATION + 1, GENERATION):
            now = now._learned(moves[i : i + GENERATION])
            if now._done:
                now = first
        return now

    @property
    def _done(self) -> bool:
        both = zip(self.dimensions, self.spread, strict=True)
        return all(spread <= DONE for axis, spread in both if axis.ordered)

    def _learned(self, generation: Sequence[tuple[float, Vector]]) -> Wide:
        ranked = sorted(generation, key=lambda each: each[0])
        best = tuple(place for _, place in ranked[: GENERATION // 2])
        ranks = [math.log(len(best) + 0.5) - math.log(i + 1) for i in range(len(best))]
        weights = [each / sum(ranks) for each in ranks]
        mean, spread = [], []
        for old, wide, places in zip(self.mean, self.spread, zip(*best, strict=True), strict=True):
            mean.append(sum(w * at for w, at in zip(weights, places, strict=True)))
            # Around the old mean, so that it spreads along the way that it goes.
            seen = sum(w * (at - old) ** 2 for w, at in zip(weights, places, strict=True))
            spread.append(math.sqrt((1 - LEARNS) * wide**2 + LEARNS * seen))
        return Wide(self.dimensions, tuple(mean), tuple(spread), best)

    def draw(self, rng: random.Random) -> Vector:
        """One far place, within the bounds."""
        return tuple(self._along(i, rng) for i in range(len(self.mean)))

    def _along(self, i: int, rng: random.Random) -> float:
        axis = self.dimensions[i]
        if not axis.ordered:
            if self.best and rng.random() >= ANY:
                return rng.choice(self.best)[i]
            return float(rng.randrange(len(axis.choices)))
        low, high = axis.bounds()
        at = rng.gauss(self.mean[i], self.spread[i])
        at = 2 * low - at if at < low else 2 * high - at if at > high else at
        return min(max(at, low), high)


def _range(axis: Dimension) -> float:
    low, high = axis.bounds()
    return high - low
