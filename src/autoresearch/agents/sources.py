"""The editable files of past experiments as the search agent sees them: constants and the rest.

Knows nothing of what a constant does or what was measured.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..types import Past
from . import constants as consts
from .constants import Constant

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The editable files of one commit: their constants, and a hash of all the rest."""

    sources: Mapping[str, str]
    constants: Mapping[Key, Constant]
    skeleton: str
    names: Mapping[Key, str]

    @classmethod
    def of(cls, sources: Mapping[str, str]) -> Parsed:
        found: dict[Key, Constant] = {}
        digest = hashlib.sha256()
        sources = {path: text.removeprefix("\ufeff") for path, text in sources.items()}
        for path in sorted(sources):
            here = consts.read(sources[path], path) if path.endswith(".py") else []
            found |= {each.key: each for each in here}
            rest, at = [], 0
            for each in sorted(here, key=lambda each: each.start):
                rest.append(sources[path][at : each.start])
                at = each.end
            text = "\0".join((path, *rest, sources[path][at:]))
            # However the journal decoded and ended its lines, it is the same code.
            digest.update(text.replace("\r\n", "\n").encode("ascii", "ignore"))
        return cls(sources, found, digest.hexdigest(), consts.named(found.values()))


@dataclass(frozen=True, slots=True)
class Trial:
    """One past experiment and what its files said."""

    past: Past
    parsed: Parsed


def mentions(name: str, here: Parsed, others: str) -> int:
    """How often the code says a name; code that looks names up may mean any of them."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    texts = (*here.sources.values(), others)
    if any("globals()" in text or "getattr(" in text for text in texts):
        return 2
    return sum(len(word.findall(text)) for text in texts)
