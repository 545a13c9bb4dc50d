"""Learning curves in what a run printed, as one line each. Pure; a log is a candidate's own text.

What a run says along its way tells an agent more than the one number at its end: whether it was
still falling when its time was over, went flat early, or diverged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .types import Direction

Trend = Literal["falling", "rising", "flat", "diverged", "short"]

NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf)"
METRIC = re.compile(rf"^METRIC\s+([\w./-]+)=({NUMBER})\s+step=({NUMBER})\s*$", re.I)
# "step 100", "iter: 100/500", "[epoch 3]", "progress: 0.4", "step=100", {"step": 100
PLACE = re.compile(
    rf"\b(?:global_step|step|iter|iteration|epoch|batch|update|progress)"
    rf"[\"']?\s*[:=#]?\s*\[?({NUMBER})",
    re.I,
)
# The contract's two forms of a value along the way, whatever else such a line holds.
ALONG = re.compile(
    r"(?:\A|(?<=[\r\n]))[ \t]*"
    r"(?:METRIC[ \t][^\r\n]*[ \t]step=\S*|progress:[^\r\n]*)[ \t]*(?=[\r\n]|\Z)",
    re.I,
)
PAIR = re.compile(rf"([A-Za-z_][\w./-]{{0,39}})[\"']?\s*[:=]?\s*({NUMBER})(?![\w.])", re.I)
# Of the many things that a run prints along its way, those that say how well it does.
TELLING = re.compile(r"loss|bpb|perplexity|ppl|err|acc|reward|score|nll|metric", re.I)

# Beyond it is what a program prints that has lost its way; its squares would be too large for us.
LARGEST = 1e100
LINE_LENGTH = 400
LINES_READ = 60_000
SERIES_KEPT = 20
CURVES_SHOWN = 2
# The last part of a curve that its trend is read from, and what is too little to call a change.
LAST_PART = 3
LITTLE = 0.01
FEWEST = 4
POINTS_KEPT = 200  # even


@dataclass(slots=True)
class Series:
    """One name's values along a run, as printed; not all of them are finite."""

    name: str
    at: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Curve:
    """A series in a few numbers: where it began, was in the middle, ended, and was best.

    ``change`` is what a line through its last third says it still changed there; ``diverged_at``
    where it ceased to be a finite number.
    """

    name: str
    points: int
    first: tuple[float, float]
    middle: tuple[float, float]
    last: tuple[float, float]
    best: tuple[float, float]
    trend: Trend
    change: float
    diverged_at: float | None = None


def curves(log: str, metric: str, direction: Direction, most: int = CURVES_SHOWN) -> list[Curve]:
    """The curves of a log that say most, the metric's own first; no more than ``most``."""
    found = sorted(
        (each for each in read(log).values() if len(each.at) > 1),
        key=lambda each: (each.name != metric, "val" not in each.name.lower(), -len(each.at)),
    )
    telling = [each for each in found if each.name == metric or TELLING.search(each.name)]
    return [
        _summary(each, direction if each.name == metric else _direction(each.name))
        for each in telling[:most]
    ]


def read(log: str) -> Mapping[str, Series]:
    """All series that are printed along a run, by name."""
    found: dict[str, Series] = {}
    # Progress bars end their lines by a carriage return.
    for line in re.split(r"[\r\n]+", log, maxsplit=LINES_READ)[:LINES_READ]:
        for name, at, value in _points(line[:LINE_LENGTH].strip()):
            if name not in found and len(found) >= SERIES_KEPT:
                continue
            series = found.setdefault(name, Series(name))
            series.at.append(at)
            series.values.append(value)
    return found


def _points(line: str) -> list[tuple[str, float, float]]:
    if match := METRIC.match(line):
        return [(match[1], at, _value(match[2]))] if abs(at := float(match[3])) < LARGEST else []
    place = PLACE.search(line)
    if place is None:
        return []
    at = float(place[1])
    if not abs(at) < LARGEST:
        return []
    rest = f"{line[: place.start()]} {line[place.end() :]}"
    return [(name, at, _value(value)) for name, value in PAIR.findall(rest)]


