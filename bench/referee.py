"""The real keep rule with the engine's bookkeeping, over anything that can be measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from autoresearch.decide import (
    CheckGuards,
    Evidence,
    MoreSamples,
    Noise,
    Reference,
    Rule,
    Standing,
    decide,
    honest,
)
from autoresearch.journal.view import REFERENCES_KEPT
from autoresearch.types import Decision, Status

RECENT = 20
Code = TypeVar("Code")


@dataclass
class Referee(Generic[Code]):
    """One run: ``measure`` takes a sample of some code, None where it crashes."""

    measure: Callable[[Code], float | None]
    incumbent: Code
    baseline: int = 5
    rule: Rule = field(default_factory=lambda: Rule("lower"))
    decided: int = 0
    runs: int = 0
    closed: Noise = field(default_factory=Noise)
    references: list[Reference] = field(default_factory=list)
    confirmations: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.references = [Reference(self._sample(self.incumbent), 0) for _ in range(self.baseline)]

    @property
    def recorded(self) -> float:
        """What the run takes the incumbent's value to be."""
        return statistics.fmean(honest(self.standing().incumbent))

    def standing(self) -> Standing:
        values = [each.value for each in self.references]
        noise = self.closed.settle(values) if len(values) > 1 else self.closed
        return Standing(
            tuple(replace(each, age=self.decided - each.age) for each in self.references),
            noise,
            recent_confirmations=(sum(self.confirmations), len(self.confirmations)),
        )

    def experiment(self, candidate: Code, tokens: int = 0) -> tuple[Status, float | None]:
        """Try a candidate that adds so many syntax tokens: how it ended, and its value."""
        standing = self.standing()
        screen = self._try(candidate)
        if screen is None:
            self.decided += 1
            return Status.CRASH, None
        evidence = Evidence(tokens, screen)
        while not isinstance(step := decide(self.rule, standing, evidence), Decision):
            if isinstance(step, CheckGuards):
                evidence = replace(evidence, guards_passed=True)
            elif isinstance(step, MoreSamples) and step.of == "candidate":
                evidence = replace(evidence, fresh=(*evidence.fresh, self._sample(candidate)))
            else:
                more = (*evidence.incumbent_fresh, self._sample(self.incumbent))
                evidence = replace(evidence, incumbent_fresh=more)
        self.decided += 1
        self.references += [Reference(value, self.decided) for value in evidence.incumbent_fresh]
        del self.references[:-REFERENCES_KEPT]
        kept = step.status is Status.KEEP
        if evidence.fresh:
            self.confirmations = [*self.confirmations, kept][-RECENT:]
        if kept:
            self.closed = self.standing().noise
            self.references = [Reference(value, self.decided, True) for value in evidence.fresh]
            self.incumbent = candidate
        elif len(evidence.fresh) > 1:
            self.closed = self.closed.add(evidence.fresh)
        return step.status, step.value

    def _sample(self, code: Code) -> float:
        value = self._try(code)
        assert value is not None, "a sample crashed that had not before"
        return value

    def _try(self, code: Code) -> float | None:
        self.runs += 1
        return self.measure(code)
