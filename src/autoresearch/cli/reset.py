"""``try --reset``: the person's editable files become the incumbent's; nothing else is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import git
from ..bench import Places
from ..git import EXECUTABLE, REGULAR, Entry, Store
from ..journal.view import RunView
from ..run import FOLDER
from ..scope import Scope
from ..types import Contract

Sealed = Mapping[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Reset:
    """Repository paths: what was set to the incumbent's, and what was left and why."""

    changed: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def reset(contract: Contract, view: RunView, sealed: Sealed) -> Reset:
    """Set the editable files to the incumbent's, but for those that are not as they were sealed.

    ``sealed`` holds what was tried, None for a file that was gone. HEAD, index and every other
    file stay as they are.
    """
    done = Reset()
    if view.incumbent is None:
        return done
    run = contract.root / FOLDER / view.tag
    repository = git.repository_root(contract.root)
    store = Store(run / "store.git")
    try:
        wanted = {
            path: entry
            for path, entry in store.tree(view.incumbent.commit).items()
            if entry.mode in (REGULAR, EXECUTABLE)
        }
        for path in editable(contract, {*wanted, *sealed, *git.files(repository)}):
            entry = wanted.get(path)
            best = store.read(entry.oid) if entry else None
            now = _content(repository, path)
            if now == best:
                continue
            if isinstance(now, str):
                done.left[path] = now
            elif now != sealed.get(path):
                done.left[path] = "changed since it was sealed"
            else:
                _put(repository / path, best, entry, run / "reset")
                done.changed.append(path)
    finally:
        store.close()
    return done


def editable(contract: Contract, paths: set[str]) -> list[str]:
    """Those of a repository's paths that the contract lets a candidate change."""
    scope = Scope(contract.task)
    repository = git.repository_root(contract.root)
    inner = Places(contract.root / FOLDER, repository, contract.root).inner
    prefix = "" if inner == Path() else f"{inner.as_posix()}/"
    return [
        path
        for path in sorted(paths)
        if path.startswith(prefix) and scope.editable(path[len(prefix) :])
    ]


def _content(repository: Path, path: str) -> bytes | str | None:
    """A file's bytes, None where there is none; a sentence where it is not ours to replace."""
    file = repository / path
    if file.parent.resolve() != (repository.resolve() / path).parent:
        return "behind a symbolic link"
    if file.is_symlink():
        return "a symbolic link"
    if not file.exists():
        return None
    return file.read_bytes() if file.is_file() else "not a file"


def _put(file: Path, content: bytes | None, entry: Entry | None, draft: Path) -> None:
    """Replace a file in one step, or remove it."""
    if content is None or entry is None:
        file.unlink()
        return
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
    draft.write_bytes(content)
    draft.chmod(mode | 0o111 if entry.mode == EXECUTABLE else mode & ~0o111)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(file)
