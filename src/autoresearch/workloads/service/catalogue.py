"""Fixed: what the service has on its shelves, drawn from the engine's seed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

TITLE, TEXT = 3, 24
VOCABULARY = 600
MOST = 50  # items that one search may ask for


@dataclass(frozen=True)
class Item:
    """One thing on offer; its stock changes and is kept by the service."""

    number: int
    title: str
    text: str
    price: int


def words() -> list[str]:
    """The vocabulary, the same for all seeds, the most frequent word first."""
    rng = random.Random(1)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    found: dict[str, None] = {}
    while len(found) < VOCABULARY:
        found["".join(rng.choice(syllables) for _ in range(rng.randint(2, 3)))] = None
    return list(found)


def frequencies() -> list[float]:
    """How often each word occurs, beside the others: as in a language, a few do most of it."""
    return [1 / (rank + 10) for rank in range(VOCABULARY)]


def draw() -> list[Item]:
    """The items in the order of their numbers, which start at 0."""
    rng = random.Random(int(os.environ["AUTORESEARCH_SEED"]))
    vocabulary, weights = words(), frequencies()
    items = []
    for number in range(int(os.environ["SERVICE_ITEMS"])):
        drawn = rng.choices(vocabulary, weights, k=TITLE + TEXT)
        title, text = " ".join(drawn[:TITLE]), " ".join(drawn[TITLE:])
        items.append(Item(number, title, text, rng.randrange(100, 10_000)))
    return items


def first_stock(item: Item) -> int:
    """How many of an item there are when the service starts."""
    return item.price % 17
