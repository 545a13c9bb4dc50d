"""``autoresearch try``: a person's or an agent's own edit, measured and decided like any other."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .. import config, git
from ..engine import Engine
from ..errors import RunLockedError, UserError
from ..inbox import drop
from ..journal import Journal
from ..journal.view import Experiment, RunView
from ..run import FOLDER, begun, held_by_engine
from ..scope import Scope
from ..text import cell, clean
from ..types import Contract, Json, Status
from . import task
from .live import plain_line, watch
from .reset import Reset, editable, reset
from .run import Begin, confine, drive, hold
from .views import row_json

POLL_S = 0.2
FILES_BYTES = 8 << 20


@click.command("try")
@click.option("-m", "--message", required=True, help="What you changed, in one line.")
@click.argument("patch", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--tag", help="Name of the run (default: the latest, else a new one).")
@click.option("--reset", "to_best", is_flag=True, help="Then set your editable files to the best.")
@click.option("--progress", is_flag=True, help="Print progress to stderr, terminal or not.")
@click.option("--unconfined", is_flag=True, help="Run edited code with your own rights.")
@click.option("--json", "as_json", is_flag=True, help="Print the row and its gain as JSON.")
def try_(
    message: str,
    patch: Path | None,
    folder: Path,
    tag: str | None,
    to_best: bool,
    progress: bool,
    unconfined: bool,
    as_json: bool,
) -> None:
    """Measure and decide your own edit.

    Takes the editable files as they are in your directory, or the incumbent with PATCH applied.
    Your files are not changed, except by --reset: it sets the editable ones to the best so far,
    whatever was decided, and leaves what you edited meanwhile. With an engine running, the next
    free slot is yours. Prints one line; exits 0 when the experiment was carried out, whatever the
    decision. Killed before that, it goes on when you try the same files again.
    """
    contract = config.load(task.contract_path(folder))
    if patch and to_best:
        raise UserError("--reset with PATCH: your files are not tried", fix="leave out one of them")
    files = {} if patch else _editable_files(contract)
    request: dict[str, Json] = {
        "ticket": secrets.token_hex(8),
        "message": cell(message) or "try",
        "files": {
            path: None if data is None else base64.b64encode(data).decode()
            for path, data in files.items()
        },
        "patch": base64.b64encode(patch.read_bytes()).decode() if patch else None,
    }
    begin = Begin(
        tag=tag or task.latest_tag(contract.root), uncommitted="leave", unconfined=unconfined
    )
    # What an agent's tool reads must be short: no progress where nobody watches.
    view, ticket = _carry_out(contract, begin, request, loud=progress or sys.stderr.isatty())
    # Decided void, it was measured once more: the last word counts.
    done = [each for each in view.decided if each.ticket == ticket][-1]
    restored = reset(contract, view, files) if to_best else None
    if as_json:
        click.echo(json.dumps(_json(contract, done, restored)))
    else:
        click.echo(sentence(contract, done))
    if patch is None:
        _warn_of_protected(contract)
    if restored is not None:
        for path, why in restored.left.items():
            click.echo(f"note: {path} was not reset: {why}", err=True)
    elif done.decision and done.decision.status is Status.REJECTED and len(view.kept) > 1:
        click.echo("note: --reset sets your editable files to the best so far", err=True)


def sentence(contract: Contract, done: Experiment) -> str:
    """The one line that an agent reads."""
    decision = done.decision
    assert decision is not None
    if decision.value is None:
        more = f"  (more: autoresearch show {done.number})" if done.taken else ""
        return f"{decision.status.value}  {clean(decision.reason, 400)}{more}"
    line = f"{decision.status.value}  {contract.metric.name} {decision.value:.6g}"
    if done.was is not None:
        line += f" (was {done.was:.6g}, {decision.value - done.was:+.4g})"
    return f"{line}  {clean(decision.reason, 400)}"


def _json(contract: Contract, done: Experiment, restored: Reset | None) -> dict[str, Json]:
    decision = done.decision
    assert decision is not None
    row = row_json(contract, done)
    extra: dict[str, Json] = {
        "was": done.was, "gain": decision.gain, "confidence": decision.confidence,
        "reset": list[Json](restored.changed) if restored else None,
        "not_reset": dict[str, Json](restored.left) if restored else None,
    }  # fmt: skip
    return {"version": 1, **row, **extra}


def _warn_of_protected(contract: Contract) -> None:
    """Say which changes of the person's were not tried."""
    repository = git.repository_root(contract.root)
    scope, changed = Scope(contract.task), git.uncommitted(repository) - git.untracked(repository)
    if left_out := [name for name in task.names(contract, changed) if not scope.editable(name)]:
        click.echo(f"note: protected, so not tried: {', '.join(left_out)}", err=True)


