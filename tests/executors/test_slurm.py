"""Jobs on a real Slurm: controller and two nodes on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from autoresearch.executors.queue import QueueExecutor
from autoresearch.executors.slurm import Slurm
from autoresearch.testing.executor_contract import ExecutorContract
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

    def mend(self, node: str) -> None:
        self.slurm.start_node(node)
        self.slurm.wait(lambda: self.slurm.call("sinfo", "-h", "-o", "%T").split() == ["idle"])
