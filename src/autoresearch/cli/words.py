"""How values, experiments and phases are said to people; one wording for table, log and summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contention import LIMITS, usual
from ..decide import FRESH_MOST
from ..journal.verification import FALLS, Verification
from ..journal.view import Experiment, Role, RunView
from ..text import cell, clean
from ..types import Contract, Status

STYLES = {
    Status.KEEP: "green",
    Status.DISCARD: "bright_black",
    Status.CRASH: "red",
    Status.TIMEOUT: "red",
    Status.REJECTED: "yellow",
    Status.VOID: "yellow",
}
STEPS_SHOWN = 3


def number(value: float | None) -> str:
    """A value with five significant digits, or a dash."""
    return "-" if value is None else f"{value:.5g}"


def change(contract: Contract, experiment: Experiment) -> str:
    """The difference to the incumbent of that time, signed as the metric moves."""
    decision = experiment.decision
    if decision is None or decision.value is None or experiment.was is None:
        return ""
    return f"{decision.value - experiment.was:+.3g}"


def description(experiment: Experiment, length: int = 80) -> str:
    """What an experiment tried, as one clean line."""
    return cell(experiment.description, length) or experiment.kind.value


def marks(contract: Contract, experiment: Experiment | None = None, *, of: str = "") -> str:
    """What a reader must know about how a score came to be; ``of`` is added to the marks."""
    found = []
    if contract.metric.self_reported:
        found.append("self-reported")
    if experiment is not None and experiment.open:
        found.append("open")
    elif of:
        found.append(of)
    return f" ({', '.join(found)})" if found else ""


def best_marks(contract: Contract, view: RunView) -> str:
    """The marks of the incumbent, whose code may come from an open experiment before it."""
    return marks(contract, view.incumbent, of="built on open" if view.built_on_open else "")


def phase(view: RunView) -> str:
    """What the engine is doing, in words."""
    if (record := view.verifying) and record.in_flight:
        arm = str(record.in_flight["arm"])
        taken = len(record.values(arm))
        return f"verifying: {clean(arm, 40)}, sample {taken + 1} of {record.samples}"
    if view.paused:
        return f"paused: {clean(view.paused, 120)}"
    if view.ended:
        return f"ended: {clean(view.end_reason, 120)}"
    steps = [step(each) for each in view.in_flight.values()]
    if not steps:
        return "setting up" if view.setup_running else "starting"
    more = len(steps) - STEPS_SHOWN
    return "; ".join([*steps[:STEPS_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def step(experiment: Experiment) -> str:
    """What is being done of an experiment, in words."""
    name = f"#{experiment.number}"
    flight = experiment.in_flight
    if flight is None:
        if not experiment.commit:
            return f"{experiment.agent or 'agent'} proposes {name}"
        return f"checking {name}"
    role = Role(str(flight["role"]))
    if role is Role.BASELINE:
        taken = len(experiment.values(Role.BASELINE)) + 1
        return f"measuring the baseline, sample {taken}"
    if role is Role.LOOK:
        return f"a first look at {name}"
    if role is Role.SCREEN:
        return f"measuring {name}"
    if role is Role.INCUMBENT:
        return f"measuring the incumbent again, for {name}"
    taken = len(experiment.values(Role.FRESH)) + 1
    return f"confirming {name}, fresh sample {taken} of up to {FRESH_MOST}"


def doing(view: RunView) -> str:
    """``phase``, and what the engine was asked to do after it."""
    if view.stop_requested and not view.ended:
        return f"stopping after this sample: {phase(view)}"
    if view.pause_requested and view.paused is None:
        return f"pausing after this sample: {phase(view)}"
    return phase(view)


def why(experiment: Experiment) -> str:
    """The reason of a decision, where value and status do not say it."""
    decision = experiment.decision
    assert decision is not None
    judged = decision.status in (Status.KEEP, Status.DISCARD) and not decision.combine
    valued = decision.value is not None
    if judged and valued and experiment.guards_passed is not False:
        return ""
    return f": {clean(decision.reason, 120)}"


def busy(shares: Sequence[float]) -> str:
    """What to know about a machine that is shared with other programs all the time, or nothing."""
    share = usual(shares)
    if share <= LIMITS["wall"]:
        return ""
    return (
        f"busy: samples usually lose {100 * share:.0f} % of their cores' time to other programs;"
        " noise includes that"
    )


def summary(contract: Contract, view: RunView, run: Path) -> str:
    """What a run has achieved: baseline, best, gain with its interval, and where it is."""
    metric = contract.metric
    baseline, best = view.experiments.get(0), view.incumbent
    if baseline is None or baseline.decision is None or best is None or best.decision is None:
        return "nothing was measured yet"
    # The baseline is kept, too, and is not an experiment that anybody proposed.
    ended = {**view.counts, Status.KEEP: view.counts[Status.KEEP] - 1}
    counts = [f"{n} {status.value}" for status, n in ended.items() if n]
    lines = [
        "",
        f"{metric.name}, {metric.direction} is better{best_marks(contract, view)}",
        f"  baseline     {_interval(baseline)}",
    ]
    if best.number == 0:
        lines.append("  best         the baseline: nothing better was found yet")
    else:
        lines.append(f"  best         {_interval(best)}  by #{best.number}")
        lines.append(f"  gain         {_gain(contract, baseline, best)}")
    done = str(view.decisions - 1)
    lines.append(f"  experiments  {': '.join(filter(None, (done, ', '.join(counts))))}")
    for kept in view.kept[1:]:
        assert kept.decision is not None
        lines.append(f"  kept {'#' + str(kept.number):>5}   {number(kept.decision.value):>8}"
                     f"  {change(contract, kept):>9}  {description(kept, 60)}"
                     f"{fallen(view, kept)}")  # fmt: skip
    if view.tokens:
        cost = f", ${view.cost_usd:.2f}" if view.cost_usd else ""
        lines.append(f"  agent used   {view.tokens:,} tokens{cost}")
    lines += [f"  {name:<13}{said}" for name, said in verified(view)]
    if said := busy(view.shares):
        lines.append(f"  machine      {said}")
    if view.delivered:
        lines.append(f"  branch       {view.branch}")
    lines.append(f"  results      {run / 'results.tsv'}")
    return "\n".join(lines)


def fallen(view: RunView, experiment: Experiment) -> str:
    """The mark of a kept experiment that did not survive a verification."""
    return " (does not survive)" if view.survival.get(experiment.number) == FALLS else ""


def doubtful(view: RunView) -> bool:
    """Whether the recorded gain did not reproduce the last time it was measured."""
    found = view.verified
    return found is not None and found.result is not None and not found.result["reproduces"]


def verified(view: RunView) -> list[tuple[str, str]]:
    """The last verification that a person asked for and a later one of the run's own, named."""
    found = [each for each in view.verifications if each.result]
    asked = [each for each in found if not each.milestone][-1:]
    since = asked[0].number if asked else -1
    own = [each for each in found[-1:] if each.number > since]
    return [("verified", verification(each)) for each in asked] + [
        ("checked", verification(each)) for each in own
    ]


