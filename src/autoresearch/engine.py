"""The loop: experiments, one after the other on every worker, until there is a reason to stop."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

from . import limits, registry
from .bench import Bench, Slot, available_cores, available_devices
from .errors import AutoresearchError, DiskFullError, UserError
from .executors.local import LocalExecutor
from .history import History
from .memory import Memory
from .people import People
from .ports import Executor
from .run import Run
from .sandbox import Sandbox
from .scope import Scope
from .scratch import remove
from .types import Contract
from .watch import Watch
from .worker import Worker
from .workspace import Workspace


@dataclass(frozen=True, slots=True)
class End:
    """Why the loop ended; ``short`` when a limit came before the target."""

    reason: str
    short: bool = False
    interrupted: bool = False


class Engine:
    """Runs the experiments of one run, as many at a time as it has workers."""

    def __init__(
        self, run: Run, contract: Contract, sandbox: Sandbox, executor: Executor | None = None
    ) -> None:
        self.run = run
        self.view = run.view
        self.contract = contract
        self.people = People(run)
        self.workers = _crew(run, contract, sandbox, executor, self.people)

    def request_stop(self, by: str) -> None:
        """End after the samples in flight."""
        self.people.request_stop(by)

    async def loop(self, *, ticket: str | None = None) -> End:
        """Run until a limit, the target or a person says stop; or until ``ticket`` is decided."""
        level, workers = self.workers[0].bench.sandbox.level, len(self.workers)
        self.run.append("engine_started", level=level.value, workers=workers)
        self.workers[0].bench.tidy(keep=self.view.leases)
        self.people.listen()  # what waited for an engine comes first
        end = End("interrupted", interrupted=True)
        try:
            # Everything is compared with the baseline, so the others wait for it.
            while not self.view.decided and self._ended(ticket) is None:
                await self._turn(self.workers[0])
            end = await self._work(ticket)
        except AutoresearchError as error:
            end = End(error.message.splitlines()[0])
            raise
        finally:
            self.people.close()
            await self._close()
            with contextlib.suppress(DiskFullError):  # it ended all the same
                self.run.append("run_ended", reason=end.reason)
        return end

    async def _work(self, ticket: str | None) -> End:
        """Let all workers work; the first that fails ends the others."""
        tasks = [asyncio.ensure_future(self._serve(each, ticket)) for each in self.workers]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for each in done:
                each.result()
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        end = self._ended(ticket)
        assert end is not None, "all workers ended without a reason"
        return end

    async def _serve(self, worker: Worker, ticket: str | None) -> None:
        while self._ended(ticket) is None and self._has_room(worker):
            await self._turn(worker)

    async def _turn(self, worker: Worker) -> None:
        await worker.turn()
        self.people.require_ears()

    def _has_room(self, worker: Worker) -> bool:
        """Whether a worker may go on: those in flight may be all that a limit leaves."""
        most = self.contract.limits.experiments
        free = most is None or self.view.next_number - 1 < most
        return worker.mine is not None or free

    def _ended(self, ticket: str | None) -> End | None:
        """Why to begin no more experiments, if at all."""
        if ticket is not None and ticket not in self.view.tickets:
            return End("tried")
        stop = None
        if self.view.decided:
            stop = limits.stop(self.view, self.contract, self.run.active_s)
        if stop is not None:
            if not self.view.exhausted:  # an agent with no more ideas is no reason to hurry others
                self.people.stopping.set()
            return End(stop.reason, stop.short)
        if self.people.stopping.is_set():
            return End("stopped by request", limits.owes_a_pass(self.view, self.contract))
        return None

    async def _close(self) -> None:
        """Leave no job, no process and no tree of any worker."""
        for each in self.workers:
            await each.bench.close()
        if work := self.workers[0].bench.places.work:
            remove(work)


def _crew(
    run: Run, contract: Contract, sandbox: Sandbox, executor: Executor | None, people: People
) -> list[Worker]:
    """The workers, each with cores, devices, places and an agent of its own.

    Raises:
        UserError: the machine has too few cores or devices for so many.
    """
    shared = executor or registry.executor(contract)
    count, watch = contract.parallel.workers, Watch(run.view, run.places, contract)
    if not shared.detached:
        _require_cores(contract)
    workspace = Workspace(run.store, Scope(contract.task), run.places.inner)
    memory, history = Memory(run.places, run.store, contract), History(run.view, workspace)
    crew = []
    for number in range(count):
        slot = Slot(number, count)
        own = replace(contract, agents=(contract.agents[number % len(contract.agents)],))
        mine = shared
        if number and executor is None and not shared.detached:
            mine = registry.executor(contract)  # one job at a time
        bench = Bench(
            own, run.places, run.store, run.view.base, sandbox, mine,
            here=LocalExecutor(), slot=slot,
        )  # fmt: skip
        crew.append(Worker(run, own, bench, workspace, memory, history, people, watch))
    return crew


def _require_cores(contract: Contract) -> None:
    """See that samples that are taken at once need not share a core or a device.

    Raises:
        UserError: they would, and nobody has said that they may.
    """
    workers = contract.parallel.workers
    if contract.parallel.oversubscribe or workers == 1:
        return
    for key, each, there, what in (
        ("run.cpus", contract.run.cpus, available_cores(), "cores"),
        ("run.gpus", contract.run.gpus, available_devices(), "devices"),
    ):
        if workers * each > len(there):
            raise UserError(
                f"parallel.workers = {workers} with {key} = {each} needs {workers * each} {what},"
                f" this machine has {len(there)}",
                fix=f"{len(there) // each} workers at most, or let samples share them:"
                " parallel.oversubscribe = true",
            )
