"""Applies the patches of a directory in name order, one an experiment; then it is exhausted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from ..git import apply_patch
from ..types import Assignment, Json, Kind, Proposal


class ReplayAgent:
    """``[agent.replay] dir = "patches"``; the next patch follows from the turn alone."""

    def __init__(self, options: Mapping[str, Json]) -> None:
        folder = Path(str(options.get("root", "."))) / str(options.get("dir", "patches"))
        if not folder.is_dir():
            raise UserError(
                f"agent.replay.dir = {options.get('dir')!r}: no such directory",
                fix='[agent.replay] dir = "patches"',
            )
        self._folder = folder

    async def propose(self, assignment: Assignment) -> Proposal:
        """Apply the next patch; one that does not fit leaves the workspace unchanged."""
        names = sorted(each.name for each in self._folder.iterdir() if each.suffix == ".patch")
        if assignment.turn >= len(names):
            return Proposal(exhausted=True, tokens=0, cost_usd=0.0)
        patch = self._folder / names[assignment.turn]
        problem = apply_patch(assignment.workspace, patch)
        description = f"{patch.stem} (does not apply: {problem})" if problem else patch.stem
        return Proposal(description, kind=Kind.IMPROVE, tokens=0, cost_usd=0.0)
