"""Why a run should stop, if at all. Pure: the clock arrives as an argument."""

from __future__ import annotations

from dataclasses import dataclass

from .journal.view import RunView
from .types import Contract, Status


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the run ends; ``short`` where a target was set and the limit came first."""

    reason: str
    short: bool = False


def used(view: RunView, active_s: float) -> dict[str, float]:
    """What the run has used of each thing that can be limited."""
    return {
        "experiments": max(0, len(view.decided) - 1),
        "hours": active_s / 3600,
        "cost_usd": view.cost_usd,
        "tokens": view.tokens,
        "device_hours": view.device_s / 3600,
    }


def stop(view: RunView, contract: Contract, active_s: float) -> Stop | None:
    """The first reason to stop now: a person, the target, or a limit; None to go on."""
    if view.stop_requested:
        return Stop("stopped by request")
    metric, incumbent = contract.metric, view.incumbent
    value = incumbent.decision.value if incumbent and incumbent.decision else None
    if metric.target is not None and value is not None and not metric.better(metric.target, value):
        return Stop(f"target reached: {metric.name} {value:.6g} (target {metric.target:g})")
    if view.exhausted:
        return Stop("the agent has nothing more to propose")
    limits = contract.limits
    for name, amount in used(view, active_s).items():
        most = getattr(limits, name)
        if most is not None and amount >= most:
            return Stop(f"limit reached: {name} {most:g}", short=metric.target is not None)
    return None


def rejected_in_a_row(view: RunView) -> int:
    """How many of the last experiments never ran; a sign of an agent that is stuck."""
    count = 0
    for experiment in reversed(view.decided):
        if experiment.decision is None or experiment.decision.status is not Status.REJECTED:
            break
        count += 1
    return count