def _editable_files(contract: Contract) -> dict[str, bytes | None]:
    """The editable files of the person's directory by repository path; None for a deleted one."""
    repository = git.repository_root(contract.root)
    found: dict[str, bytes | None] = {}
    total = 0
    for path in editable(contract, set(git.files(repository))):
        file = repository / path
        if not file.exists() and not file.is_symlink():
            found[path] = None
        elif file.is_file():
            data = found[path] = file.read_bytes()
            total += len(data)
        if total > FILES_BYTES:
            raise UserError(f"the editable files have more than {FILES_BYTES >> 20} MiB")
    if not found:
        raise UserError(
            f"no editable file ({', '.join(contract.task.editable)}) in {contract.root}",
            fix="check [task] editable in autoresearch.toml",
        )
    return found


def _carry_out(
    contract: Contract, begin: Begin, request: dict[str, Json], *, loud: bool
) -> tuple[RunView, str]:
    """Have the experiment decided by whoever holds the run, which may be us; and its ticket."""
    dropped = False
    while True:
        run = contract.root / FOLDER / (begin.tag or "-")
        if begin.tag is None or not held_by_engine(run):
            try:
                return _measure(contract, begin, request, loud=loud)
            except RunLockedError:  # somebody was faster
                if begin.tag is None:
                    raise
                continue
        view = task.read_view(contract.root, run.name)
        ticket = _queued(view, request)
        if not ticket and not dropped:
            drop(run, {"kind": "ticket", **request})
            dropped = True
        if loud:
            click.echo("the engine of this run takes it next; waiting ...", err=True)
        if _waited(contract, view, run, ticket or str(request["ticket"]), loud=loud):
            return view, ticket or str(request["ticket"])


def _queued(view: RunView, request: dict[str, Json]) -> str:
    """The ticket of the same edit that waits already: of a ``try`` that was killed."""
    for ticket, queued in view.tickets.items():
        if all(queued[key] == request[key] for key in ("files", "patch")):
            return ticket
    return ""


def _waited(contract: Contract, view: RunView, run: Path, ticket: str, *, loud: bool) -> bool:
    """Follow the run until a ticket is decided; False where its engine ended before."""
    told = False
    while True:
        held = held_by_engine(run)
        journal = Journal(run / "journal.db", read_only=True)
        for event in journal.events(after=view.seq):
            view.apply(event)
            if loud and (said := plain_line(event, view, contract)):
                click.echo(said, err=True)
        journal.close()
        if view.held and not told:
            click.echo("the run is paused: autoresearch resume goes on", err=True)
            told = True
        if ticket not in view.tickets and any(each.ticket == ticket for each in view.decided):
            return True
        if not held:
            return False
        time.sleep(POLL_S)


def _measure(
    contract: Contract, begin: Begin, request: dict[str, Json], *, loud: bool
) -> tuple[RunView, str]:
    """Hold the run ourselves for this one experiment."""
    first = begin.tag is None or not begun(contract.root / FOLDER / begin.tag)
    box = confine(begin, quiet=not (loud or first))
    with hold(contract, begin) as held, _sink(loud) as stream:
        log = held.places.run / "engine.log"
        ticket = _queued(held.view, request) or str(request["ticket"])
        if not held.view.knows(ticket):
            held.append("ticket", **request)
        with watch(contract, held.view, stream=stream, log=log) as listen:
            held.listeners.append(listen)
            alone = replace(contract, parallel=replace(contract.parallel, workers=1))
            end = drive(Engine(held, alone, box), ticket=ticket)
            held.listeners.remove(listen)
        if ticket in held.view.tickets:
            raise UserError(
                f"not finished: {end.reason}",
                fix="try the same files again, or autoresearch run takes it first",
            )
        return held.view, ticket


def _sink(loud: bool) -> Any:
    """Where progress goes; the engine's log has it in any case."""
    return contextlib.nullcontext(sys.stderr) if loud else open(os.devnull, "w")  # noqa: PTH123
