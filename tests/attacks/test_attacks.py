"""No cheat pays: every attack ends as foretold, changes nothing else, and leaves the run intact.

With ``--endurance`` each has a run of its own, at every level; else those that leave the best as it
is share one, some at a time, and at ``landlock`` there are those that a level can make a difference
to, but for agents that are taken to have failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from autoresearch.types import Level

from . import on_engine, on_files, on_git, on_limits, on_score, on_secrets, on_text
from .arena import Arena, Attack

MODULES = (on_files, on_git, on_score, on_secrets, on_limits, on_engine, on_text)
ATTACKS: tuple[Attack, ...] = tuple(attack for each in MODULES for attack in each.ATTACKS)
# What a level confines; what is sealed, scored and done with text knows no level.
CONFINED = (*on_secrets.ATTACKS, *on_limits.ATTACKS, *on_engine.ATTACKS)
# With rests in between, fewer than the experiments without a keep after which a run escalates.
TOGETHER = 8
# One less than the rejections in a row after which an engine pauses.
IN_A_ROW = 4
HARMLESS = Attack("does harmless work", ("discard",), agent="@EDIT@")


def cases(level: Level, *, endurance: bool) -> Iterator[tuple[Attack, ...]]:
    """The attacks of each run at a level."""
    for module in MODULES:
        attacks = [each for each in module.ATTACKS if each not in on_text.ATTACKS]
        if level is Level.NAMESPACES:
            attacks = list(module.ATTACKS)
        elif not endurance:
            attacks = [each for each in attacks if each in CONFINED and not each.fails]
        shared = [] if endurance else [each for each in attacks if _shares(each, level)]
        yield from ((each,) for each in attacks if each not in shared)
        for start in range(0, len(shared), TOGETHER):
            yield tuple(_with_rests(shared[start : start + TOGETHER]))


def _with_rests(attacks: Sequence[Attack]) -> Iterator[Attack]:
    for place, attack in enumerate(attacks):
        if place and place % IN_A_ROW == 0:
            yield HARMLESS
        yield attack


def _shares(attack: Attack, level: Level) -> bool:
    alone = attack.fails or attack.twice or "keep" in attack.ends
    return not (alone or level in attack.not_covered)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "attacks" in metafunc.fixturenames:
        endurance = bool(metafunc.config.getoption("--endurance"))
        found = [
            pytest.param(attacks, level, id=f"{level.value}: {'; '.join(map(str, attacks))}")
            for level in (Level.NAMESPACES, Level.LANDLOCK)
            for attacks in cases(level, endurance=endurance)
        ]
        metafunc.parametrize(("attacks", "level"), found)


def test_there_are_enough_and_each_has_its_name() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 50
    tried = [attack for attacks in cases(Level.NAMESPACES, endurance=False) for attack in attacks]
    assert sorted(each.name for each in tried if each is not HARMLESS) == sorted(names)


def test_attack(attacks: tuple[Attack, ...], level: Level, tmp_path: Path, endurance: bool) -> None:
    if why := attacks[0].not_covered.get(level):
        pytest.skip(f"not covered at {level}: {why}")
    # A fork starts without the person's secrets in its environment.
    fork = not endurance and attacks[0] not in on_secrets.ATTACKS
    arena = Arena(tmp_path, level, fork=fork)
    with arena.open(*attacks):
        arena.run(*attacks)
