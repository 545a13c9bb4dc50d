"""``autoresearch plot``: draw the progress of a run."""

from __future__ import annotations

from pathlib import Path

import click

from .. import config
from ..report.plot import draw
from ..run import FOLDER
from . import task


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--tag", help="Name of the run (default: the latest).")
@click.option("--output", type=click.Path(path_type=Path), help="Write here: .svg, .png or .pdf.")
def plot(folder: Path, tag: str | None, output: Path | None) -> None:
    """Draw all experiments, the kept ones, and the running best."""
    path = task.contract_path(folder)
    tag = task.existing_tag(path.parent, tag)
    view = task.read_view(path.parent, tag)
    output = output or path.parent / FOLDER / tag / "progress.svg"
    draw(view, config.from_snapshot(view.contract, path), output)
    click.echo(output)
