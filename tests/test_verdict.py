"""What follows from fresh samples: intervals, verdicts, the order of samples, milestones."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from scipy import stats

from autoresearch.decide import Noise, t_quantile
from autoresearch.types import Decision, Status
from autoresearch.verdict import (
    Difference,
    compare,
    due,
    harms,
    judge,
    next_arm,
    recorded,
    survives,
)

UNKNOWN = Noise()


def draw(rng: random.Random, count: int, mean: float, sigma: float = 1.0) -> list[float]:
    return [rng.gauss(mean, sigma) for _ in range(count)]


def row(values: list[float], noise: Noise) -> Decision:
    """A kept row as ``decide`` writes it."""
    mean = sum(values) / len(values)
    sigma, dof = noise.sigma(mean)
    half = t_quantile(0.995, dof) * sigma / len(values) ** 0.5
    return Decision(Status.KEEP, "", mean, mean - half, mean + half, 1.0, 0.99)


def test_the_interval_is_welchs() -> None:
    rng = random.Random(3)
    before, after = draw(rng, 8, 10.0), draw(rng, 8, 8.0, 0.2)
    found = compare("lower", before, after, UNKNOWN, 0.99)
    theirs = stats.ttest_ind(before, after, equal_var=False)
    # Ours rounds the degrees of freedom down, so it is a little wider.
    bound = theirs.confidence_interval(0.99)
    assert found.low == pytest.approx(bound.low, rel=0.05) and found.low <= bound.low
    assert found.high == pytest.approx(bound.high, rel=0.05) and found.high >= bound.high
    other = compare("higher", before, after, UNKNOWN, 0.99)
    assert (other.gain, other.low) == pytest.approx((-found.gain, -found.high))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(5)
    missed = Counter[int]()
    for samples in (2, 8):
        for _ in range(1000):
            noise = Noise().add(draw(rng, 5, 100.0)).add(draw(rng, 4, 95.0))
            found = compare(
                "lower", draw(rng, samples, 100.0), draw(rng, samples, 97.0), noise, 0.99
            )
            missed[samples] += not found.low <= 3.0 <= found.high
    assert missed[2] <= 20 and missed[8] <= 20


def test_exact_is_exact_only_where_the_run_was() -> None:
    exact = Noise().add([5.0, 5.0])
    found = compare("lower", [5.0] * 8, [4.0] * 8, exact, 0.99)
    assert found == Difference(1.0, 1.0, 1.0, 1.0, exact=True)
    noisy = compare("lower", [5.0] * 8, [4.0] * 8, Noise().add([5.0, 5.4, 4.6]), 0.99)
    assert not noisy.exact and noisy.low < 1.0 < noisy.high
    nothing = compare("lower", [0.0] * 2, [0.0] * 2, UNKNOWN, 0.99)
    assert (nothing.gain, nothing.sure) == (0.0, 0.0)
    counts = compare("lower", [0.0] * 8, [1.0] * 8, UNKNOWN, 0.99)
    assert counts.gain == -1.0 and counts.sure < 0.01


def verdicts(true: float, lucky: int, samples: int, alpha: float, runs: int = 300) -> float:
    """How often a run is said not to reproduce; ``lucky`` is of how many screens it is the best."""
    rng = random.Random(11)
    flagged = 0
    for _ in range(runs):
        baseline = draw(rng, 5, 1000.0)
        noise = Noise().add(baseline).add(draw(rng, 4, 990.0)).add(draw(rng, 4, 990.0))
        best = [min(draw(rng, lucky, 1000.0 - true))]
        claim = recorded("lower", row(baseline, noise), row(best, noise))
        before, after = draw(rng, samples, 1000.0), draw(rng, samples, 1000.0 - true)
        found = compare("lower", before, after, noise, 0.99)
        flagged += not judge(found, claim, before, after, alpha=alpha).reproduces
    return flagged / runs


def test_honest_gains_reproduce_and_lucky_ones_do_not() -> None:
    assert verdicts(true=5.0, lucky=1, samples=8, alpha=0.001) < 0.02
    assert verdicts(true=0.0, lucky=30, samples=8, alpha=0.001) > 0.97
    # The short form, at its smallest.
    assert verdicts(true=5.0, lucky=1, samples=2, alpha=0.01) < 0.05
    assert verdicts(true=0.0, lucky=30, samples=2, alpha=0.01) > 0.9


CLAIM = Difference(10.0, 9.0, 11.0, 0.999)


def found(gain: float, half: float = 0.5, sure: float = 0.9999) -> Difference:
    return Difference(gain, gain - half, gain + half, sure)


def test_the_reasons_of_a_verdict() -> None:
    varied, other = [20.0, 21.0, 22.0], [10.0, 11.0, 12.0]
    good = judge(found(9.5), CLAIM, varied, other)
    assert (good.reproduces, good.reason) == (True, "95 % of the recorded gain was found")
    assert judge(found(3.0), CLAIM, varied, other).reason == (
        "the recorded gain of 10 is too good: 3 was found"
    )
    assert judge(found(-3.0, sure=0.0), CLAIM, varied, other).reason == (
        "it is worse than the baseline by 3"
    )
    assert "99.9 % sure" in judge(found(9.5, sure=0.99), CLAIM, varied, other).reason
    assert "ignores the seed" in judge(found(9.5), CLAIM, varied, [10.0] * 8).reason
    assert judge(found(15.0), CLAIM, varied, other).reproduces


def test_on_another_split_most_of_the_gain_is_asked_for() -> None:
    varied = [20.0, 21.0, 22.0]
    most = judge(found(6.0), CLAIM, varied, varied, elsewhere="on the sealed split")
    assert most.reproduces and "60 %" in most.reason
    assert not judge(found(4.0), CLAIM, varied, varied, elsewhere="on the sealed split").reproduces


def test_code_that_only_got_less_claims_no_gain() -> None:
    claim = Difference(0.0, -1.0, 1.0, 0.5)
    varied = [20.0, 21.0, 22.0]
    assert judge(found(0.1, sure=0.6), claim, varied, varied).reproduces
    assert not judge(found(-3.0, sure=0.0), claim, varied, varied).reproduces


def test_what_survives() -> None:
    assert survives(found(1.0, sure=0.995), 50, 0.99)
    assert not survives(found(1.0, sure=0.9), 50, 0.99)
    assert survives(found(-0.1, sure=0.4), -5, 0.99)
    assert not survives(found(-1.0, sure=0.001), -5, 0.99)
    assert harms(found(-1.0, sure=0.001), 0.99) and not harms(found(-1.0, sure=0.2), 0.99)


def test_samples_are_interleaved_there_and_back() -> None:
    taken = Counter[str]()
    order = ""
    while arm := next_arm("ABC", taken, 3):
        taken[arm] += 1
        order += arm
    assert order == "ABCCBAABC"
    # A killed verification goes on with what is behind.
    assert next_arm("AB", {"A": 2, "B": 1}, 3) == "B"


def test_the_short_form_costs_little() -> None:
    assert due(kept=4, checked=0, taken=1000, spent=0) == 0
    assert due(kept=5, checked=0, taken=79, spent=0) == 0
    assert due(kept=5, checked=0, taken=80, spent=0) == 2
    assert due(kept=7, checked=0, taken=1000, spent=0) == 4
    assert due(kept=9, checked=5, taken=1000, spent=8) == 0
    assert due(kept=10, checked=7, taken=1000, spent=8) == 4
    assert due(kept=19, checked=10, taken=10_000, spent=16) == 0
    spent = checked = 0
    for taken in range(5000):
        kept = taken // 4
        if each := due(kept, checked, taken, spent):
            spent, checked = spent + 2 * each, kept
        assert spent <= 0.05 * taken
    assert spent > 30
