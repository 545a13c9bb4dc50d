"""What must hold of a run whatever happened to it, said in one place for every fault test."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch.bench import Places
from autoresearch.git import Store
from autoresearch.journal import Journal, log, tsv
from autoresearch.journal.view import RunView
from autoresearch.run import held_by_engine
from autoresearch.runner import children
from tests.conftest import Toy

PRINTED = re.compile(r"^\d\d:\d\d:\d\d #(\d+) (\w+)", re.M)


@dataclass
class Acknowledged:
    """What a person has been shown: rows of ``results.tsv`` and printed lines; never forgotten."""

    rows: list[list[str]] = field(default_factory=list)
    printed: dict[int, str] = field(default_factory=dict)

    def read(self, task: Toy) -> None:
        """Take note of all that can be seen now."""
        folder = newest(task)
        if folder is not None and (folder / "results.tsv").exists():
            self.rows = task.rows()[1:]
        if task.said.exists():
            found = PRINTED.findall(task.said.read_text(errors="replace"))
            self.printed |= {int(number): status for number, status in found}


def newest(task: Toy) -> Path | None:
    """The directory of the only run, if there is one yet."""
    found = sorted((task.root / ".autoresearch").glob("*/engine.lock"))
    return found[-1].parent if found else None


def elsewhere(task: Toy) -> Path:
    """Where trees of the only run are made at the levels that cannot show them in its folder."""
    folder = newest(task) or task.root
    work = Places(folder, task.root, task.root).apart().work
    assert work is not None
    return work


def check_invariants(
    task: Toy, seen: Acknowledged | None = None, *, recovered: bool = True
) -> RunView:
    """Check every invariant; without ``recovered``, projections may be one step behind."""
    orphans = wait_for_no_process(task)
    if not recovered:
        orphans = {pid: said for pid, said in orphans.items() if not _has_not_begun(pid, said)}
    assert not orphans, f"left alive: {orphans}"
    folder = newest(task)
    if folder is None or not (folder / "journal.db").exists():
        assert seen is None or not (seen.rows or seen.printed), "the journal is gone"
        return RunView()
    assert not held_by_engine(folder), "somebody holds the lock"
    journal = Journal(folder / "journal.db", read_only=True)
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    events = list(journal.events())
    journal.close()
    view = RunView(events)
    numbers = [each.number for each in view.decided]
    known = sorted([*numbers, *view.in_flight])
    assert known == list(range(len(known))), f"numbers are not contiguous: {known}"
    if seen is not None:
        _check_acknowledged(view, seen)
    _check_results(folder, view, recovered)
    _check_log(folder, view, events, recovered)
    _check_branch(task, view, recovered)
    assert task.git("status", "--porcelain") == "", "the person's checkout was touched"
    if recovered:
        leftovers = [
            *folder.glob("scratch*"), *folder.glob("results.tsv.new"), *folder.glob("store.new"),
            *folder.glob("journal.db.new*"), *folder.glob("inbox/*"), *folder.glob("reserve"),
            *folder.glob("store.git/**/*.lock"), *folder.glob("store.git/objects/*/tmp_obj_*"),
            *filter(Path.exists, [elsewhere(task)]),
        ]  # fmt: skip
        assert not leftovers, f"left behind: {leftovers}"
    return view


def _check_acknowledged(view: RunView, seen: Acknowledged) -> None:
    rows = [tsv.row(each).rstrip("\n").split("\t") for each in view.decided]
    assert rows[: len(seen.rows)] == seen.rows, "a row that was shown is gone or changed"
    for number, status in seen.printed.items():
        assert number in view.experiments, f"#{number} was printed and is gone"
        decision = view.experiments[number].decision
        assert decision is not None and decision.status.value == status


def _check_results(folder: Path, view: RunView, recovered: bool) -> None:
    path = folder / "results.tsv"
    derived = [tsv.header(str(view.contract["metric"]["name"]))] if view.contract else []
    derived += [tsv.row(each) for each in view.decided]
    found = path.read_text().splitlines(keepends=True) if path.exists() else []
    if recovered and view.decided:
        assert found == derived, "results.tsv is not what follows from the journal"
    else:
        assert found == derived[: len(found)] and len(found) >= len(view.decided) - 1
    assert all(len(line.split("\t")) == 5 for line in found), "results.tsv is not rectangular"


def _check_log(folder: Path, view: RunView, events: list[object], recovered: bool) -> None:
    ref = f"refs/autoresearch/{folder.name}/log"
    if not view.base:
        return
    with contextlib.closing(Store(folder / "store.git")) as store:
        _check_entries(store, ref, view, events, recovered)


def _check_entries(
    store: Store, ref: str, view: RunView, events: list[object], recovered: bool
) -> None:
    assert store.problem(ref) == ""
    messages = [message for _, message in reversed(store.history(ref))]
    titles = [message.splitlines()[0] for message in messages[1:]]
    wanted = [
        f"#{each.number} {each.decision.status.value}" for each in view.decided if each.decision
    ]
    if recovered:
        assert titles == wanted, "the log of decisions is not the journal's"
    assert titles == wanted[: len(titles)] and len(titles) >= len(wanted) - 1
    copied = log.events(messages)
    for kept, event in zip(copied, events, strict=False):
        assert kept == event or kept.kind == "ticket_lost" or event.kind in ("ticket", "idea")  # type: ignore[attr-defined]
    for each in view.kept:
        assert store.complete(each.commit), f"the code of #{each.number} is gone"


def _check_branch(task: Toy, view: RunView, recovered: bool) -> None:
    if len(view.kept) < 2:
        return
    allowed = [view.kept[-1].commit, *([] if recovered else [view.kept[-2].commit])]
    names = task.git("for-each-ref", "--format=%(refname:short)", "refs/heads/autoresearch/")
    if not recovered and view.branch not in names.splitlines():
        assert len(view.kept) == 2
        return
    assert task.git("rev-parse", view.branch) in allowed, "the branch is not the incumbent"


def processes(task: Toy) -> dict[int, str]:
    """Processes whose command line, directory or environment refers to the task's directory.

    Or to where its trees are made at the lower levels.
    """
    needles = [os.fsencode(task.root), os.fsencode(elsewhere(task))]
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            said = (entry / "cmdline").read_bytes()
            place = os.fsencode((entry / "cwd").readlink())
            where = b"\0".join((said, place, (entry / "environ").read_bytes()))
            if any(needle in where for needle in needles):
                found[int(entry.name)] = said.replace(b"\0", b" ").decode(errors="replace")[:120]
    return found


def _has_not_begun(pid: int, said: str) -> bool:
    """Whether it is a bubblewrap that waits for its killed parent and has started nothing."""
    return said.split(" ", 1)[0].endswith("bwrap") and not children(pid)


def wait_for_no_process(task: Toy, seconds: float = 15) -> dict[int, str]:
    """What still runs for a task after a while; a killed engine's processes need a moment."""
    give_up = time.monotonic() + seconds
    while (found := processes(task)) and time.monotonic() < give_up:
        time.sleep(0.02)
    return found
