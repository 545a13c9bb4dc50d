"""Whether a run in flight can still win: its curve beside those of what was kept. Pure.

A curve is a candidate's own word, so nothing is ever kept or measured by one: all that follows is
that the run which printed it gets less time. Only curves of kept code are compared with, each of
them tied to a value that was measured (``_believed``).
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .curves import Track
from .types import Direction

# Chosen on recorded searches (bench/early_end.py); docs/early-end.md has the figures.
FIRST, LAST = 0.5, 0.9  # the part of a run in which it may be ended
WINDOW = 0.1  # of a run: what is averaged, as single values are noisy
BACK = 0.2  # of a run: over this the pace is measured at which it catches up
NOISES = 4.0  # how far beyond what kept steps were behind, in noise widths of equal code
EXPERIMENTS, STEPS = 5, 1  # nothing is ended before so many were decided, and so many kept
ODD = 2.0  # how far from those of other kept code a curve's last part may be, in spreads
REMEMBERED = 8  # kept steps that are looked at, the latest
SPARED = 8  # one screen in so many is never ended
REPEATS = 3  # runs of equal code beyond the first that must be known, to know the noise


@dataclass(frozen=True, slots=True)
class Complete:
    """A run that was measured: what it printed along its way, and the value it was given."""

    track: Track
    value: float
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Field:
    """What a run is compared with: the runs of all that was kept, the incumbent's last.

    ``decided`` is how many experiments were decided so far.
    """

    direction: Direction
    kept: Sequence[Sequence[Complete]]
    decided: int


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Why a run cannot win: at this share of it, its value and the incumbent's there.

    ``foretold`` is about what it would have come to, for choosing what to try next; no value.
    ``usual_s`` is how long the incumbent's command takes, in wall time.
    """

    at: float
    value: float
    incumbent: float
    foretold: float | None
    usual_s: float = 0.0

    def said(self, used_s: float) -> str:
        """The reason as people read it, of a command that ran for ``used_s``."""
        saved_s = self.usual_s - used_s
        saved = f", {saved_s:.0f} s saved" if saved_s >= 0.5 else ""
        return (
            f"at {100 * self.at:.0f} % it was {self.value:.4g}, the incumbent {self.incumbent:.4g}"
            f" there: ended early{saved}"
        )


def spared(seed: int) -> bool:
    """Whether a screen runs to its end whatever it prints, by the seed that the engine gave it.

    Else nobody would ever see that what starts slowly can win.
    """
    return seed % SPARED == 0


def judge(track: Track, field: Field) -> Hopeless | None:
    """Whether a run will end behind the incumbent by more than any kept step seemed to, and noise.

    What is looked at is how far it is behind and, where it is catching up, how far it would be
    behind at the end if it went on catching up at that pace. A kept step is code that was kept,
    beside the code it replaced, after the same share of a run.
    """
    kept = field.kept[-REMEMBERED - 1 :]
    if field.decided < EXPERIMENTS or len(field.kept) <= STEPS or not track.at:
        return None
    length = _length(track, [each for runs in kept for each in runs])
    if length is None or not FIRST <= (share := track.at[-1] / length) <= LAST:
        return None
    # Turned so that lower is better; what is no number any more is worse than all others.
    sign = 1.0 if field.direction == "lower" else -1.0
    places = [x for x in track.at if x > (share - WINDOW) * length]
    here = _Here.of(track, places, BACK * length, sign)
    if here is None:
        return None
    others = [
        [found for each in runs if (found := _Here.of(each.track, places, BACK * length, sign))]
        for runs in kept
    ]
    others = [[each for each in found if math.isfinite(each.now)] for found in others]
    noise = _noise([[each.now for each in found] for found in others])
    if noise is None or not others[-1]:
        return None
    ends = [sign * statistics.fmean(each.value for each in runs) for runs in kept]
    known = [(end, _Here.middle(found)) for end, found in zip(ends, others, strict=True) if found]
    steps = [each for _, each in known]
    most = max([0.0, *(new.will_be_behind(old, share) for old, new in pairwise(steps))])
    incumbent = _believed(known, noise)
    behind = here.will_be_behind(incumbent, share)
    if behind <= most + NOISES * noise:
        return None
    foretold = sign * (ends[-1] + behind) if math.isfinite(behind) else None
    usual_s = statistics.median(each.wall_s for each in kept[-1])
    return Hopeless(share, sign * here.now, sign * incumbent.now, foretold, usual_s)


@dataclass(frozen=True, slots=True)
class _Here:
    """Where a curve is, lower being better, and where it was ``BACK`` of a run before."""

    now: float
    before: float

    @classmethod
    def of(cls, track: Track, places: Sequence[float], back: float, sign: float) -> _Here | None:
        """Means over the same places for each curve; None for one that does not reach so far."""
        now = [_value_at(track, x) for x in places]
        before = [_value_at(track, x - back) for x in places]
        known = [each for each in (*now, *before) if each is not None]
        if len(known) < 2 * len(places):
            return None
        if not all(map(math.isfinite, known)):
            return cls(math.inf, math.inf)
        half = len(places)
        return cls(sign * statistics.fmean(known[:half]), sign * statistics.fmean(known[half:]))

    @classmethod
    def middle(cls, found: Sequence[_Here]) -> _Here:
        return cls(
            statistics.median(each.now for each in found),
            statistics.median(each.before for each in found),
        )

    def will_be_behind(self, other: _Here, share: float) -> float:
        """How far behind another curve at the end; it may catch up, but not fall back further."""
        if not math.isfinite(self.now):
            return math.inf
        behind = self.now - other.now
        caught_up = max(0.0, (self.before - other.before) - behind)
        return behind - caught_up * (1 - share) / BACK


def _length(track: Track, runs: Sequence[Complete]) -> float | None:
    """Where the count of a whole run ends; None where that is not the same for all."""
    if any(each.track.steps != track.steps for each in runs):
        return None
    lengths = {each.track.end for each in runs} if track.steps else {1.0}
    return max(lengths) if len(lengths) == 1 and max(lengths) > 0 else None


def _value_at(track: Track, x: float) -> float | None:
    """A curve between its points, along straight lines; None outside of it."""
    i = bisect_left(track.at, x)
    if i < len(track.at) and track.at[i] == x:
        found = track.values[i]
    elif 0 < i < len(track.at):
        share = (x - track.at[i - 1]) / (track.at[i] - track.at[i - 1])
        found = (1 - share) * track.values[i - 1] + share * track.values[i]
    else:
        return None
    return found


def _noise(there: Sequence[Sequence[float]]) -> float | None:
    """How much runs of equal code differ there, as a standard deviation; None if not known."""
    repeated = [each for each in there if len(each) > 1]
    dof = sum(len(each) - 1 for each in repeated)
    if dof < REPEATS:
        return None
    return math.sqrt(sum(statistics.variance(each) * (len(each) - 1) for each in repeated) / dof)


def _believed(known: Sequence[tuple[float, _Here]], noise: float) -> _Here:
    """Where the incumbent was: the last of what was kept, each given with its measured value.

    Unless its own curve does not fit what it was measured to be.

    From there on the runs of kept code improve by similar amounts. Where the incumbent says that it
    was good early and then measures no better, its code may have made that up, or print something
    else than before: then it counts as having improved as much as any.
    """
    falls = [each.now - end for end, each in known]
    usual = statistics.median(falls)
    spread = 1.4826 * statistics.median(abs(fall - usual) for fall in falls)
    if falls[-1] >= usual - ODD * max(spread, noise):
        return known[-1][1]
    there = known[-1][0] + max(falls)
    return _Here(there, there)
