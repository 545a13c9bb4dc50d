"""The tools of ``autoresearch mcp``; imported only where the extra is installed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from .. import __version__
from ..errors import AutoresearchError
from ..text import clean
from .mcp import LOG_LINES, ROWS, TEXT_LENGTH, Session

PRIORITY_MOST = 1000
Text = Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH)]
Number = Annotated[int, Field(ge=0)]
INSTRUCTIONS = """\
Improve a number by experiments. Call `state` for the goal and the files that you may edit, and
`history` for what was tried. Then loop: edit these files in place, one idea at a time, and call
`try_experiment` with reset = true, which measures and decides your edit and puts back the best
version. It may take many minutes; if your client gives up, call it again with the same files, and
it waits on. After a crash read `log_excerpt`. Every other file is protected. Do not run the
experiment yourself."""


def serve(session: Session) -> None:
    """Answer a client on stdin and stdout until it closes them."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await session.close()

    server = MCPServer(
        "autoresearch", instructions=INSTRUCTIONS, version=__version__, lifespan=lifespan,
        log_level="ERROR",
    )  # fmt: skip

    @server.tool(structured_output=False)
    def state() -> str:
        """The goal, the files that may be edited, and where the run stands."""
        with _said():
            return json.dumps(session.state())

    @server.tool(structured_output=False)
    def history(
        last: Annotated[int, Field(ge=1, le=ROWS)] = 20, before: Number | None = None
    ) -> str:
        """The last experiments, before a number if given: what was tried, its value, and why it
        ended as it did."""
        with _said():
            return session.history(last, before)

    @server.tool(structured_output=False)
    def log_excerpt(
        experiment: Number, lines: Annotated[int, Field(ge=1, le=LOG_LINES)] = 40
    ) -> str:
        """The last lines that an experiment's command printed."""
        with _said():
            return session.log_excerpt(experiment, lines)

    @server.tool(structured_output=False)
    async def try_experiment(description: Text, ctx: Context, reset: bool = False) -> str:
        """Measure and decide the editable files as they are in the directory now.

        `description` says in one line what you changed. With `reset` they are set to the best
        version afterwards, whatever was decided. Takes as long as the experiment.
        """

        async def tell(seconds: float, line: str) -> None:
            await ctx.report_progress(round(seconds, 1), None, line)

        with _said():
            return json.dumps(await session.try_experiment(description, reset, tell))

    @server.tool(structured_output=False)
    def propose_idea(
        text: Text, priority: Annotated[int, Field(ge=-PRIORITY_MOST, le=PRIORITY_MOST)] = 0
    ) -> str:
        """Queue an idea in words for a later experiment; the highest priority comes first."""
        with _said():
            return session.propose_idea(text, priority)

    server.run("stdio")


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Our errors are told to the client: what happened, and what to do."""
    try:
        yield
    except AutoresearchError as error:
        raise ToolError(clean(str(error), 2 * TEXT_LENGTH)) from None
