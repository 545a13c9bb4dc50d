"""Takes kept steps out of a commit while what was built after them stays.

A step is undone by a three-way merge: from the step's own tree, one side goes back to its parent,
the other goes on to the commit. Knows nothing about experiments or measuring.
"""

from __future__ import annotations

from collections.abc import Sequence

from .git import EXECUTABLE, REGULAR, Edits, Store

File = tuple[str, bytes]
# Between any two lines, so that a change of the next line is not a conflict: constants stand in
# blocks, and whether the result still works is measured anyway.
SEPARATOR = b"\x1e\n"


def leave_out(store: Store, commit: str, steps: Sequence[tuple[str, str]]) -> Edits | None:
    """The edits that take ``steps`` (parent and own commit, oldest first) out of ``commit``.

    None where later changes build on a step; empty where nothing of the steps is left.
    """
    edits: dict[str, File | None] = {}
    for parent, made in reversed(steps):
        old, new = store.tree(parent), store.tree(made)
        for path in sorted(old.keys() | new.keys()):
            if old.get(path) == new.get(path):
                continue
            before, after = _file(store, parent, path), _file(store, made, path)
            now = edits[path] if path in edits else _file(store, commit, path)
            if now == before:
                continue
            if now == after:
                edits[path] = before
            elif (merged := _merge(store, now, after, before)) is not None:
                edits[path] = merged
            else:
                return None
    return {path: edit for path, edit in edits.items() if edit != _file(store, commit, path)}


def builds_on(store: Store, steps: Sequence[tuple[str, str]]) -> list[int]:
    """Which of the later steps must go where the first one goes, by their place in ``steps``."""
    if leave_out(store, steps[-1][1], steps[:1]) is not None:
        return []
    built: list[int] = []
    for place, (_, made) in enumerate(steps[1:], 1):
        if leave_out(store, made, [steps[0], *(steps[i] for i in built)]) is None:
            built.append(place)
    return built


def _file(store: Store, commit: str, path: str) -> File | None:
    entry = store.tree(commit).get(path)
    return None if entry is None else (entry.mode, store.read(entry.oid))


def _merge(store: Store, now: File | None, after: File | None, before: File | None) -> File | None:
    if now is None or after is None or before is None:
        return None
    if not {now[0], after[0], before[0]} <= {REGULAR, EXECUTABLE}:
        return None
    mode = before[0] if now[0] == after[0] else now[0]
    texts = (now[1], after[1], before[1])
    merged = store.merge(*texts)
    if merged is None and not any(SEPARATOR in text for text in texts):
        apart = store.merge(*(_separate(text) for text in texts))
        merged = apart.replace(SEPARATOR, b"") if apart is not None else None
    return None if merged is None else (mode, merged)


def _separate(text: bytes) -> bytes:
    return b"".join(line + SEPARATOR for line in text.splitlines(keepends=True))
