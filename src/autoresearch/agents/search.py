"""The agent that needs no key and no model: it varies the named constants of the editable files.

Every proposal is a local move of a few constants around the incumbent. Which one follows from the
history alone: a small additive Gaussian process over all measured values, crashes included, says
where a gain is likely; learned directions are followed further. Now and then it tries to simplify.
Asked for a bold move, it goes on with a wide search of its own (``wide.py``).
It remembers nothing between calls: equal assignments give equal edits. What it keeps in memory are
parsed sources by commit, a cache.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import AgentError, UserError
from ..types import Assignment, Json, Kind, Past, Proposal, Range, Status
from . import constants as consts
from .constants import Constant, Dimension, Value
from .landscape import Landscape
from .simplify import simplifications, time_to_simplify
from .sources import Key, Parsed, Trial, mentions

CACHED = 2048  # parsed commits; more than the engine's history holds
SCRIPTS = 20  # protected scripts beside the editable files that are looked into
SCRIPT_BYTES = 200_000


class SearchAgent:
    """Proposes constants; see the module's docstring."""

    def __init__(self, options: Mapping[str, Json] | None = None) -> None:
        self._parsed: dict[str, Parsed] = {}

    async def propose(self, assignment: Assignment, among: Collection[Key] = ()) -> Proposal:
        """Edit a few constants in the workspace, or remove some code; exhausted when all is tried.

        ``among`` are the constants to vary, all that it finds by default.

        Raises:
            AgentError: all that is left is being measured by others.
            UserError: there never was anything to vary, or the contract names an unknown constant.
        """
        files = read_files(assignment.workspace, assignment.editable)
        others = _others(assignment.workspace, assignment.editable)
        here = Parsed.of({path: text for path, (text, _) in files.items()})
        trials = self.trials((*assignment.history, *assignment.pending))
        dimensions = dimensions_of(here, trials, assignment.space, assignment.editable, others)
        rng = random.Random(f"{assignment.seed}/{assignment.number}")
        simpler = None
        if not dimensions or (not among and time_to_simplify(assignment)):
            simpler = next(simplifications(here, assignment, others, rng), None)
        if simpler is not None:
            _write(assignment.workspace, files, {simpler.path: simpler.source})
            return Proposal(
                simpler.description, simpler.hypothesis, kind=Kind.SIMPLIFY, tokens=0, cost_usd=0.0
            )
        if not dimensions and len(assignment.history) <= 1:
            raise UserError(
                f"search found no named constants in {', '.join(assignment.editable)}",
                fix="put the numbers to vary into module-level constants such as "
                "LEARNING_RATE = 3e-4, or choose another agent: agent.use",
            )
        moved, bold = None, assignment.plan.kind is Kind.EXPLORE
        if dimensions:
            parent, metric = assignment.plan.parent, assignment.metric
            landscape = Landscape.of(here, dimensions, trials, metric, parent)
            wanted = [i for i, key in enumerate(dimensions) if key in among]
            moved = landscape.propose(rng, among=wanted, bold=bold)
        if moved is None and assignment.pending:
            raise AgentError("search has nothing to try until what is being measured is known")
        if moved is None:
            return Proposal(exhausted=True, tokens=0, cost_usd=0.0)
        kind = Kind.EXPLORE if bold else Kind.TUNE
        return _tune(assignment.workspace, files, here, dimensions, moved, kind)

    def trials(self, history: Sequence[Past]) -> list[Trial]:
        """Past experiments with their constants; sources are read and parsed once a commit."""
        if len(self._parsed) > CACHED:
            self._parsed.clear()
        trials = []
        for past in history:
            if past.status in (Status.REJECTED, Status.VOID) or not past.commit:
                continue
            if past.commit not in self._parsed:
                self._parsed[past.commit] = Parsed.of(past.sources())
            trials.append(Trial(past, self._parsed[past.commit]))
        return trials


