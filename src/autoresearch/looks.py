"""What first looks at a smaller budget have decided, and whether they tell good from bad.

They do so far as they order candidates as the whole budget does: Spearman's rank correlation (The
American Journal of Psychology 15:72, 1904) over the candidates that were measured with both. Those
are the ones that a look did not end, and the few that were spared, so it is rather too low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import correlation, fmean

from .journal.view import Experiment, Role
from .types import Status

LEAST = 5


@dataclass(frozen=True, slots=True)
class Looks:
    """How many candidates were looked at, how many that ended, and the rank correlation.

    ``both`` were measured with the whole budget as well; ``ranks`` is None below five of them, and
    where all are equal.
    """

    taken: int
    ended: int
    both: int
    ranks: float | None

    def words(self) -> str:
        """For people; empty where there were none."""
        if not self.taken:
            return ""
        said = f"{self.taken} first looks ended {self.ended} experiments"
        if self.ranks is not None:
            said += f", rank correlation with the whole budget {self.ranks:.2f} over {self.both}"
        return said


def looks(decided: Sequence[Experiment]) -> Looks:
    """Those of decided experiments; the baseline is the first of them."""
    pairs = [
        (fmean(each.values(Role.LOOK)), fmean(each.estimate))
        for each in decided
        if each.values(Role.LOOK) and each.estimate
    ]
    seen = [each for each in decided if each.values(Role.LOOK) and not each.values(Role.BASELINE)]
    ended = [
        each for each in seen
        if not each.estimate and each.decision and each.decision.status is Status.DISCARD
    ]  # fmt: skip
    return Looks(len(seen), len(ended), len(pairs), _rank_correlation(pairs))


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < LEAST:
        return None
    first, second = (_ranks(column) for column in zip(*pairs, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return correlation(first, second)


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each in the order of all; equals share the mean of theirs."""
    order = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(order)))}
    return [first[value] + (math.fsum(each == value for each in order) - 1) / 2 for value in values]
