"""The progress plot of a run: every experiment a point, the kept ones labelled, the best a line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..journal.view import Experiment, RunView
from ..text import cell, clean
from ..types import Contract, Status

KEPT, OTHER, FAILED, BAND, INK, PALE = (
    "#15803d", "#9ca3af", "#dc2626", "#86efac", "#14532d", "#6b7280",
)  # fmt: skip
SIZE_IN, DPI = (9.0, 4.8), 100
SUFFIXES = (".svg", ".png", ".pdf")
RASTER_FROM = 2000
# The part of the height at each end that belongs to the marks for what is off the scale.
EDGE = 0.03
LABELS, LABEL_LENGTH, LABEL_PT, SLANT = 24, 34, 8.5, 30.0
# Pixels at DPI.
LABEL_HEIGHT, GAP, MARGIN, SHIFTS = 11.0, 7.0, 14.0, range(0, 110, 6)
SHRINK_MOST = 0.7


@dataclass(frozen=True, slots=True)
class Label:
    """A name for a kept experiment: where its point is, how long it is, what it is worth."""

    text: str
    at: tuple[float, float]
    length: float
    worth: float


def draw(view: RunView, contract: Contract, path: Path) -> None:
    """Draw the run to ``path``; the suffix (.svg, .png, .pdf) says how.

    Raises:
        UserError: matplotlib is missing, nothing was measured yet, or ``path`` cannot be written.
    """
    try:
        from matplotlib import style  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise UserError("plots need matplotlib", fix="pip install 'autoresearch[plots]'") from None
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot draw to {path.name!r}", fix=f"end it in {', '.join(SUFFIXES)}")
    if not view.kept:
        raise UserError("nothing was measured yet", fix="autoresearch run measures the baseline")
    looks = {"svg.hashsalt": view.tag, "svg.fonttype": "path", "text.parse_math": False}
    with warnings.catch_warnings(), style.context(["default", looks]):
        warnings.filterwarnings("ignore", message="Glyph")  # drawn as a box
        figure = Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained")
        axes = figure.subplots()
        low, high = _limits(view, contract)
        axes.set_xlim(-0.5, max(3.0, 1.14 * (len(view.decided) - 1)))
        axes.set_ylim(low, high)
        _points(axes, view, contract)
        _best(axes, view)
        _dress(axes, view, contract)
        _labels(figure, axes, view, contract)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Write the picture in one step, the same bytes for the same run."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    temporary = path.with_name(f".{path.name}.new")
    try:
        figure.savefig(
            temporary, format=path.suffix[1:], dpi=2 * DPI, metadata=dates.get(path.suffix)
        )
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}", fix="name another --output") from None
    finally:
        temporary.unlink(missing_ok=True)


def _value(experiment: Experiment) -> float | None:
    return experiment.decision.value if experiment.decision else None


def _limits(view: RunView, contract: Contract) -> tuple[float, float]:
    """Show all that was kept and most of the rest; far outliers go to the edge."""
    sign = 1.0 if contract.metric.direction == "lower" else -1.0
    kept = [sign * value for each in view.kept if (value := _value(each)) is not None]
    rest = sorted(sign * value for each in view.decided if (value := _value(each)) is not None)
    best, worst = min(kept), max(kept)
    # Sign turned, lower is better: up to where a good part of the discards is seen.
    upper = max(worst, min(rest[-1], max(worst + 0.4 * (worst - best), rest[len(rest) // 2])))
    if worst == best:
        upper = max(worst, rest[int(0.9 * (len(rest) - 1))])
    if upper == best:
        half = max(0.75 * _width(view), 1e-3 * abs(best), 1e-9)
        return sign * best - half, sign * best + half
    span = upper - best
    ends = best - 0.12 * span, upper + 0.12 * span
    return min(sign * end for end in ends), max(sign * end for end in ends)


def _width(view: RunView) -> float:
    """How wide the interval of the best is."""
    made = view.kept[-1].decision
    if made is None or made.low is None or made.high is None:
        return 0.0
    return made.high - made.low


def _points(axes: Any, view: RunView, contract: Contract) -> None:
    """Discards light; what is off the scale, and what failed, as marks at the edges."""
    low, high = axes.get_ylim()
    low, high = low + EDGE * (high - low), high - EDGE * (high - low)
    lower = contract.metric.direction == "lower"
    others = [each for each in view.decided if each.decision and not _kept(each)]
    many = len(others) > RASTER_FROM
    look = {"alpha": 0.75, "linewidths": 0, "zorder": 2, "rasterized": many, "clip_on": False}
    size = 26 if len(others) < 200 else 14
    valued = [(each.number, value) for each in others if (value := _value(each)) is not None]
    if inside := [(number, value) for number, value in valued if low <= value <= high]:
        axes.scatter(*zip(*inside, strict=True), s=size, color=OTHER, label="discarded", **look)
    edges = axes.get_xaxis_transform()
    above = [number for number, value in valued if value > high]
    below = [number for number, value in valued if value < low]
    name: str | None = "off the scale"
    for numbers, marker, where in ((above, "^", 1 - EDGE / 2), (below, "v", EDGE / 2)):
        if numbers:
            axes.scatter(numbers, [where] * len(numbers), s=size, marker=marker, color=OTHER,
                         label=name, transform=edges, **look)  # fmt: skip
            name = None
    failed = [each for each in others if _value(each) is None]
    if failed:
        said = {Status.DISCARD: "ended early"}
        made = [each.decision.status for each in failed if each.decision]
        kinds = dict.fromkeys(said.get(status, status.value) for status in made)
        worst = 1 - EDGE / 2 if lower else EDGE / 2
        axes.scatter([each.number for each in failed], [worst] * len(failed), s=28, marker="x",
                     color=FAILED, linewidths=1.4, zorder=2, clip_on=False,
                     label=", ".join(kinds), transform=edges)  # fmt: skip


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
    axes.scatter(numbers, values, s=50, color=KEPT, edgecolors="white", linewidths=1, zorder=4,
                 label="kept")  # fmt: skip


def _dress(axes: Any, view: RunView, contract: Contract) -> None:
    metric = contract.metric
    first, last = _value(view.kept[0]), _value(view.kept[-1])
    assert first is not None and last is not None
    name = clean(metric.name, 40)
    tried, kept = len(view.decided) - 1, len(view.kept) - 1
    title = f"{name} {first:.5g}"
    if last != first:
        share = f" ({100 * abs(last - first) / abs(first):.3g} %)" if first else ""
        title += f" \N{RIGHTWARDS ARROW} {last:.5g}: {metric.gain(last, first):.3g} better{share}"
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=24)
    said = f"{tried} experiment{'' if tried == 1 else 's'}, {kept} kept"
    axes.annotate(said, (0, 1), xytext=(0, 8), xycoords="axes fraction",
                  textcoords="offset points", fontsize=9.5, color=PALE)  # fmt: skip
    reported = ", self-reported" if metric.self_reported else ""
    axes.set_ylabel(f"{name} ({metric.direction} is better{reported})")
    axes.set_xlabel("experiment")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, frameon=False, fontsize=9,
                borderaxespad=0.2, columnspacing=1.2, handletextpad=0.4)  # fmt: skip


# Labels that do not overlap. All have one slant: seen along it, they are upright rectangles.


def _labels(figure: Any, axes: Any, view: RunView, contract: Contract) -> None:
    """Name the kept experiments, the most useful ones where there is not room for all."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415
    from matplotlib.textpath import TextPath  # noqa: PLC0415

    up = contract.metric.direction == "lower"
    angle = math.radians(SLANT if up else -SLANT)
    texts = [(each, _name(each)) for each in view.kept if _value(each) is not None]
    texts = sorted(texts, key=lambda pair: -_worth(pair[0], view))[:LABELS]
    lengths = [
        TextPath((0, 0), text, size=LABEL_PT).get_extents().width * DPI / 72 for _, text in texts
    ]

    def place() -> tuple[list[Label], list[float | None]]:
        figure.draw_without_rendering()
        seen = axes.transData.transform
        labels = [
            Label(text, tuple(seen((each.number, _value(each)))), length, _worth(each, view))
            for (each, text), length in zip(texts, lengths, strict=True)
        ]
        dots = [seen((each.number, value)) for each in view.decided
                if (value := _value(each)) is not None]  # fmt: skip
        return labels, arrange(labels, [(float(x), float(y)) for x, y in dots], angle)

    labels, shifts = place()
    if _make_room(axes, labels, shifts, angle):
        labels, shifts = place()
    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    for label, shift in zip(labels, shifts, strict=True):
        if shift is None:
            continue
        rise = (GAP + shift) * (1 if up else -1)
        line = {"arrowstyle": "-", "color": KEPT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4,
                "relpos": (0.0, 0.0 if up else 1.0)}  # fmt: skip
        at = axes.transData.inverted().transform(label.at)
        note = axes.annotate(
            label.text, at, xytext=(4 * 72 / DPI, rise * 72 / DPI), textcoords="offset points",
            rotation=SLANT if up else -SLANT, rotation_mode="anchor", ha="left", va="center",
            fontsize=LABEL_PT, color=INK, zorder=5, annotation_clip=False, path_effects=halo,
            arrowprops=line if shift > 2 * GAP else None,
        )  # fmt: skip
        note.set_in_layout(False)


