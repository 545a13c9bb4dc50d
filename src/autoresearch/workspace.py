"""Propose and seal: exports a parent, lets an agent edit it, reads back the allowed files only.

What the agent leaves behind is hostile: it is read without following links, from a directory that
no process of the agent can touch any more, and only allowed regular files enter the commit.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .failpoint import failpoint
from .git import EXECUTABLE, LINK, REGULAR, SUBMODULE, Edits, Entry, Store, blob_oid
from .novelty import form
from .scope import Changes, Scope
from .scratch import fresh
from .size import tokens_added
from .types import Candidate

FILE_BYTES = 4 << 20
EDITED_FILES = 200
SEEN_FILES = 50_000
# Beyond it candidates are compared byte by byte: reading so much code would take seconds.
COMPARED_BYTES = 1 << 20
FORMS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Captured:
    """What an edited directory holds: the edits that may enter, and all that must not.

    ``fingerprint`` is equal for exact repeats, ``form`` for what differs in comments and layout.
    """

    edits: Edits
    changes: Changes
    fingerprint: str
    form: str = ""


class Workspace:
    """Turns an edited directory into a candidate of one run."""

    def __init__(self, store: Store, scope: Scope, inner: Path) -> None:
        self.store = store
        self.scope = scope
        self.prefix = "" if inner == Path() else f"{inner.as_posix()}/"
        self._forms: dict[tuple[str, str], str] = {}

    def export(self, commit: str, target: Path) -> Path:
        """A fresh writable copy of a commit without anything hidden."""
        fresh(target)
        self.store.export(commit, target, without=self._secret)
        failpoint("workspace.exported")
        return target

    def editable_files(self, commit: str) -> tuple[str, ...]:
        """The files of a commit that may be edited, relative to the repository."""
        return tuple(path for path in self.store.tree(commit) if self.editable(path))

    def sources(self, commit: str) -> dict[str, str]:
        """The text of a commit's editable files by path."""
        tree = self.store.tree(commit)
        return {
            path: self.store.read(tree[path].oid).decode("utf-8", errors="replace")
            for path in self.editable_files(commit)
        }

    def capture(self, parent: str, folder: Path) -> Captured:
        """Compare an edited directory with its parent commit and take what is allowed."""
        tree = {p: e for p, e in self.store.tree(parent).items() if not self._secret(p)}
        edits: dict[str, tuple[str, bytes] | None] = {}
        protected: list[str] = []
        dropped: list[str] = []
        unsafe: list[tuple[str, str]] = []
        seen: set[str] = set()
        for path, status in _walk(folder, unsafe):
            seen.add(path)
            known = tree.get(path)
            if not path.isprintable():
                # The person's own, as it was, is no reason to refuse a change of something else.
                if known is None or known != _entry(folder / path, status):
                    unsafe.append((ascii(path), "hostile file name"))
                continue
            allowed = self.editable(path)
            if known is None and not allowed:
                if not self._expected(path):
                    dropped.append(path)
                continue
            if not allowed:
                if known != _entry(folder / path, status):
                    protected.append(path)
                continue
            entry, data, why = _read(folder / path, status)
            if known is not None and entry == known:
                continue
            if why or len(edits) >= EDITED_FILES:
                unsafe.append((path, why or f"more than {EDITED_FILES} files changed"))
            else:
                assert entry is not None
                edits[path] = (entry.mode, data)
        gone = [p for p, e in tree.items() if p not in seen and e.mode != SUBMODULE]
        for path in gone:
            if not path.isprintable():
                unsafe.append((ascii(path), "hostile file name"))
            elif self.editable(path):
                edits[path] = None
        changes = Changes(
            changed=tuple(sorted(edits)),
            protected_changed=tuple(sorted(protected)),
            protected_deleted=tuple(sorted(p for p in gone if not self.editable(p))),
            unsafe=tuple(sorted(unsafe)),
            dropped=tuple(sorted(dropped)),
        )
        failpoint("workspace.captured")
        fingerprint, form = self._fingerprint(parent, edits), self._form(parent, edits)
        return Captured(edits, changes, fingerprint, form)

    def seal(self, parent: str, captured: Captured, message: str, ref: str) -> Candidate:
        """Commit the allowed edits on top of the parent."""
        before, after = {}, {}
        tree = self.store.tree(parent)
        for path, edit in captured.edits.items():
            if path in tree:
                before[path] = _text(self.store.read(tree[path].oid))
            if edit is not None:
                after[path] = _text(edit[1])
        commit = self.store.seal(parent, captured.edits, message, ref)
        return Candidate(commit, parent, tokens_added(before, after))

    def _fingerprint(self, parent: str, edits: Edits) -> str:
        """Names the content of all editable files: equal for exact repeats of a candidate."""
        return _digest(self._final(parent, edits))

    def _final(self, parent: str, edits: Edits) -> dict[str, str]:
        """The editable files after some edits, by path; each by the name that git gives to it."""
        final = {p: self.store.tree(parent)[p].oid for p in self.editable_files(parent)}
        for path, edit in edits.items():
            if edit is None:
                final.pop(path, None)
            else:
                final[path] = blob_oid(edit[1])
        return final

    def _form(self, parent: str, edits: Edits) -> str:
        """Names what the editable files say, whatever their comments and layout; empty if large."""
        contents = {path: edit[1] for path, edit in edits.items() if edit is not None}
        left, found = COMPARED_BYTES, {}
        if len(self._forms) > FORMS_KEPT:
            self._forms.clear()
        for path, oid in self._final(parent, edits).items():
            data = contents[path] if path in contents else self.store.read(oid)
            left -= len(data)
            if left < 0:
                return ""
            if (path, oid) not in self._forms:
                self._forms[path, oid] = form(path, data)
            found[path] = self._forms[path, oid]
        return _digest(found)

    def names(self, commit: str) -> dict[str, str]:
        """The fingerprint and the form of a sealed commit."""
        return {"fingerprint": self._fingerprint(commit, {}), "form": self._form(commit, {})}

    def less_code(self, captured: Captured, parent: str, other: str) -> bool:
        """Whether edits of ``parent`` leave fewer syntax tokens than the commit ``other`` has."""
        mine = self.sources(parent)
        for path, edit in captured.edits.items():
            if edit is None:
                mine.pop(path, None)
            else:
                mine[path] = _text(edit[1])
        return tokens_added(self.sources(other), mine) < 0

    def _inside(self, path: str) -> str | None:
        return path[len(self.prefix) :] if path.startswith(self.prefix) else None

    def editable(self, path: str) -> bool:
        """Whether a file of the repository may be edited."""
        inner = self._inside(path)
        return inner is not None and self.scope.editable(inner)

    def _expected(self, path: str) -> bool:
        """New files that say nothing: where data was mounted, and caches of interpreters."""
        inner = self._inside(path)
        parts = path.split("/")
        return "__pycache__" in parts or (inner is not None and self.scope.data(inner))

    def _secret(self, path: str) -> bool:
        inner = self._inside(path)
        return inner is not None and (self.scope.hidden(inner) or self.scope.sealed(inner))


