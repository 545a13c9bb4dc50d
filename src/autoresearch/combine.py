"""Puts the change of one commit on top of another: the gains of two experiments in one candidate.

By lines, where changes of neighbouring lines are no conflict: constants stand one below the other.
What comes of it is measured like any other candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .git import REGULAR, Entry, Store, merge_lines

# Between any two lines, so that what changes one of them does not touch the other.
BETWEEN = "\x1f\n"


def merge(store: Store, base: str, changed: str, onto: str, folder: Path) -> str:
    """Apply what lies between two commits to ``folder``, an export of ``onto``.

    Returns which file keeps it from going together; empty where all of it did.
    """
    old, new, now = store.tree(base), store.tree(changed), store.tree(onto)
    files: dict[str, bytes | None] = {}
    for path in sorted({*old, *new}):
        before, after, here = old.get(path), new.get(path), now.get(path)
        if after in (before, here):
            continue
        if here == before:
            files[path] = None if after is None else store.read(after.oid)
            continue
        merged = _merged(store, before, after, here)
        if merged is None:
            return path
        files[path] = merged
    write(folder, files)
    return ""


def take(
    store: Store, changed: str, onto: str, folder: Path, editable: Callable[[str], bool]
) -> None:
    """Make the editable files of ``folder``, an export of ``onto``, those of another commit."""
    new, now = store.tree(changed), store.tree(onto)
    differing = [p for p in {*new, *now} if editable(p) and new.get(p) != now.get(p)]
    write(folder, {p: store.read(new[p].oid) if p in new else None for p in differing})


def _merged(
    store: Store, before: Entry | None, after: Entry | None, here: Entry | None
) -> bytes | None:
    """A file with both changes; None where they do not go together."""
    if before is None or after is None or here is None:
        return None
    if {before.mode, after.mode, here.mode} != {REGULAR}:
        return None
    try:
        texts = [store.read(each.oid).decode() for each in (here, before, after)]
    except UnicodeDecodeError:
        return None
    if any(BETWEEN in text for text in texts):
        return None
    found = merge_lines(*(_apart(text) for text in texts))
    return None if found is None else found.replace(BETWEEN, "").encode()


def _apart(text: str) -> str:
    return "".join(f"{line}{BETWEEN}" for line in text.splitlines(keepends=True))


def write(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Put the contents of files into a folder, by path; None removes one."""
    for path, data in files.items():
        file = folder / path
        if data is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
