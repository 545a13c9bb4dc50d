"""The optimizer and a coding agent in turns: one tunes constants, the other changes structure.

Constants that the coding agent has just introduced are tuned first. Whose turn it is follows from
the history alone (``turns.py``); the coding agent is told the optimizer's state in plain words.
Hybrids of this kind led the published comparison of optimizers and agents, arXiv 2603.24647.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import registry
from ..ports import Agent
from ..types import AgentChoice, Assignment, Json, Metric, Past, Proposal, Range
from .search import SearchAgent, dimensions_of, read_files
from .sources import Parsed
from .state_in_words import state
from .turns import new_constants, optimizer_next


class HybridAgent:
    """``[agent.hybrid] structure = "claude"``, whose own table stays ``[agent.claude]``."""

    def __init__(self, options: Mapping[str, Json], structure: Agent | None = None) -> None:
        self.search = SearchAgent()
        self.structure = structure or _structure(options)

    def ready(self, choice: AgentChoice) -> None:
        """See that the coding agent has credentials.

        Raises:
            UserError: it has none.
        """
        registry.require_credentials(self.structure, choice)

    async def propose(self, assignment: Assignment) -> Proposal:
        """Let the one whose turn it is edit the workspace.

        Raises:
            AgentError: the coding agent gave no proposal.
            UserError: the contract names an unknown constant.
        """
        files = read_files(assignment.workspace, assignment.editable)
        here = Parsed.of({path: text for path, (text, _) in files.items()})
        trials = self.search.trials((*assignment.history, *assignment.pending))
        varied = dimensions_of(here, trials, assignment.space, assignment.editable)
        new = new_constants(here, trials, varied)
        plan, history = assignment.plan, assignment.history
        if varied and optimizer_next(plan, history, assignment.metric, new):
            proposal = await self.search.propose(assignment, among=new)
            if not proposal.exhausted:
                return proposal
        return await self.structure.propose(assignment)

    def state(
        self,
        sources: Mapping[str, str],
        history: Sequence[Past],
        metric: Metric,
        space: Mapping[str, Range],
    ) -> list[str]:
        """What the optimizer knows about the constants of some files, in lines for a briefing."""
        here, trials = Parsed.of(sources), self.search.trials(history)
        varied = dimensions_of(here, trials, space, tuple(sources))
        new = new_constants(here, trials, varied)
        return state(here, varied, trials, metric, new)


def _structure(options: Mapping[str, Any]) -> Agent:
    name = str(options["structure"])
    choice = AgentChoice(name, env=tuple(options["env"]), options=options.get(name, {}))
    return registry.agent(choice, Path(options["root"]))
