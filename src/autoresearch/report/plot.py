"""The progress plot of a run: every experiment a point, the kept ones labelled, the best a line."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..journal.tsv import clean
from ..journal.view import Experiment, RunView
from ..types import Contract, Status

KEPT, OTHER, FAILED, BAND = "#15803d", "#9ca3af", "#dc2626", "#86efac"
LABELS, LABEL_LENGTH = 24, 34


def draw(view: RunView, contract: Contract, path: Path) -> None:
    """Draw the run to ``path``; the suffix (.svg, .png, .pdf) says how.

    Raises:
        UserError: matplotlib is missing, or nothing was measured yet.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise UserError("plots need matplotlib", fix="pip install 'autoresearch[plots]'") from None
    rows = [each for each in view.decided if each.decision is not None]
    values = [(each.number, _value(each)) for each in rows]
    measured = [value for _, value in values if value is not None]
    if not measured:
        raise UserError("nothing was measured yet", fix="autoresearch run")
    with mpl.rc_context({"svg.hashsalt": view.tag, "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        axes = figure.subplots()
        low, high = _limits(measured, view, contract)
        worst = high if contract.metric.direction == "lower" else low
        _points(axes, rows, low, high, worst)
        _best(axes, view)
        axes.set_ylim(low, high)
        axes.set_xlim(-0.5, max(1, len(rows) - 1) + max(1.0, len(rows) * 0.12))
        _labels(axes, view, low, high, contract.metric.direction)
        _dress(axes, view, contract)
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, metadata=metadata, dpi=150)


def _value(experiment: Experiment) -> float | None:
    return experiment.decision.value if experiment.decision else None


def _limits(measured: list[float], view: RunView, contract: Contract) -> tuple[float, float]:
    """Show the baseline, the best and most others; far outliers are clipped to the edge."""
    kept = [value for each in view.kept if (value := _value(each)) is not None]
    sign = 1 if contract.metric.direction == "lower" else -1
    ordered = sorted(sign * value for value in measured)
    best, worst_kept = min(sign * v for v in kept), max(sign * v for v in kept)
    span = max(worst_kept - best, 1e-12)
    upper = min(ordered[-1], max(worst_kept + 0.4 * span, statistics.median(ordered)))
    if worst_kept == best:
        upper = max(ordered[int(0.9 * (len(ordered) - 1))], best)
    pad = max(upper - best, abs(best) * 1e-6, 1e-12)
    a, b = sign * (best - 0.14 * pad), sign * (upper + 0.1 * pad)
    return min(a, b), max(a, b)


def _points(axes: Any, rows: list[Experiment], low: float, high: float, worst: float) -> None:
    """Discards light, failures as crosses at the bad edge, clipped values as arrows there."""
    discards = [(r.number, v) for r in rows if (v := _value(r)) is not None and not _kept(r)]
    inside = [(n, v) for n, v in discards if low <= v <= high]
    outside = [n for n, v in discards if not low <= v <= high]
    failed = [r.number for r in rows if _value(r) is None]
    edge = worst + (0.02 if worst == low else -0.02) * (high - low)
    if inside:
        axes.scatter(*zip(*inside, strict=True), s=26, color=OTHER, alpha=0.75, linewidths=0,
                     label="discarded", zorder=2)  # fmt: skip
    if outside:
        axes.scatter(
            outside, [edge] * len(outside), s=26, marker="v" if worst == low else "^",
            color=OTHER, alpha=0.75, linewidths=0, label="discarded, off the scale", zorder=2,
        )  # fmt: skip
    if failed:
        axes.scatter(failed, [edge] * len(failed), s=30, marker="x", color=FAILED,
                     label="failed or rejected", zorder=2)  # fmt: skip


def _best(axes: Any, view: RunView) -> None:
    """The running best as a step line with its interval, and the kept experiments on it."""
    kept = [(each.number, each.decision) for each in view.kept if each.decision]
    numbers = [number for number, _ in kept]
    values = [made.value for _, made in kept]
    end = max(numbers[-1], len(view.decided) - 1) + 0.4
    steps, line = [*numbers, end], [*values, values[-1]]
    lows = [made.low if made.low is not None else made.value for _, made in kept]
    highs = [made.high if made.high is not None else made.value for _, made in kept]
    axes.fill_between(
        steps, [*lows, lows[-1]], [*highs, highs[-1]], step="post", color=BAND, alpha=0.35,
        linewidth=0, zorder=1,
    )  # fmt: skip
    axes.step(steps, line, where="post", color=KEPT, linewidth=1.8, label="best so far", zorder=3)
    axes.scatter(numbers, values, s=52, color=KEPT, edgecolors="white", linewidths=1, zorder=4,
                 label="kept")  # fmt: skip


def _labels(axes: Any, view: RunView, low: float, high: float, direction: str) -> None:
    """Name the kept experiments, the most useful ones where there are many."""
    kept = [each for each in view.kept if _value(each) is not None]
    if len(kept) > LABELS:
        ranked = sorted(kept[1:], key=_gain, reverse=True)
        chosen = {each.number for each in ranked[: LABELS - 1]} | {0}
        kept = [each for each in kept if each.number in chosen]
    slant, align = (32, "left") if direction == "lower" else (-32, "left")
    for each in kept:
        text = clean(each.description) or each.kind.value
        text = (
            text
            if len(text) <= LABEL_LENGTH
            else f"{text[: LABEL_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
        )
        offset = (5, 6) if direction == "lower" else (5, -6)
        axes.annotate(
            text, (each.number, _value(each)), xytext=offset, textcoords="offset points",
            rotation=slant, rotation_mode="anchor", ha=align,
            va="bottom" if direction == "lower" else "top",
            fontsize=8, color="#14532d", zorder=5, clip_on=False,
        )  # fmt: skip


def _dress(axes: Any, view: RunView, contract: Contract) -> None:
    metric = contract.metric
    first, last = _value(view.kept[0]), _value(view.kept[-1])
    assert first is not None and last is not None
    tried, kept = len(view.decided) - 1, len(view.kept) - 1
    axes.set_title(
        f"{tried} experiments, {kept} kept: {metric.name} {first:.4g} to {last:.4g}",
        loc="left", fontsize=13, fontweight="bold",
    )  # fmt: skip
    reported = ", self-reported" if metric.self_reported else ""
    axes.set_ylabel(f"{metric.name} ({metric.direction} is better{reported})")
    axes.set_xlabel("experiment")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    where = "upper right" if metric.direction == "lower" else "lower right"
    axes.legend(loc=where, frameon=False, fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _gain(experiment: Experiment) -> float:
    return (experiment.decision.gain or 0.0) if experiment.decision else 0.0


def _kept(experiment: Experiment) -> bool:
    return experiment.decision is not None and experiment.decision.status is Status.KEEP
