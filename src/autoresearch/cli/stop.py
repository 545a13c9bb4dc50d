"""``autoresearch stop``: ask the engine of a run to end after the sample in flight."""

from __future__ import annotations

from pathlib import Path

import click

from .. import config
from ..inbox import drop, take
from ..run import FOLDER, held_by_engine
from . import task


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--tag", help="Name of the run (default: the latest).")
def stop(folder: Path, tag: str | None) -> None:
    """End a run after the sample in flight; `autoresearch run` continues it."""
    contract = config.load(task.contract_path(folder))
    tag = task.existing_tag(contract.root, tag)
    run = contract.root / FOLDER / tag
    if not held_by_engine(run):
        click.echo(f"run {tag} is not running")
        return
    drop(run, {"kind": "stop"})
    click.echo(f"run {tag} ends after the sample in flight")


def asked(run: Path) -> bool:
    """Whether somebody asked the holder of the run to end; takes the request away."""
    return bool(take(run, ("stop",)))
