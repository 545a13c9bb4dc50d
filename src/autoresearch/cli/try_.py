"""``autoresearch try``: a person's or an agent's own edit, measured and decided like any other."""

from __future__ import annotations

import base64
import json
import secrets
import sys
import time
from pathlib import Path

import click

from .. import config, git
from ..bench import Places
from ..engine import Engine
from ..errors import UserError
from ..inbox import drop
from ..journal.view import Experiment, RunView
from ..run import FOLDER, held_by_engine
from ..scope import Scope
from ..text import cell, clean
from ..types import Contract, Json, Status
from . import task
from .live import watch
from .run import Begin, confine, drive, hold
from .views import row_json

POLL_S = 0.2
FILES_BYTES = 8 << 20


@click.command("try")
@click.option("-m", "--message", required=True, help="What you changed, in one line.")
@click.argument("patch", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--tag", help="Name of the run (default: the latest, else a new one).")
@click.option("--unconfined", is_flag=True, help="Run edited code with your own rights.")
@click.option("--json", "as_json", is_flag=True, help="Print the row and its gain as JSON.")
def try_(
    message: str, patch: Path | None, folder: Path, tag: str | None, unconfined: bool, as_json: bool
) -> None:
    """Measure and decide your own edit.

    Takes the editable files as they are in your directory, or the incumbent with PATCH applied.
    Your files are not changed. With an engine running, the next free slot is yours. Prints one
    line; exits 0 when the experiment was carried out, whatever the decision.
    """
    contract = config.load(task.contract_path(folder))
    ticket = secrets.token_hex(8)
    request: dict[str, Json] = {
        "ticket": ticket,
        "message": cell(message) or "try",
        "files": {} if patch else dict(_editable_files(contract)),
        "patch": base64.b64encode(patch.read_bytes()).decode() if patch else None,
    }
    latest = tag or task.latest_tag(contract.root)
    run = contract.root / FOLDER / (latest or "-")
    if latest and held_by_engine(run):
        drop(run, {"kind": "ticket", **request})
        view = _wait(contract, latest, ticket)
    else:
        view = _measure(
            contract, Begin(tag=latest, uncommitted="leave", unconfined=unconfined), request
        )
    if patch is None:
        _warn_of_protected(contract)
    # Decided void, it was measured once more: the last word counts.
    done = [each for each in view.decided if each.ticket == ticket][-1]
    if as_json:
        click.echo(json.dumps(_json(contract, view, done)))
    else:
        click.echo(sentence(contract, done))
        if done.decision and done.decision.status is Status.REJECTED and len(view.kept) > 1:
            click.echo(f"to start from the best so far: git restore --source {view.branch} -- .")


def sentence(contract: Contract, done: Experiment) -> str:
    """The one line that an agent reads."""
    decision = done.decision
    assert decision is not None
    if decision.value is None:
        return f"{decision.status.value}  {clean(decision.reason, 400)}"
    line = f"{decision.status.value}  {contract.metric.name} {decision.value:.6g}"
    if done.was is not None:
        line += f" (was {done.was:.6g}, {decision.value - done.was:+.4g})"
    return f"{line}  {clean(decision.reason, 400)}"


def _json(contract: Contract, view: RunView, done: Experiment) -> dict[str, Json]:
    decision = done.decision
    assert decision is not None
    row = row_json(contract, done)
    extra: dict[str, Json] = {
        "was": done.was, "gain": decision.gain, "confidence": decision.confidence
    }  # fmt: skip
    return {"version": 1, **row, **extra}


def _warn_of_protected(contract: Contract) -> None:
    """Say which changes of the person's were not tried."""
    repository = git.repository_root(contract.root)
    scope, changed = Scope(contract.task), git.uncommitted(repository) - git.untracked(repository)
    if left_out := [name for name in task.names(contract, changed) if not scope.editable(name)]:
        click.echo(f"note: protected, so not tried: {', '.join(left_out)}", err=True)


def _editable_files(contract: Contract) -> dict[str, str]:
    """The editable files of the person's directory by repository path, base64."""
    repository = git.repository_root(contract.root)
    scope = Scope(contract.task)
    places = Places(contract.root / FOLDER, repository, contract.root)
    prefix = "" if places.inner == Path() else f"{places.inner.as_posix()}/"
    found, total = {}, 0
    for path in git.files(repository):
        inner = path[len(prefix) :] if path.startswith(prefix) else None
        file = repository / path
        if inner is None or not scope.editable(inner) or not file.is_file():
            continue
        data = file.read_bytes()
        total += len(data)
        if total > FILES_BYTES:
            raise UserError(f"the editable files have more than {FILES_BYTES >> 20} MiB")
        found[path] = base64.b64encode(data).decode()
    if not found:
        raise UserError(
            f"no editable file ({', '.join(contract.task.editable)}) in {contract.root}",
            fix="check [task] editable in autoresearch.toml",
        )
    return found


def _wait(contract: Contract, tag: str, ticket: str) -> RunView:
    """Wait until the engine that holds the run has decided our ticket."""
    click.echo("the engine of this run takes it next; waiting ...", err=True)
    told = False
    while True:
        view = task.read_view(contract.root, tag)
        if view.held and not told:
            click.echo("the run is paused: autoresearch resume goes on", err=True)
            told = True
        if ticket not in view.tickets and any(each.ticket == ticket for each in view.decided):
            return view
        if not held_by_engine(contract.root / FOLDER / tag):
            raise UserError(
                "the engine ended before it took the experiment; it is queued",
                fix="autoresearch run takes it first",
            )
        time.sleep(POLL_S)


def _measure(contract: Contract, begin: Begin, request: dict[str, Json]) -> RunView:
    """Hold the run ourselves for this one experiment."""
    box = confine(begin)
    ticket = str(request["ticket"])
    with hold(contract, begin) as held:
        log = held.places.run / "engine.log"
        held.append("ticket", **request)
        with watch(contract, held.view, stream=sys.stderr, log=log) as listen:
            held.listeners.append(listen)
            end = drive(Engine(held, contract, box), ticket=ticket)
            held.listeners.remove(listen)
        if ticket in held.view.tickets:
            raise UserError(f"not finished: {end.reason}", fix="autoresearch run takes it first")
        return held.view
