"""What an agent expected of its change and what came of it. Pure.

An agent that must say beforehand how much a change will bring, and is shown how often it was
right, can learn which of its beliefs about this code hold.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .journal.view import Experiment
from .types import Metric

SHOWN = 10
NUMBER = r"(?:\d+(?:,\d{3})+|\d+)(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?"
SIGNED = re.compile(rf"(?<![\w.])([-+])\s?({NUMBER})\s*(%?)")
TARGET = re.compile(
    rf"(?:\bto|->|=>|\u2192|\breach(?:es|ing)?)\s+(?:about |around |~ ?)?({NUMBER})(?!\s*%)"
)
PLAIN = re.compile(rf"(?<![\w.])({NUMBER})\s*(%?)")
DOWN = re.compile(r"\b(?:lower|less|reduc|decreas|drop|fall|down|smaller|shrink|cut)", re.I)
UP = re.compile(r"\b(?:higher|more|increas|rais|ris|up\b|grow|larger|bigger|climb)", re.I)
BETTER = re.compile(r"\b(?:better|improv|gain|help|win)", re.I)
WORSE = re.compile(r"\b(?:worse|degrad|hurt|regress|loss of)", re.I)
NONE = re.compile(
    r"\b(?:no change|unchanged|neutral|equal|the same|no effect|no difference)\b", re.I
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """How the metric was expected to move: ``sign`` is -1, 0 or 1; ``change`` in its units."""

    sign: int
    change: float | None = None


def expectation(text: str, metric: Metric, was: float | None) -> Expectation | None:
    """What an agent's words say about the metric's change; None where they say nothing clear.

    Read are a number with a sign, a value that is to be reached, or a number or nothing beside
    words for a direction. ``was`` is the incumbent's value, for percentages and targets.
    """
    text = text.replace("\u2212", "-").replace("\u2013", "-")
    if found := SIGNED.search(text):
        return _expected(float(f"{found[1]}{_plain(found[2])}"), found[3], was)
    if was is not None and (found := TARGET.search(text)):
        return _expected(_plain(found[1]) - was, "", was)
    sign = _sign(text, metric)
    if sign is None:
        return None
    found = PLAIN.search(text)
    return (
        _expected(sign * _plain(found[1]), found[2], was) if found and sign else Expectation(sign)
    )


def _plain(number: str) -> float:
    return float(number.replace(",", ""))


def _expected(change: float, percent: str, was: float | None) -> Expectation | None:
    sign = (change > 0) - (change < 0)
    if abs(change) > 1e100:
        return None
    if not percent:
        return Expectation(sign, change)
    return Expectation(sign, None if was is None else change / 100 * abs(was))


def _sign(text: str, metric: Metric) -> int | None:
    if NONE.search(text):
        return 0
    # Which word comes first is meant: "lower loss, more memory".
    good = -1 if metric.direction == "lower" else 1
    found = [
        (match.start(), sign)
        for pattern, sign in ((DOWN, -1), (UP, 1), (BETTER, good), (WORSE, -good))
        if (match := pattern.search(text))
    ]
    return min(found)[1] if found else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One expectation beside what was measured; ``change`` as the metric moves."""

    number: int
    expected: Expectation
    change: float

    @property
    def right(self) -> bool:
        """Whether the metric moved the way that was expected."""
        return self.expected.sign == (self.change > 0) - (self.change < 0)


@dataclass(slots=True)
class Calibration:
    """The last expectations that were measured, oldest first, and counts of all of them."""

    measured: int = 0
    right: int = 0
    last: deque[Outcome] = field(default_factory=lambda: deque(maxlen=SHOWN))

    @classmethod
    def of(cls, decided: Iterable[Experiment], metric: Metric) -> Calibration:
        """That of a whole run."""
        found = cls()
        for experiment in decided:
            found.add(experiment, metric)
        return found

    def add(self, experiment: Experiment, metric: Metric) -> None:
        """Take one more decided experiment into account."""
        if (found := outcome(experiment, metric)) is not None:
            self.measured += 1
            self.right += found.right
            self.last.append(found)

    @property
    def last_right(self) -> int:
        """How many of the last expectations were right in sign."""
        return sum(each.right for each in self.last)

    @property
    def mean_error(self) -> float | None:
        """How far the last expectations in numbers were off, on average, in metric units."""
        errors = [
            abs(each.change - each.expected.change)
            for each in self.last
            if each.expected.change is not None
        ]
        return sum(errors) / len(errors) if errors else None

    @property
    def mean_change(self) -> float | None:
        """How far the metric moved in these, on average; what an error compares with."""
        moved = [abs(each.change) for each in self.last if each.expected.change is not None]
        return sum(moved) / len(moved) if moved else None

    def words(self) -> str:
        """One sentence; empty where nothing was expected and measured yet."""
        if not self.last:
            return ""
        said = f"last {len(self.last)} expectations: {self.last_right} right in sign"
        if self.mean_error is not None:
            said += f", mean error {self.mean_error:.2g} where the metric moved by"
            said += f" {self.mean_change:.2g} on average"
        if self.measured > len(self.last):
            said += f"; of all {self.measured}, {self.right} right in sign"
        return said


def outcome(experiment: Experiment, metric: Metric) -> Outcome | None:
    """What became of an experiment's expectation; None where there is none, or no value."""
    made, was = experiment.decision, experiment.was
    if made is None or made.value is None or was is None or not experiment.expected:
        return None
    expected = expectation(experiment.expected, metric, was)
    if expected is None:
        return None
    return Outcome(experiment.number, expected, made.value - was)
