"""Jobs on a real Slurm: controller and two nodes on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch import config, registry
from autoresearch.errors import ExecutorError, UserError
from autoresearch.executors import queue
from autoresearch.executors.queue import QueueExecutor
from autoresearch.executors.slurm import Slurm
from autoresearch.testing.executor_contract import ONCE, ExecutorContract, until
from tests.executors.cluster import Cluster


class TestSlurm(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, slurm: Cluster) -> None:
        self.slurm = slurm

    def make(self) -> QueueExecutor:
        scheduler = Slurm(None, (), "python3", 60.0)
        return QueueExecutor(scheduler, max_in_flight=4, poll_s=0.5, lost_s=2.0)

    def test_a_killed_engine_leaves_its_job_to_the_next(self) -> None:
        super().test_a_killed_engine_leaves_its_job_to_the_next()
        names = self.slurm.call("squeue", "--noheader", "--states=all", "--format=%j").split()
        assert len(names) == len(set(names)), "it was submitted twice"

    @pytest.mark.parametrize("node", ["n1", "n2"])
    def test_a_job_keeps_off_nodes_of_another_kind(self, node: str) -> None:
        job = self.job("true") | {"hardware": "fast"}

        async def main() -> dict[str, Any]:
            executor = self.make()
            executor._hardware = {name: "slow" for name in ("n1", "n2") if name != node}
            return await executor.run(job)

        assert asyncio.run(main())["node"] == node

    def lose(self, job: dict[str, Any]) -> Callable[[], None]:
        name = f"--name=autoresearch-{job['nonce']}"
        node = self.slurm.call("squeue", "--noheader", "--format=%N", name).strip()
        self.slurm.kill(node)
        return lambda: self.mend(node)

    def runner_of(self, job: dict[str, Any]) -> int:
        return int(Path(job["directory"], "claim").read_text().split()[1])

    def mend(self, node: str) -> None:
        self.slurm.start_node(node)
        self.slurm.wait(lambda: self.slurm.call("sinfo", "-h", "-o", "%T").split() == ["idle"])

    def test_a_node_that_cannot_start_a_runner_is_named_with_what_it_said(self) -> None:
        async def main() -> None:
            scheduler = Slurm(None, (), "/no/such/python3", 60.0)
            executor = QueueExecutor(scheduler, max_in_flight=4, poll_s=0.5, lost_s=1.0)
            with pytest.raises(ExecutorError, match=r"FAILED on n\d.*/no/such/python3: not found"):
                await executor.run(self.job("true"))

        asyncio.run(main())

    def test_a_job_that_shows_no_sign_of_life_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = self.job(ONCE)

        async def main() -> None:
            task = asyncio.ensure_future(self.make().run(job))
            await asyncio.to_thread(until, self.starts)
            monkeypatch.setattr(queue, "SILENT_S", 1.0)
            os.kill(self.runner_of(job), signal.SIGSTOP)
            with pytest.raises(ExecutorError, match="silent for 1 s: RUNNING"):
                await task

        asyncio.run(main())
        until(lambda: self.slurm.call("squeue", "--noheader") == "")


def test_slurm_is_asked_for_what_a_task_needs(tmp_path: Path) -> None:
    text = (
        '[task]\neditable = ["a"]\n[run]\ncommand = "b"\ncpus = 4\ngpus = 2\nmemory = "1GiB"\n'
        '[metric]\nname = "c"\n[parallel]\nexecutor = "slurm"\n'
        '[parallel.slurm]\npartition = "gpu"\nargs = ["--constraint=h100"]\n'
    )
    made = registry.executor(config.parse(text, tmp_path / config.NAME))
    assert isinstance(made, QueueExecutor) and isinstance(made.scheduler, Slurm)
    wanted = ["--cpus-per-task=4", "--partition=gpu", "--gres=gpu:2", "--mem=1383M"]
    assert (made.scheduler.wanted, made.scheduler.args) == (wanted, ("--constraint=h100",))
    assert (made.poll_s, made.lost_s, made.scheduler.margin_s) == (15, 60, 300)


def test_an_unknown_executor_is_an_input_error(tmp_path: Path) -> None:
    text = (
        '[task]\neditable = ["a"]\n[run]\ncommand = "b"\n[metric]\nname = "c"\n'
        '[parallel]\nexecutor = "pbs"\n[parallel.pbs]\nqueue = "long"\n'
    )
    contract = config.parse(text, tmp_path / config.NAME)
    assert contract.parallel.options["pbs"] == {"queue": "long"}
    with pytest.raises(UserError, match="no such executor") as caught:
        registry.executor(contract)
    assert caught.value.fix == "use one of local, ray, slurm"
