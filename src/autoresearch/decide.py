"""Keep, discard, or measure again: the one place where a candidate's fate is decided.

Pure: no clock, no disk, no chance. An experiment goes through three gates.

1. The screen. One sample of the candidate must beat the incumbent's estimate by ``SCREEN`` noise
   widths. It only selects: its value never enters the estimate, because it was picked for being
   lucky.
2. The guards, which the engine runs.
3. The confirmation. Fresh samples of the candidate, one at a time, against an estimate of the
   incumbent that is kept honest by fresh samples of its own; kept as soon as the net gain is sure
   enough and stands against those alone, discarded as soon as it is not worth another sample.

``net = gain - price of the code added``. Noise is pooled over all repeated samples of the run with
a weak prior, never taken from the candidate alone. How sure is sure enough adapts: where many
confirmations succeed real gains are common, and the same evidence proves more (the odds form of
Bayes' rule). ``bench/keep_rule.py`` measures all of this; ``docs/decisions.md`` explains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from .types import Decision, Direction, Status

SCREEN = 0.8
# A first look, at a smaller budget, ends what is so many noise widths behind the incumbent's.
LOOK = 2.0
LOOKS_OF_BASELINE = 3
FRESH_MOST = 4
# Standard normal quantiles of "not worth another sample", by fresh samples taken so far.
FUTILE = (-0.2, 0.35, 0.75)
# What part of the error allowance each look may spend; early looks spend little.
SPEND = (0.02, 0.08, 0.25, 0.40)
REFERENCES = 6
HONEST = 3
# Machines drift: older samples of the incumbent say less about now.
LATEST = 16
# Samples of the incumbent that are taken beside a candidate before it is kept.
BESIDE_KEEP = 3
STALE = 4
NEW = 2
# The prior counts as this many degrees of freedom, at this part of the incumbent's value.
PRIOR_DOF = 2
PRIOR_NOISE = 1e-3
DOF_MOST = 200
QUIETER_Z = -3.09
SIMPLICITY = 0.05
# Gains are taken to be this rare until confirmations of the run say otherwise.
PRIOR_SUCCESSES, PRIOR_ATTEMPTS = 0.3, 6.0
COMMON = 0.15
LOOSEST = 25.0
BASELINE_S = 300.0
BESIDE = "a candidate is confirmed beside samples of it"
FIRST_LOOK = "ended by its first look"


@dataclass(frozen=True, slots=True)
class Rule:
    """What the contract says about keeping.

    ``until_pass``: the values are numbers of failing tests, and 0 twice in a row is the end of it.
    """

    direction: Direction
    min_gain: float = 0.0
    confirm: Literal["auto", "never"] | int = "auto"
    confidence: float = 0.99
    simplicity: Literal["auto"] | float = "auto"
    until_pass: bool = False


@dataclass(frozen=True, slots=True)
class Noise:
    """Run-to-run noise, pooled over groups of samples of one commit with different seeds."""

    sum_sq: float = 0.0
    dof: int = 0
    identical: bool = True

    def add(self, values: Sequence[float]) -> Noise:
        """Pool one more finished group."""
        mean = math.fsum(values) / len(values)
        spread = math.fsum((value - mean) ** 2 for value in values)
        same = all(value == values[0] for value in values)
        return Noise(self.sum_sq + spread, self.dof + len(values) - 1, self.identical and same)

    def settle(self, values: Sequence[float]) -> Noise:
        """Pool a group of the incumbent's; stand on it alone where it is clearly quieter.

        A run time that fell to a tenth has other noise than the baseline had. "Clearly" is one in
        a thousand by the chi-squared quantile of Wilson and Hilferty (PNAS 17:684, 1931). Never
        for groups of candidates: one that always says the same would silence the noise.
        """
        own = Noise().add(values)
        third = 2 / (9 * own.dof) if own.dof else 1.0
        quiet = max(0.0, 1 - third + QUIETER_Z * math.sqrt(third)) ** 3
        if self.dof and own.sum_sq / max(1, own.dof) < quiet * self.sum_sq / self.dof:
            return Noise(own.sum_sq, own.dof, self.identical and own.identical)
        return self.add(values)

    @property
    def exact(self) -> bool:
        """Whether different seeds have given identical values, every time."""
        return self.identical and self.dof > 0

    def sigma(self, scale: float) -> tuple[float, int]:
        """Standard deviation of one sample and its degrees of freedom, at values like ``scale``."""
        prior = PRIOR_DOF * (PRIOR_NOISE * abs(scale)) ** 2
        dof = min(self.dof, DOF_MOST) + PRIOR_DOF
        # The prior only guards against noise that is underestimated from a few samples.
        own = self.sum_sq / self.dof if self.dof else 0.0
        pooled = (self.sum_sq + prior) / (self.dof + PRIOR_DOF)
        return math.sqrt(max(pooled, own) if self.dof > 3 * PRIOR_DOF else pooled), dof


@dataclass(frozen=True, slots=True)
class Reference:
    """A stored sample of the incumbent; ``age`` in experiments decided since.

    ``selected`` marks the samples that got it kept: they are a little too good on average.
    """

    value: float
    age: int
    selected: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What the run knew before this experiment."""

    incumbent: tuple[Reference, ...]
    noise: Noise
    credit_used: float = 0.0
    recent_confirmations: tuple[int, int] = (0, 0)
    seed_sensitive: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """What this experiment has measured so far."""

    tokens_added: int
    screen: float
    fresh: tuple[float, ...] = ()
    incumbent_fresh: tuple[float, ...] = ()
    guards_passed: bool = False


