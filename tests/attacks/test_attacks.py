"""No cheat pays: every attack ends as foretold, changes nothing else, and leaves the run intact."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.types import Level

from . import on_engine, on_files, on_git, on_limits, on_score, on_secrets, on_text
from .arena import Arena, Attack

MODULES = (on_files, on_git, on_score, on_secrets, on_limits, on_engine, on_text)
ATTACKS: tuple[Attack, ...] = tuple(attack for each in MODULES for attack in each.ATTACKS)
# What a level confines; what is sealed, scored and done with text knows no level.
CONFINED = (*on_secrets.ATTACKS, *on_limits.ATTACKS, *on_engine.ATTACKS)
CASES = [(attack, Level.NAMESPACES) for attack in ATTACKS]
CASES += [(attack, Level.LANDLOCK) for attack in ATTACKS if attack not in on_text.ATTACKS]


def test_there_are_enough_and_each_has_its_name() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 50


@pytest.mark.parametrize(("attack", "level"), CASES, ids=str)
def test_attack(attack: Attack, level: Level, endurance: bool, tmp_path: Path) -> None:
    if level is not Level.NAMESPACES and attack not in CONFINED and not endurance:
        pytest.skip(f"at {level} only with --endurance: no matter of confinement")
    if why := attack.not_covered.get(level):
        pytest.skip(f"not covered at {level}: {why}")
    arena = Arena(tmp_path, level)
    with arena.open(attack):
        arena.run(attack)