def _make_room(
    axes: Any, labels: Sequence[Label], shifts: Sequence[float | None], angle: float
) -> bool:
    """Widen the axes where labels would end outside of them; whether that was needed."""
    room = axes.bbox
    wide = tall = 1.0
    for label, shift in zip(labels, shifts, strict=True):
        if shift is None:
            continue
        along, up = label.at[0] - room.x0, label.at[1] - room.y0
        if angle < 0:
            up = room.height - up
        reach = label.length * math.cos(angle) + MARGIN
        climb = GAP + shift + label.length * abs(math.sin(angle)) + MARGIN
        wide = min(wide, (room.width - reach) / max(along, 1.0))
        tall = min(tall, (room.height - climb) / max(up, 1.0))
    start, end = axes.get_xlim()
    low, high = axes.get_ylim()
    axes.set_xlim(start, start + (end - start) / max(wide, SHRINK_MOST))
    more = (high - low) / max(tall, SHRINK_MOST)
    axes.set_ylim(*((low, low + more) if angle > 0 else (high - more, high)))
    return wide < 1 or tall < 1


def arrange(
    labels: Sequence[Label], dots: Sequence[tuple[float, float]], angle: float
) -> list[float | None]:
    """How far each label is moved away from its point; None where there is no room for it.

    Pixels. Labels come first come first served; covering a dot is a flaw, covering a label an
    error.
    """
    away = 1.0 if angle > 0 else -1.0
    cos, sin = math.cos(angle), math.sin(angle)

    def along(x: float, y: float) -> tuple[float, float]:
        return x * cos + y * sin, y * cos - x * sin

    seen = [along(*dot) for dot in dots]
    placed: list[tuple[float, float, float]] = []
    found: list[float | None] = []
    for label in labels:
        options = []
        for shift in SHIFTS:
            x, y = label.at[0] + 4, label.at[1] + away * (GAP + shift)
            u, v = along(x, y)
            end = u + label.length
            if any(abs(v - w) < LABEL_HEIGHT and u < b + 4 and a - 4 < end for a, b, w in placed):
                continue
            covered = sum(abs(v - q) < LABEL_HEIGHT / 2 and u < p < end for p, q in seen)
            options.append((covered * 14 + shift, float(shift), (u, end, v)))
        best = min(options, default=None)
        found.append(None if best is None else best[1])
        if best is not None:
            placed.append(best[2])
    return found


def _name(experiment: Experiment) -> str:
    text = cell(experiment.description) or experiment.kind.value
    mark = " (open)" if experiment.open else ""
    length = LABEL_LENGTH - len(mark)
    if len(text) > length:
        text = text[: length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return text + mark


def _worth(experiment: Experiment, view: RunView) -> float:
    """What a label tells: the baseline and the best first, then by gain."""
    if experiment is view.kept[0] or experiment is view.kept[-1]:
        return math.inf
    return (experiment.decision.gain or 0.0) if experiment.decision else 0.0


def _kept(experiment: Experiment) -> bool:
    return experiment.decision is not None and experiment.decision.status is Status.KEEP