@dataclass(frozen=True, slots=True)
class MoreSamples:
    """Take one more sample of the candidate or of the incumbent, or a first look."""

    of: Literal["candidate", "incumbent", "look"]
    reason: str


@dataclass(frozen=True, slots=True)
class CheckGuards:
    """Run the guards now."""

    reason: str


Step = Decision | MoreSamples | CheckGuards


def decide(rule: Rule, standing: Standing, evidence: Evidence) -> Step:
    """The next step of an experiment: its decision, or what must be measured for it."""
    if rule.until_pass and _passes(standing, evidence):
        return _decide_pass(standing, evidence)
    if not standing.incumbent and not evidence.incumbent_fresh:
        return MoreSamples("incumbent", "it was not measured on such a machine yet")
    if standing.noise.exact and rule.confirm != "never" and _agrees(evidence):
        return _decide_exact(rule, standing, evidence)
    if _stale(standing) and not evidence.incumbent_fresh:
        # On a schedule, not when a candidate looks good: else only unlucky estimates get mended.
        return MoreSamples("incumbent", "its last sample was long ago")
    case = _Case.of(rule, standing, evidence)
    if case.fails_screen(evidence.screen):
        why = "not worth a confirmation"
        if 0 < case.gain(evidence.screen) <= case.sigma:
            why = f"within the noise of {case.sigma:.2g}, {why}"
        return case.discard(evidence.screen, why)
    if not evidence.guards_passed:
        return CheckGuards("guards come before the first confirmation")
    if rule.confirm == "never":
        return case.keep([evidence.screen], 0.5, "unconfirmed: keep.confirm is never")
    return _confirm(rule, standing, evidence, case)


def decide_look(
    rule: Rule, baseline: Sequence[float], incumbent: Sequence[float], look: float
) -> Decision | None:
    """The end of a candidate that is clearly behind at a smaller budget; None where it goes on.

    ``baseline`` are first looks at one commit, which tell their noise. A value at another budget is
    no value of the candidate's: there is none in the decision, and nothing is kept for one.
    """
    best = math.fsum(incumbent) / len(incumbent)
    sigma, _ = Noise().add(baseline).sigma(best)
    behind = look - best if rule.direction == "lower" else best - look
    if behind <= LOOK * sigma * math.sqrt(1 + 1 / len(incumbent)):
        return None
    said = f"{look:.6g} is {behind:.3g} worse than the incumbent's {best:.6g}, noise {sigma:.2g}"
    return Decision(Status.DISCARD, f"{FIRST_LOOK}: {said}")


