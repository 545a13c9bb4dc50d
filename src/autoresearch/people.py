"""What people ask of a run while an engine works on it: to stop, to wait, to try something.

Other commands leave requests in the inbox; they are journaled here, by the one who holds the run.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from . import inbox
from .errors import DiskFullError
from .failpoint import failpoint
from .journal import ideas
from .run import Run

INBOX_S = 0.25


class People:
    """Listens to the people of a run, for its engine and all workers."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.view = run.view
        self.stopping = asyncio.Event()
        self._listening: asyncio.Future[None] | None = None

    def request_stop(self, by: str) -> None:
        """End after the samples in flight, even where a full disk keeps the journal from it."""
        self.stopping.set()
        with contextlib.suppress(DiskFullError):
            self.run.append("stop_requested", by=by)

    @property
    def want_to_wait(self) -> bool:
        """Whether the run is to stop or to pause."""
        return self.view.stop_requested or self.view.pause_requested

    def listen(self) -> None:
        """Begin with what waited for an engine, and go on listening."""
        self.read()
        self._listening = asyncio.ensure_future(self._listen())

    def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()

    def require_ears(self) -> None:
        """See that somebody still listens.

        Raises:
            StoreError: what is asked for cannot be journaled any more.
        """
        if self._listening is not None and self._listening.done():
            self._listening.result()

    async def wait(self, seconds: float) -> None:
        """Wait so long; a request to stop ends it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()

    async def until_resumed(self) -> None:
        """Wait for as long as the run is to pause.

        Raises:
            StopAsyncIteration: it is to end.
        """
        while self.view.pause_requested:
            if self.stopping.is_set():
                raise StopAsyncIteration
            self.require_ears()  # else nobody would hear who asks to go on
            await self.wait(INBOX_S)

    async def _listen(self) -> None:
        while True:
            self.read()
            await asyncio.sleep(INBOX_S)

    def read(self) -> None:
        """Journal what other commands ask for; the file goes only after its event is durable."""
        with contextlib.suppress(DiskFullError):  # the file stays, and is read again
            for path, request in inbox.pending(self.run.places.run):
                self._take(request)
                path.unlink(missing_ok=True)
                failpoint("inbox.removed")

    def _take(self, request: dict[str, Any]) -> None:
        """Journal a request; one that is known was journaled before a kill left its file."""
        view = self.view
        match request.get("kind"):
            case "stop":
                self.request_stop("inbox")
            case "pause" if not view.pause_requested:
                self.run.append("pause_requested", by="inbox")
            case "resume" if view.pause_requested:
                self.run.append("resume_requested", by="inbox")
            case "ticket" if not view.knows(request.get("ticket", "")):
                self.run.append("ticket", **{k: v for k, v in request.items() if k != "kind"})
            case "idea" if (body := ideas.asked(request, view.ideas)) is not None:
                self.run.append("idea", **body)
            case "idea_drop" if (idea := view.ideas.get(request.get("idea"))) and idea.droppable:
                self.run.append("idea_dropped", idea=idea.number)
