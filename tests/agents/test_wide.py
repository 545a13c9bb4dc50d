"""The wide search: without memory, within bounds, and out of the basin where the run began."""

from __future__ import annotations

import math
import random

from autoresearch.agents.constants import Dimension
from autoresearch.agents.wide import DONE, GENERATION, SPREAD, Wide

AXES = (Dimension("linear", -10.0, 10.0),) * 4
ORIGIN = (0.0,) * 4


def deep_beside_narrow(place: tuple[float, ...]) -> float:
    narrow = 0.5 + 0.5 * sum(at**2 for at in place)
    return min(narrow, 0.05 * sum((at - 5) ** 2 for at in place))


def test_it_finds_the_wide_basin_beside_the_narrow_one_where_it_begins() -> None:
    found = 0
    for seed in range(20):
        moves: list[tuple[float, tuple[float, ...]]] = []
        for i in range(10 * GENERATION):
            place = Wide.after(moves, AXES, ORIGIN).draw(random.Random(f"{seed}/{i}"))
            assert all(-10 <= at <= 10 for at in place)
            moves.append((deep_beside_narrow(place), place))
        found += min(moves)[0] < 0.5
    assert found >= 18


def test_a_generation_is_judged_when_it_is_complete() -> None:
    rng = random.Random(1)
    moves = [(float(i), tuple(rng.uniform(-9, 9) for _ in AXES)) for i in range(GENERATION)]
    first = Wide.after((), AXES, ORIGIN)
    assert first.mean == ORIGIN
    assert first.spread == (20 * SPREAD,) * 4
    assert Wide.after(moves[:-1], AXES, ORIGIN) == first
    after = Wide.after(moves, AXES, ORIGIN)
    assert after.best == tuple(place for _, place in moves[: GENERATION // 2])
    assert Wide.after([*moves, *moves[:3]], AXES, ORIGIN) == after


def test_it_begins_anew_where_it_has_come_to_an_end() -> None:
    moves = [(1.0, ORIGIN)] * (GENERATION * 40)
    spreads = [Wide.after(moves[: GENERATION * i], AXES, ORIGIN).spread[0] for i in range(40)]
    assert min(spreads) > DONE
    assert spreads.count(20 * SPREAD) > 2


def test_crashes_are_left_out_and_choices_follow_the_best() -> None:
    axes = (Dimension("choice", 0, 2, choices=("a", "b", "c")), AXES[0])
    moves = [(0.0 if i % 2 else math.inf, (2.0 if i % 2 else 0.0, 1.0)) for i in range(GENERATION)]
    wide = Wide.after(moves, axes, (0.0, 0.0))
    assert {place[0] for place in wide.best} == {2.0}
    drawn = [wide.draw(random.Random(seed))[0] for seed in range(200)]
    assert set(drawn) == {0.0, 1.0, 2.0}
    assert drawn.count(2.0) > 120
