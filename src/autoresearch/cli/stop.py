"""``autoresearch stop``: ask the engine of a run to end after the sample in flight."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import click

from .. import config, disk
from ..errors import StoreError
from ..run import FOLDER, held_by_engine
from ..types import Json
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
    found = False
    for path in (run / "inbox").glob("*.json"):
        try:
            kind = json.loads(path.read_bytes())["kind"]
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            continue
        if kind == "stop":
            path.unlink(missing_ok=True)
            found = True
    return found


def drop(run: Path, request: dict[str, Json]) -> None:
    """Leave a request in a run's inbox; the engine journals it and removes the file.

    Raises:
        DiskFullError: there is no room for it.
    """
    inbox = run / "inbox"
    name = secrets.token_hex(8)
    draft = inbox / f".{name}"
    try:
        with disk.named(run), draft.open("w") as file:
            json.dump(request, file)
            file.flush()
            os.fsync(file.fileno())
    except StoreError:
        draft.unlink(missing_ok=True)
        raise
    draft.rename(inbox / f"{name}.json")
