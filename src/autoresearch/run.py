"""One run on disk: its lock, its journal and what follows from it (refs, results.tsv, branch).

The journal commits before anything else changes; whatever follows is redone when a run is opened
again. Knows nothing about agents or measuring.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from . import config, git, sandbox
from .bench import Places
from .errors import RunLockedError, StoreError, UserError
from .git import Store
from .journal import Event, Journal, tsv
from .journal.view import Experiment, Role, RunView, sample_body
from .text import cell, clean
from .types import Contract, Decision, Json, Plan, Sample, Status

FOLDER = ".autoresearch"
REASON_LENGTH = 400
Listener: TypeAlias = Callable[[Event, RunView], None]


class Run:
    """A run held for writing; at most one process at a time holds it."""

    def __init__(self, places: Places, tag: str) -> None:
        self.places = places
        self.tag = tag
        self.listeners: list[Listener] = []
        self.warnings: list[str] = []
        places.run.mkdir(parents=True, exist_ok=True)
        (places.run / "inbox").mkdir(exist_ok=True)
        self._lock = _lock(places.run / "engine.lock", tag)
        self.journal = Journal(places.run / "journal.db")
        self.journal.check()
        self.view = RunView(self.journal.events())
        self.store = Store.create(places.run / "store.git")
        self.store.clear_locks()
        for each in (places, places.apart()):
            sandbox.sweep(each.scratch.parent)
            shutil.rmtree(each.work or each.scratch, ignore_errors=True)

    # Beginning

    def begin(self, contract: Contract, base: str, edits: git.Edits) -> None:
        """Start a new run from a commit of the person's repository, with edits on top of it."""
        self.store.adopt(self.places.repository, base)
        if edits:
            base = self.store.seal(base, edits, "Uncommitted changes", self.candidate_ref)
        begun = f"run {self.tag}\n\n{json.dumps(config.snapshot(contract))}\n"
        self.view.log_head = self.store.begin_log(self._log_ref, begun)
        self.append(
            "run_started",
            tag=self.tag,
            contract=config.snapshot(contract),
            base=base,
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
        snapshot = config.snapshot(contract)
        if snapshot != self.view.contract:
            self.append("contract_changed", contract=snapshot)
        self._catch_up()

    def _catch_up(self) -> None:
        """Make the log of decisions and the branch follow from the journal again."""
        ref = self._log_ref
        head = self.store.resolve(ref)
        if head is None:
            raise StoreError(f"{self.store.path} lost {ref}", fix="restore it from a copy")
        logged = len(self.store.history(ref)) - 1
        if logged > len(self.view.decided):
            raise StoreError(
                f"{self.store.path} holds {logged} decisions, the journal only"
                f" {len(self.view.decided)}: the journal was truncated",
                fix="restore journal.db from a copy; nothing was changed",
            )
        self.view.log_head = head
        for experiment in self.view.decided[logged:]:
            self._log_decision(experiment)
        tsv.rebuild(self.places.run / "results.tsv", self.view, self._metric)
        self._deliver()

    # Writing

    def append(self, kind: str, experiment: int | None = None, /, **body: Json) -> Event:
        """Journal an event, then let the view and the listeners follow."""
        event = self.journal.append(kind, experiment, **body)
        self.view.apply(event)
        for listener in self.listeners:
            listener(event, self.view)
        return event

    def open(
        self, plan: Plan, agent: str, *, ticket: str = "", repeats: int | None = None
    ) -> Experiment:
        """Open the next experiment, or the one that was in flight when the engine ended."""
        if (unfinished := self.view.unfinished) and unfinished.commit:
            return unfinished
        number = self.view.next_number
        self.append(
            "opened",
            number,
            kind=plan.kind.value,
            parent=plan.parent,
            hypothesis=plan.hypothesis,
            agent=agent,
            open=bool(ticket),
            ticket=ticket,
            repeats=repeats,
        )
        return self.view.experiments[number]

    def record_attempt(self, number: int, k: int, role: Role, seed: int, commit: str) -> None:
        """Journal that a sample is about to be taken."""
        self.append("attempt", number, k=k, role=role.value, seed=seed, commit=commit)

    def record_sample(self, number: int, k: int, role: Role, sample: Sample, gpus: int) -> None:
        """Journal a sample."""
        self.append("sample", number, k=k, role=role.value, gpus=gpus, **sample_body(sample))

    def close(self, experiment: Experiment, decision: Decision) -> Experiment:
        """Decide an experiment: journal first; the log, results.tsv and the branch follow."""
        body: dict[str, Json] = asdict(decision) | {
            "status": decision.status.value,
            "reason": clean(decision.reason, REASON_LENGTH),
        }
        self.append("decided", experiment.number, decision=body)
        self._log_decision(experiment)
        path = self.places.run / "results.tsv"
        if experiment.number == 0:
            tsv.rebuild(path, self.view, self._metric)
        else:
            tsv.append(path, experiment)
        if decision.status is Status.KEEP:
            self._deliver()
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
        self.store.close()
        self.journal.close()
        os.close(self._lock)

    # What follows from the journal

    @property
    def _log_ref(self) -> str:
        return f"refs/autoresearch/{self.tag}/log"

    @property
    def candidate_ref(self) -> str:
        return f"refs/autoresearch/{self.tag}/candidate"

    @property
    def _metric(self) -> str:
        return str(self.view.contract["metric"]["name"])

    def _log_decision(self, experiment: Experiment) -> None:
        decision = experiment.decision
        assert decision is not None
        entry = {
            "experiment": experiment.number,
            "commit": experiment.commit,
            "status": decision.status.value,
            "value": decision.value,
            "reason": decision.reason,
            "description": cell(experiment.description),
        }
        title = f"#{experiment.number} {decision.status.value}"
        message = f"{title}\n\n{json.dumps(entry)}\n"
        other = experiment.commit or experiment.parent or self.view.base
        assert self.view.log_head is not None
        self.view.log_head = self.store.append(self._log_ref, self.view.log_head, other, message)

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
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
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


def tags(root: Path) -> list[str]:
    """The runs of a task, the one that was begun last at the end."""
    journals = list((root / FOLDER).glob("*/journal.db"))
    found = []
    for path in journals:
        first = next(iter(Journal(path, read_only=True).events()), None)
        found.append((first.at if first else "9", path.parent.name))
    return [tag for _, tag in sorted(found)]


def new_tag(root: Path, now: datetime) -> str:
    """A tag that no run has yet: the day, and a number from the second on."""
    stem = now.strftime("%b%d").lower()
    tag, number = stem, 1
    while (root / FOLDER / tag).exists():
        number += 1
        tag = f"{stem}-{number}"
    return tag