def decide_overtaken(rule: Rule, standing: Standing, evidence: Evidence, why: str) -> Decision:
    """The end of a candidate whose parent is not the incumbent: it is never kept as it is.

    ``standing`` is that of the commit that it was to beat, and ``evidence.screen`` the mean of what
    was measured. Where that is promising, its change is worth measuring on top of the incumbent.
    """
    if not standing.incumbent:
        reason = f"{why}; nothing to compare it with on such a machine"
        return Decision(Status.DISCARD, reason, evidence.screen, combine=True)
    case = _Case.of(rule, standing, evidence)
    fails = case.fails_screen(evidence.screen)
    said = "not worth combining" if fails else "worth combining"
    return replace(case.discard(evidence.screen, f"{why}; {said}"), combine=not fails)


def _confirm(rule: Rule, standing: Standing, evidence: Evidence, case: _Case) -> Step:
    fresh = evidence.fresh
    if not fresh:
        return MoreSamples("candidate", "confirm the screen")
    if standing.seed_sensitive and not rule.until_pass and len({evidence.screen, *fresh}) == 1:
        if len(fresh) < 2:
            return MoreSamples("candidate", "its value ignored the seed; once more")
        return case.discard(fresh[0], "its value ignores the seed while the incumbent's varies")
    mean = math.fsum(fresh) / len(fresh)
    error = case.error(len(fresh))
    surplus = case.net(mean) - rule.min_gain
    sure = t_cdf(surplus / error, case.dof)
    if rule.confirm == "auto":
        most, allowance = FRESH_MOST, case.allowance * SPEND[min(len(fresh), FRESH_MOST) - 1]
    else:
        most = int(rule.confirm)
        allowance = case.allowance if len(fresh) >= most else 0.0
    if 1 - sure < allowance:
        if len(evidence.incumbent_fresh) < BESIDE_KEEP:
            # The machine may have changed since its stored samples were taken.
            return MoreSamples("incumbent", BESIDE)
        beside = math.fsum(evidence.incumbent_fresh) / len(evidence.incumbent_fresh)
        paired = case.sigma * math.sqrt(1 / len(fresh) + 1 / len(evidence.incumbent_fresh))
        if surplus - case.gain(beside) <= paired:
            return case.discard(mean, f"the incumbent, measured beside it, gave {beside:.6g}")
        # This is the line that keeps a candidate.
        return case.keep(list(fresh), sure)
    if len(fresh) >= most:
        return case.discard(mean, f"{_percent(sure)} sure after {_samples(len(fresh))}")
    if rule.confirm == "auto" and surplus / error < FUTILE[len(fresh) - 1]:
        return case.discard(mean, f"not confirmed by {_samples(len(fresh))}")
    if not evidence.incumbent_fresh:
        return MoreSamples("incumbent", BESIDE)
    return MoreSamples("candidate", f"{_percent(sure)} sure so far")


def honest(references: Sequence[Reference], more: int = 0) -> list[float]:
    """The values that estimate the incumbent, of samples given oldest first.

    The latest only, ``more`` of them still to come; those that selected it only while others are
    few.
    """
    values = [each.value for each in references if not each.selected]
    if len(values) + more < HONEST:
        values = [each.value for each in references]
    return values[-(LATEST - more) :]


def _stale(standing: Standing) -> bool:
    """Whether the incumbent was measured last too long ago; soon after it has changed."""
    age = min((each.age for each in standing.incumbent), default=STALE)
    return age >= (STALE if len(standing.incumbent) >= REFERENCES else NEW)


