"""What an agent is told, in a size that does not depend on the run's length.

Text that agents or candidates wrote is data: stripped to one printable line and cut.
"""

from __future__ import annotations

from .journal.tsv import clean
from .journal.view import Experiment, RunView
from .types import Contract, Plan

KEPT_SHOWN = 12
RECENT_SHOWN = 20
INSTRUCTIONS_LENGTH = 12_000


def briefing(view: RunView, contract: Contract, plan: Plan, instructions: str) -> str:
    """The task, its rules, where the run stands, and a request for one change."""
    metric, run, incumbent = contract.metric, contract.run, view.incumbent
    value = incumbent.decision.value if incumbent and incumbent.decision else None
    lines = [
        f"# {contract.task.goal}",
        "",
        f"Make one change to these files, and only these: {', '.join(contract.task.editable)}.",
        f"The engine then runs `{' '.join(run.command)}` for {run.budget_s:g} s"
        f" ({'processor' if run.clock == 'cpu' else 'wall'} time), measures {metric.name}"
        f" ({metric.direction} is better) and keeps the change only if it is better beyond noise.",
        "A small gain that adds complexity is not worth it; an equal result with less code is.",
        "Do not run the experiment yourself. Every other file is protected: a change to one"
        " rejects the proposal.",
        "",
        f"Best so far: {metric.name} {value:.6g}." if value is not None else "",
    ]
    if plan.hypothesis:
        lines += ["", f"Try this idea: {clean(plan.hypothesis, 1000)}"]
    lines += ["", "## Kept, newest first"]
    lines += [_line(each) for each in reversed(view.kept[-KEPT_SHOWN:])]
    lines += ["", "## Tried last, newest first"]
    lines += [_line(each) for each in reversed(view.decided[-RECENT_SHOWN:])]
    if instructions:
        lines += ["", "## Instructions of the task", "", instructions[:INSTRUCTIONS_LENGTH]]
    return "\n".join(lines) + "\n"


def _line(experiment: Experiment) -> str:
    decision = experiment.decision
    assert decision is not None
    value = "-" if decision.value is None else f"{decision.value:.6g}"
    said = clean(experiment.description, 120) or experiment.kind.value
    return f"- #{experiment.number} {decision.status.value} {value} {said}"
