"""A queue whose nodes share no files with this machine: a node is a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoresearch.attempt import RUNNER, Attempt, pack, unpack
from autoresearch.errors import ExecutorError
from autoresearch.executors.queue import QueueExecutor, Scheduler, Seen, State
from autoresearch.testing.executor_contract import ExecutorContract


class Nodes(Scheduler):
    """Starts jobs at once, or with ``slow`` after seconds in which they wait for their turn."""

    def __init__(self, folder: Path, slow: float = 0.0) -> None:
        self.folder = folder
        self.slow = slow

    async def submit(self, attempt: Attempt, job: Mapping[str, Any], avoid: Sequence[str]) -> None:
        node = self.folder / attempt.name
        node.mkdir()
        zipfile.ZipFile(io.BytesIO(pack(attempt.folder))).extractall(node)
        runner = f"{sys.executable} -I -S -B {RUNNER.name} --attempt . >said 2>&1; touch over"
        script = f"sleep {self.slow}; touch begun; exec sh -c '{runner}'"
        child = subprocess.Popen(["sh", "-c", script], cwd=node, start_new_session=True)  # noqa: ASYNC220
        (node / "pid").write_text(str(child.pid))

    async def states(self, names: Sequence[str]) -> dict[str, Seen]:
        found = {}
        for name in names:
            if (node := self.folder / name).exists():
                running = State.RUNNING if (node / "begun").exists() else State.QUEUED
                found[name] = Seen(State.ENDED if (node / "over").exists() else running)
        return found

    async def collect(self, attempt: Attempt) -> None:
        said = self.folder / attempt.name / "said"
        unpack(attempt.folder, attempt.nonce, said.read_text() if said.exists() else "")

    async def cancel(self, name: str) -> None:
        node = self.folder / name
        claim = node / "claim"
        with contextlib.suppress(OSError):
            if claim.exists():
                os.kill(int(claim.read_text().split()[1]), signal.SIGTERM)
            else:
                os.killpg(int((node / "pid").read_text()), signal.SIGKILL)
                (node / "over").touch()


class TestNodes(ExecutorContract):
    def make(self, slow: float = 0.0, queued_s: float = 60.0) -> QueueExecutor:
        nodes = self.folder.parent / "nodes"
        nodes.mkdir(exist_ok=True)
        return QueueExecutor(
            Nodes(nodes, slow), max_in_flight=4, poll_s=0.2, lost_s=3.0, queued_s=queued_s,
            shared=False,
        )  # fmt: skip

    def test_only_the_wait_for_a_turn_counts_as_one(self) -> None:
        job = self.job("sleep 2; echo done")
        result: dict[str, Any] = asyncio.run(self.make(queued_s=1.0).run(job))
        assert result["steps"][0]["outcome"] == "ok" and self.log(job) == "done\n"
        with pytest.raises(ExecutorError, match="waited for its turn for 1 s"):
            asyncio.run(self.make(slow=30.0, queued_s=1.0).run(self.job("true")))