@dataclass(frozen=True, slots=True)
class _Case:
    """One comparison with its units: sigma, the price of code, and how to say it."""

    rule: Rule
    reference: float
    references: int
    sigma: float
    dof: int
    price: float
    allowance: float
    samples: int
    screened: tuple[float, ...]

    @classmethod
    def of(cls, rule: Rule, standing: Standing, evidence: Evidence) -> _Case:
        known = [*honest(standing.incumbent, len(evidence.incumbent_fresh))]
        known += evidence.incumbent_fresh
        assert known, "an incumbent has at least one sample"
        reference = math.fsum(known) / len(known)
        noise = standing.noise
        if noise.exact and evidence.fresh:
            # The first disagreement of a task that was exact: all that is known about its noise.
            noise = noise.add((evidence.screen, *evidence.fresh))
        elif len(evidence.fresh) > 1:
            noise = noise.add(evidence.fresh)
        sigma, dof = noise.sigma(reference)
        return cls(
            rule, reference, len(known), sigma, dof,
            _price(rule, sigma, evidence.tokens_added, standing.credit_used),
            _allowance(rule, standing.recent_confirmations),
            1 + len(evidence.fresh), (evidence.screen, *evidence.fresh),
        )  # fmt: skip

    def gain(self, value: float) -> float:
        return self.reference - value if self.rule.direction == "lower" else value - self.reference

    def net(self, value: float) -> float:
        return self.gain(value) - self.price

    def fails_screen(self, value: float) -> bool:
        """Whether a first value is not worth another sample."""
        return self.net(value) <= self.rule.min_gain + SCREEN * self.sigma

    def error(self, samples: int) -> float:
        """Standard error of the gain."""
        return self.sigma * math.sqrt(1 / samples + 1 / self.references)

    def _interval(self, value: float, samples: int) -> tuple[float, float]:
        half = t_quantile(0.5 + self.rule.confidence / 2, self.dof) * self.sigma
        half /= math.sqrt(samples)
        return value - half, value + half

    def keep(self, fresh: list[float], sure: float, how: str = "") -> Decision:
        value = math.fsum(fresh) / len(fresh)
        low, high = self._interval(value, len(fresh))
        gain = self.gain(value)
        how = how or f"{_samples(len(fresh))}, noise {self.sigma:.2g}, {_percent(sure)} sure"
        reason = f"{_compare(value, self.reference, gain)} ({how}){self._priced()}"
        return Decision(Status.KEEP, reason, value, low, high, gain, sure)

    def discard(self, value: float, why: str) -> Decision:
        gain = self.gain(value)
        mean = math.fsum(self.screened) / len(self.screened)
        low, high = self._interval(mean, len(self.screened))
        reason = f"{_compare(value, self.reference, gain)}; {why}{self._priced()}"
        sure = t_cdf((self.net(value) - self.rule.min_gain) / self.error(1), self.dof)
        return Decision(Status.DISCARD, reason, mean, low, high, self.gain(mean), sure)

    def _priced(self) -> str:
        if self.price > 0.005 * self.sigma:
            return f"; its added code must bring {self.price:.2g}"
        if self.price < -0.005 * self.sigma:
            return f"; its removed code counts {-self.price:.2g}"
        return ""


def _price(rule: Rule, sigma: float, tokens_added: int, credit_used: float) -> float:
    """What the code a change adds must bring; negative for removed code, capped at one sigma."""
    if rule.until_pass:
        return 0.0
    per_ten = SIMPLICITY * sigma if rule.simplicity == "auto" else float(rule.simplicity)
    price = per_ten * tokens_added / 10
    return max(price, -max(0.0, sigma - credit_used))


def _allowance(rule: Rule, recent: tuple[int, int]) -> float:
    """How probable a keep without a gain may be: the rule's, looser where gains are common."""
    successes, attempts = recent
    rate = (successes + PRIOR_SUCCESSES) / (attempts + PRIOR_ATTEMPTS)
    looser = 1 + (LOOSEST - 1) * min(1.0, max(0.0, (rate - 0.08) / (COMMON - 0.08)))
    return (1 - rule.confidence) * looser


# Exact tasks: different seeds give identical values


def _agrees(evidence: Evidence) -> bool:
    """Whether this experiment, too, gives one value whatever the seed."""
    return len({evidence.screen, *evidence.fresh}) == 1 and len(set(evidence.incumbent_fresh)) <= 1


