"""One verification as the journal holds it: which commits, which samples, and what came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from ..types import Json, Outcome, Sample

# What is said of a kept step that was left out.
SURVIVES, FALLS, INSEPARABLE = "survives", "does not survive", "not separable"


@dataclass(slots=True)
class Verification:
    """A verification as far as it has come; its samples belong to no experiment.

    An *arm* is a commit that is measured: the baseline, the incumbent (experiment ``experiment``,
    after ``kept`` steps), and with ``each`` the incumbent without something. ``milestone`` marks
    the short form of a running search.
    """

    number: int
    milestone: bool
    each: bool
    sealed: bool
    budget_s: float
    samples: int
    experiment: int
    kept: int
    started: str
    commits: dict[str, str] = field(default_factory=dict)
    taken: list[tuple[str, Sample]] = field(default_factory=list)
    attempts: int = 0
    in_flight: dict[str, Json] | None = None
    result: dict[str, Any] | None = None
    abandoned: str = ""
    ended: str = ""

    @property
    def lease(self) -> str:
        """The nonce of the sample in flight; empty without one."""
        return str(self.in_flight.get("lease", "")) if self.in_flight else ""

    @property
    def shares(self) -> list[float]:
        """What its samples lost of their cores to other programs, where that is known."""
        return [s.contention.share for _, s in self.taken if s.contention.core_s]

    def values(self, arm: str) -> list[float]:
        """The values of an arm's samples that have one."""
        return [
            sample.value for each, sample in self.taken if each == arm and sample.value is not None
        ]

    def voids(self, arm: str) -> list[Sample]:
        """The last samples of an arm, as far as they say nothing about it."""
        own = [sample for each, sample in self.taken if each == arm]
        return list(takewhile(lambda sample: sample.outcome is Outcome.VOID, reversed(own)))

    def failure(self, arm: str) -> Sample | None:
        """The first sample of an arm that crashed or ran out of time."""
        bad = (Outcome.CRASH, Outcome.TIMEOUT)
        return next((s for each, s in self.taken if each == arm and s.outcome in bad), None)
