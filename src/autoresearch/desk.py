"""What an agent is handed for one iteration, and how a process of its own is started.

Agents keep no memory between calls: whatever they may know is in the assignment that is made here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from . import git, registry
from .bench import Bench, Places, read_text
from .briefing import briefing
from .errors import AgentError
from .journal.view import Experiment
from .ports import Agent
from .run import Run
from .sandbox import Mount
from .scratch import fresh
from .types import (
    AgentFailure,
    Assignment,
    Contract,
    Inside,
    Launched,
    Past,
    Plan,
    Proposal,
    Status,
)
from .workspace import Workspace

HISTORY = 300
INSIDE_TASK = Path("/task")
FAILED = (Status.CRASH, Status.TIMEOUT)


class Desk:
    """Where the agent of a run works."""

    def __init__(self, run: Run, contract: Contract, bench: Bench, workspace: Workspace) -> None:
        self.run = run
        self.view = run.view
        self.contract = contract
        self.bench = bench
        self.workspace = workspace
        self.agent: Agent = registry.agent(contract.agents[0], contract.root)
        self.seat = Seat(contract, bench, run.places)
        self._sources: dict[str, dict[str, str]] = {}

    async def ask(self, record: Experiment, folder: Path) -> Proposal:
        """Let the agent edit ``folder``, an export of the experiment's parent.

        Raises:
            AgentError: it could not be asked, failed, or did not answer in time.
        """
        choice = self.contract.agents[0]
        directory = self.run.places.experiment(record.number)
        directory.mkdir(parents=True, exist_ok=True)
        plan = Plan(record.parent, record.kind, record.hypothesis)
        brief = directory / "briefing.md"
        log = self._last_failure()
        brief.write_text(
            briefing(self.view, self.contract, plan, self._instructions(), log), encoding="utf-8"
        )
        (directory / "proposal.json").unlink(missing_ok=True)

        async def launch(argv: Any, env: Any, stdin: Path | None) -> Launched:
            return await self.seat.launch(directory, folder, argv, env, stdin)

        assignment = Assignment(
            number=record.number,
            workspace=folder,
            editable=self.workspace.editable_files(record.parent),
            plan=plan,
            seed=self.view.seed_of(record.number, -1),
            metric=self.contract.metric,
            space=self.contract.space,
            history=self._history(),
            briefing=brief,
            directory=directory,
            turn=sum(1 for each in self.view.decided[1:] if not each.open and each.repeats is None),
            launch=launch,
            inside=self.seat.inside(directory, folder),
        )
        try:
            async with asyncio.timeout(choice.timeout_s + 60):
                return await self.agent.propose(assignment)
        except TimeoutError as error:
            raise AgentError(
                f"{choice.use} did not answer within its timeout", failure=AgentFailure.TIMEOUT
            ) from error

    def _instructions(self) -> str:
        """What the person says now, read anew each time; nothing where it cannot be read."""
        path = self.contract.task.instructions
        with contextlib.suppress(OSError):
            return (self.contract.root / path).read_text("utf-8", "replace") if path else ""
        return ""

    def _last_failure(self) -> str:
        """What the last experiment printed, where it crashed or ran out of time."""
        last = self.view.decided[-1]
        if not last.taken or not last.decision or last.decision.status not in FAILED:
            return ""
        return read_text(self.run.places.sample(last.number, last.taken[-1].k) / "run.log")

    def _history(self) -> list[Past]:
        """The baseline, what was kept, and the last experiments, oldest first."""
        chosen = {each.number: each for each in self.view.kept[-HISTORY:]}
        chosen |= {each.number: each for each in self.view.decided[-HISTORY:]}
        return [self._past(chosen[number]) for number in sorted(chosen)]

    def _past(self, experiment: Experiment) -> Past:
        decision = experiment.decision
        assert decision is not None
        return Past(
            experiment.number, experiment.commit, experiment.parent, experiment.kind,
            decision.status, decision.value, experiment.description,
            lambda: self._read_sources(experiment.commit or experiment.parent),
        )  # fmt: skip

    def _read_sources(self, commit: str) -> dict[str, str]:
        if commit not in self._sources:
            if len(self._sources) > 2 * HISTORY:
                self._sources.clear()
            self._sources[commit] = self.workspace.sources(commit)
        return self._sources[commit]


class Seat:
    """Where an agent's own process works: what it is shown, and how it is started."""

    def __init__(self, contract: Contract, bench: Bench, places: Places) -> None:
        self.contract = contract
        self.bench = bench
        self.places = places

    def _mounts(self, directory: Path) -> list[Mount]:
        """What an agent's process is shown beside the workspace."""
        answer = self.bench.places.scratch / "answer"
        return [
            Mount(directory / "briefing.md", INSIDE_TASK / "briefing.md"),
            Mount(answer, INSIDE_TASK / "answer", writable=True),
        ]

    def inside(self, directory: Path, folder: Path) -> Inside:
        """The paths of an assignment as the process will see them."""
        places = self.places
        mounts = [*self._mounts(directory), Mount(folder, places.repository, writable=True)]
        workspace, briefing, proposal = (
            self.bench.sandbox.place(at, mounts)
            for at in (
                places.root, INSIDE_TASK / "briefing.md", INSIDE_TASK / "answer" / "proposal.json"
            )
        )  # fmt: skip
        return Inside(workspace, briefing, proposal)

    async def launch(
        self, directory: Path, folder: Path, argv: Any, env: Any, stdin: Path | None
    ) -> Launched:
        """Start an agent's own process, confined, in the workspace."""
        choice, root = self.contract.agents[0], self.contract.root
        git.disposable_repository(folder)
        answer = self.bench.places.scratch / "answer"
        fresh(answer)
        extra = self._mounts(directory)
        argv = list(argv)
        program = root / argv[0]
        if "/" in argv[0] and program.is_file():
            argv[0] = str(program)
            extra.append(Mount(program, program))
        passed = {name: value for name in choice.env if (value := os.environ.get(name)) is not None}
        launched = await self.bench.launch(
            folder,
            directory / "agent.log",
            argv,
            {**env, **passed},
            stdin,
            deadline_s=choice.timeout_s,
            network=choice.network == "host",
            extra=extra,
        )
        said = answer / "proposal.json"
        if said.is_file() and not said.is_symlink() and said.stat().st_size < 1 << 20:
            shutil.copyfile(said, directory / "proposal.json", follow_symlinks=False)
        return launched
