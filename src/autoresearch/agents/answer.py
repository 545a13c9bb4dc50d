"""What an agent is asked to say when its change is made, and how its last words are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..text import clean
from ..types import Proposal

DESCRIPTION_LENGTH, HYPOTHESIS_LENGTH, EXPECTED_LENGTH = 120, 1000, 200
TEXT_LENGTH = 20_000
ASK = """
When the change is made, end your answer with these three lines and nothing after them:
description: what you changed, in at most 100 characters
hypothesis: why it should help
expected: the effect that you expect on {metric}
"""
LINE = re.compile(
    r"^[ \t>*`_-]*(description|hypothesis|expected)[ \t*`_]*:[ \t*`_]*(.+)$", re.I | re.M
)


def proposal(
    text: str,
    written: Mapping[str, Any] | None = None,
    *,
    tokens: int | None,
    cost_usd: float | None,
) -> Proposal:
    """What it says about its change: what it has ``written`` to a file, else its last words."""
    text = text[-TEXT_LENGTH:]
    said = {name.lower(): value for name, value in LINE.findall(text)}
    said |= {name: str(value) for name, value in (written or {}).items() if value}
    lines = [line for line in text.splitlines() if clean(line, 1) and not LINE.match(line)]
    description = said.get("description") or (lines[-1] if lines else "")
    return Proposal(
        description=clean(description, DESCRIPTION_LENGTH),
        hypothesis=clean(said.get("hypothesis", ""), HYPOTHESIS_LENGTH),
        expected=clean(said.get("expected", ""), EXPECTED_LENGTH),
        tokens=tokens,
        cost_usd=cost_usd,
    )
