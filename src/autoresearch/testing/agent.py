"""An agent whose edits are a function."""

from __future__ import annotations

from collections.abc import Callable

from ..types import Assignment, Proposal


class ScriptedAgent:
    """Calls ``edit`` with each assignment; it edits the workspace, and may raise ``AgentError``."""

    def __init__(self, edit: Callable[[Assignment], Proposal]) -> None:
        self._edit = edit

    async def propose(self, assignment: Assignment) -> Proposal:
        """Do one edit."""
        return self._edit(assignment)
