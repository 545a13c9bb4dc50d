"""Finding the task and its runs from where the person stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click

from .. import config, git
from ..errors import UserError
from ..journal import Journal
from ..journal.view import RunView
from ..run import FOLDER, tags
from ..types import Contract


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command about a run that is there."""
    command = click.option("--tag", help="Name of the run (default: the latest).")(command)
    path = click.Path(path_type=Path, exists=True)
    return click.option("--dir", "folder", type=path, default=Path())(command)


def contract_path(start: Path) -> Path:
    """The contract of the task that ``start`` is in.

    Raises:
        UserError: there is none here or above.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / config.NAME).is_file():
            return folder / config.NAME
    raise UserError(f"no {config.NAME} in {start} or above it", fix="autoresearch init writes one")


def latest_tag(root: Path) -> str | None:
    """The run that was begun last, if any."""
    found = tags(root)
    return found[-1] if found else None


def existing_tag(root: Path, wanted: str | None) -> str:
    """``wanted`` if there is such a run, or the latest.

    Raises:
        UserError: no run yet, or none of that name.
    """
    found = tags(root)
    if not found:
        raise UserError(f"no run of {root} yet", fix="autoresearch run starts one")
    if wanted is not None and wanted not in found:
        raise UserError(f"no run {wanted!r}", fix=f"there are: {', '.join(found)}")
    return wanted or found[-1]


def read_view(root: Path, tag: str) -> RunView:
    """What a run is at this moment, read without disturbing its engine."""
    journal = Journal(root / FOLDER / tag / "journal.db", read_only=True)
    try:
        return RunView(journal.events())
    finally:
        journal.close()


def names(contract: Contract, paths: Iterable[str]) -> list[str]:
    """Those of a repository's paths that lie beside or below the contract, relative to it."""
    inner = contract.root.relative_to(git.repository_root(contract.root))
    found = [Path(path) for path in sorted(paths)]
    return [path.relative_to(inner).as_posix() for path in found if path.is_relative_to(inner)]
