"""Runs jobs through a scheduler's queue, which outlives the engine.

A scheduler only says where a job is. How it ended is in its attempt's directory and nowhere else;
and who asks for a job that an earlier engine submitted gets that one, not a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from ..attempt import Attempt
from ..errors import ExecutorError, UnansweredError
from ..types import Json

GLANCE_S = 0.5
SILENT_S = 300.0
CANCEL_S = 60.0


class State(StrEnum):
    """Where a scheduler has a job."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scheduler says of a job: its state, and in its own words why."""

    state: State
    detail: str = ""


UNKNOWN = Seen(State.ENDED, "it is not known there")


class Scheduler(Protocol):
    """A queue of jobs, each known by a name that we gave it.

    Each method raises ``UnansweredError`` where nobody answers, and ``UserError`` where what was
    configured is wrong.
    """

    async def submit(self, attempt: Attempt, job: Mapping[str, Any], avoid: Sequence[str]) -> None:
        """Queue ``runner.py --attempt`` for a directory, once; not on these nodes, if it can."""

    async def states(self, names: Sequence[str]) -> Mapping[str, Seen]:
        """Where these jobs are, in one call; those it does not know are left out."""

    async def collect(self, attempt: Attempt) -> None:
        """Bring back what an ended attempt left on a node; where files are shared, nothing."""

    async def cancel(self, name: str) -> None:
        """Send SIGTERM to a job, or take it out of the queue; does not wait for its end."""


class QueueExecutor:
    """Runs each job as an attempt in a directory that the nodes see, or that is sent to them.

    ``poll_s`` is how often the scheduler is asked, for all jobs at once. ``lost_s`` is how long a
    job's result may take to appear after the scheduler has seen its end: network file systems show
    new files late. ``queued_s`` is how long a job may wait for its turn: some never have one.
    """

    detached = True

    def __init__(
        self, scheduler: Scheduler, *, max_in_flight: int, poll_s: float, lost_s: float,
        queued_s: float = math.inf, shared: bool = True,
    ) -> None:  # fmt: skip
        self.scheduler = scheduler
        self.shared = shared
        self.poll_s = poll_s
        self.lost_s = lost_s
        self.queued_s = queued_s
        self._slots = asyncio.Semaphore(max_in_flight)
        self._asking = asyncio.Lock()
        self._asked = 0.0
        self._watched: dict[str, Attempt] = {}
        self._seen: dict[str, Seen] = {}
        self._hardware: dict[str, str] = {}

    async def run(self, job: dict[str, Json]) -> dict[str, Json]:
        """Run one job to its end, or go on waiting for it; cancelling the task ends it first.

        Raises:
            ExecutorError: the attempt is lost; says nothing about the candidate.
            UnansweredError: nothing is known of it: the same call goes on waiting.
            UserError: the scheduler refuses such jobs.
        """
        attempt = Attempt(Path(str(job["directory"])), str(job["nonce"]))
        async with self._slots:
            self._watched[attempt.name] = attempt
            try:
                result = await self._follow(attempt, job)
            except UnansweredError:
                raise  # it stays watched: who ends us now ends it, too
            except asyncio.CancelledError:
                await self._end(attempt)
                raise
            except BaseException:
                attempt.cancel()
                del self._watched[attempt.name]
                raise
            del self._watched[attempt.name]
            self._hardware[str(result["node"])] = str(result["hardware"])
            return result

    async def close(self) -> None:
        """End what is still in flight, as far as the scheduler answers."""
        for attempt in list(self._watched.values()):
            await self._end(attempt)

    async def _follow(self, attempt: Attempt, job: Mapping[str, Any]) -> dict[str, Json]:
        new = attempt.prepare(dict(job))
        if (result := attempt.result()) is not None:
            return result
        seen = UNKNOWN if new else await self._where(attempt.name, now=True)
        if seen is UNKNOWN and not attempt.claimed:
            await self.scheduler.submit(attempt, job, self._others(job))
            seen = self._seen[attempt.name] = Seen(State.QUEUED)
        ended: float | None = None
        beat, alive = attempt.beat, time.monotonic()
        while (result := attempt.result()) is None:
            now = time.monotonic()
            claimed = attempt.claimed
            if not claimed or seen.state is not State.RUNNING or attempt.beat != beat:
                beat, alive = attempt.beat, now
            ended = (ended or now) if seen.state is State.ENDED else None
            if ended is not None and not self.shared:
                await self.scheduler.collect(attempt)
                if attempt.result() is not None:
                    continue
            if ended is not None and now >= ended + self.lost_s:
                # It may have been asked for just before it was submitted.
                seen = await self._where(attempt.name, now=True)
                if seen.state is State.ENDED and attempt.result() is None:
                    raise ExecutorError(
                        f"the job ended without a result: {seen.detail};"
                        f" its runner printed: {attempt.last_words()}"
                    )
            silent = claimed and now >= alive + SILENT_S
            # Where files are not shared, nobody here sees a runner claim its directory.
            waits = not claimed if self.shared else seen.state is State.QUEUED
            if silent or (waits and attempt.age_s >= self.queued_s):
                with contextlib.suppress(UnansweredError):
                    await self.scheduler.cancel(attempt.name)
                what = "was silent" if silent else "waited for its turn"
                seconds = SILENT_S if silent else self.queued_s
                raise ExecutorError(f"the job {what} for {seconds:g} s: {seen.detail}")
            await asyncio.sleep(GLANCE_S)
            seen = await self._where(attempt.name)
        return result

    def _others(self, job: Mapping[str, Any]) -> list[str]:
        """Nodes that turned out to be of another kind than the job is to be compared on."""
        wanted = job.get("hardware")
        return [node for node, kind in self._hardware.items() if wanted and kind != wanted]

    async def _where(self, name: str, *, now: bool = False) -> Seen:
        """What the scheduler said last; asked for all jobs in flight at most every ``poll_s``."""
        async with self._asking:
            if now or time.monotonic() >= self._asked + self.poll_s:
                self._seen = dict(await self.scheduler.states(sorted(self._watched)))
                self._asked = time.monotonic()
        return self._seen.get(name, UNKNOWN)

    async def _end(self, attempt: Attempt) -> None:
        """Cancel a job both ways, and wait until it is over or nobody can say."""
        attempt.cancel()
        give_up = time.monotonic() + CANCEL_S
        with contextlib.suppress(UnansweredError, ExecutorError):
            await self.scheduler.cancel(attempt.name)
            while attempt.result() is None and time.monotonic() < give_up:
                if (await self._where(attempt.name, now=True)).state is State.ENDED:
                    break
                await asyncio.sleep(GLANCE_S)
        self._watched.pop(attempt.name, None)
