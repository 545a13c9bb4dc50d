"""What the whole history of a run teaches, distilled one experiment at a time. Pure.

What is kept here is bounded, and so is what one more experiment costs. Words and causes come from
agents and candidates: whoever shows them treats them as data.
"""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .calibration import Calibration
from .journal.view import Experiment
from .text import cell, clean
from .types import Kind, Metric, Outcome, Status

WORDS_KEPT = 1000
CAUSES_KEPT = 200
WORDS_EACH = 12
LEAST = 3
TOP = 5
MISSES = 10
FAILED = (Status.CRASH, Status.TIMEOUT)
UNTRIED = (*FAILED, Status.VOID)
PLATEAU = 10
SMALL = 50
SIZES = (
    "with less code", "with as much code", f"adding up to {SMALL} tokens of code",
    f"adding more than {SMALL} tokens of code",
)  # fmt: skip
TOPIC = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,39}")
NUMBER = r"(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])"
MOVE = re.compile(rf"(?<![\w.])([A-Za-z_][\w.:]{{0,39}}) {NUMBER} -> {NUMBER}")
# What usually helps, by what was said.
ADVICE = tuple(
    (re.compile(pattern, re.I), told)
    for pattern, told in (
        (r"GiB of|out of memory|memoryerror|\boom\b", "use less memory"),
        (r"s of .* s|killed after|still running", "do less in one run, the time is fixed"),
        (r"evaluation", "leave what the baseline leaves, in the same format"),
        (r"was printed|not a number|not a finite", "print the metric as the baseline does"),
        (r"modulenotfound|importerror|no module", "import only what is installed"),
        (r"(syntax|indentation|name|attribute)error", "read your change once more before you end"),
    )
)
# Words of every description, that say nothing about what was changed.
COMMON_WORDS = """
to in of on by at is it as or an be no so we up do if
the and with from for into use using used add added adding set sets try tried trying change changed
changes edit edits make makes made more less new old one two instead than then that this increase
increased increasing decrease decreased decreasing raise lower higher reduce reduced larger smaller
replace replaced remove removed slightly back not but also now its all each per out over after
before when while only both does experiment file line lines code value values was were are has have
better worse again without between idea
"""
COMMON = frozenset(COMMON_WORDS.split())


@dataclass(slots=True)
class Tally:
    """What came of the experiments that have something in common; gains in metric units."""

    tried: int = 0
    kept: int = 0
    failed: int = 0
    measured: int = 0
    gained: float = 0.0
    best: float | None = None

    def add(self, status: Status, gain: float | None) -> None:
        self.tried += 1
        self.kept += status is Status.KEEP
        self.failed += status in FAILED
        if gain is not None:
            self.measured += 1
            self.gained += gain
            self.best = gain if self.best is None else max(self.best, gain)


@dataclass(slots=True)
class Cause:
    """Why experiments never got a value, and the last ones that ended so."""

    count: int = 0
    said: str = ""
    description: str = ""
    last: deque[int] = field(default_factory=lambda: deque(maxlen=3))


