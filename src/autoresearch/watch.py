"""Watches what a run in flight prints, and says when it cannot win any more.

What it is compared with follows from the journal and the logs beside it, so that an engine that
was killed compares with the same. Where a log cannot be read from here, nothing is ended.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from .bench import Places, Watching, read_text
from .curves import LINE_LENGTH, Track, track
from .hopeless import REMEMBERED, Complete, Field, Hopeless, judge, spared
from .journal.view import Experiment, Role, RunView
from .types import Contract, Outcome, Status

POLL_S = 0.25
READ_BYTES = 1 << 20
RUNS_EACH = 12  # of one kept code, the latest


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the log of a complete sample is, and the value it was given."""

    number: int
    k: int
    value: float
    wall_s: float


class Watch:
    """Knows the curves of what a run has kept."""

    def __init__(self, view: RunView, places: Places, contract: Contract) -> None:
        self._view = view
        self._places = places
        self._contract = contract
        self._followed = 0
        self._kept: dict[str, list[_Place]] = {}
        self._read: dict[_Place, Complete | None] = {}

    def over(self, role: Role, seed: int) -> Watching | None:
        """What watches a sample with this role and seed; None where it must run to its end.

        Ending samples of the incumbent, or those that confirm, would leave only the lucky ones.
        """
        if role is not Role.SCREEN or spared(seed) or not self._contract.run.early_end:
            return None
        field = self._field()
        return Watcher(self._contract.metric.name, field).until_hopeless if field.kept[-1] else None

    def _field(self) -> Field:
        for experiment in self._view.decided[self._followed :]:
            self._follow(experiment)
        self._followed = len(self._view.decided)
        places = {each for runs in self._kept.values() for each in runs}
        self._read = {each: self._read.get(each) or self._complete(each) for each in places}
        kept = [
            [found for each in runs if (found := self._read[each])] for runs in self._kept.values()
        ]
        return Field(self._contract.metric.direction, kept, len(self._view.decided))

    def _follow(self, experiment: Experiment) -> None:
        """Take a decided experiment into account; costs the same however long the run is."""
        assert experiment.decision is not None
        if experiment.decision.status is Status.KEEP:
            self._kept[experiment.commit] = []
            while len(self._kept) > REMEMBERED + 1:
                del self._kept[next(iter(self._kept))]
        for each in experiment.taken:
            sample = each.sample
            runs = self._kept.get(sample.commit)
            if each.role is Role.LOOK or runs is None:
                continue
            if sample.outcome is not Outcome.OK or sample.value is None:
                continue
            runs.append(_Place(experiment.number, each.k, sample.value, sample.usage.wall_s))
            del runs[:-RUNS_EACH]

    def _complete(self, place: _Place) -> Complete | None:
        log = self._places.sample(place.number, place.k) / "run.log"
        found = track(read_text(log), self._contract.metric.name)
        return Complete(found, place.value, place.wall_s) if found.at else None


class Watcher:
    """Watches one run."""

    def __init__(self, metric: str, field: Field) -> None:
        self._metric = metric
        self._field = field
        self._track = Track()

    async def until_hopeless(self, log: Path) -> Hopeless:
        """Follow a log that is being written until its run cannot win; else never return."""
        read, rest = 0, ""
        while True:
            await asyncio.sleep(POLL_S)
            data = _more(log, read)
            read += len(data)
            *lines, rest = re.split(r"[\r\n]", rest + data.decode("utf-8", errors="replace"))
            rest = rest[-LINE_LENGTH:]
            news = [self._track.add(line, self._metric) for line in lines]
            if any(news) and (found := judge(self._track, self._field)):
                return found


def _more(log: Path, offset: int) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(offset)
            return file.read(READ_BYTES)
    except OSError:
        return b""
