"""What an agent is handed for one iteration, and how a process of its own is started.

Agents keep no memory between calls: whatever they may know is in the assignment that is made here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import condense, git, limits, registry
from .bench import Bench, Places, read_text
from .briefing import CURVES_SHOWN, Known, briefing
from .errors import AgentError, UserError
from .history import History
from .journal.view import Experiment, Role
from .memory import Memory
from .ports import Agent
from .run import FOLDER, Run
from .sandbox import Mount
from .scratch import fresh, remove
from .types import (
    AgentChoice,
    AgentFailure,
    Assignment,
    Contract,
    Inside,
    Kind,
    Launched,
    Needs,
    Plan,
    Proposal,
    Status,
)
from .workspace import Workspace

INSIDE_TASK = Path("/task")
FAILED = (Status.CRASH, Status.TIMEOUT)
TEXT_LENGTH = 40_000
NOTHING_MORE = Needs()
UNREPORTED = {
    "tokens": 'let a command of yours write "tokens" into its proposal file, or take the limit out',
    "cost_usd": "name the prices of its model in [agent.prices], let a command of yours write"
    ' "cost_usd" into its proposal file, or take the limit out',
}


class Desk:
    """Where the agent of a run works."""

    def __init__(
        self, run: Run, contract: Contract, bench: Bench, workspace: Workspace, memory: Memory,
        history: History,
    ) -> None:  # fmt: skip
        self.run = run
        self.view = run.view
        self.contract = contract
        self.bench = bench
        self.workspace = workspace
        self.agent: Agent = registry.agent(contract.agents[0], contract.root)
        registry.require_credentials(self.agent, contract.agents[0])
        self.memory = memory
        self.history = history
        self.seat = Seat(contract, bench, run.places, self.memory.folder)

    @property
    def name(self) -> str:
        """Which agent works here."""
        return self.contract.agents[0].use

    @property
    def reads(self) -> bool:
        """Whether it reads briefings, and takes an answer."""
        return registry.reads(self.name)

    async def ask(self, record: Experiment, folder: Path, answer: str = "") -> Proposal:
        """Let the agent edit ``folder``, an export of the experiment's parent.

        ``answer`` is what there is to say to its last proposal, where that is not run.

        Raises:
            AgentError: it could not be asked, failed, or did not answer in time.
            UserError: it does not say what it used of something that is limited.
        """
        choice = self.contract.agents[0]
        directory = self.run.places.experiment(record.number)
        directory.mkdir(parents=True, exist_ok=True)
        plan = record.plan
        memory = self.memory.write(self.view) if self.reads else None
        inside = self.seat.inside(directory, folder)
        known = self._known(record, answer, inside, reads=memory is not None)
        said = briefing(self.view, self.contract, plan, known, choice.briefing_tokens)
        editable = self.workspace.editable_files(record.parent)
        allowed = self.contract.task.editable
        return await self._put(
            said, record.number, record.turn, directory, folder, plan, editable, allowed, memory
        )

    async def condense(self) -> tuple[Proposal, str]:
        """Let the agent rewrite the run's lessons; they are the file's new text.

        Raises:
            AgentError: as ``ask``.
        """
        run, prefix = self.run.places.run, self.workspace.prefix
        directory = run / "condensing"
        directory.mkdir(exist_ok=True)
        folder = fresh(self.bench.places.scratch / "agent")
        file = folder / prefix / condense.FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_text(run / condense.FILE), encoding="utf-8")
        memory = self.memory.write(self.view)
        inside = self.seat.inside(directory, folder)
        said = condense.request(
            self.contract.metric, self.memory.lessons.lines(), str(inside.memory)
        )
        assert self.view.incumbent is not None
        plan = Plan(self.view.incumbent.commit, Kind.IMPROVE)
        number, editable = self.view.next_number, (f"{prefix}{condense.FILE}",)
        proposal = await self._put(
            said, number, number, directory, folder, plan, editable, (condense.FILE,), memory
        )
        text = condense.take(file)
        if text:
            condense.write(run, text)
        remove(folder)
        return proposal, text

    async def _put(
        self, said: str, number: int, turn: int, directory: Path, folder: Path, plan: Plan,
        editable: tuple[str, ...], allowed: tuple[str, ...], memory: Path | None,
    ) -> Proposal:  # fmt: skip
        """Put a text to the agent, which may edit ``folder``."""
        choice = self.contract.agents[0]
        brief = directory / "briefing.md"
        brief.write_text(said, encoding="utf-8")
        (directory / "proposal.json").unlink(missing_ok=True)

        async def launch(
            argv: Any, env: Any, stdin: Path | None, needs: Needs = NOTHING_MORE, /
        ) -> Launched:
            return await self.seat.launch(directory, folder, argv, env, stdin, needs)

        async def run(argv: Sequence[str], deadline_s: float) -> Launched:
            return await self.seat.run(folder, argv, deadline_s)

        assignment = Assignment(
            number=number,
            workspace=folder,
            editable=editable,
            plan=plan,
            seed=self.view.seed_of(number, -1),
            metric=self.contract.metric,
            space=self.contract.space,
            history=self.history.past(),
            pending=self.history.pending(number),
            briefing=brief,
            directory=directory,
            turn=turn,
            memory=memory,
            launch=launch,
            run=run,
            inside=self.seat.inside(directory, folder),
            level=self.bench.sandbox.level,
            allowed=allowed,
            choice=choice,
            tokens_left=self._left("tokens"),
            cost_left_usd=self._left("cost_usd"),
        )
        try:
            async with asyncio.timeout(choice.timeout_s + 60):
                proposal = await self.agent.propose(assignment)
                cost_usd = _priced(choice, proposal.tokens, proposal.cost_usd)
                proposal = replace(proposal, cost_usd=cost_usd)
        except AgentError as error:
            error.cost_usd = _priced(choice, error.tokens, error.cost_usd)
            raise
        except TimeoutError as error:
            raise AgentError(
                f"{choice.use} did not answer within its timeout", failure=AgentFailure.TIMEOUT
            ) from error
        self._require_report(proposal)
        return proposal

    def _require_report(self, proposal: Proposal) -> None:
        """See that what the contract limits can be known."""
        if name := limits.unreported(self.contract, proposal):
            most = getattr(self.contract.limits, name)
            raise UserError(
                f"limits.{name} = {most:g} cannot be held: the agent {self.name!r} did not say what"
                f" its proposal {'cost' if name == 'cost_usd' else 'used'}",
                fix=UNREPORTED[name],
            )

    def _optimizer(self, commit: str) -> list[str]:
        """What an agent with an optimizer of its own says of that optimizer's state."""
        state = getattr(self.agent, "state", None)
        if state is None:
            return []
        sources, contract = self.history.sources(commit), self.contract
        return list(state(sources, self.history.past(), contract.metric, contract.space))

    def _left(self, limit: str) -> float | None:
        return limits.left(self.view, self.contract, limit, self.run.active_s)

    def _known(self, record: Experiment, answer: str, inside: Inside, *, reads: bool) -> Known:
        """What the briefing tells beside the run's state."""
        curves = {}
        if reads:
            shown = {each.number: each for each in self.view.decided[-CURVES_SHOWN:]}
            if self.view.incumbent is not None:
                shown[self.view.incumbent.number] = self.view.incumbent
            curves = {number: self.memory.curves(each) for number, each in shown.items()}
        root, path = self.contract.root, self.contract.task.instructions
        own, runs = _text(root / condense.FILE), _text(self.run.places.run / condense.FILE)
        people = [own] if self.view.condensed else [own, runs]
        return Known(
            self.memory.lessons, curves,
            self._failing_test() if self.contract.suite else self._last_failure(),
            instructions=_text(root / path) if path else "",
            people="\n\n".join(filter(None, people)),
            condensed=runs if self.view.condensed else "",
            answer=answer, memory=str(inside.memory) if reads else "",
            proposal=str(inside.proposal), number=record.number,
            optimizer=self._optimizer(record.parent),
        )  # fmt: skip

    def _last_failure(self) -> str:
        """What the last experiment printed, where it crashed or ran out of time."""
        last = self.view.decided[-1]
        failed = last.decision is not None and last.decision.status in FAILED
        return self.memory.log(last) if failed else ""

    def _failing_test(self) -> str:
        """What the test printed for the best so far, in the newest of its own samples."""
        best = self.view.incumbent
        assert best is not None
        k = max(each.k for each in best.taken if each.role is not Role.INCUMBENT)
        return read_text(self.run.places.sample(best.number, k) / "run.log")