def _decide_exact(rule: Rule, standing: Standing, evidence: Evidence) -> Step:
    """One identical pair of fresh samples confirms; simplicity breaks ties."""
    known = [*(each.value for each in standing.incumbent), *evidence.incumbent_fresh]
    value, reference = evidence.screen, known[0]
    gain = reference - value if rule.direction == "lower" else value - reference
    # What no passing test covers could go unseen.
    simpler = gain == 0 and evidence.tokens_added < 0 and not rule.until_pass
    free = rule.until_pass or rule.simplicity == "auto"
    price = 0.0 if free else float(rule.simplicity) * evidence.tokens_added / 10
    said = _compare(value, reference, gain)
    if not simpler and not (gain > 0 and gain - price > rule.min_gain):
        return Decision(Status.DISCARD, f"{said}, exactly", value, value, value, gain, 0.0)
    if not evidence.guards_passed:
        return CheckGuards("guards come before the first confirmation")
    if len(evidence.fresh) < 2:
        return MoreSamples("candidate", "two identical fresh samples confirm an exact task")
    if simpler:
        said = f"equal at {value:.6g} with {-evidence.tokens_added} tokens less"
    reason = f"{said}, exactly (2 identical fresh samples)"
    return Decision(Status.KEEP, reason, value, value, value, gain, 1.0)


# Until a test passes: noise has no say in a pass


def _passes(standing: Standing, evidence: Evidence) -> bool:
    """Whether nothing failed the first two times, where something fails of the incumbent."""
    first = (evidence.screen, *evidence.fresh)[:2]
    return not any(first) and any(each.value for each in standing.incumbent)


def _decide_pass(standing: Standing, evidence: Evidence) -> Step:
    """Kept if it passes a second time in a row, also where the incumbent's tests are flaky."""
    if not evidence.fresh:
        return MoreSamples("candidate", "two passes in a row end the run")
    known = honest(standing.incumbent)
    gain = math.fsum(known) / len(known)
    return Decision(Status.KEEP, "passes, twice in a row", 0.0, 0.0, 0.0, gain, 1.0)


# The baseline


def baseline_samples(sample_s: float) -> int:
    """How many samples the baseline gets: five if they fit into five minutes, else two."""
    return 5 if 5 * sample_s <= BASELINE_S else 2


def baseline_decision(values: Sequence[float], confidence: float = 0.99) -> Decision:
    """The baseline is kept; its value is the mean of its samples."""
    value = math.fsum(values) / len(values)
    noise = Noise().add(values)
    if noise.exact:
        reason = f"baseline: {value:.6g}, the same for {len(values)} seeds"
        return Decision(Status.KEEP, reason, value, value, value)
    sigma, dof = noise.sigma(value)
    half = t_quantile(0.5 + confidence / 2, dof) * sigma / math.sqrt(len(values))
    reason = f"baseline: {value:.6g} over {_samples(len(values), '')}, noise {sigma:.2g}"
    return Decision(Status.KEEP, reason, value, value - half, value + half)


# Words and quantiles


def _compare(value: float, reference: float, gain: float) -> str:
    if gain == 0:
        return f"{value:.6g} is equal to the incumbent"
    word = "better" if gain > 0 else "worse"
    return f"{value:.6g} is {abs(gain):.3g} {word} than {reference:.6g}"


def _samples(count: int, kind: str = "fresh ") -> str:
    return f"{count} {kind}sample{'s' if count > 1 else ''}"


def _percent(sure: float) -> str:
    return f"{100 * min(sure, 0.9999):.4g} %" if sure > 0.999 else f"{100 * sure:.3g} %"


def t_cdf(t: float, dof: int) -> float:
    """Student's t distribution function, by the exact finite series for integer ``dof``.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(dof))
    cos_sq = math.cos(theta) ** 2
    if dof % 2:
        term = total = math.cos(theta) if dof > 1 else 0.0
        for k in range(3, dof - 1, 2):
            term *= cos_sq * (k - 1) / k
            total += term
        inside = 2 / math.pi * (theta + math.sin(theta) * total)
    else:
        term = total = 1.0
        for k in range(2, dof - 1, 2):
            term *= cos_sq * (k - 1) / k
            total += term
        inside = math.sin(theta) * total
    return min(1.0, max(0.0, 0.5 + inside / 2))


@lru_cache(maxsize=4096)
def t_quantile(p: float, dof: int) -> float:
    """Student's t quantile: the inverse of ``t_cdf``, by bisection."""
    low, high = -1e6, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        if t_cdf(middle, dof) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2