def verification(record: Verification) -> str:
    """What a verification found, in one line."""
    found = record.result
    assert found is not None
    gain = found["gain"]
    said = "no gain" if gain is None else f"total gain {difference(gain)}"
    state = "reproduces" if found["reproduces"] else "DOES NOT REPRODUCE"
    parts = [f"#{record.experiment}", f"{record.samples} samples each", record.ended[:10]]
    if record.sealed:
        parts.insert(0, "on the sealed split")
    return (
        f"{said}, recorded {number(found['recorded']['gain'])}: {state},"
        f" {clean(found['reason'], 120)}; {', '.join(parts)}"
    )


def difference(found: dict[str, Any]) -> str:
    """A difference of two commits with its interval."""
    if found["exact"]:
        return f"{number(found['gain'])}, exact"
    return f"{number(found['gain'])} ({number(found['low'])} to {number(found['high'])})"


def _interval(experiment: Experiment) -> str:
    decision = experiment.decision
    assert decision is not None
    said = number(decision.value)
    if decision.low is not None and decision.high is not None and decision.low != decision.high:
        said += f"  ({number(decision.low)} to {number(decision.high)})"
    return said


def _gain(contract: Contract, baseline: Experiment, best: Experiment) -> str:
    old, new = baseline.decision, best.decision
    assert old is not None and new is not None and old.value is not None and new.value is not None
    gain = contract.metric.gain(new.value, old.value)
    share = f", {100 * gain / abs(old.value):.1f} %" if old.value else ""
    ends = (old.low, old.high, new.low, new.high)
    if any(end is None for end in ends):
        return f"{number(gain)}{share}"
    half = (((old.high - old.low) / 2) ** 2 + ((new.high - new.low) / 2) ** 2) ** 0.5  # type: ignore[operator]
    return f"{number(gain)} ± {half:.2g}{share}"
