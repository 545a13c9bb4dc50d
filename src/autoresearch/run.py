"""One run on disk: its lock, its journal and what follows from it (refs, results.tsv, branch).

The journal commits before anything else changes; whatever follows is redone when a run is opened
again. Knows nothing about agents or measuring.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from . import config, git, inbox, repair, sandbox
from .bench import Places
from .disk import Reserve
from .errors import DiskFullError, RunLockedError, StoreError, UserError
from .failpoint import failpoint
from .git import Store
from .journal import Clock, Event, Journal, log, tsv
from .journal.view import Experiment, Role, RunView, sample_body
from .scratch import remove
from .snapshot import EVERY, Snapshots
from .text import clean
from .types import Contract, Decision, Json, Plan, Sample, Status

FOLDER = ".autoresearch"
CHECK = "check"  # where a task is audited, beside its runs: not one of them
REASON_LENGTH = 400
Listener: TypeAlias = Callable[[Event, RunView], None]


class Run:
    """A run held for writing; at most one process at a time holds it."""

    def __init__(self, places: Places, tag: str, clock: Clock | None = None) -> None:
        self.places = places
        self.tag = tag
        self.listeners: list[Listener] = []
        self.warnings: list[str] = []
        places.run.mkdir(parents=True, exist_ok=True)
        (places.run / inbox.FOLDER).mkdir(exist_ok=True)
        self._lock = _lock(places.run / "engine.lock", tag)
        failpoint("run.locked")
        self.reserve = Reserve(places.run / "reserve")
        self.store = Store(places.run / "store.git")
        self._log_head = ""
        self._logged = 0
        self._behind = False
        self._snapshots: Snapshots | None = None
        try:
            inbox.take(places.run, inbox.PASSING)  # meant for an engine that is gone
            apart = places.apart()
            sandbox.sweep(
                [places.scratch.parent, apart.scratch.parent], [places.attempts, apart.attempts]
            )
            for folder in (*places.trees(), *apart.trees()):
                remove(folder)
            self.store.clear_leftovers()
            self._mend_journal()
            self.journal = Journal(places.run / "journal.db", clock=clock)
            self.view = RunView(self.journal.events())
        except BaseException:
            self.store.close()
            os.close(self._lock)
            raise

    def _mend_journal(self) -> None:
        """Rebuild the journal where it is damaged, or ends before the log of decisions.

        Raises:
            StoreError: it is damaged, and so is the log.
        """
        path = self.places.run / "journal.db"
        logged = (self.store.length(self._log_ref) or 1) - 1
        problem = repair.problem(path)
        if not problem:
            journal = Journal(path, read_only=True)
            decided = journal.count("decided")
            journal.close()
            if decided < logged:
                problem = f"{path} holds {decided} decisions, the log {logged}: it was truncated"
            elif decided or not _has_rows(self.places.run):
                return
            else:
                problem = f"{path} is empty, results.tsv is not"
        elif not (path.exists() or logged or _has_rows(self.places.run)):
            return  # a new run
        said = repair.rebuild_journal(path, self.store, self._log_ref, problem)
        self.warnings.append(said)

    # Beginning

    def begin(self, contract: Contract, base: str, edits: git.Edits) -> None:
        """Start a new run from a commit of the person's repository, with edits on top of it."""
        if (self.places.run / "experiments").exists():
            self.warnings.append("the journal was lost before anything was decided: begun anew")
        # Of an attempt that was killed, perhaps on another commit.
        remove(self.places.run / "setup")
        head = base
        self.store.close()
        self.store = Store.create(self.store.path)
        self.store.adopt(self.places.repository, head)
        if edits:
            base = self.store.seal(base, edits, "Uncommitted changes", self.candidate_ref())
        self._log_head = self.store.begin_log(self._log_ref, f"run {self.tag}\n")
        self.append(
            "run_started",
            tag=self.tag,
            contract=config.snapshot(contract),
            base=base,
            head=head,
            seed=secrets.randbits(32),
            branch=_free_branch(self.places.repository, f"autoresearch/{self.tag}"),
        )

    def resume(self, contract: Contract) -> None:
        """Go on with a run: redo what a kill may have left undone, take over what may change.

        Raises:
            UserError: the contract changed in a key that measurements depend on.
        """
        old = config.from_snapshot(self.view.contract, contract.path)
        if frozen := config.frozen_changes(old, contract):
            raise UserError(
                f"{contract.path}: {', '.join(frozen)} changed since run {self.tag!r} began;"
                " its measurements would not compare",
                fix="change it back, or start a new run with: autoresearch run --new",
            )
        git.clear_branch_lock(self.places.repository, self.view.branch)
        if problem := self.store.problem(self._log_ref):
            self._mend_store(problem)
        for warning in self.warnings:
            self.append("warning", message=warning)
        snapshot = config.snapshot(contract)
        if snapshot != self.view.contract:
            self.append("contract_changed", contract=snapshot)
        self._behind = True
        with contextlib.suppress(DiskFullError):  # the engine waits for room
            self._catch_up()

    def _mend_store(self, problem: str) -> None:
        """Rebuild the store; the experiment in flight begins again where its code is lost."""
        repository = self.places.repository
        said = repair.rebuild_store(self.store, self._log_ref, self.view, repository, problem)
        self.warnings.append(said)
        for each in list(self.view.in_flight.values()):
            if each.commit and not self.store.has(each.commit):
                self.open(
                    each.number, each.plan, each.agent, worker=each.worker, ticket=each.ticket,
                    repeats=each.repeats, idea=each.idea,
                )  # fmt: skip

    def _catch_up(self) -> None:
        """Make the log of decisions, results.tsv and the branch follow from the journal again."""
        head = self.store.resolve(self._log_ref)
        if head is None:
            raise StoreError(f"{self.store.path} lost {self._log_ref}", fix=repair.START_ANEW)
        self._log_head = head
        self._logged = log.last_seq(self.store.message(head))
        self._log_decisions()
        tsv.rebuild(self.places.run / "results.tsv", self.view, self._metric)
        self._deliver()
        self._behind = False
        self._write_snapshot()

    def require_room(self) -> None:
        """See that the disk has room for work, and that nothing waits to be written since it had.

        Raises:
            DiskFullError: it has none.
        """
        self.reserve.require()
        if self._behind:
            self._catch_up()

    # Writing

    @property
    def active_s(self) -> float:
        """How long engines have worked on this run by now, in seconds."""
        if self.view.held:
            return self.view.active_s
        return self.view.active_s + max(0.0, self.journal.clock_s - self.view.clock_s)

    def append(self, kind: str, experiment: int | None = None, /, **body: Json) -> Event:
        """Journal an event, then let the view and the listeners follow."""
        try:
            event = self.journal.append(kind, experiment, **body)
        except DiskFullError:
            # What was measured must not be lost: the reserve is for this.
            self.reserve.release()
            event = self.journal.append(kind, experiment, **body)
        self.view.apply(event)
        for listener in self.listeners:
            listener(event, self.view)
        return event

    def open(
        self, number: int, plan: Plan, agent: str, *, worker: int = 0, ticket: str = "",
        repeats: int | None = None, idea: int | None = None,
    ) -> Experiment:  # fmt: skip
        """Open an experiment; perhaps anew one in flight that has no candidate yet."""
        asked = self.view.ideas.get(idea)
        self.append(
            "opened",
            number,
            kind=plan.kind.value,
            parent=plan.parent,
            hypothesis=plan.hypothesis,
            agent=agent,
            open=bool(ticket) or (asked is not None and asked.code),
            ticket=ticket,
            worker=worker,
            repeats=repeats,
            idea=idea,
            reason=plan.reason,
            combines=plan.combines,
        )
        return self.view.experiments[number]

    def record_attempt(
        self, number: int, k: int, role: Role, seed: int, commit: str, lease: str
    ) -> None:
        """Journal that a sample is about to be taken; ``lease`` is its job's nonce."""
        body: dict[str, Json] = {"role": role.value, "seed": seed, "commit": commit}
        self.append("attempt", number, k=k, **body, lease=lease)

    def record_sample(self, number: int, k: int, role: Role, sample: Sample, gpus: int) -> None:
        """Journal a sample."""
        self.append("sample", number, k=k, role=role.value, gpus=gpus, **sample_body(sample))

    def close(self, experiment: Experiment, decision: Decision) -> Experiment:
        """Decide an experiment: journal first; the log, results.tsv and the branch follow."""
        body: dict[str, Json] = asdict(decision) | {
            "status": decision.status.value,
            "reason": clean(decision.reason, REASON_LENGTH),
        }
        self._behind = True
        self.append("decided", experiment.number, decision=body)
        self._log_decisions()
        path = self.places.run / "results.tsv"
        if experiment.number == 0:
            tsv.rebuild(path, self.view, self._metric)
        else:
            tsv.append(path, experiment)
        if decision.status is Status.KEEP:
            self._deliver()
        self._behind = False
        if self.view.decisions % EVERY == 0:
            self._write_snapshot()
        return experiment

    def offer(self, commit: str) -> str:
        """Deliver a commit as a branch beside the run's own, which stays; returns its name."""
        repository = self.places.repository
        branch = self.view.offers.get(commit, "")
        if not branch or git.branch_commit(repository, branch) != commit:
            branch = _free_branch(repository, f"autoresearch/{self.tag}-verified")
            self.append("offered", branch=branch, commit=commit)
            self.store.deliver(repository, commit, branch, None)
        return branch

    def release(self) -> None:
        """Let go of the run."""
        self.reserve.release()
        self.store.close()
        self.journal.close()
        os.close(self._lock)

    # What follows from the journal

    @property
    def _log_ref(self) -> str:
        return f"refs/autoresearch/{self.tag}/log"

    def candidate_ref(self, worker: int = 0) -> str:
        """What keeps a worker's candidate until the log of decisions does."""
        name = f"candidate-{worker}" if worker else "candidate"
        return f"refs/autoresearch/{self.tag}/{name}"

    @property
    def _metric(self) -> str:
        return str(self.view.contract["metric"]["name"])

    def _log_decisions(self) -> None:
        """Write what the journal holds beyond the log's last entry into the log."""
        events: list[Event] = []
        for event in self.journal.events(after=self._logged):
            events.append(event)
            if event.kind == "decided":
                experiment = self.view.experiments[event.experiment or 0]
                named = (experiment.commit, experiment.parent, self.view.base)
                other = next(each for each in named if each and self.store.has(each))
                message = log.message(experiment, events)
                self._log_head = self.store.append(self._log_ref, self._log_head, other, message)
                self._logged = event.seq
                events = []

    def _write_snapshot(self) -> None:
        """Leave a snapshot for who only reads."""
        if self._snapshots is None:
            metric = config.from_snapshot(self.view.contract, self.places.root).metric
            self._snapshots = Snapshots(self.places.run, metric)
        self._snapshots.write(self.view, self.journal.digest)

    def _deliver(self) -> None:
        """Advance the person's branch to the incumbent; where we may not, use the next free one."""
        incumbent = self.view.incumbent
        if incumbent is None or incumbent.number == 0:
            return
        branch = self.view.branch
        before = self.view.delivered.get(branch)
        if before == incumbent.commit == git.branch_commit(self.places.repository, branch):
            return
        try:
            self.store.deliver(self.places.repository, incumbent.commit, branch, before)
        except UserError as problem:
            taken, branch = branch, _free_branch(self.places.repository, branch)
            self.warnings.append(f"{problem.message}: results now arrive as {branch}")
            self.append("warning", message=f"{taken}: {self.warnings[-1]}")
            self.store.deliver(self.places.repository, incumbent.commit, branch, None)
        self.append("delivered", branch=branch, commit=incumbent.commit)


