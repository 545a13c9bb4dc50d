"""What every executor must do, as tests: subclass ``ExecutorContract`` in a test module.

    class TestMine(ExecutorContract):
        def make(self) -> Executor:
            return MyExecutor(...)

Needs pytest. Jobs run shell scripts at level ``none`` below ``tmp_path``, which the executor's
nodes must see under the same path. An executor that is not ``detached`` is not asked what only jobs
that outlive the engine can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..errors import ExecutorError, UnansweredError
from ..ports import Executor

PATIENCE_S = 90.0
# A child, one in a session of its own and a daemon, none of which ends when asked to.
FAMILY = """
trap '' TERM INT HUP
beat='trap "" TERM INT HUP; while :; do echo $0 >>alive; sleep 0.05; done'
sh -c "$beat" child & setsid sh -c "$beat" session &
(setsid sh -c "sh -c '$beat' daemon &" &)
until grep -q child alive && grep -q session alive && grep -q daemon alive; do sleep 0.05; done
echo started >>starts
"""
ONCE = "echo started >>starts; until test -e go; do sleep 0.05; done; echo done"


def until(condition: Callable[[], object]) -> None:
    """Wait for something to happen."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.05)


class ExecutorContract:
    """The tests; ``make`` is the only thing to provide, ``lose`` adds one more."""

    def make(self) -> Executor:
        """A new executor, as each engine makes one; called within a running event loop."""
        raise NotImplementedError

    def lose(self, job: dict[str, Any]) -> Callable[[], None] | None:
        """Break the node that runs a job for good, returning how to mend it; None if you cannot."""
        return None

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "shared"
        self.folder.mkdir()

    def job(self, script: str, *, deadline_s: float = 60.0) -> dict[str, Any]:
        """One step that runs a shell script in a folder that all attempts of a test share."""
        nonce = secrets.token_hex(8)
        directory = self.folder / nonce
        directory.mkdir()
        process = {
            "argv": ["/bin/sh", "-c", script], "cwd": str(self.folder), "stdin": None,
            "env": {"PATH": "/usr/bin:/bin"}, "log": str(directory / "log"), "cpu_s": None,
            "loopback": False,
        }  # fmt: skip
        step = {
            "name": "command", "processes": [process], "deadline_s": deadline_s, "writable": [],
        }  # fmt: skip
        return {
            "nonce": nonce, "directory": str(directory), "result": None, "steps": [step],
            "cores": None, "cpus": 1, "memory_bytes": 1 << 30, "processes": 64,
            "log_bytes": 1 << 16, "output_bytes": 1 << 22, "disk_bytes": 1 << 30, "inherit": [],
        }  # fmt: skip

    def log(self, job: dict[str, Any]) -> str:
        return Path(job["directory"], "log").read_text()

    def starts(self) -> int:
        """How often a script of this test has begun."""
        file = self.folder / "starts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job on a new executor, as an engine does: where nobody answers it asks again."""

        async def main() -> dict[str, Any]:
            executor = self.make()
            try:
                while True:
                    with contextlib.suppress(UnansweredError):
                        return await asyncio.wait_for(executor.run(job), PATIENCE_S)
                    await asyncio.sleep(0.5)
            finally:
                await executor.close()

        return asyncio.run(main())

    def run_in_an_engine(self, job: dict[str, Any]) -> int:
        """Run a job in a process of its own, to be killed; returns its number."""
        pid = os.fork()
        if pid == 0:
            try:
                self.run(job)
            finally:
                os._exit(0)
        return pid

    def nobody_is_alive(self) -> None:
        """Check that no process of ``FAMILY`` is alive, wherever it runs."""
        size = (self.folder / "alive").stat().st_size
        time.sleep(0.5)
        assert (self.folder / "alive").stat().st_size == size, "somebody still writes"

    # How a job ends

    def test_a_good_job(self) -> None:
        job = self.job("echo out; echo err >&2")
        result = self.run(job)
        assert result["nonce"] == job["nonce"] and result["node"] and result["hardware"]
        (step,) = result["steps"]
        assert (step["name"], step["outcome"], step["exit_code"]) == ("command", "ok", 0)
        assert step["usage"]["wall_s"] >= 0 and step["usage"]["peak_rss_bytes"] > 0
        assert self.log(job) == "out\nerr\n"

    def test_a_job_that_fails(self) -> None:
        (step,) = self.run(self.job("echo no; exit 3"))["steps"]
        assert (step["outcome"], step["exit_code"]) == ("failed", 3)

    def test_the_deadline_counts_from_the_start_and_leaves_nothing_alive(self) -> None:
        job = self.job(f"{FAMILY}\nwait", deadline_s=3.0)
        (step,) = self.run(job)["steps"]
        assert step["outcome"] == "timeout" and step["usage"]["wall_s"] < 15
        assert self.starts() == 1
        self.nobody_is_alive()

    def test_cancelling_leaves_nothing_alive(self) -> None:
        job = self.job(f"{FAMILY}\nwait")

        async def main() -> None:
            executor = self.make()
            task = asyncio.ensure_future(executor.run(job))
            await asyncio.to_thread(until, lambda: self.starts() or task.done())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            self.nobody_is_alive()
            await executor.close()

        asyncio.run(main())

    def test_jobs_one_after_the_other(self) -> None:
        for word in ("first", "second"):
            job = self.job(f"echo {word}")
            self.run(job)
            assert self.log(job) == f"{word}\n"

    # Engines that are killed, and attempts that are given up

    def test_a_killed_engine_leaves_its_job_to_the_next(self) -> None:
        detached = self.detached()
        job = self.job(ONCE if detached else f"{FAMILY}\nwait")
        engine = self.run_in_an_engine(job)
        until(self.starts)
        os.kill(engine, signal.SIGKILL)
        os.waitpid(engine, 0)
        if not detached:
            time.sleep(1)
            return self.nobody_is_alive()
        (self.folder / "go").touch()
        (step,) = self.run(job)["steps"]
        assert step["outcome"] == "ok" and self.log(job) == "done\n"
        assert self.starts() == 1, "it was measured again"
        return None

    def test_the_same_job_runs_once(self) -> None:
        self.needs_detached()
        job = self.job("echo started >>starts")
        first = self.run(job)
        assert self.run(job) == first
        assert self.starts() == 1

    def test_the_result_of_another_attempt_is_refused(self) -> None:
        self.needs_detached()
        job = self.job("echo mine")
        stale = {
            "nonce": "another",
            "node": "old",
            "hardware": "old",
            "account": "none",
            "steps": [],
        }
        Path(job["directory"], "result.json").write_text(json.dumps(stale))
        with contextlib.suppress(ExecutorError):
            assert self.run(job)["nonce"] == job["nonce"]

    def test_a_lost_node_means_another_attempt(self) -> None:
        job = self.job(ONCE)

        async def main() -> None:
            executor = self.make()
            task = asyncio.ensure_future(executor.run(job))
            await asyncio.to_thread(until, lambda: self.starts() or task.done())
            mend = await asyncio.to_thread(self.lose, job)
            if mend is None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await executor.close()
                pytest.skip("this suite was not told how to lose a node")
            try:
                with pytest.raises(ExecutorError) as lost:
                    await asyncio.wait_for(task, PATIENCE_S)
                assert not isinstance(lost.value, UnansweredError), "nobody said that it is lost"
                assert self.starts() == 1, "somebody ran it again"
                (self.folder / "go").touch()
                again = await asyncio.wait_for(executor.run(self.job("echo again")), PATIENCE_S)
                assert self.ok(again)
            finally:
                await asyncio.to_thread(mend)
                await executor.close()

        asyncio.run(main())

    def ok(self, result: dict[str, Any]) -> bool:
        return [step["outcome"] for step in result["steps"]] == ["ok"]

    def detached(self) -> bool:
        async def main() -> bool:
            return self.make().detached

        return asyncio.run(main())

    def needs_detached(self) -> None:
        if not self.detached():
            pytest.skip("its jobs end with the engine")
