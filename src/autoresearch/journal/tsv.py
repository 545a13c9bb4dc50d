"""``results.tsv``: the projection of the journal that people and agents read; never read back."""

from __future__ import annotations

import os
from pathlib import Path

from ..disk import sync_directory
from ..failpoint import failpoint
from ..text import cell
from .view import Experiment, RunView


def header(metric: str) -> str:
    return f"commit\t{metric}\tmemory_gb\tstatus\tdescription\n"


def row(experiment: Experiment) -> str:
    """One decided experiment as a line."""
    decision = experiment.decision
    assert decision is not None
    value = 0.0 if decision.value is None else decision.value
    fields = (
        experiment.commit[:7] or "-",
        f"{value:.6f}",
        f"{experiment.memory_gb:.1f}",
        decision.status.value,
        cell(experiment.description) or experiment.kind.value,
    )
    return "\t".join(fields) + "\n"


def rebuild(path: Path, view: RunView, metric: str) -> None:
    """Write the whole file anew, atomically."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(header(metric))
        file.writelines(row(experiment) for experiment in view.decided)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
    failpoint("results.rebuilt")


def append(path: Path, experiment: Experiment) -> None:
    """Add the row of the experiment decided last, synced."""
    with path.open("a", encoding="utf-8") as file:
        file.write(row(experiment))
        file.flush()
        os.fsync(file.fileno())
    failpoint("results.appended")
