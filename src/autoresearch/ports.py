"""The seams of autoresearch: what a plug-in implements, one to four methods each."""

from __future__ import annotations

from typing import Protocol

from .types import Assignment, Json, Proposal


class Agent(Protocol):
    """Something that edits the files of a workspace to try one idea.

    One that needs credentials may have a method ``ready(choice)``, called before anything is
    measured, which raises ``UserError`` where there are none. One that has an optimizer may have
    ``state(sources, history, metric, space)``: lines about it for the briefing.
    """

    async def propose(self, assignment: Assignment) -> Proposal:
        """Edit ``assignment.workspace`` and say what was done; raises ``AgentError``."""


class Executor(Protocol):
    """Somewhere to run jobs; a job and its result are plain data, described in ``runner.py``.

    The jobs of one that is ``detached`` outlive the engine: each has a directory of its own, and
    asking again for the job of a directory means the one that was submitted from it before. One
    that is not ``shared`` sends that directory, and nothing else, to where its jobs run.
    ``testing/executor_contract.py`` checks what an executor must do.
    """

    detached: bool
    shared: bool

    async def run(self, job: dict[str, Json]) -> dict[str, Json]:
        """Run one job to its end; cancelling kills it first.

        Raises ``ExecutorError`` where the attempt is lost, and where it is not but nobody answers
        ``UnansweredError``.
        """

    async def close(self) -> None:
        """Give back what the executor holds; nothing it started is left."""
