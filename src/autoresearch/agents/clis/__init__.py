"""The coding agents that people have on their machines, as data: one module each.

An entry says how its CLI is called, which files its fresh home holds, and what its stream of events
means. It starts nothing and decides nothing: ``agents/cli.py`` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...types import AgentFailure

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
Event = Mapping[str, Any]
USAGE = re.compile(r"usage.?limit|quota|credit balance|billing|spending (cap|limit)", re.I)
RATE = re.compile(r"rate.?limit|too many requests|overloaded|high demand|\b(429|529|503)\b", re.I)
AUTH = re.compile(
    r"\b401\b|api.?key|unauthori[sz]ed|not logged in|log ?in|authenticat|credential", re.I
)


@dataclass(frozen=True, slots=True)
class LoginFile:
    """Where a CLI keeps its login: ``name`` in the folder that ``variable`` or the home names."""

    folder: str
    name: str
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One iteration as an entry needs to know it; paths are those that the process is shown.

    ``keys`` are the variables among the entry's that the process is given.
    """

    prompt: str
    home: Path
    proposal: Path
    allowed: tuple[str, ...]
    confined: bool
    keys: tuple[str, ...]
    max_turns: int
    login: bool = False
    model: str = ""
    base_url: str = ""
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens; ``cached`` are those of ``input`` that the model had read before."""

    input: int
    output: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What a CLI's events came to; ``done`` where it said itself that it ended well.

    ``retry_at`` is a time as ``time.time()`` tells it. ``denied`` names what it was not allowed.
    """

    done: bool = False
    text: str = ""
    failure: AgentFailure | None = None
    message: str = ""
    retry_at: float | None = None
    retry_after_s: float | None = None
    spent: Spent | None = None
    cost_usd: float | None = None
    denied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cli:
    """A CLI that edits code: ``read`` makes sense of its events and of its standard error.

    ``keys`` are the variables that may hold a key, the usual one first. ``lines_per_turn`` is how
    many lines it prints for each call of a tool; 0 where the CLI itself limits its turns.
    ``names_model`` where it cannot do without the name of a ``base_url``'s model.
    """

    name: str
    install: str
    keys: tuple[str, ...]
    sign_in: str
    login: tuple[LoginFile, ...]
    argv: Callable[[Call], list[str]]
    read: Callable[[Sequence[Event], str], Said]
    env: Callable[[Call], dict[str, str]] = lambda _: {}
    files: Callable[[Call], dict[str, str]] = lambda _: {}
    lines_per_turn: int = 0
    names_model: bool = False


def failure_of(status: int | None, text: str) -> AgentFailure:
    """The kind of an error: by its HTTP status, and by its words where that leaves it open."""
    match status:
        case 401 | 403:
            return AgentFailure.AUTH
        case 402:
            return AgentFailure.USAGE_LIMIT
        case 429:
            return AgentFailure.USAGE_LIMIT if USAGE.search(text) else AgentFailure.RATE_LIMITED
        case 503 | 529:
            return AgentFailure.RATE_LIMITED
        case int() if status >= 500:
            return AgentFailure.CRASHED
    words = (
        (USAGE, AgentFailure.USAGE_LIMIT),
        (RATE, AgentFailure.RATE_LIMITED),
        (AUTH, AgentFailure.AUTH),
    )
    return next((kind for each, kind in words if each.search(text)), AgentFailure.CRASHED)


def wait_s(text: str) -> float | None:
    """How long an error asks to wait, as in "try again in 1 hour 5 minutes", in seconds."""
    found = re.search(
        r"(?:try again|retry|reset\w*|available)\b.{0,20}? in ((?:[\d.]+ ?[a-z]+[ ,]*)+)",
        text,
        re.I,
    )
    if found is None:
        return None
    parts = re.findall(r"([\d.]+) ?(ms|[dhms])", found[1].lower())
    return sum(float(number) * UNITS_S[unit] for number, unit in parts) if parts else None


def spent(
    usages: Sequence[Event], fresh: Sequence[str], cached: Sequence[str], output: Sequence[str]
) -> Spent | None:
    """The sum of what calls used, by the names that a CLI has for it; None where it says nothing.

    ``fresh`` and ``cached`` are apart here.
    """

    def total(names: Sequence[str]) -> int:
        return sum(int(usage.get(name) or 0) for usage in usages for name in names)

    read = total(cached)
    return Spent(total(fresh) + read, total(output), read) if any(usages) else None


def events(text: str) -> list[Event]:
    """The lines of a log that are JSON objects; all else that was printed is left out."""
    found: list[Event] = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                found.append(event)
    return found
