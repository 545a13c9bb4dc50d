"""Fixed: what the service is asked, and when. Nothing here is ever shown to it beforehand."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass

from catalogue import Item, frequencies, words

SEARCHES, CHANGES = 0.6, 0.1  # of all requests; the rest looks at one item


@dataclass(frozen=True)
class Request:
    """What is sent, and what a right answer to it must agree with."""

    data: bytes
    query: tuple[str, ...] = ()
    limit: int = 0
    number: int = -1
    add: int = 0


def requests(count: int, items: list[Item]) -> list[Request]:
    """Requests drawn from the machine's own randomness: the service is told the engine's seed."""
    rng = random.Random(secrets.randbits(128))
    vocabulary, weights = words(), frequencies()
    found = []
    for _ in range(count):
        kind = rng.random()
        if kind < SEARCHES:
            query = tuple(rng.choices(vocabulary, weights, k=rng.choice((1, 1, 2))))
            limit = rng.choice((5, 10, 20))
            data = get(f"/search?q={'+'.join(query)}&limit={limit}")
            found.append(Request(data, query, limit))
            continue
        # A few items are in everybody's mouth.
        number = min(int(rng.paretovariate(0.5)) - 1, 10**6) % len(items)
        if kind < SEARCHES + CHANGES:
            add = rng.randint(1, 9)
            found.append(
                Request(post(f"/items/{number}/stock", f'{{"add": {add}}}'), (), 0, number, add)
            )
        else:
            found.append(Request(get(f"/items/{number}"), (), 0, number))
    return found


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"{head}{body}".encode()