def _walk(folder: Path, unsafe: list[tuple[str, str]]) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder that is not in a ``.git``, relative, never following a link."""
    count = 0
    queue = [""]
    while queue:
        inner = queue.pop()
        try:
            with os.scandir(folder / inner) as entries:
                for entry in entries:
                    path = f"{inner}{entry.name}"
                    count += 1
                    if count > SEEN_FILES:
                        unsafe.append((inner or ".", f"more than {SEEN_FILES} files"))
                        return
                    if entry.name == ".git":
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(f"{path}/")
                    else:
                        yield path, entry.stat(follow_symlinks=False)
        except OSError as error:
            unsafe.append((inner or ".", f"unreadable: {error.strerror}"))


def _digest(names: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for path, name in sorted(names.items()):
        digest.update(f"{path}\0{name}\0".encode("utf-8", errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _entry(path: Path, status: os.stat_result) -> Entry | None:
    """A file as git would name it, of any size; None for what git cannot hold."""
    if stat.S_ISLNK(status.st_mode):
        return Entry(LINK, blob_oid(os.fsencode(path.readlink())))
    if not stat.S_ISREG(status.st_mode):
        return None
    digest = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
    try:
        with _open(path) as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError:
        return None
    return Entry(_mode(status), digest.hexdigest())


def _read(path: Path, status: os.stat_result) -> tuple[Entry | None, bytes, str]:
    """An editable file as git would name it and its bytes, or why it is not safe to take."""
    if stat.S_ISLNK(status.st_mode):
        return _entry(path, status), b"", "is a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return None, b"", "is not a regular file"
    if status.st_nlink != 1:
        return None, b"", "has more than one name (hard link)"
    if status.st_size > FILE_BYTES:
        return None, b"", f"is larger than {FILE_BYTES >> 20} MiB"
    try:
        with _open(path) as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        return None, b"", f"is unreadable: {error.strerror}"
    return Entry(_mode(status), blob_oid(data)), data, ""


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _mode(status: os.stat_result) -> str:
    return EXECUTABLE if status.st_mode & stat.S_IXUSR else REGULAR


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
