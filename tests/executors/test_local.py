"""The local executor keeps the contract that all executors keep."""

from __future__ import annotations

from autoresearch.executors.local import LocalExecutor
from autoresearch.ports import Executor
from autoresearch.testing.executor_contract import ExecutorContract


class TestLocal(ExecutorContract):
    def make(self) -> Executor:
        return LocalExecutor()
