"""What a candidate may change: the contract's globs, and the sentence that rejects a proposal.

Globs are gitignore-style, relative to the contract's directory: ``*`` and ``?`` stay within a
folder, ``**`` crosses folders, a pattern without a slash matches a name at any depth, and a
pattern that matches a folder covers everything below it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .types import Task

NAMED = 3
MEMORY = ".autoresearch/"


@dataclass(frozen=True, slots=True)
class Changes:
    """What an edited directory holds compared with its parent, by path."""

    changed: tuple[str, ...] = ()
    protected_changed: tuple[str, ...] = ()
    protected_deleted: tuple[str, ...] = ()
    unsafe: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()


class Scope:
    """The contract's file patterns as questions about a path."""

    def __init__(self, task: Task) -> None:
        self._editable = _compile(task.editable)
        self._hidden = _compile(task.hidden)
        self._sealed = _compile(task.sealed)
        self._data = _compile(task.data)
        self._protected = _compile(task.protected)

    def editable(self, path: str) -> bool:
        """Whether a candidate may change this file; never in what is shown of past experiments."""
        taken = self.hidden(path) or self.sealed(path) or self.protected(path)
        return bool(self._editable.match(path)) and not (taken or path.startswith(MEMORY))

    def protected(self, path: str) -> bool:
        """Whether this file stays as it is, whatever else is editable."""
        return bool(self._protected.match(path))

    def hidden(self, path: str) -> bool:
        """Whether only the evaluation may see this file."""
        return bool(self._hidden.match(path))

    def sealed(self, path: str) -> bool:
        """Whether only ``verify`` may see this file."""
        return bool(self._sealed.match(path))

    def data(self, path: str) -> bool:
        """Whether this file is data, made by setup and read-only for candidates."""
        return bool(self._data.match(path))


def breach(changes: Changes) -> str | None:
    """Why a proposal must not run, in one sentence; None when it may."""
    if changes.protected_changed:
        return f"changed {_names(changes.protected_changed)}, which is protected"
    if changes.unsafe:
        path, why = changes.unsafe[0]
        return f"{path} {why}"
    if changes.protected_deleted:
        return f"deleted {_names(changes.protected_deleted)}, which is protected"
    if not changes.changed:
        stray = f" (only {_names(changes.dropped)}, not editable)" if changes.dropped else ""
        return f"no change{stray}"
    return None


def _names(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _compile(patterns: Sequence[str]) -> re.Pattern[str]:
    if not patterns:
        return re.compile(r"(?!)")
    return re.compile("|".join(f"(?:{translate(pattern)})" for pattern in patterns))


def translate(pattern: str) -> str:
    """A gitignore-style glob as a regular expression for a whole relative path."""
    anchored = "/" in pattern.rstrip("/")
    body = pattern.strip("/")
    parts = [] if anchored else ["(?:.*/)?"]
    i = 0
    while i < len(body):
        if body.startswith("**/", i):
            parts.append("(?:.*/)?")
            i += 3
        elif body.startswith("**", i):
            parts.append(".*")
            i += 2
        elif body[i] == "*":
            parts.append("[^/]*")
            i += 1
        elif body[i] == "?":
            parts.append("[^/]")
            i += 1
        elif body[i] == "[" and (end := body.find("]", i + 2)) > 0:
            inner = body[i + 1 : end].replace("\\", "\\\\")
            parts.append(f"[{'^' + inner[1:] if inner.startswith('!') else inner}]")
            i = end + 1
        else:
            parts.append(re.escape(body[i]))
            i += 1
    # A folder covers what is below it; a pattern that ends in a slash is only ever a folder.
    tail = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    return "".join(parts) + tail + r"\Z"
