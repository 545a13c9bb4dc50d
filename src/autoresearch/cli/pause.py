"""``autoresearch pause`` and ``resume``: let a run wait without ending it."""

from __future__ import annotations

from pathlib import Path

import click

from .. import inbox
from ..errors import UserError
from ..run import FOLDER, held_by_engine
from ..text import clean
from . import task


@click.command()
@task.options
def pause(folder: Path, tag: str | None) -> None:
    """Let the sample in flight finish, then wait until `autoresearch resume`.

    The time does not count as the run's. Ends with its engine: `autoresearch run` goes on.
    """
    tag, run = _find(folder, tag)
    if not held_by_engine(run):
        click.echo(f"run {tag} is not running: there is nothing to pause")
    elif _pausing(tag, run):
        click.echo(f"run {tag} is paused already; autoresearch resume goes on")
    else:
        inbox.drop(run, {"kind": "pause"})
        click.echo(f"run {tag} pauses after the sample in flight; autoresearch resume goes on")


@click.command()
@task.options
def resume(folder: Path, tag: str | None) -> None:
    """Go on with a run that was paused."""
    tag, run = _find(folder, tag)
    if not held_by_engine(run):
        raise UserError(
            f"run {tag} is not running: no engine could resume it",
            fix="autoresearch run goes on with it, paused or not",
        )
    if not _pausing(tag, run):
        waits = task.read_view(run.parents[1], tag).paused or ""
        itself = f"; it waits by itself ({clean(waits, 200)}) and goes on by itself"
        click.echo(f"run {tag} is not paused" + (itself if waits else ""))
        return
    inbox.drop(run, {"kind": "resume"})
    click.echo(f"run {tag} goes on")


def _find(folder: Path, tag: str | None) -> tuple[str, Path]:
    root = task.contract_path(folder).parent
    tag = task.existing_tag(root, tag)
    return tag, root / FOLDER / tag


def _pausing(tag: str, run: Path) -> bool:
    """Whether the last word was to pause, be it journaled yet or not."""
    asked = [str(request.get("kind")) for _, request in inbox.pending(run)]
    last = [kind for kind in asked if kind in ("pause", "resume")][-1:]
    return last == ["pause"] if last else task.read_view(run.parents[1], tag).pause_requested