def _lock(path: Path, tag: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 64).decode(errors="replace").strip()
        os.close(descriptor)
        raise RunLockedError(
            f"another engine holds run {tag!r}" + (f" (process {holder})" if holder else ""),
            fix="autoresearch status shows it, autoresearch stop ends it",
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _free_branch(repository: Path, wanted: str) -> str:
    """``wanted``, or the first ``wanted-2``, ``wanted-3`` ... that does not exist."""
    stem = re.sub(r"-\d+$", "", wanted)
    name, number = wanted, 1
    while git.branch_commit(repository, name) is not None:
        number += 1
        name = f"{stem}-{number}"
    return name


def held_by_engine(run: Path) -> bool:
    """Whether an engine holds the run at this moment."""
    try:
        descriptor = os.open(run / "engine.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def begun(run: Path) -> bool:
    """Whether there is a run in a directory, whole or damaged."""
    return (run / "journal.db").exists() or (run / "store.git").exists()


def tags(root: Path) -> list[str]:
    """The runs of a task, the one that was begun last at the end."""
    found = (root / FOLDER).glob("*/")
    runs = [path for path in found if path.name != CHECK and begun(path)]
    return [path.name for path in sorted(runs, key=lambda path: (_begun_at(path), path.name))]


def _begun_at(run: Path) -> str:
    """When a run was begun; where its journal cannot tell, when its lock was last written."""
    try:
        if (run / "journal.db").exists():
            first = next(iter(Journal(run / "journal.db", read_only=True).events()), None)
            return first.at if first else "9"
    except StoreError:
        pass
    lock = run / "engine.lock"
    return datetime.fromtimestamp(lock.stat().st_mtime if lock.exists() else 0, UTC).isoformat()


def _has_rows(run: Path) -> bool:
    """Whether ``results.tsv`` tells of decisions; never read for anything else."""
    path = run / "results.tsv"
    return path.exists() and len(path.read_bytes().splitlines()) > 1


def new_tag(root: Path, now: datetime) -> str:
    """A tag that no run has yet: the day, and a number from the second on."""
    stem = now.strftime("%b%d").lower()
    tag, number = stem, 1
    while (root / FOLDER / tag).exists():
        number += 1
        tag = f"{stem}-{number}"
    return tag
