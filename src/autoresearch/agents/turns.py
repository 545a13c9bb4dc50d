"""Whose turn it is in ``hybrid``: the optimizer's or the coding agent's. Pure.

It follows from the history alone, so nothing is remembered between calls and a resumed run goes on
as if it had not stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..types import OPTIMIZER, Kind, Metric, Past, Plan, Status
from .sources import Key, Parsed, Trial

EACH_NEW = 4  # experiments for each constant that a change of structure brought
AT_MOST = 12  # the same for all of them together
FADES = 0.9  # what an experiment counts for, with each later one


def new_constants(
    here: Parsed, trials: Sequence[Trial], varied: Collection[Key]
) -> tuple[Key, ...]:
    """Those of ``varied`` that came with this structure, while they were not tuned enough since."""
    same = [trial for trial in trials if trial.parsed.skeleton == here.skeleton]
    by_commit = {trial.past.commit: trial for trial in trials}
    before = by_commit.get(same[0].past.parent) if same else None
    if before is None or same[0].past.kind in OPTIMIZER:
        return ()
    new = tuple(key for key in varied if key not in before.parsed.constants)
    tuned = sum(trial.past.kind in OPTIMIZER for trial in same)
    return new if tuned < min(AT_MOST, EACH_NEW * len(new)) else ()


def optimizer_next(
    plan: Plan, history: Sequence[Past], metric: Metric, new: Collection[Key]
) -> bool:
    """Whether the optimizer proposes now, where it has something to vary.

    What a person or the strategy asks for in words is the coding agent's. New constants are tuned
    first. Otherwise it is the one's turn that gained more for its time of late; who has not been
    asked for a while is taken to gain as much as both did together.
    """
    if plan.hypothesis or plan.kind in (Kind.EXPLORE, Kind.COMBINE):
        return False
    if plan.kind in OPTIMIZER or new:
        return True
    optimizer, agent = _yields(history, metric)
    return optimizer >= agent


def _yields(history: Sequence[Past], metric: Metric) -> tuple[float, float]:
    """Gain for time of the optimizer and of the coding agent."""
    gains, costs, best = [0.0, 0.0], [0.0, 0.0], None
    total = 0.0
    for past in history:
        if past.kind is Kind.BASELINE:
            best = past.value
            continue
        gain = 0.0
        if past.status is Status.KEEP and past.value is not None:
            gain = 0.0 if best is None else max(0.0, metric.gain(past.value, best))
            total, best = total + gain, past.value
        if past.kind is Kind.COMBINE:
            continue  # the engine's: what it combined was counted where it was found
        gains, costs = ([FADES * each for each in both] for both in (gains, costs))
        who = 0 if past.kind in OPTIMIZER else 1
        costs[who] += past.seconds or 1.0
        gains[who] += gain
    hoped = total / max(1, len(history) - 1) or 1.0
    optimizer, agent = (
        (gain + hoped) / cost if cost else float("inf")
        for gain, cost in zip(gains, costs, strict=True)
    )
    return optimizer, agent
