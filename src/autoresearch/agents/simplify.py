"""Taking code out: what may go from the editable files, the safest first.

Whether it was worth it is for the measurement to say; a removal need only leave a file that parses.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..types import Assignment, Kind, Status
from . import constants as consts
from .sources import Parsed, mentions

PATIENCE = 6  # experiments without a keep, after which simplifying is worth one


@dataclass(frozen=True, slots=True)
class Simpler:
    """One file with something taken out."""

    path: str
    source: str
    description: str
    hypothesis: str = field(default="The same result with less code.")


def time_to_simplify(assignment: Assignment) -> bool:
    """When asked to, and now and then when tuning has not helped for a while."""
    if assignment.plan.kind is Kind.SIMPLIFY:
        return True
    decided = [p for p in assignment.history if p.status not in (Status.REJECTED, Status.VOID)]
    recent = decided[-PATIENCE:]
    return len(decided) > PATIENCE and not any(
        past.status is Status.KEEP or past.kind is Kind.SIMPLIFY
        for past in (*recent, *assignment.pending)
    )


def simplifications(
    here: Parsed, assignment: Assignment, others: str, rng: random.Random
) -> Iterator[Simpler]:
    """Untried removals, the safest first; each leaves a file that parses."""
    tried = {past.description for past in (*assignment.history, *assignment.pending)}
    for path in sorted(here.sources):
        if not path.endswith(".py"):
            continue
        options = list(removals(path, here, others))
        rng.shuffle(options)
        options.sort(key=lambda option: option[0])
        for _, node, what in options:
            source = without(here.sources[path], node)
            if what not in tried and source is not None:
                yield Simpler(path, source, what)


def removals(path: str, here: Parsed, others: str = "") -> Iterator[tuple[int, ast.stmt, str]]:
    """Statements that may go, with how risky that is and what to call it."""
    source = here.sources[path]
    tree = consts.parse(source)
    if tree is None:
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.decorator_list:
            continue
        if mentions(node.name, here, others) == 1:
            yield 0, node, f"remove unused {node.name}"
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.For | ast.While):
            continue
        for node in function.body:
            if len(function.body) > 1 and _dispensable(node):
                text = " ".join((ast.get_source_segment(source, node) or "").split())
                yield 1, node, f"remove `{text[:60]}{'...' if len(text) > 60 else ''}`"


def _dispensable(node: ast.stmt) -> bool:
    """Whether all names stay bound without this statement: ``x = f(x)``, ``x *= 2``, ``if``."""
    if isinstance(node, ast.AugAssign):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        return isinstance(target, ast.Name) and any(
            isinstance(each, ast.Name) and each.id == target.id for each in ast.walk(node.value)
        )
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and not any(
            isinstance(each, ast.Return | ast.Raise | ast.Break | ast.Continue)
            for each in ast.walk(node)
        )
    )


def without(source: str, node: ast.stmt) -> str | None:
    """The source without the lines of a statement, if it has them to itself and the rest parses."""
    lines = consts.split_lines(source)
    first, last = node.lineno - 1, node.end_lineno or node.lineno
    own = "".join(lines[first:last]).strip()
    segment = ast.get_source_segment(source, node) or ""
    if not own.startswith(segment.strip()) or own[len(segment.strip()) :].lstrip()[:1] not in (
        "",
        "#",
    ):
        return None
    rest = "".join(lines[:first] + lines[last:])
    return rest if consts.parse(rest) is not None else None
