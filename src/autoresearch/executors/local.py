"""Runs jobs on this machine through one long-lived ``runner.py``.

The runner is started from the engine's main thread and dies with the engine: it works only as
long as its standard input is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

from ..attempt import RUNNER
from ..errors import ExecutorError
from ..types import Contract, Json

ANSWER_BYTES = 1 << 20
# As a module it is compiled once; as a script, at every start.
SERVE = """
import os, sys
sys.path.append(os.path.dirname(sys.argv.pop()))
import runner
sys.exit(runner.main())
"""


def executor(contract: Contract) -> LocalExecutor:
    """The executor for this machine; it has no settings."""
    return LocalExecutor()


class LocalExecutor:
    """One job at a time on this machine."""

    detached = False
    shared = True

    def __init__(self) -> None:
        self._runner: asyncio.subprocess.Process | None = None

    async def run(self, job: dict[str, Json]) -> dict[str, Json]:
        """Run one job to its end; cancelling the task kills the job first.

        Raises:
            ExecutorError: the runner broke; says nothing about the candidate.
        """
        runner = await self._started()
        assert runner.stdin is not None and runner.stdout is not None
        runner.stdin.write(json.dumps(job).encode() + b"\n")
        answer = asyncio.ensure_future(runner.stdout.readline())
        try:
            line = await asyncio.shield(answer)
        except asyncio.CancelledError:
            runner.stdin.write(b"\n")
            await answer
            raise
        if not line:
            await self.close()
            raise ExecutorError("the job runner died")
        result: dict[str, Json] = json.loads(line)
        if "error" in result:
            await self.close()
            raise ExecutorError(f"the job runner failed: {result['error']}")
        return result

    async def _started(self) -> asyncio.subprocess.Process:
        if self._runner is None or self._runner.returncode is not None:
            self._runner = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", SERVE, str(RUNNER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=ANSWER_BYTES,
                start_new_session=True,
            )  # fmt: skip
        return self._runner

    async def close(self) -> None:
        """End the runner and with it everything it may still have below it."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        assert runner.stdin is not None
        runner.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(runner.wait(), 15)
        if runner.returncode is None:
            runner.kill()
            await runner.wait()