@dataclass(slots=True)
class Track:
    """One name's values along a run in the contract's two forms, as far as it was printed.

    ``at`` is the share of the run that is over where ``steps`` is false, else what the run counts
    in; it only grows, up to ``end``. Values may be infinite or no number; where there are many,
    each is the mean of ``each`` that follow one another.
    """

    steps: bool = False
    at: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    end: float = -1.0
    each: int = 1
    waiting: list[float] = field(default_factory=list)

    def add(self, line: str, name: str) -> bool:
        """Take one more line of a log into account; whether ``at`` and ``values`` grew."""
        line = line[:LINE_LENGTH].strip()
        if not ALONG.match(line):
            return False
        steps, before = line[0] in "Mm", self.at[-1:]
        for _, at, value in (found for found in _points(line) if found[0] == name):
            fits = self.end < 0 or steps == self.steps
            if fits and at >= 0 and at > self.end and (steps or at <= 1):
                self.steps, self.end = steps, at
                self._put(value)
        return self.at[-1:] != before

    def _put(self, value: float) -> None:
        self.waiting.append(value)
        if len(self.waiting) < self.each:
            return
        self.at.append(self.end)
        self.values.append(math.fsum(self.waiting) / self.each if self._finite() else math.nan)
        self.waiting.clear()
        if len(self.at) >= POINTS_KEPT:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.at, self.values = self.at[1::2], [(a + b) / 2 for a, b in pairs]
            self.each *= 2

    def _finite(self) -> bool:
        return all(map(math.isfinite, self.waiting))


def track(log: str, name: str) -> Track:
    """The intermediate values of a whole log."""
    found = Track()
    for line in re.split(r"[\r\n]+", log, maxsplit=LINES_READ)[:LINES_READ]:
        found.add(line, name)
    return found


def final(log: str) -> str:
    """A log without its intermediate values: none of them may be taken for the final one."""
    return ALONG.sub("", log)


def _value(text: str) -> float:
    value = float(text)
    return value if abs(value) < LARGEST else math.copysign(math.inf, value)


def _direction(name: str) -> Direction:
    return "higher" if re.search(r"acc|reward|score", name, re.I) else "lower"


def _summary(series: Series, direction: Direction) -> Curve:
    points = list(zip(series.at, series.values, strict=True))
    finite = [each for each in points if math.isfinite(each[1])]
    diverged_at = next((at for at, value in points if not math.isfinite(value)), None)
    if not finite:
        return Curve(series.name, len(points), points[0], points[len(points) // 2], points[-1],
                     points[0], "diverged", 0.0, diverged_at)  # fmt: skip
    best = (min if direction == "lower" else max)(finite, key=lambda each: each[1])
    trend, change = _trend(finite, direction)
    if diverged_at is not None:
        trend = "diverged"
    return Curve(series.name, len(points), points[0], points[len(points) // 2], points[-1], best,
                 trend, change, diverged_at)  # fmt: skip


def _trend(points: Sequence[tuple[float, float]], direction: Direction) -> tuple[Trend, float]:
    """What the last third does: a least-squares line, against the scatter around it."""
    if len(points) < FEWEST:
        return "short", points[-1][1] - points[0][1]
    values = [value for _, value in points]
    spread = max(values) - min(values)
    best = min(values) if direction == "lower" else max(values)
    lost = abs(values[-1] - best)
    worse = values[-1] > values[0] if direction == "lower" else values[-1] < values[0]
    if worse and spread > 0 and lost > spread / 2:
        return "diverged", values[-1] - best
    tail = points[-max(3, len(points) // LAST_PART) :]
    slope, scatter = _line(tail)
    change = slope * (tail[-1][0] - tail[0][0])
    # The standard error of a line's rise over n evenly spaced points (textbook): s * sqrt(12 / n).
    unsure = 2 * scatter * math.sqrt(12 / len(tail))
    if abs(change) <= max(unsure, LITTLE * spread):
        return "flat", change
    return ("falling" if change < 0 else "rising"), change


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope of the least-squares line, and the standard deviation of what is left."""
    count = len(points)
    mean_x = math.fsum(x for x, _ in points) / count
    mean_y = math.fsum(y for _, y in points) / count
    square = math.fsum((x - mean_x) ** 2 for x, _ in points)
    if square == 0:
        return 0.0, 0.0
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / square
    left = math.fsum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, math.sqrt(left / (count - 2)) if count > 2 else 0.0


def words(curve: Curve) -> str:
    """A curve as one line; its name is as the candidate printed it."""
    said = " -> ".join(
        f"{value:.4g} at {at:g}" for at, value in (curve.first, curve.middle, curve.last)
    )
    parts = [f"{curve.name}: {said} ({curve.points} points)"]
    if curve.best[1] != curve.last[1]:
        parts.append(f"best {curve.best[1]:.4g} at {curve.best[0]:g}")
    if curve.diverged_at is not None:
        parts.append(f"DIVERGED: not a number from {curve.diverged_at:g} on")
    elif curve.trend == "diverged":
        parts.append(f"DIVERGED: ended {curve.change:+.3g} from its best")
    elif curve.trend in ("falling", "rising"):
        parts.append(f"still {curve.trend} at the end ({curve.change:+.3g} in its last third)")
    elif curve.trend == "flat":
        parts.append(f"flat at the end ({curve.change:+.2g} in its last third)")
    return "; ".join(parts)