class Lessons:
    """The history of a run in a bounded size; add its experiments as they are decided."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._seen = 0
        self.total = Tally()
        self.rejected = 0
        self.since_keep = 0
        self.sizes: dict[str, Tally] = {}
        self.kinds: dict[str, Tally] = {}
        self.topics: dict[str, Tally] = {}
        self.moves: dict[str, Tally] = {}
        self.causes: dict[str, Cause] = {}
        self.misses: list[tuple[float, int, Experiment]] = []
        self.gains: list[tuple[float, int, Experiment]] = []
        self.untried: deque[Experiment] = deque(maxlen=TOP)
        self.calibration = Calibration()

    def follow(self, decided: Sequence[Experiment]) -> None:
        """Add what was decided since the last time."""
        for number in range(self._seen, len(decided)):
            self.add(decided[number])
        self._seen = len(decided)

    def add(self, experiment: Experiment) -> None:
        """Take one more decided experiment into account."""
        made = experiment.decision
        assert made is not None
        if experiment.kind is Kind.BASELINE:
            return
        self.calibration.add(experiment, self._metric)
        if made.status is Status.REJECTED:
            self.rejected += 1
            return
        gain = gain_of(experiment, self._metric)
        self._count(experiment, made.status, gain)
        if made.status in FAILED:
            self._blame(experiment)
        if made.status in UNTRIED and experiment.hypothesis:
            self.untried.append(experiment)
        if made.status is Status.KEEP:
            self.since_keep = 0
            self.misses = []
            if gain is not None and gain > 0:
                _keep_best(self.gains, gain, experiment, TOP)
        else:
            self.since_keep += 1
            if made.status is Status.DISCARD and gain is not None:
                _keep_best(self.misses, gain, experiment, MISSES)

    def _count(self, experiment: Experiment, status: Status, gain: float | None) -> None:
        self.total.add(status, gain)
        self.kinds.setdefault(experiment.kind.value, Tally()).add(status, gain)
        if experiment.commit:
            self.sizes.setdefault(_size(experiment.tokens_added), Tally()).add(status, gain)
        for topic in topics(experiment.description):
            self.topics.setdefault(topic, Tally()).add(status, gain)
        for move in _moves(experiment.description):
            self.moves.setdefault(move, Tally()).add(status, gain)
        _forget_rare(self.topics)
        _forget_rare(self.moves)

    def _blame(self, experiment: Experiment) -> None:
        said = reason(experiment, 160)
        cause = self.causes.setdefault(re.sub(r"\d[\d.,]*", "N", said)[:80], Cause())
        cause.count += 1
        cause.said, cause.description = said, experiment.description
        cause.last.append(experiment.number)
        if len(self.causes) > CAUSES_KEPT:
            rarest = sorted(self.causes, key=lambda each: self.causes[each].count)
            for key in rarest[: CAUSES_KEPT // 2]:
                del self.causes[key]

    # As lines, most useful first

    def lines(self) -> list[str]:
        """What is to be learned from all experiments, one lesson a line."""
        total = self.total
        if not total.tried:
            return []
        never = f"; {self.rejected} more were rejected and never ran" if self.rejected else ""
        found = [f"in all: {_said(total)}{never}"]
        if self.since_keep >= PLATEAU:
            found.append(
                f"none of the last {self.since_keep} was kept: what is nearby seems exhausted,"
                " so change something of another kind"
            )
        found += [f"{size}: {_said(self.sizes[size])}" for size in SIZES if size in self.sizes]
        if len(self.kinds) > 1:
            found += [f"kind {name}: {_said(tally)}" for name, tally in _most(self.kinds, TOP)]
        good = {topic: each for topic, each in self.topics.items() if each.kept}
        bad = {topic: each for topic, each in self.topics.items() if _fails(each)}
        none = {topic: each for topic, each in self.topics.items() if not each.kept}
        found += [f'"{topic}": {_said(each)}' for topic, each in _most(good, TOP)]
        found += [f'"{topic}" tends to fail: {_said(each)}' for topic, each in _most(bad, TOP)]
        found += [
            f'"{topic}" brought nothing yet: {_said(each)}'
            for topic, each in _most({k: v for k, v in none.items() if k not in bad}, TOP)
        ]
        found += [f"{move}: {_said(each)}" for move, each in _most(self.moves, 2 * TOP)]
        return found

    def failures(self, most: int) -> list[str]:
        """Why experiments never got a value, the commonest first, and how to avoid it."""
        found = sorted(self.causes.values(), key=lambda each: (-each.count, -each.last[-1]))
        return [
            f"{each.count}x {each.said} ({', '.join(f'#{n}' for n in each.last)};"
            f" last: {cell(each.description, 80)}){_advice(each.said)}"
            for each in found[:most]
        ]


def reason(experiment: Experiment, length: int = 200) -> str:
    """Why an experiment ended as it did, as agents may read it: nothing hidden is in it."""
    made = experiment.decision
    assert made is not None
    if made.status is not Status.CRASH:
        return clean(made.reason, length)
    told = [each.told for each in experiment.own if each.outcome is Outcome.CRASH]
    return clean(told[-1], length) if told and told[-1] else "crashed"


def gain_of(experiment: Experiment, metric: Metric) -> float | None:
    """How much better than the incumbent of its time it was measured, in metric units."""
    made = experiment.decision
    if made is None or made.value is None or experiment.was is None:
        return None
    return metric.gain(made.value, experiment.was)


def topics(description: str) -> list[str]:
    """The words of a description that may say what was changed, at most twelve."""
    words = (word.lower() for word in TOPIC.findall(description))
    return [each for each in dict.fromkeys(words) if each not in COMMON][:WORDS_EACH]


def _moves(description: str) -> list[str]:
    """The named numbers that a description says were raised or lowered: ``LR 0.1 -> 0.2``."""
    found = []
    for name, before, after in MOVE.findall(description)[:WORDS_EACH]:
        old, new = float(before), float(after)
        if old != new:
            found.append(f"{name} {'raised' if new > old else 'lowered'}")
    return found


def _size(tokens_added: int) -> str:
    if tokens_added < 0:
        return SIZES[0]
    if tokens_added == 0:
        return SIZES[1]
    return SIZES[2] if tokens_added <= SMALL else SIZES[3]


def _fails(tally: Tally) -> bool:
    return tally.failed * 2 > tally.tried


def _most(found: Mapping[str, Tally], most: int) -> list[tuple[str, Tally]]:
    """What was tried a few times at least, most often first."""
    often = [(name, tally) for name, tally in found.items() if tally.tried >= LEAST]
    return heapq.nsmallest(most, often, key=lambda each: (-each[1].tried, each[0]))


def _said(tally: Tally) -> str:
    parts = [f"{tally.tried} tried", f"{tally.kept or 'none'} kept"]
    if tally.failed:
        parts.append(f"{tally.failed} crashed or ran out of time")
    if tally.best is not None:
        better = "better" if tally.best >= 0 else "worse"
        mean = tally.gained / tally.measured
        parts.append(
            f"at best {abs(tally.best):.2g} {better}, on average {abs(mean):.2g}"
            f" {'better' if mean >= 0 else 'worse'}"
        )
    return ", ".join(parts)


def _advice(said: str) -> str:
    return next((f": {told}" for pattern, told in ADVICE if pattern.search(said)), "")


def _keep_best(
    heap: list[tuple[float, int, Experiment]], gain: float, experiment: Experiment, most: int
) -> None:
    heapq.heappush(heap, (gain, experiment.number, experiment))
    if len(heap) > most:
        heapq.heappop(heap)


def _forget_rare(found: dict[str, Tally]) -> None:
    """Halve what has grown too large: what was tried least goes, and it costs little on average."""
    if len(found) > WORDS_KEPT:
        for name in sorted(found, key=lambda each: found[each].tried)[: WORDS_KEPT // 2]:
            del found[name]
