"""Damage at rest: what is broken is moved aside and rebuilt from what is whole.

The journal comes back from the log of decisions; the private store from its own intact objects, the
journal, and the commits that the person's repository holds. Nothing damaged is ever deleted.
"""

from __future__ import annotations

from pathlib import Path

from .disk import sync_directory
from .errors import DamagedError, StoreError
from .failpoint import failpoint
from .git import Store
from .journal import COMPANIONS, Journal, log, restore
from .journal.view import RunView

START_ANEW = "restore one of them from a copy, or begin anew with: autoresearch run --new"


def problem(journal: Path) -> str:
    """Why a journal cannot be used; empty where it can."""
    if not journal.exists():
        return f"{journal} is missing"
    opened = None
    try:
        opened = Journal(journal)
        opened.check()
    except DamagedError as error:
        return error.message
    finally:
        if opened is not None:
            opened.close()
    return ""


def rebuild_journal(path: Path, store: Store, ref: str, reason: str) -> str:
    """Write the journal anew from the log of decisions; returns what to tell the person.

    Raises:
        StoreError: the log cannot be read, either; nothing was changed.
    """
    try:
        messages = [message for _, message in reversed(store.history(ref))]
        events = log.events(messages)
        if not any(event.kind == "decided" for event in events):
            raise DamagedError("it holds no decision")
    except StoreError as error:
        raise StoreError(
            f"{reason}; and the second copy in {store.path}: {error.message}", fix=START_ANEW
        ) from error
    aside = _aside(path)
    if path.exists():
        path.rename(aside)
    for name in COMPANIONS:
        companion = path.with_name(path.name + name)
        if companion.exists():
            # It belongs to the damaged file; SQLite would roll the new one back with it.
            companion.rename(aside.with_name(aside.name + name))
    sync_directory(path.parent)
    failpoint("journal.moved")
    restore(path, events)
    failpoint("journal.restored")
    view = RunView(events)
    said = (
        f"{reason}. It was rebuilt from the log of decisions with all {len(view.decided)} that are"
        " there; an experiment that was in flight begins again"
    )
    if aside.exists():
        said += f"; the old file is {aside.name}"
    if lost := sum(event.kind == "ticket_lost" for event in events):
        said += f"; queued by try and lost: {lost}"
    return said


def rebuild_store(store: Store, ref: str, view: RunView, repository: Path, reason: str) -> str:
    """Make the store anew, with an empty log ``ref``: its entries follow from the journal.

    Raises:
        StoreError: the base, or a commit that was kept last, is nowhere; nothing was changed.
    """
    draft = Store.create(store.path.with_name("store.new"))
    draft.adopt(repository, view.head)
    for other in [store.path, *store.path.parent.glob(f"{store.path.name}.damaged-*")]:
        draft.salvage(other)
    wanted = [each.commit for each in view.kept if each.commit]
    for commit in dict.fromkeys([view.base, *wanted]):
        if not draft.complete(commit):
            draft.adopt_since(repository, commit, view.head)
    lost = {
        commit
        for each in view.experiments.values()
        for commit in (each.commit, each.parent)
        if commit and not draft.complete(commit)
    }
    incumbent = view.incumbent
    needed = [view.base, incumbent.commit if incumbent else view.base]
    if gone := [commit for commit in needed if commit in lost or not draft.complete(commit)]:
        raise StoreError(
            f"{reason}; commit {gone[0][:7]}, which the run stands on, is neither there nor in"
            f" {repository}",
            fix="restore store.git from a copy, or begin anew with: autoresearch run --new",
        )
    for commit in lost:
        draft.forget(commit)
    draft.begin_log(ref, f"run {view.tag}\n")
    store.close()
    if store.path.is_dir():
        store.path.rename(_aside(store.path))
    failpoint("store.moved")
    draft.path.rename(store.path)
    sync_directory(store.path.parent)
    failpoint("store.restored")
    said = f"{reason}. The store was rebuilt from what was whole, the journal and {repository}"
    if rows := [each.number for each in view.decided if each.commit in lost]:
        numbers = ", ".join(f"#{number}" for number in rows[:20])
        said += f"; the code of {len(rows)} that were not kept is lost: {numbers}"
    return said


def _aside(path: Path) -> Path:
    """A name beside a damaged file that is still free."""
    number = 1
    while (found := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return found