def read_files(workspace: Path, editable: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Text and encoding of the editable files that can be written back unharmed."""
    found = {}
    for path in editable:
        file = workspace / path
        if file.is_file() and (decoded := consts.decode(file.read_bytes())):
            found[path] = decoded
    return found


def _others(workspace: Path, editable: Sequence[str]) -> str:
    """What the protected scripts beside the editable files say: they may use names of these."""
    folders = {(workspace / path).parent for path in editable}
    scripts = sorted(file for folder in folders for file in folder.glob("*.py"))
    mine = {workspace / path for path in editable}
    texts = [
        file.read_bytes()[:SCRIPT_BYTES].decode("utf-8", "replace")
        for file in scripts[:SCRIPTS]
        if file not in mine and file.is_file()
    ]
    return "\n".join(texts)


def _write(
    workspace: Path, files: Mapping[str, tuple[str, str]], changed: Mapping[str, str]
) -> None:
    for path, text in changed.items():
        (workspace / path).write_bytes(text.encode(files[path][1]))


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (" ..." if len(listed) > 5 else "")


# What may vary


def dimensions_of(
    here: Parsed,
    trials: Sequence[Trial],
    space: Mapping[str, Range],
    editable: Sequence[str],
    others: str = "",
) -> dict[Key, Dimension]:
    """The scale of every constant to vary, guessed from where it began so that it stays put."""
    first: dict[Key, Constant] = {}
    for trial in reversed(trials):
        first.update(trial.parsed.constants)  # as it was when it first was there
    _check_space(space, (*here.constants, *first), here, editable)
    found = {}
    for key, constant in here.constants.items():
        told = space.get(here.names[key], space.get(constant.name))
        if told is None and mentions(constant.name, here, others) < 2:
            continue
        origin = first.get(key, constant)
        if type(origin.value) is not type(constant.value):
            origin = constant
        try:
            guess = consts.dimension(origin, told)
        except ValueError as error:
            raise UserError(f"search.space.{error}", fix="correct [search.space]") from None
        if guess is not None and len(_reachable(guess)) > 1:
            found[key] = guess
    return found


def _reachable(dimension: Dimension) -> tuple[float, ...]:
    low, high = dimension.bounds()
    return (low,) if low == high else (low, high)


def _check_space(
    space: Mapping[str, Range], keys: Sequence[Key], here: Parsed, editable: Sequence[str]
) -> None:
    known = {name for _, name in keys} | {f"{path}:{name}" for path, name in keys}
    if unknown := [name for name in space if name not in known]:
        raise UserError(
            f"search.space.{unknown[0]}: no such constant in {', '.join(editable)}",
            fix=f"use one of {_some(here.names.values()) or 'its module-level NAME = literal'}, "
            f"or delete the entry from [search.space]",
        )


# Writing a move


def _tune(
    workspace: Path,
    files: Mapping[str, tuple[str, str]],
    here: Parsed,
    dimensions: Mapping[Key, Dimension],
    values: Sequence[Value],
    kind: Kind,
) -> Proposal:
    changes = [
        (here.constants[key], value)
        for key, value in zip(dimensions, values, strict=True)
        if value != here.constants[key].value
    ]
    changed = {}
    for path in {constant.path for constant, _ in changes}:
        mine = [each for each in changes if each[0].path == path]
        changed[path] = consts.splice(files[path][0], mine)
    _write(workspace, files, changed)
    moves = [
        f"{here.names[constant.key]} {constant.text} -> {consts.render(value, constant.text)}"
        for constant, value in changes
    ]
    names = [here.names[constant.key] for constant, _ in changes]
    plural = "these changes together help" if len(names) > 1 else "this change helps"
    hypothesis = f"Going by the experiments so far, {plural}: {', '.join(names)}."
    if kind is Kind.EXPLORE:
        hypothesis = "A better place may lie far from here: all constants at once, widely."
    return Proposal(", ".join(moves), hypothesis, kind=kind, tokens=0, cost_usd=0.0)
