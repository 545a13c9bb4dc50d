"""Does a recorded gain hold? Pure: compares fresh samples and says what follows from them.

The samples are those of ``verify``: taken after the fact, with seeds that decided nothing, so
their difference is an honest estimate. ``docs/verify.md`` explains the words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .decide import Noise, t_cdf, t_quantile
from .types import Decision, Direction

# A gain that is published must be this improbable without a real one (facts: the anchor test).
ALPHA = 0.001
# With fewer samples a side their own spread says too little; the run's noise is added.
FEW = 5
# On other data or with another budget a gain is never the same; less than this part is not it.
MOST = 0.5
BLIND = 3
# The short form of a running search: after this many keeps, then twice as many, and so on,
# for at most this share of the samples taken, with this many samples a side.
FIRST_MILESTONE = 5
SHARE = 0.05
SHORT_LEAST, SHORT_MOST = 2, 4


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one commit is than another, in metric units, positive when better.

    ``low`` and ``high`` bound ``gain`` at the run's confidence; ``sure`` is the confidence that
    there is a gain at all. ``exact`` where every seed gives the same values.
    """

    gain: float
    low: float
    high: float
    sure: float
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the recorded gain reproduces, and one sentence that says why."""

    reproduces: bool
    reason: str


def compare(
    direction: Direction,
    before: Sequence[float],
    after: Sequence[float],
    noise: Noise,
    confidence: float,
) -> Difference:
    """The gain of ``after`` over ``before``: a two-sample t interval (Welch, Biometrika 34:28).

    ``noise`` is the run's own; it helps where samples are few or happen to be all the same.
    """
    mean_before, mean_after = _mean(before), _mean(after)
    gain = mean_before - mean_after if direction == "lower" else mean_after - mean_before
    same = len(set(before)) == len(set(after)) == 1
    if same and (noise.exact or gain == 0):
        return Difference(gain, gain, gain, 1.0 if gain > 0 else 0.0, exact=noise.exact)
    if same or min(len(before), len(after)) < FEW:
        scale = max(abs(mean_before), abs(mean_after))
        sigma, dof = noise.add(before).add(after).sigma(scale)
        error = sigma * math.sqrt(1 / len(before) + 1 / len(after))
    else:
        error, dof = _welch(before, after)
    half = t_quantile(0.5 + confidence / 2, dof) * error
    return Difference(gain, gain - half, gain + half, t_cdf(gain / error, dof))


def _welch(before: Sequence[float], after: Sequence[float]) -> tuple[float, int]:
    """Standard error of the difference of two means, and its degrees of freedom, rounded down."""
    parts = []
    for values in (before, after):
        mean, count = _mean(values), len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        parts.append((variance / count, count - 1))
    total = sum(part for part, _ in parts)
    dof = total**2 / sum(part**2 / freedom for part, freedom in parts)
    return math.sqrt(total), max(1, math.floor(dof))


def recorded(direction: Direction, baseline: Decision, best: Decision) -> Difference:
    """The gain that the rows of the baseline and of the incumbent show."""
    assert baseline.value is not None and best.value is not None
    old, new = baseline.value, best.value
    gain = old - new if direction == "lower" else new - old
    widths = [(each.high or 0.0) - (each.low or 0.0) for each in (baseline, best)]
    half = math.hypot(*widths) / 2
    return Difference(gain, gain - half, gain + half, best.confidence or 0.0, exact=half == 0)


def judge(
    found: Difference,
    claim: Difference,
    before: Sequence[float],
    after: Sequence[float],
    *,
    alpha: float = ALPHA,
    elsewhere: str = "",
) -> Verdict:
    """Whether the recorded gain ``claim`` reproduces in what was ``found``.

    The claim rests on few samples, so its own interval counts: asking it to lie inside the one
    that was found would blame one honest run in five to twelve, by simulation. ``elsewhere`` names
    another split or budget, where only most of the gain is asked for.
    """
    if len(set(before)) > 1 and len(after) >= BLIND and len(set(after)) == 1:
        return Verdict(False, "the incumbent's value ignores the seed while the baseline's varies")
    if claim.gain <= 0:
        # Kept for less code: nothing is claimed but that it does no harm.
        harm = found.sure < alpha and found.gain < 0
        said = "no gain was recorded, and it is worse than the baseline"
        return Verdict(not harm, said if harm else "no gain was recorded, and none is lost")
    if found.gain < 0 and found.sure < alpha:
        return Verdict(False, f"it is worse than the baseline by {-found.gain:.3g}")
    if 1 - found.sure >= alpha:
        asked = f"{100 * (1 - alpha):g} % sure"
        return Verdict(False, f"no gain is {asked}: {found.gain:.3g} was found")
    share = found.gain / claim.gain
    if elsewhere:
        said = f"{100 * share:.0f} % of the recorded gain shows {elsewhere}"
        return Verdict(share >= MOST, said)
    reach = math.hypot(claim.high - claim.low, found.high - found.low) / 2
    if claim.gain - found.gain > reach + 1e-9 * abs(claim.gain):
        return Verdict(
            False, f"the recorded gain of {claim.gain:.3g} is too good: {found.gain:.3g} was found"
        )
    return Verdict(True, f"{100 * share:.0f} % of the recorded gain was found")


def survives(found: Difference, tokens_added: int, confidence: float) -> bool:
    """Whether a step earns its place: it surely helps, or it made the code less without harm."""
    helps = 1 - found.sure < 1 - confidence
    return helps or (tokens_added < 0 and not harms(found, confidence))


def harms(found: Difference, confidence: float) -> bool:
    """Whether there surely is a loss."""
    return found.gain < 0 and found.sure < 1 - confidence


# What to measure


def next_arm(arms: Iterable[str], taken: Mapping[str, int], samples: int) -> str | None:
    """The arm to sample next, interleaved A B B A so that slow drift touches all alike."""
    order = list(arms)
    for turn in range(samples):
        for arm in order if turn % 2 == 0 else reversed(order):
            if taken.get(arm, 0) <= turn:
                return arm
    return None


def due(kept: int, checked: int, taken: int, spent: int) -> int:
    """How many samples a side the short form may take now; 0 while it is not due.

    ``kept`` steps now and when it was ``checked`` last; samples ``taken`` by experiments and
    ``spent`` on the short form so far.
    """
    milestone = FIRST_MILESTONE
    while milestone <= checked:
        milestone *= 2
    allowed = int(SHARE * taken) - spent
    each = min(SHORT_MOST, allowed // 2)
    return each if kept >= milestone and each >= SHORT_LEAST else 0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
