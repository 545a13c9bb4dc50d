"""Which curves are hopeless beside those of what was kept, and what a made-up one can do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.curves import POINTS_KEPT, Track, track
from autoresearch.hopeless import EXPERIMENTS, SPARED, Complete, Field, judge, spared

Shape = Callable[[float], float]
PLACES = [i / 20 for i in range(1, 21)]


def falling(end: float, slow: float = 0.0) -> Shape:
    """From about 3 to ``end``; ``slow`` adds what is made up for in the last part."""
    return lambda x: end + (3 - end) * math.exp(-4 * x) + slow * (1 - x)


def curve(shape: Shape, rng: random.Random, noise: float = 0.01) -> Track:
    return Track(False, list(PLACES), [shape(x) + rng.gauss(0, noise) for x in PLACES], 1.0)


def runs(shape: Shape, end: float, rng: random.Random, count: int = 5) -> list[Complete]:
    return [
        Complete(curve(shape, rng), end + rng.gauss(0, 0.005), wall_s=60.0) for _ in range(count)
    ]


def field_of(*kept: Sequence[Complete], decided: int = 20) -> Field:
    return Field("lower", kept, decided)


def ended_at(found: Track, field: Field) -> float | None:
    """Where a run is ended that prints a whole curve, one value after the other."""
    for i in range(1, len(found.at) + 1):
        if judge(Track(found.steps, found.at[:i], found.values[:i]), field):
            return found.at[i - 1]
    return None


@pytest.fixture
def rng() -> random.Random:
    return random.Random(5)


@pytest.fixture
def usual(rng: random.Random) -> Field:
    return field_of(*(runs(falling(end), end, rng) for end in (1.9, 1.8, 1.7)))


def test_what_is_clearly_behind_is_ended_at_the_first_chance(
    usual: Field, rng: random.Random
) -> None:
    assert ended_at(curve(falling(2.1), rng), usual) == 0.5
    found = judge(Track(False, PLACES[:12], curve(falling(2.1), rng).values[:12]), usual)
    assert found is not None and found.foretold == pytest.approx(2.05, abs=0.05)
    assert found.said(24.0) == (
        "at 60 % it was 2.188, the incumbent 1.835 there: ended early, 36 s saved"
    )


@pytest.mark.parametrize(("end", "most"), [(1.5, 0), (1.68, 0), (1.7, 25)])
def test_what_may_win_is_not(end: float, most: int, usual: Field, rng: random.Random) -> None:
    ended = [ended_at(curve(falling(end), rng), usual) for _ in range(100)]
    assert sum(each is not None for each in ended) <= most


def test_higher_may_be_better(usual: Field, rng: random.Random) -> None:
    def turned(found: Track) -> Track:
        return Track(found.steps, found.at, [-each for each in found.values])

    field = Field(
        "higher",
        [[replace(c, track=turned(c.track), value=-c.value) for c in each] for each in usual.kept],
        usual.decided,
    )
    assert ended_at(turned(curve(falling(2.1), rng)), field) == 0.5
    assert ended_at(turned(curve(falling(1.6), rng)), field) is None


def test_what_is_catching_up_fast_enough_is_given_its_time(
    usual: Field, rng: random.Random
) -> None:
    for _ in range(20):
        assert ended_at(curve(falling(1.6, slow=0.3), rng), usual) is None
    assert ended_at(curve(falling(1.9, slow=0.3), rng), usual) is not None


def late(end: float, rng: random.Random) -> Track:
    """Behind, without catching up, until its last fifth."""
    return curve(lambda x: falling(end)(x) + (0.1 if x < 0.8 else 0.0), rng)


def test_a_late_gain_that_was_kept_once_gives_the_next_ones_their_time(
    rng: random.Random,
) -> None:
    others = [runs(falling(end), end, rng) for end in (1.9, 1.8, 1.7)]
    assert ended_at(late(1.65, rng), field_of(*others)) is not None
    kept = [Complete(late(1.65, rng), 1.65) for _ in range(4)]
    quick = runs(falling(1.64), 1.64, rng)
    assert ended_at(late(1.6, rng), field_of(*others, quick)) is not None
    assert ended_at(late(1.6, rng), field_of(*others, kept, quick)) is None
    assert ended_at(curve(falling(2.3), rng), field_of(*others, kept, quick)) is not None


def test_nothing_is_ended_before_enough_is_known(usual: Field, rng: random.Random) -> None:
    bad = curve(falling(2.9), rng)
    assert ended_at(bad, usual) is not None
    assert ended_at(bad, replace(usual, decided=EXPERIMENTS - 1)) is None
    assert ended_at(bad, replace(usual, kept=usual.kept[2:])) is None
    assert ended_at(bad, replace(usual, kept=[each[:1] for each in usual.kept])) is None
    assert ended_at(bad, replace(usual, kept=[*usual.kept, []])) is None


def test_what_is_no_number_any_more_is_ended(usual: Field) -> None:
    for lost in (math.nan, math.inf, -math.inf):
        values = [falling(1.5)(x) for x in PLACES[:10]] + [lost] * 10
        assert ended_at(Track(False, list(PLACES), values), usual) == 0.55


def test_steps_say_how_far_a_run_is_only_where_all_end_at_the_same(
    usual: Field, rng: random.Random
) -> None:
    def counted(found: Track, length: float) -> Track:
        return Track(True, [x * length for x in found.at], found.values, length)

    def field(*lengths: float) -> Field:
        return replace(
            usual,
            kept=[
                [replace(c, track=counted(c.track, length)) for c in each]
                for each, length in zip(usual.kept, lengths, strict=True)
            ],
        )

    bad = counted(curve(falling(2.1), rng), 500)
    assert ended_at(bad, field(500, 500, 500)) == 250
    assert ended_at(bad, field(500, 400, 500)) is None
    assert ended_at(bad, field(0, 0, 0)) is None
    assert ended_at(bad, usual) is None


# What a made-up curve can do


def test_a_made_up_good_curve_gains_no_more_than_its_time(usual: Field) -> None:
    assert ended_at(Track(False, list(PLACES), [0.0] * 20), usual) is None


def test_kept_code_that_made_up_its_curve_is_not_believed(rng: random.Random) -> None:
    honest = [runs(falling(end), end, rng) for end in (1.9, 1.8, 1.7)]
    for claim in (0.0, 1.0, 1.65):
        liar = runs(lambda _, claim=claim: claim, 1.65, rng)  # type: ignore[misc]
        assert ended_at(curve(falling(1.6), rng), field_of(*honest, liar)) is None
        assert ended_at(curve(falling(2.6), rng), field_of(*honest, liar)) is not None


def test_a_made_up_bad_curve_that_was_kept_only_costs_time(rng: random.Random) -> None:
    honest = [runs(falling(end), end, rng) for end in (1.9, 1.8, 1.7)]
    field = field_of(*honest, runs(lambda _: 50.0, 1.65, rng))
    assert ended_at(curve(falling(1.6), rng), field) is None


@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=60),
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30), max_size=5),
    st.booleans(),
)
def test_whatever_is_printed_is_survived(
    said: list[tuple[float, float]], earlier: list[list[float]], steps: bool
) -> None:
    form = "METRIC x={1} step={0}" if steps else "progress: {0} x: {1}"
    found = track("\n".join(form.format(*each) for each in said), "x")
    kept = []
    for values in earlier:
        text = "\n".join(form.format(i / 30, v) for i, v in enumerate(values))
        known = track(text, "x")
        kept.append([Complete(known, 1.0)] * 3 if known.at else [])
    for direction in ("lower", "higher"):
        judge(found, Field(direction, kept, 99))  # type: ignore[arg-type]


def test_a_very_long_curve_is_thinned() -> None:
    found = track("".join(f"METRIC x={i} step={i}\n" for i in range(20_000)), "x")
    assert POINTS_KEPT / 2 <= len(found.at) <= POINTS_KEPT and found.end == 19_999
    for at, value in zip(found.at, found.values, strict=True):
        assert value == pytest.approx(at - (found.each - 1) / 2)
    assert found.at[-1] > 19_800


def test_one_in_so_many_is_spared() -> None:
    assert sum(map(spared, range(1000))) == 1000 / SPARED