class Seat:
    """Where an agent's own process works: what it is shown, and how it is started."""

    def __init__(
        self, contract: Contract, bench: Bench, places: Places, memory: Path | None = None
    ) -> None:
        self.contract = contract
        self.bench = bench
        self.places = places
        self.memory = memory

    def _mounts(self, directory: Path) -> list[Mount]:
        """What an agent's process is shown beside the workspace."""
        scratch = self.bench.places.scratch
        return [
            Mount(directory / "briefing.md", INSIDE_TASK / "briefing.md"),
            Mount(scratch / "answer", INSIDE_TASK / "answer", writable=True),
            Mount(scratch / "home", INSIDE_TASK / "home", writable=True),
            *self._memory(),
        ]

    def _memory(self) -> list[Mount]:
        memory = self.memory
        return [Mount(memory, self._memory_place)] if memory and memory.is_dir() else []

    @property
    def _memory_place(self) -> Path:
        """Where the process finds the memory."""
        return self.places.root / FOLDER

    def inside(self, directory: Path, folder: Path) -> Inside:
        """The paths of an assignment as the process will see them."""
        places = self.places
        mounts = [*self._mounts(directory), Mount(folder, places.repository, writable=True)]
        return Inside(
            *(
                self.bench.sandbox.place(at, mounts)
                for at in (
                    places.root,
                    INSIDE_TASK / "briefing.md",
                    INSIDE_TASK / "answer" / "proposal.json",
                    self._memory_place,
                    INSIDE_TASK / "home",
                )
            )
        )

    async def run(self, folder: Path, argv: Sequence[str], deadline_s: float) -> Launched:
        """Run what an agent asks for, confined as a candidate is: it is not trusted with a key."""
        log = self.bench.places.scratch / "agent-run.log"
        return await self.bench.launch(
            folder, log, argv, {}, None,
            deadline_s=deadline_s, network=False, extra=self._memory(), needs=NOTHING_MORE,
        )  # fmt: skip

    async def launch(
        self,
        directory: Path,
        folder: Path,
        argv: Any,
        env: Any,
        stdin: Path | None,
        needs: Needs = NOTHING_MORE,
    ) -> Launched:
        """Start an agent's own process, confined, in the workspace."""
        choice, root = self.contract.agents[0], self.contract.root
        git.disposable_repository(folder, FOLDER)
        answer = fresh(self.bench.places.scratch / "answer")
        home = fresh(self.bench.places.scratch / "home")
        extra = [*self._mounts(directory), *(Mount(path, path) for path in needs.readable)]
        argv = list(argv)
        program = root / argv[0]
        if "/" in argv[0] and program.is_file():
            argv[0] = str(program)
            extra.append(Mount(program, program))
        passed = {name: value for name in choice.env if (value := os.environ.get(name)) is not None}
        try:
            _fill(home, needs.home)
            launched = await self.bench.launch(
                folder,
                directory / "agent.log",
                argv,
                {**env, **passed},
                stdin,
                deadline_s=choice.timeout_s,
                network=choice.network == "host",
                extra=extra,
                needs=needs,
            )
        finally:
            remove(home)  # it may hold a copy of the person's login
        said = answer / "proposal.json"
        if said.is_file() and not said.is_symlink() and said.stat().st_size < 1 << 20:
            shutil.copyfile(said, directory / "proposal.json", follow_symlinks=False)
        return launched


def _text(path: Path) -> str:
    """What a person says now, nothing where it cannot be read; what is cut anyway is not read."""
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        return file.read(TEXT_LENGTH)
    return ""


def _fill(home: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a fresh home; they may be secrets."""
    home.chmod(0o700)
    for name, content in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(content)


def _priced(choice: AgentChoice, tokens: int | None, cost_usd: float | None) -> float | None:
    """What an agent says that it cost, else what its tokens cost at most."""
    if cost_usd is not None or tokens is None or choice.prices is None:
        return cost_usd
    return choice.prices.most_usd(tokens)
