"""What becomes a candidate: an agent's edit, a person's change, or two gains brought together.

It is made in a copy of the parent, checked, and sealed; or it is refused, and never runs.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import combine, git, limits, registry, strategy
from .bench import Bench
from .desk import Desk
from .failpoint import failpoint
from .journal.view import Experiment
from .run import Run
from .scope import breach
from .scratch import remove
from .text import cell, clean
from .types import Decision, Json, Kind, Proposal, Status
from .workspace import Captured, Workspace


class Proposer:
    """Makes the candidates of one worker's experiments."""

    def __init__(self, run: Run, bench: Bench, workspace: Workspace, desk: Desk) -> None:
        self.run = run
        self.view = run.view
        self.contract = desk.contract
        self.bench = bench
        self.workspace = workspace
        self.desk = desk

    async def propose(self, record: Experiment) -> Decision | None:
        """Let the agent edit a copy of the parent and seal it; a decision where it never runs."""
        proposal, captured, problem = await self._edit(record)
        repeat = "" if problem else self._repeat(record, captured)
        if repeat and self._may_ask_again(record):
            self.run.append(
                "answered", record.number, answer=repeat, tokens=proposal.tokens,
                cost_usd=proposal.cost_usd,
            )  # fmt: skip
            if limits.stop(self.view, self.contract, self.run.active_s) is None:
                proposal, captured, problem = await self._edit(record, repeat)
                repeat = "" if problem else self._repeat(record, captured)
            else:
                proposal = replace(proposal, tokens=None, cost_usd=None)  # they count already
        self.run.append(
            "proposed",
            record.number,
            description=cell(proposal.description) or self._describe(record.parent, captured),
            hypothesis=clean(proposal.hypothesis, 1000),
            expected=clean(proposal.expected, 200),
            kind=proposal.kind.value if proposal.kind else None,
            tokens=proposal.tokens,
            cost_usd=proposal.cost_usd,
            dropped=list[Json](captured.changes.dropped[:20]),
        )
        if problem or repeat:
            return Decision(Status.REJECTED, problem or repeat)
        candidate = self.workspace.seal(
            record.parent,
            captured,
            f"{record.description}\n\nExperiment: {record.number}\n",
            self.run.candidate_ref(self.bench.slot.number),
        )
        self.run.append(
            "sealed",
            record.number,
            commit=candidate.commit,
            tokens_added=candidate.tokens_added,
            fingerprint=captured.fingerprint,
            form=captured.form,
        )
        return None

    async def _edit(self, record: Experiment, answer: str = "") -> tuple[Proposal, Captured, str]:
        """One edit of a copy of the parent, and why it must not run; ``answer`` to the one before.

        Raises:
            AgentError: there is none.
            StopAsyncIteration: the agent has no more.
        """
        folder = self.workspace.export(record.parent, self.bench.places.scratch / "agent")
        problem = ""
        clash = "" if record.combines is None else self._combine(record, folder)
        if record.combines is not None and not (clash and self.desk.reads):
            other = self.view.experiments[record.combines]
            onto = self._named_commit(record.parent)
            said = f"{other.description} (#{other.number} on top of {onto})"
            proposal, problem = Proposal(said, hypothesis=record.hypothesis), clash
        elif record.ticket:
            ticket = self.view.tickets[record.ticket]
            proposal = Proposal(ticket["message"], kind=Kind.IMPROVE)
            problem = self._fill(folder, ticket["files"], ticket.get("patch"))
        elif (idea := self.view.ideas.get(record.idea)) is not None and idea.code:
            proposal = Proposal(idea.text, hypothesis=idea.text, kind=Kind.IMPROVE)
            problem = self._fill(folder, {}, idea.patch)
        else:
            proposal = await self.desk.ask(record, folder, answer)
        if proposal.exhausted:
            self.run.append("exhausted")
            raise StopAsyncIteration
        failpoint("agent.ended")
        self.run.require_room()  # else the agent may have written half a file
        captured = self.workspace.capture(record.parent, folder)
        remove(folder)
        return proposal, captured, problem or breach(captured.changes) or ""

    def _combine(self, record: Experiment, folder: Path) -> str:
        """Put the change of another experiment on top of the parent; says what keeps it out."""
        assert record.combines is not None
        other, store = self.view.experiments[record.combines], self.run.store
        fork = strategy.parting(self.view, other.commit, record.parent)
        if not all(store.has(each) for each in (other.commit, fork)):
            return f"the code of #{other.number} was lost"
        clash = combine.merge(store, fork, other.commit, record.parent, folder)
        if clash and self._wins_alone(other):
            combine.take(store, other.commit, record.parent, folder, self.workspace.editable)
            return ""
        onto = self._named_commit(record.parent)
        return f"{clash}: #{other.number} and {onto} do not go together" if clash else ""

    def _wins_alone(self, other: Experiment) -> bool:
        """Whether an experiment's own value is better than the incumbent's."""
        made, best = other.decision, self.view.incumbent
        if made is None or made.value is None or best is None or best.decision is None:
            return False
        assert best.decision.value is not None
        return self.contract.metric.better(made.value, best.decision.value)

    def _named_commit(self, commit: str) -> str:
        number = self.view.numbers.get(commit)
        return commit[:7] if number is None else f"#{number}"

    def _fill(self, folder: Path, files: dict[str, Any], patch_base64: str | None) -> str:
        """Put what a person tries into the workspace; says what keeps it out."""
        contents = {p: None if c is None else base64.b64decode(c) for p, c in files.items()}
        combine.write(folder, contents)
        if patch_base64:
            patch = self.bench.places.scratch / "try.patch"
            patch.write_bytes(base64.b64decode(patch_base64))
            if problem := git.apply_patch(folder, patch):
                return f"the patch does not apply: {problem}"
        return ""

    def _describe(self, parent: str, captured: Captured) -> str:
        names = ", ".join(Path(path).name for path in captured.changes.changed[:3])
        return f"edit {names}" if names else "no change"

    def _repeat(self, record: Experiment, captured: Captured) -> str:
        """Which experiment a candidate repeats, and what came of it; empty where it is new."""
        how, number = "exact repeat of", self.view.fingerprints.get(captured.fingerprint)
        if number is not None and number == record.combines:
            return ""  # it is better than the incumbent as it is, which its screen alone has said
        if number is None:
            same = (each for each in self.view.in_flight.values() if each is not record)
            twins = [each for each in same if each.fingerprint == captured.fingerprint]
            if twins:
                return f"{how} #{twins[0].number}, which is being measured"
        if number is None and registry.reads(record.agent):
            number = self.view.forms.get(captured.form)
            how = "but for comments and layout a repeat of"
            # Fewer signs that say the same are less code, which may be kept for an equal result.
            twin = "" if number is None else self.view.experiments[number].commit
            if twin and self.run.store.has(twin):
                less = self.workspace.less_code(captured, record.parent, twin)
                number = None if less else number
        return "" if number is None else f"{how} {_named(self.view.experiments[number])}"

    def _may_ask_again(self, record: Experiment) -> bool:
        """Whether an agent proposed it that can take an answer."""
        return record.agent == self.desk.name and registry.reads(record.agent)


def _named(experiment: Experiment) -> str:
    """An experiment by its number, value and status."""
    assert experiment.decision is not None
    made = experiment.decision
    value = "" if made.value is None else f"{made.value:.6g}, "
    return f"#{experiment.number} ({value}{made.status.value})"
