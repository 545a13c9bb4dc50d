"""``autoresearch idea``: hypotheses and notes for a run while it goes on, and their answers."""

from __future__ import annotations

import base64
import json
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from .. import git, inbox, registry
from ..briefing import NOTES_SHOWN
from ..errors import UserError
from ..journal.ideas import PATCH_BYTES, PRIORITY_MOST, TEXT_LENGTH, Idea, State
from ..journal.view import Experiment, RunView
from ..run import held_by_engine
from ..text import clean
from ..types import Contract, Json
from . import task, words
from .views import print_table, read

TAKEN_S = 3.0
POLL_S = 0.1
STYLES = {
    State.OPEN: "",
    State.TAKEN: "bold",
    State.CONFIRMED: "green",
    State.REFUTED: "bright_black",
    State.FAILED: "red",
    State.DROPPED: "bright_black",
}


@click.group()
def idea() -> None:
    """Queue hypotheses and notes for a run, and read what came out of them."""


@idea.command()
@click.argument("text")
@task.options
@click.option("--priority", type=click.IntRange(-PRIORITY_MOST, PRIORITY_MOST), default=0,
              show_default=True, help="The highest is taken first, then the oldest.")  # fmt: skip
@click.option("--worker", type=click.IntRange(0), help="Only this worker takes it (from 0).")
@click.option("--patch", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Code of the idea: tried as it is, without an agent.")  # fmt: skip
@click.option("--note", is_flag=True, help="Tell it to every agent instead of trying it.")
def add(
    text: str, folder: Path, tag: str | None, priority: int, worker: int | None,
    patch: Path | None, note: bool,
) -> None:  # fmt: skip
    """Queue an idea in words; an experiment tries it and answers it.

    It is taken before the agent's own ideas, after what `try` brings. If the attempt tells nothing
    (the agent fails, the candidate crashes or is rejected), it is made once more. With --patch the
    idea is tried as it is written there. A --note is told to every agent until it is dropped.
    """
    contract, view, run = read(folder, tag)
    if note and (patch is not None or priority or worker is not None):
        raise UserError(
            "a note is told to every agent: --patch, --priority and --worker are for ideas",
            fix="leave them out, or leave out --note",
        )
    if not clean(text, TEXT_LENGTH):
        raise UserError("the idea has no words", fix='autoresearch idea add "a wider hidden layer"')
    workers = max(contract.parallel.workers, view.contract["parallel"]["workers"])
    if worker is not None and worker >= workers:
        raise UserError(
            f"--worker {worker}: this run has {workers}, counted from 0",
            fix="leave it out, and whoever is free takes it",
        )
    if note and len(inbox.foresee(view, run).ideas.notes) >= NOTES_SHOWN:
        raise UserError(
            f"there are {NOTES_SHOWN} notes already, as many as an agent is told",
            fix="drop one that no longer matters: autoresearch idea list, autoresearch idea drop N",
        )
    ticket = secrets.token_hex(8)
    request: dict[str, Json] = {
        "kind": "idea", "ticket": ticket, "text": text[: 50 * TEXT_LENGTH], "priority": priority,
        "worker": worker, "note": note, "patch": _read(patch, view, run) if patch else None,
    }  # fmt: skip
    inbox.drop(run, request)
    view, made = _added(contract, view.tag, run, ticket)
    click.echo(f"{'note' if note else 'idea'} {made.number}: {outlook(contract, view, made, run)}")
    if len(clean(text, 2 * TEXT_LENGTH)) > TEXT_LENGTH:
        click.echo(f"note: cut at {TEXT_LENGTH} characters", err=True)


def outlook(contract: Contract, view: RunView, idea: Idea, run: Path) -> str:
    """What will become of an idea that is open, in one sentence."""
    agent = contract.agents[0].use
    reads = registry.reads(agent)
    running = held_by_engine(run)
    if idea.note:
        when = "from the next experiment on" if running else "once autoresearch run continues"
        if not reads:
            return f"kept for agents that read; the {agent} agent of this run does not"
        return f"told to the agent {when}, until autoresearch idea drop {idea.number}"
    if not reads and not idea.code:
        return (
            f"open, but the {agent} agent of this run cannot read words: it waits for an agent that"
            " can (autoresearch run --agent), or bring its code with --patch FILE"
        )
    before = [
        each for each in view.ideas.queue[: view.ideas.queue.index(idea)] if reads or each.code
    ]
    after = f"after {len(before)} other{'s' * (len(before) > 1)}" if before else "next"
    if not running:
        return f"open, taken {after} once autoresearch run continues"
    return f"open, taken {after}" + (" when the run is resumed" if view.pause_requested else "")


def _added(contract: Contract, tag: str, run: Path, ticket: str) -> tuple[RunView, Idea]:
    """The idea that we left in the inbox, journaled if somebody does so soon."""
    give_up = time.monotonic() + TAKEN_S
    while True:
        view = inbox.foresee(task.read_view(contract.root, tag), run)
        found = [each for each in view.ideas.all if each.ticket == ticket]
        late = time.monotonic() > give_up
        if found and (found[0].added or late or not held_by_engine(run)):
            return view, found[0]
        if late:
            raise UserError("the idea was not taken", fix="autoresearch idea list shows what is")
        time.sleep(POLL_S)


def _read(patch: Path, view: RunView, run: Path) -> str:
    """A patch in base64; one that does not fit the best so far is refused now, not in the night."""
    data = patch.read_bytes()
    if not 0 < len(data) <= PATCH_BYTES:
        raise UserError(
            f"{patch} has {len(data)} bytes; a patch has 1 to {PATCH_BYTES}",
            fix="git diff > my.patch writes one",
        )
    best = view.incumbent
    store = git.Store(run / "store.git")
    try:
        with tempfile.TemporaryDirectory() as folder:
            store.export(best.commit if best else view.base, Path(folder))
            problem = git.apply_patch(Path(folder), patch)
    finally:
        store.close()
    if problem:
        raise UserError(
            f"{patch} does not apply to the best so far: {problem}",
            fix=f"write it as a change of {view.branch if len(view.kept) > 1 else 'the baseline'}",
        )
    return base64.b64encode(data).decode()


@idea.command()
@click.argument("number", type=click.IntRange(1))
@task.options
def drop(number: int, folder: Path, tag: str | None) -> None:
    """Take an idea or a note back; what is being tried goes on."""
    _, view, run = read(folder, tag)
    ideas = inbox.foresee(view, run).ideas
    found = ideas.get(number)
    if found is None:
        raise UserError(
            f"run {view.tag} has no idea {number}",
            fix=f"choose one from 1 to {len(ideas.all)}" if ideas.all else "there is none yet",
        )
    if not found.droppable:
        told = f" by #{found.experiments[-1]}" if found.experiments else ""
        raise UserError(f"idea {number} is {found.state.value}{told} already: nothing to drop")
    inbox.drop(run, {"kind": "idea_drop", "idea": number})
    said = f"{'note' if found.note else 'idea'} {number} is dropped"
    if found.state is State.TAKEN:
        said += f"; #{found.experiments[-1]}, which tries it, goes on"
    click.echo(said)


@idea.command("list")
@task.options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(folder: Path, tag: str | None, as_json: bool) -> None:
    """List ideas and notes with what experiments said about them."""
    contract, view, run = read(folder, tag)
    found = inbox.foresee(view, run).ideas.all
    if as_json:
        click.echo(json.dumps({"version": 1, "ideas": [idea_json(view, each) for each in found]}))
        return
    if not found:
        click.echo('no ideas yet: autoresearch idea add "..."')
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("idea", "state", "priority"):
        justify: Any = "left" if name == "state" else "right"
        table.add_column(Text(name), justify=justify, no_wrap=True)
    table.add_column("what", overflow="fold", ratio=3)
    table.add_column("evidence", overflow="fold", ratio=2)
    for each in found:
        state = "note" if each in view.ideas.notes else each.state.value
        what = clean(each.text, 400) + (" (patch)" if each.code else "")
        what += f" (by {each.by})" if each.by else ""
        what += f" (worker {each.worker})" if each.worker is not None else ""
        table.add_row(
            str(each.number), state, str(each.priority or ""), Text(what),
            Text(_evidence(contract, view, each, run)), style=STYLES[each.state],
        )  # fmt: skip
    print_table(table)


def _evidence(contract: Contract, view: RunView, idea: Idea, run: Path) -> str:
    """What experiments said about an idea, or what it waits for."""
    said = [_told(contract, view, view.experiments[number]) for number in idea.experiments]
    if idea.reason:
        said.append(clean(idea.reason, 200))
    if idea.state is State.OPEN and not idea.added:
        said.append("waits for autoresearch run")
    elif idea.state is State.OPEN and not idea.note and not idea.code:
        agent = contract.agents[0].use
        said += [f"waits: {agent} cannot read words"] if not registry.reads(agent) else []
    return "; ".join(said)


def _told(contract: Contract, view: RunView, experiment: Experiment) -> str:
    made = experiment.decision
    if made is None:
        return f"#{experiment.number} is not decided yet"
    said = f"#{experiment.number} {made.status.value}"
    if made.value is None:
        return f"{said}: {clean(made.reason, 120)}"
    said += f" {words.number(made.value)}"
    if experiment.was is not None:
        said += f" (was {words.number(experiment.was)}, {words.change(contract, experiment)})"
    return said + words.fallen(view, experiment) + words.why(experiment)


def idea_json(view: RunView, idea: Idea) -> dict[str, Json]:
    """An idea or a note with its evidence, as ``idea list --json`` shows it."""
    evidence: list[Json] = []
    for number in idea.experiments:
        experiment = view.experiments[number]
        made = experiment.decision
        evidence.append({
            "experiment": number, "status": made.status.value if made else None,
            "value": made.value if made else None, "was": experiment.was,
            "gain": made.gain if made else None, "reason": made.reason if made else None,
            "verified": view.survival.get(number),
        })  # fmt: skip
    return {
        "idea": idea.number, "text": idea.text, "state": idea.state.value, "note": idea.note,
        "priority": idea.priority, "worker": idea.worker, "patch": idea.code,
        "by": idea.by or None, "added": idea.added or None, "reason": idea.reason or None,
        "experiments": evidence,
    }  # fmt: skip
