"""Editable: a small shop over HTTP, on SERVICE_PORT of the loopback device.

    GET  /search?q=WORDS&limit=N    items that hold every word, best first
    GET  /items/N                   one item and its stock
    POST /items/N/stock {"add": N}  more of it in stock

Correct, and slow: every request reads the whole catalogue.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from catalogue import MOST, Item, draw, first_stock

THREADS = 1
BACKLOG = 32
REQUESTS_PER_CONNECTION = 1
IDLE_S = 0.05
READ_BUFFER = 64
WRITE_PIECE = 64
NO_DELAY = False
CACHED_SEARCHES = 1
INDENT = 8  # choices: 0, 2, 8
WORDS = "split each time"  # choices: split each time, split once, counted once
LOG_EVERY = 1  # choices: 0, 1, 100
SWITCH_INTERVAL_S = 0.005
GC_THRESHOLD = 100


class Shop:
    """The items, how many there are of each, and the search."""

    def __init__(self) -> None:
        self.items = draw()
        self.stock = {item.number: first_stock(item) for item in self.items}
        self.lock = threading.Lock()
        self.found: dict[tuple[str, ...], list[tuple[int, int, int]]] = {}
        self.words = [split(item) for item in self.items] if WORDS == "split once" else []
        self.counts = [count(split(item)) for item in self.items] if "count" in WORDS else []

    def occurrences(self, place: int, word: str) -> int:
        """How often a word is in an item."""
        if self.counts:
            return self.counts[place].get(word, 0)
        words = self.words[place] if self.words else split(self.items[place])
        return words.count(word)

    def scan(self, words: tuple[str, ...]) -> list[tuple[int, int, int]]:
        """All that hold every word: (-occurrences, price, number) in order."""
        if words in self.found:
            return self.found[words]
        hits = []
        for place, item in enumerate(self.items):
            occurrences = [self.occurrences(place, word) for word in words]
            if all(occurrences):
                hits.append((-sum(occurrences), item.price, item.number))
        hits.sort()
        while self.found and len(self.found) >= CACHED_SEARCHES:
            self.found.pop(next(iter(self.found)), None)
        self.found[words] = hits
        return hits

    def search(self, text: str, limit: int) -> dict[str, Any]:
        words = tuple(sorted(set(text.lower().split())))
        hits = self.scan(words) if words else []
        found = []
        for score, price, number in hits[:limit]:
            item = self.item(number)
            assert item is not None
            found.append({"number": number, "title": item.title, "price": price, "score": -score})
        return {"total": len(hits), "items": found}

    def item(self, number: int) -> Item | None:
        return next((item for item in self.items if item.number == number), None)

    def show(self, number: int, add: int = 0) -> dict[str, Any] | None:
        """An item as it is after ``add`` more have come."""
        item = self.item(number)
        if item is None:
            return None
        with self.lock:
            self.stock[number] += add
            stock = self.stock[number]
        return {
            "number": item.number,
            "title": item.title,
            "text": item.text,
            "price": item.price,
            "stock": stock,
        }


def split(item: Item) -> list[str]:
    return re.findall(r"\w+", f"{item.title} {item.text}".lower())


def count(words: list[str]) -> dict[str, int]:
    return {word: words.count(word) for word in words}


class Handler(BaseHTTPRequestHandler):
    """One connection, and the requests that come over it."""

    protocol_version = "HTTP/1.1"
    rbufsize = READ_BUFFER
    shop: Shop
    served = 0

    def setup(self) -> None:
        self.disable_nagle_algorithm = NO_DELAY
        super().setup()
        self.answered = 0

    def handle(self) -> None:
        self.handle_one_request()
        while not self.close_connection:
            self.connection.settimeout(IDLE_S)
            if not self.rfile.peek(1):  # type: ignore[attr-defined]
                break
            self.connection.settimeout(10)
            self.handle_one_request()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        place = parts.path.strip("/").split("/")
        if place == ["search"]:
            asked = parse_qs(parts.query)
            limit = asked.get("limit", ["10"])[0]
            if not limit.isdecimal() or not 1 <= int(limit) <= MOST:
                self.answer(400, {"error": f"limit must be from 1 to {MOST}"})
                return
            self.answer(200, self.shop.search(asked.get("q", [""])[0], int(limit)))
        elif len(place) == 2 and place[0] == "items" and place[1].isdecimal():
            self.answer_item(int(place[1]), 0)
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        place = self.path.strip("/").split("/")
        if (
            len(place) != 3
            or (place[0], place[2]) != ("items", "stock")
            or not place[1].isdecimal()
        ):
            self.answer(404, {"error": "not found"})
            return
        try:
            add = json.loads(body)["add"]
        except (ValueError, KeyError, TypeError):
            add = None
        if type(add) is not int or add < 0:
            self.answer(400, {"error": "add must be a whole number, not below 0"})
            return
        self.answer_item(int(place[1]), add)

    def answer_item(self, number: int, add: int) -> None:
        shown = self.shop.show(number, add)
        self.answer(*((404, {"error": "not found"}) if shown is None else (200, shown)))

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body, indent=INDENT or None).encode()
        self.answered += 1
        if self.answered >= REQUESTS_PER_CONNECTION:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        for start in range(0, len(data), WRITE_PIECE):
            self.wfile.write(data[start : start + WRITE_PIECE])

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        Handler.served += 1
        if LOG_EVERY and Handler.served % LOG_EVERY == 0:
            super().log_request(code, size)


def work(waiting: queue.SimpleQueue[tuple[socket.socket, Any]]) -> None:
    """Serve one connection after the other."""
    while True:
        connection, address = waiting.get()
        try:
            Handler(connection, address, None)  # type: ignore[arg-type]
        except OSError:
            pass  # the client has gone, or had nothing more to ask
        finally:
            connection.close()


def main() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(GC_THRESHOLD)
    Handler.shop = Shop()
    waiting: queue.SimpleQueue[tuple[socket.socket, Any]] = queue.SimpleQueue()
    for _ in range(THREADS):
        threading.Thread(target=work, args=(waiting,), daemon=True).start()
    address = ("127.0.0.1", int(os.environ["SERVICE_PORT"]))
    with socket.create_server(address, backlog=BACKLOG) as server:
        while True:
            waiting.put(server.accept())


if __name__ == "__main__":
    main()
