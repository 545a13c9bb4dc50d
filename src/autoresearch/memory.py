"""What agents are shown of past experiments: a folder of bounded size, beside the briefing.

It follows from the journal and the logs, one experiment at a time, and can be deleted at any time.
Nothing hidden may get into it: an evaluation sees what is hidden, and asks an ``answer`` about it,
so of all logs only the command's is read.

All workers share it, and an agent may read while another is about to be asked: files are replaced
as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import curves
from .bench import Places, read_text
from .briefing import outcome
from .git import Store
from .journal.view import Experiment, Role, RunView
from .lessons import Lessons, reason
from .scratch import fresh
from .text import block, cell, clean, excerpt
from .types import Contract

KEPT, RECENT = 50, 50
DIFF_LENGTH = 64_000
DIFFED_BYTES = 1 << 20
LOG_LINES, LOG_WIDTH = 60, 200
CURVES_KEPT = 200
NAME_LENGTH = 40


class Memory:
    """The memory of one run for its agents."""

    def __init__(self, places: Places, store: Store, contract: Contract) -> None:
        self.folder = places.memory
        self.lessons = Lessons(contract.metric)
        self._places = places
        self._store = store
        self._contract = contract
        self._curves: dict[int, list[str]] = {}

    def log(self, experiment: Experiment) -> str:
        """What the command of an experiment's candidate printed in its last sample."""
        own = [each.k for each in experiment.taken if each.role is not Role.INCUMBENT]
        return read_text(self._places.sample(experiment.number, own[-1]) / "run.log") if own else ""

    def curves(self, experiment: Experiment) -> list[str]:
        """The learning curves of that log, a line each; cleaned, as a candidate wrote it."""
        if experiment.number not in self._curves:
            if len(self._curves) > CURVES_KEPT:
                self._curves.clear()
            metric = self._contract.metric
            found = curves.curves(self.log(experiment), metric.name, metric.direction)
            self._curves[experiment.number] = [clean(curves.words(each), 300) for each in found]
        return self._curves[experiment.number]

    def write(self, view: RunView) -> Path:
        """Bring the folder up to date: what was kept, and what was tried last."""
        self.lessons.follow(view.decided)
        diffs, logs = self.folder / "diffs", self.folder / "logs"
        if not logs.is_dir():
            fresh(self.folder)
            diffs.mkdir()
            logs.mkdir()
        shown = {each.number: each for each in (*view.kept[-KEPT:], *view.decided[-RECENT:])}
        wanted = {_name(each): each for each in shown.values() if each.commit}
        known = {path.stem for path in logs.iterdir()}
        for name in known - wanted.keys():
            (diffs / f"{name}.diff").unlink(missing_ok=True)
            (logs / f"{name}.log").unlink(missing_ok=True)
        for name in wanted.keys() - known:
            experiment = wanted[name]
            if experiment.number:
                self._put(diffs / f"{name}.diff", self._diff(experiment))
            self._put(logs / f"{name}.log", self._said(experiment))
        self._put(self.folder / "lessons.md", self._lessons())
        _append(self._places.run / "results.tsv", self.folder / "results.tsv")
        return self.folder

    def _put(self, path: Path, text: str) -> None:
        draft = self.folder / ".new"
        draft.write_text(text, "utf-8")
        draft.replace(path)

    def _diff(self, experiment: Experiment) -> str:
        commit, parent = experiment.commit, experiment.parent
        if not (self._store.has(commit) and self._store.has(parent)):
            return "its code was lost\n"
        old, new = self._store.tree(parent), self._store.tree(commit)
        changed = {
            entry.oid
            for tree, other in ((old, new), (new, old))
            for path, entry in tree.items()
            if other.get(path) != entry
        }
        if sum(len(self._store.read(oid)) for oid in changed) > DIFFED_BYTES:
            return "too large to show\n"
        patch = block(self._store.diff(parent, commit))
        return patch if len(patch) <= DIFF_LENGTH else f"{patch[:DIFF_LENGTH]}\n... cut here\n"

    def _said(self, experiment: Experiment) -> str:
        lines = [
            outcome(experiment),
            cell(experiment.description, 200),
            f"reason: {reason(experiment, 400)}",
            *(f"hypothesis: {clean(each, 1000)}" for each in [experiment.hypothesis] if each),
            *(f"expected: {clean(each, 200)}" for each in [experiment.expected] if each),
            *(f"curve: {each}" for each in self.curves(experiment)),
            "",
            "last lines of its run.log",
            excerpt(self.log(experiment), LOG_LINES, LOG_WIDTH),
        ]
        return "\n".join(lines) + "\n"

    def _lessons(self) -> str:
        return _listed("Lessons", self.lessons.lines()) + _listed(
            "What crashed or ran out of time", self.lessons.failures(20)
        )


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"# {title}", "", *(f"- {each}" for each in lines or ["none yet"]), "", ""])


def _name(experiment: Experiment) -> str:
    """With the commit: a journal that was mended may give a number once more."""
    return f"{experiment.number}-{experiment.commit[:7]}"


def _append(source: Path, copy: Path) -> None:
    """Let a copy follow a file that only grows; what is longer than the file is no copy of it."""
    if not source.exists():
        return
    had = copy.stat().st_size if copy.exists() else 0
    if had > source.stat().st_size:
        copy.unlink()
        had = 0
    with source.open("rb") as whole, copy.open("ab") as part:
        whole.seek(had)
        part.write(whole.read())
