"""A task is measured on a node that sees no file of the engine's machine but what is sent."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch import config, git, sandbox
from autoresearch.attempt import RUNNER, Attempt, pack, unpack
from autoresearch.bench import Places
from autoresearch.engine import Engine
from autoresearch.run import FOLDER, Run
from autoresearch.types import Level, Limits, Outcome
from tests.faults.story import story

CONFINED = sandbox.probe()


class Elsewhere:
    """Runs each job while the task, its journal and all that was prepared for it are gone."""

    detached, shared = True, False

    def __init__(self, root: Path, nodes: Path) -> None:
        self.root = root
        self.nodes = nodes

    async def run(self, job: dict[str, Any]) -> dict[str, Any]:
        attempt = Attempt(Path(job["directory"]), job["nonce"])
        assert attempt.prepare(job)
        node = self.nodes / attempt.nonce
        node.mkdir(parents=True)
        zipfile.ZipFile(io.BytesIO(pack(attempt.folder))).extractall(node)
        gone = self.root.rename(self.root.with_name("gone"))
        try:
            argv = [sys.executable, "-I", "-S", "-B", RUNNER.name, "--attempt", "."]
            done = subprocess.run(argv, cwd=node, stdout=subprocess.PIPE, check=True)  # noqa: ASYNC221
        finally:
            gone.rename(self.root)
        unpack(attempt.folder, attempt.nonce, done.stdout.decode())
        result = attempt.result()
        assert result is not None
        return result

    async def close(self) -> None:
        pass


@pytest.mark.skipif(CONFINED.level is not Level.NAMESPACES, reason=CONFINED.reason)
@pytest.mark.parametrize("setup", [True, False])
def test_all_that_a_job_needs_is_sent(setup: bool, tmp_path: Path) -> None:
    task = story(tmp_path / "task")
    git.exclude(task.root, f"{FOLDER}/\ndata/")
    contract = config.load(task.root / config.NAME)
    contract = replace(contract, limits=Limits(experiments=1))
    if not setup:
        # The data then lie beside the person's contract, at the place where they are shown.
        contract = replace(contract, run=replace(contract.run, setup=None))
        (task.root / "data").mkdir()
        (task.root / "data" / "target").write_text("0.1")

    async def main() -> None:
        run = Run(Places(task.root / FOLDER / "t", task.root, task.root), "t")
        run.begin(contract, git.head(task.root), {})
        try:
            executor = Elsewhere(task.root, tmp_path / "nodes")
            await Engine(run, contract, CONFINED, executor).loop()
        finally:
            run.release()

    asyncio.run(main())
    view = task.view()
    assert task.statuses() == ["keep", "keep"] and view.experiments[1].guards_passed
    assert {each.sample.outcome for each in view.experiments[1].taken} == {Outcome.OK}
    log = task.run_folder / "experiments" / "1" / "samples" / "0" / "run.log"
    assert log.read_text() == "trained\n"
    sent = [path.name for path in (tmp_path / "nodes").rglob("target")]
    assert sent, "the hidden data were never there, and the evaluation saw them all the same"
