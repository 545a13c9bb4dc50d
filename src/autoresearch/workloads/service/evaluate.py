"""Fixed: drives load at the service and checks every answer; the times are taken here.

The service runs in a confinement of its own, which shares nothing with this one but a loopback
device. It is told the engine's seed, from which the catalogue is drawn; what it will be asked is
drawn here, from the machine's randomness, and sent when it is due. So nothing can be prepared that
would not be prepared for any load, and no clock here is in its reach. Answers are looked at when
all of them are in, so that looking takes no time from the service.

Exit code 3: the candidate's answers do not count. Any other failure is ours.
"""

from __future__ import annotations

import gc
import json
import os
import sys

from catalogue import Item, draw, first_stock
from client import Client, Exchange, UnansweredError
from load import Request, requests

INVALID = 3
UP_S = 20.0
LINES = 8
WARM_UP = 40
RATE, SPACED = 60.0, 120  # requests per second and in all, while latency is measured
FULL_S, FULL = 3.0, 30_000  # for how long and how many at most, while capacity is measured
PATIENCE_MS = 1000.0


class WrongError(Exception):
    """An answer that is not the right one."""


class Reference:
    """The right answers, by an index of words."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.holding: dict[str, dict[int, int]] = {}
        for item in items:
            for word in f"{item.title} {item.text}".split():
                counts = self.holding.setdefault(word, {})
                counts[item.number] = counts.get(item.number, 0) + 1

    def search(self, words: tuple[str, ...], limit: int) -> object:
        counts = [self.holding.get(word, {}) for word in dict.fromkeys(words)]
        hits = []
        for number in set.intersection(*map(set, counts)):
            score = sum(count[number] for count in counts)
            hits.append((-score, self.items[number].price, number))
        found = [
            {"number": number, "title": self.items[number].title, "price": price, "score": -score}
            for score, price, number in sorted(hits)[:limit]
        ]
        return {"total": len(hits), "items": found}

    def item(self, number: int) -> dict[str, object]:
        item = self.items[number]
        fields = {"title": item.title, "text": item.text, "price": item.price}
        return {"number": number, **fields}


def check(asked: list[tuple[Request, Exchange]], reference: Reference) -> None:
    """Compare every answer with the right one.

    What is in stock depends on the order in which the service took the requests: it must have all
    that came before the request was sent, and nothing that was sent after the answer had come.

    Raises:
        WrongError: for the first one that is wrong.
    """
    changes: dict[int, list[tuple[Request, Exchange]]] = {}
    for request, exchange in asked:
        if request.add:
            changes.setdefault(request.number, []).append((request, exchange))
    for number, (request, exchange) in enumerate(asked):
        where = f"answer {number} of {len(asked)}"
        if exchange.status != 200:
            raise WrongError(f"{where} has status {exchange.status}")
        try:
            answer = json.loads(exchange.body)
        except (ValueError, RecursionError):
            raise WrongError(f"{where} is not JSON") from None
        if request.query:
            if answer != reference.search(request.query, request.limit):
                raise WrongError(f"{where} is wrong")
            continue
        stock = answer.pop("stock", None) if isinstance(answer, dict) else None
        least = most = first_stock(reference.items[request.number])
        for other, change in changes.get(request.number, ()):
            if change is exchange or change.done <= exchange.sent[0]:
                least += other.add
            # Asked again on another connection, it may have been done twice.
            most += other.add * sum(sent < exchange.done for sent in change.sent)
        if answer != reference.item(request.number) or type(stock) is not int:
            raise WrongError(f"{where} is wrong")
        if not least <= stock <= most:
            raise WrongError(f"{where} says {stock} in stock, right are {least} to {most}")


def p95_ms(exchanges: list[Exchange]) -> float:
    """Of so many answers one in twenty took longer, in milliseconds."""
    times = sorted(exchange.took_s for exchange in exchanges)
    return 1000 * times[int(0.95 * (len(times) - 1))]


def main() -> None:
    items = draw()
    reference = Reference(items)
    client = Client(int(os.environ["SERVICE_PORT"]), LINES)
    asked = [(each, Exchange(each.data)) for each in requests(WARM_UP + SPACED + FULL, items)]
    exchanges = [exchange for _, exchange in asked]
    gc.disable()
    try:
        client.wait_until_up(UP_S)
        client.run(exchanges[:WARM_UP])
        spaced = exchanges[WARM_UP : WARM_UP + SPACED]
        client.run(spaced, RATE)
        took_s = client.run(exchanges[WARM_UP + SPACED :], for_s=FULL_S)
        asked = [each for each in asked if each[1].sent]
        check(asked, reference)
    except UnansweredError as error:
        print(f"a request {error}")
        sys.exit(INVALID)
    except WrongError as error:
        print(error)
        sys.exit(INVALID)
    full = [exchange for _, exchange in asked[WARM_UP + SPACED :]]
    if (worst_ms := p95_ms(full)) > PATIENCE_MS:
        print(f"at full load the 95th percentile is {worst_ms:.0f} ms, more than {PATIENCE_MS:.0f}")
        sys.exit(INVALID)
    print(f"METRIC p95_ms={p95_ms(spaced):.3f}")
    print(f"METRIC full_p95_ms={worst_ms:.3f}")
    print(f"METRIC requests_per_s={len(full) / took_s:.2f}")


if __name__ == "__main__":
    main()
