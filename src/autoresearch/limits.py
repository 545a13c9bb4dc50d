"""Why a run should stop, if at all. Pure: the clock arrives as an argument."""

from __future__ import annotations

from dataclasses import dataclass

from .journal.view import RunView
from .types import Contract, Proposal, Status


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the run ends; ``short`` where a target or a pass was asked for and did not come."""

    reason: str
    short: bool = False


def used(view: RunView, active_s: float) -> dict[str, float]:
    """What the run has used of each thing that can be limited."""
    return {
        "experiments": max(0, view.decisions - 1),
        "hours": active_s / 3600,
        "cost_usd": view.cost_usd,
        "tokens": view.tokens,
        "device_hours": view.device_s / 3600,
    }


def stop(view: RunView, contract: Contract, active_s: float) -> Stop | None:
    """The first reason to stop now: a person, the target, or a limit; None to go on."""
    metric, value = contract.metric, _best(view)
    if contract.suite is not None and value == 0:
        return Stop(f"passed: {' '.join(contract.run.command)}")
    if view.stop_requested:
        return Stop("stopped by request", short=owes_a_pass(view, contract))
    if metric.target is not None and value is not None and not metric.better(metric.target, value):
        return Stop(f"target reached: {metric.name} {value:.6g} (target {metric.target:g})")
    if view.exhausted:
        reason = "the agent has nothing more to propose"
        return Stop(reason, short=owes_a_pass(view, contract))
    for name in used(view, active_s):
        if left(view, contract, name, active_s) == 0:
            most = getattr(contract.limits, name)
            return Stop(f"limit reached: {name} {most:g}", short=metric.target is not None)
    return None


def left(view: RunView, contract: Contract, name: str, active_s: float) -> float | None:
    """How much of a thing a limit leaves; None where it is not limited."""
    most = getattr(contract.limits, name)
    return None if most is None else max(0.0, most - used(view, active_s)[name])


def before_sample(view: RunView, contract: Contract, active_s: float) -> bool:
    """Whether a limit on what samples spend leaves no room for one more."""
    return any(left(view, contract, name, active_s) == 0 for name in ("hours", "device_hours"))


def unreported(contract: Contract, proposal: Proposal) -> str | None:
    """The limit that cannot be held as the agent does not say what its proposal used, if any."""
    if proposal.exhausted:
        return None
    for name in ("tokens", "cost_usd"):
        if getattr(contract.limits, name) is not None and getattr(proposal, name) is None:
            return name
    return None


def owes_a_pass(view: RunView, contract: Contract) -> bool:
    """Whether the run was to make a test pass, and has not yet."""
    return contract.suite is not None and _best(view) != 0


def _best(view: RunView) -> float | None:
    incumbent = view.incumbent
    return incumbent.decision.value if incumbent and incumbent.decision else None


def rejected_in_a_row(view: RunView) -> int:
    """How many of the last experiments never ran; a sign of an agent that is stuck."""
    count = 0
    for experiment in reversed(view.decided):
        if experiment.decision is None or experiment.decision.status is not Status.REJECTED:
            break
        count += 1
    return count
