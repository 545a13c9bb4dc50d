"""Objects and refs of a private git store, written as git itself writes them: loose and synced.

Two commits an experiment took four processes of git, a quarter of what an experiment costs. The
formats are those of gitrepository-layout(5) and of "Git Internals" in the book Pro Git, and when a
run starts, ``git fsck`` looks at every object. Everything else is left to git.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .disk import sync_directory

DIRECTORY = b"40000"
DRAFT = "tmp_obj_"  # what git calls its own
Leaf = tuple[bytes, str]
"""The mode of an entry of a tree, and the object's name."""


def name(kind: str, data: bytes) -> str:
    """The name that git gives to an object."""
    return hashlib.sha1(_whole(kind, data), usedforsecurity=False).hexdigest()


def _whole(kind: str, data: bytes) -> bytes:
    return b"%s %d\0%s" % (kind.encode(), len(data), data)


NO_FILES = name("tree", b"")


def put(store: Path, kind: str, data: bytes) -> str:
    """Write an object, unless it is there; returns its name."""
    oid = name(kind, data)
    file = store / "objects" / oid[:2] / oid[2:]
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        draft = file.with_name(f"{DRAFT}{oid[2:]}")
        _write(draft, zlib.compress(_whole(kind, data), 1), 0o444)
        draft.rename(file)
    return oid


def graft(
    store: Path, read: Callable[[str], bytes], tree: str, edits: Mapping[bytes, Leaf | None]
) -> str:
    """Write ``tree`` with some of its paths changed, added or (None) removed; returns its name.

    ``read`` gives what a tree holds. Folders that would be empty are left out, as git does.
    """
    entries = dict(_entries(read(tree))) if tree != NO_FILES else {}
    below: dict[bytes, dict[bytes, Leaf | None]] = {}
    leaves: dict[bytes, Leaf] = {}
    for path, leaf in edits.items():
        first, _, rest = path.partition(b"/")
        if rest:
            below.setdefault(first, {})[rest] = leaf
        elif leaf is not None:
            leaves[first] = leaf
        else:
            entries.pop(first, None)
    for first, inner in below.items():
        mode, oid = entries.pop(first, (DIRECTORY, NO_FILES))
        made = graft(store, read, oid if mode == DIRECTORY else NO_FILES, inner)
        if made != NO_FILES:
            entries[first] = (DIRECTORY, made)
    entries |= leaves
    return put(store, "tree", b"".join(
        mode + b" " + first + b"\0" + bytes.fromhex(oid)
        for first, (mode, oid) in sorted(entries.items(), key=_place)
    ))  # fmt: skip


def commit(store: Path, tree: str, parents: Sequence[str], who: str, message: str) -> str:
    """Write a commit by ``who`` (name, address, seconds and zone); returns its name."""
    lines = [f"tree {tree}", *(f"parent {each}" for each in parents)]
    lines += [f"author {who}", f"committer {who}", "", message]
    return put(store, "commit", "\n".join(lines).encode())


def move(store: Path, ref: str, oid: str) -> None:
    """Let a ref name a commit; when this returns, the commit is on the disk with all it needs."""
    file = store / ref
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f"{file.name}.lock")
    _write(lock, f"{oid}\n".encode(), 0o644)
    lock.rename(file)
    sync_directory(file.parent)


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _entries(data: bytes) -> Iterator[tuple[bytes, Leaf]]:
    while data:
        head, _, rest = data.partition(b"\0")
        mode, _, first = head.partition(b" ")
        yield first, (mode, rest[:20].hex())
        data = rest[20:]


def _place(entry: tuple[bytes, Leaf]) -> bytes:
    """Where git sorts an entry: a folder as if its name ended with a slash."""
    first, (mode, _) = entry
    return first + b"/" if mode == DIRECTORY else first
