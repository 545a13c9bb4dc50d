"""The positive control: the plain loop that everybody writes first falls to the same attacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from .arena import Arena, Attack
from .test_attacks import ATTACKS

PLAIN = [attack for attack in ATTACKS if attack.plain]


def test_at_least_twenty_are_tried() -> None:
    assert len(PLAIN) >= 20


@pytest.mark.parametrize("attack", PLAIN, ids=lambda attack: attack.name)
def test_the_plain_loop_falls(attack: Attack, tmp_path: Path) -> None:
    arena = Arena(tmp_path)
    with arena.open(attack):
        assert arena.plain_loop(attack)
