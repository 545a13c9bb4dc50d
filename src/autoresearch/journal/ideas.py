"""Hypotheses that people and agents queue while a run goes on, and how experiments answered them.

An idea is *open* until an experiment takes it. What is kept confirms it, what is discarded refutes
it. An attempt that says nothing about it for technical reasons (the agent failed, the candidate
crashed, was rejected, or its measurements are void) is made once more; then it has *failed*.
A note steers: it is told to every agent until it is dropped, and never becomes an experiment.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeGuard

from ..text import clean
from ..types import AgentFailure, Json, Status

TEXT_LENGTH = 1000
NAME_LENGTH = 40
PATCH_BYTES = 1 << 20
PRIORITY_MOST = 1000
TRIES = 2
# The others say nothing about what the agent was asked for.
BLAMED = (AgentFailure.DENIED, AgentFailure.LIMIT, AgentFailure.TIMEOUT, AgentFailure.CRASHED)
LOST = "its patch was lost with a damaged journal: add it again"


class State(StrEnum):
    """How far an idea has come."""

    OPEN = "open"
    TAKEN = "taken"
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    FAILED = "failed"
    DROPPED = "dropped"


@dataclass(slots=True)
class Idea:
    """An idea or a note, known to people by its number.

    ``code`` says that it came with a patch, which is tried as it is, without an agent; ``patch``
    is that in base64. ``by`` names the agent that proposed it, or is empty. ``tries`` counts the
    attempts that told nothing, ``reason`` is why the last one did, where no experiment says it.
    After its agent failed it is ``postponed`` until the agent has answered something else: then
    the idea may be at fault, and not the agent.
    """

    number: int
    ticket: str
    text: str
    priority: int = 0
    worker: int | None = None
    note: bool = False
    code: bool = False
    patch: str | None = None
    by: str = ""
    added: str = ""
    state: State = State.OPEN
    experiments: list[int] = field(default_factory=list)
    tries: int = 0
    reason: str = ""
    postponed: bool = False

    @property
    def droppable(self) -> bool:
        return self.state in (State.OPEN, State.TAKEN)


class Ideas:
    """All ideas and notes of a run, numbered from 1; the fold of the events about them."""

    def __init__(self) -> None:
        self.all: list[Idea] = []
        self._tried: dict[int, Idea] = {}

    def get(self, number: object) -> Idea | None:
        """The idea or note with a number, if there is one."""
        return self.all[number - 1] if _whole(number) and 1 <= number <= len(self.all) else None

    def knows(self, ticket: str) -> bool:
        """Whether what was left in the inbox under this name is journaled."""
        return any(each.ticket == ticket for each in self.all)

    @property
    def notes(self) -> list[Idea]:
        """What is told to every agent, oldest first."""
        return [each for each in self.all if each.note and each.state is State.OPEN]

    @property
    def queue(self) -> list[Idea]:
        """Ideas that wait, in the order in which they are taken."""
        waiting = [each for each in self.all if not each.note and each.state is State.OPEN]
        return sorted(waiting, key=lambda idea: (-idea.priority, idea.number))

    @property
    def counts(self) -> Counter[State]:
        """How many ideas there are in each state; notes are none."""
        return Counter(each.state for each in self.all if not each.note)

    def next(
        self, *, reads: bool, worker: int = 0, of: int = 1, again: int | None = None
    ) -> Idea | None:
        """What one ``of`` so many workers takes now; ``reads`` says if its agent understands words.

        ``again`` is an experiment of its own that has no candidate yet: it was cut short, and its
        idea can be taken anew.
        """
        tried = self._tried.get(again) if again is not None else None
        cut_short = [tried] if tried is not None and tried.state is State.TAKEN else []
        found = [
            each
            for each in (*cut_short, *self.queue)
            if (reads or each.code)
            and not each.postponed
            and (each.worker is None or each.worker % of == worker)
        ]
        return min(found, key=lambda idea: (-idea.priority, idea.number), default=None)

    # Applying events

    def add(self, body: Mapping[str, Any], at: str) -> Idea:
        """An idea that ``asked`` accepted; ``at`` is empty where it is not journaled yet."""
        idea = Idea(len(self.all) + 1, **body, added=at)
        if idea.code and not idea.patch:
            idea.state, idea.reason = State.FAILED, LOST
        self.all.append(idea)
        return idea

    def drop(self, number: object) -> None:
        """End an idea or a note; an experiment in flight goes on."""
        idea = self.get(number)
        if idea is not None and idea.droppable:
            idea.state = State.DROPPED

    def opened(self, experiment: int, number: int | None) -> None:
        """An experiment takes an idea, or none; perhaps anew, and another one than before."""
        before = self._tried.pop(experiment, None)
        if before is not None:
            before.experiments.remove(experiment)
            if before.state is State.TAKEN:
                before.state = State.OPEN
        if (idea := self.get(number)) is not None:
            self._tried[experiment] = idea
            idea.experiments.append(experiment)
            if idea.state is State.OPEN:
                idea.state = State.TAKEN

    def agent_answered(self) -> None:
        """An agent works: what waited for that may be asked of it again."""
        for each in self.all:
            each.postponed = False

    def agent_failed(self, experiment: int, failure: AgentFailure, message: str) -> None:
        """The agent gave no proposal; the idea has its turn again after another experiment."""
        idea = self._tried.get(experiment)
        if idea is None or failure not in BLAMED:
            return
        self.opened(experiment, None)
        idea.postponed = True
        self._told_nothing(idea, f"the agent failed ({failure.value}): {message}")

    def decided(self, experiment: int, status: Status, *, again: bool) -> None:
        """An experiment ended; ``again`` says that it measured a void one once more."""
        idea = self._tried.pop(experiment, None)
        if idea is None:
            return
        if status in (Status.KEEP, Status.DISCARD):
            idea.state = State.CONFIRMED if status is Status.KEEP else State.REFUTED
            idea.reason = ""
        elif status is Status.VOID and not again:
            idea.state = State.OPEN if idea.state is State.TAKEN else idea.state
        else:
            self._told_nothing(idea, "")

    def _told_nothing(self, idea: Idea, reason: str) -> None:
        idea.tries += 1
        idea.reason = reason
        # The same code again would be an exact repeat.
        last = idea.code or idea.tries >= TRIES
        if idea.state in (State.OPEN, State.TAKEN):
            idea.state = State.FAILED if last else State.OPEN


def asked(request: Mapping[str, Any], known: Ideas) -> dict[str, Json] | None:
    """A request of the inbox as the body of an ``idea`` event; None for a known or a broken one."""
    text, ticket, patch = request.get("text"), request.get("ticket"), request.get("patch")
    if not isinstance(text, str) or not (text := clean(text, TEXT_LENGTH)):
        return None
    if not isinstance(ticket, str) or not ticket or known.knows(ticket):
        return None
    note, by = request.get("note") is True, clean(str(request.get("by") or ""), NAME_LENGTH)
    if note and by:
        return None  # agents do not steer each other
    if patch is not None and (note or not _is_patch(patch)):
        return None
    priority: object = request.get("priority", 0)
    worker: object = request.get("worker")
    return {
        "ticket": ticket[:NAME_LENGTH],
        "text": text,
        "priority": max(-PRIORITY_MOST, min(PRIORITY_MOST, priority)) if _whole(priority) else 0,
        "worker": worker if _whole(worker) and worker >= 0 else None,
        "note": note,
        "code": patch is not None,
        "patch": patch,
        "by": by,
    }


def _whole(value: object) -> TypeGuard[int]:
    return type(value) is int


def _is_patch(patch: object) -> bool:
    try:
        return isinstance(patch, str) and 0 < len(base64.b64decode(patch)) <= PATCH_BYTES
    except (ValueError, binascii.Error):
        return False
