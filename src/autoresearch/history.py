"""What an agent in this process is handed of past experiments: their values, and their code."""

from __future__ import annotations

from statistics import fmean

from .journal.view import Experiment, Role, RunView, seconds_between
from .types import Past
from .workspace import Workspace

LENGTH = 300


class History:
    """The history of one run for its agents."""

    def __init__(self, view: RunView, workspace: Workspace) -> None:
        self._view = view
        self._workspace = workspace
        self._sources: dict[str, dict[str, str]] = {}
        self._pasts: dict[int, Past] = {}

    def past(self) -> list[Past]:
        """The baseline, what was kept, and the last experiments, oldest first."""
        chosen = {each.number: each for each in self._view.kept[-LENGTH:]}
        chosen |= {each.number: each for each in self._view.decided[-LENGTH:]}
        # Of the last time, all but the newest are there.
        self._pasts = {
            number: self._pasts.get(number) or self._past(chosen[number])
            for number in sorted(chosen)
        }
        return list(self._pasts.values())

    def pending(self, number: int) -> list[Past]:
        """The candidates in flight at this moment, but for that of experiment ``number``."""
        flight = self._view.in_flight.values()
        return [self._past(each) for each in flight if each.commit and each.number != number]

    def sources(self, commit: str) -> dict[str, str]:
        """The text of a commit's editable files by path."""
        if commit not in self._sources:
            if len(self._sources) > 2 * LENGTH:
                self._sources.clear()
            self._sources[commit] = self._workspace.sources(commit)
        return self._sources[commit]

    def _foretold(self, experiment: Experiment) -> float | None:
        """Of a run that was ended early only what its curve, or a first look, foretold is known."""
        curve = next((e.foretold for e in experiment.own if e.foretold is not None), None)
        looks, best = experiment.values(Role.LOOK), self._view.numbers.get(experiment.parent)
        if curve is not None or not looks or best is None or experiment.was is None:
            return curve
        usual = self._view.experiments[best].values(Role.LOOK)
        return experiment.was + fmean(looks) - fmean(usual) if usual else None

    def _past(self, experiment: Experiment) -> Past:
        decision = experiment.decision
        value = None if decision is None else decision.value
        if decision is not None and value is None:
            value = self._foretold(experiment)
        return Past(
            experiment.number, experiment.commit, experiment.parent, experiment.kind,
            decision.status if decision else None, value, experiment.description,
            lambda: self.sources(experiment.commit or experiment.parent),
            seconds_between(experiment.started, experiment.decided) if decision else 0.0,
        )  # fmt: skip
