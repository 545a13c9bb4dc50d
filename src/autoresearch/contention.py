"""When rivals on a machine make a sample void. Pure: shares of time come in, a reason goes out.

What counts is the share of a sample's own cores that it could have used and did not get: lost to
programs that are not its own while its threads were ready to run, or taken by the host. Nothing
that a candidate starts makes that share grow, its value is not looked at, and the seed stays the
same: there is nothing to be gained by being measured again. At the limits, work in wall-clock time
and the processor time of the same work are both off by about five per cent
(``bench/contention.py``; docs/decisions.md has its figures).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .types import Contention, Outcome, Run, Sample

LIMITS = {"wall": 0.05, "cpu": 0.3}
SPREADS = 3.0
REMEMBERED = 9
PRIOR = (0.0, 0.0)


def contention_of(result: dict[str, Any]) -> Contention:
    """What all steps of a runner's result lost to others, as far as they were long enough."""
    core_s = lost_s = stolen_s = 0.0
    for step in result["steps"]:
        if (found := step["contention"]) is not None:
            others_s, waited_s = found["others_s"], found["waited_s"]
            core_s += found["core_s"]
            stolen_s += found["stolen_s"]
            lost_s += others_s if waited_s is None else min(others_s, waited_s)
    return Contention(core_s, lost_s, stolen_s)


def usual(shares: Sequence[float]) -> float:
    """The share that samples of this run lose usually: the median of the last nine.

    Two quiet ones are assumed before the first, so that a baseline can be void, but at most twice.
    A machine that stays busy becomes the usual case after five samples, and then nothing is void:
    all are compared under the same conditions.
    """
    return statistics.median_high(_window(shares))


def limit(clock: str, shares: Sequence[float]) -> float:
    """The share from which a sample is void: well beyond the usual one and how that varies."""
    middle = usual(shares)
    spread = statistics.median(abs(share - middle) for share in _window(shares))
    return middle + LIMITS[clock] + SPREADS * spread


def _window(shares: Sequence[float]) -> list[float]:
    return [*PRIOR, *shares][-REMEMBERED:]


def why_void(sample: Sample, run: Run, shares: Sequence[float]) -> str:
    """Why a sample says nothing about its candidate, given the shares before it; "" if it does."""
    share, before = sample.contention.share, usual(shares)
    match sample.outcome:
        case Outcome.OK | Outcome.HOPELESS:
            most = limit(run.clock, shares)
        case Outcome.TIMEOUT if _was_held_up(sample, run):
            most = limit("wall", shares)
        case _:
            return ""
    if share <= most:
        return ""
    said = f"{100 * share:.0f} % of its cores' time went to other programs"
    return f"{said}, usual here are {100 * before:.0f} %" if before else said


def unless_void(sample: Sample, run: Run, shares: Sequence[float], *, exact: bool) -> Sample:
    """The sample; without its value where rivals on the machine make it say nothing.

    Values of ``exact`` tasks and numbers of failing tests do not depend on the machine.
    """
    ran = sample.outcome in (Outcome.OK, Outcome.HOPELESS)
    if ran and (exact or sample.tally is not None):
        return sample
    if not (reason := why_void(sample, run, shares)):
        return sample
    return replace(sample, outcome=Outcome.VOID, value=None, reason=reason)


def _was_held_up(sample: Sample, run: Run) -> bool:
    """Whether it may have kept to its budget, had it had its cores for itself."""
    used_s = sample.usage.cpu_s
    if run.clock == "wall":
        used_s = sample.usage.wall_s * (1 - sample.contention.share)
    return used_s <= 1.1 * run.budget_s
