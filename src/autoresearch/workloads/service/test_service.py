"""Fixed: the guard. What the service must do in the cases that random load does not reach."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import unittest
from typing import Any

from catalogue import Item, draw, first_stock
from client import Client

PORT = int(os.environ["SERVICE_PORT"])


class Service(unittest.TestCase):
    items: list[Item]
    process: subprocess.Popen[bytes]

    @classmethod
    def setUpClass(cls) -> None:
        cls.items = draw()
        cls.process = subprocess.Popen([sys.executable, "service.py"], stderr=subprocess.DEVNULL)
        Client(PORT, 1).wait_until_up(20)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.process.kill()
        cls.process.wait()

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            self.assertEqual(answer.getheader("Content-Type"), "application/json")
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def add(self, number: int, body: str) -> tuple[int, Any]:
        return self.ask("POST", f"/items/{number}/stock", body)

    def test_an_item(self) -> None:
        item = self.items[7]
        shown = {"number": 7, "title": item.title, "text": item.text, "price": item.price}
        self.assertEqual(self.ask("GET", "/items/7"), (200, shown | {"stock": first_stock(item)}))

    def test_what_there_is_not(self) -> None:
        for path in ("/", "/items", f"/items/{len(self.items)}", "/items/x", "/items/7/stock"):
            self.assertEqual(self.ask("GET", path)[0], 404, path)
        self.assertEqual(self.add(len(self.items), '{"add": 1}')[0], 404)
        self.assertEqual(self.ask("POST", "/items/7", '{"add": 1}')[0], 404)

    def test_a_search_without_words_finds_nothing(self) -> None:
        for path in ("/search", "/search?q=", "/search?q=+"):
            self.assertEqual(self.ask("GET", path), (200, {"total": 0, "items": []}), path)

    def test_a_word_that_no_item_has(self) -> None:
        word = self.items[0].title.split()[0]
        for query in ("nosuchword", f"{word}+nosuchword", word[:2], f"{word}x"):
            self.assertEqual(self.ask("GET", f"/search?q={query}")[1]["total"], 0, query)

    def test_order_case_and_repeats_of_words_make_no_difference(self) -> None:
        one, two, *_ = sorted(set(self.items[3].text.split()))
        found = self.ask("GET", f"/search?q={one}+{two}")
        self.assertGreater(found[1]["total"], 0)
        for query in (f"{two}+{one}", f"{one.upper()}%20{two}", f"{one}+{two}+{one}"):
            self.assertEqual(self.ask("GET", f"/search?q={query}"), found, query)

    def test_the_best_first_and_then_the_cheapest(self) -> None:
        word = self.items[0].title.split()[0]
        found = self.ask("GET", f"/search?q={word}&limit=50")[1]["items"]
        order = [(-each["score"], each["price"], each["number"]) for each in found]
        self.assertEqual(order, sorted(order))
        self.assertEqual(self.ask("GET", f"/search?q={word}")[1]["items"], found[:10])

    def test_limits(self) -> None:
        word = self.items[0].title.split()[0]
        self.assertEqual(len(self.ask("GET", f"/search?q={word}&limit=1")[1]["items"]), 1)
        for limit in ("0", "51", "-1", "x", "1.5"):
            self.assertEqual(self.ask("GET", f"/search?q={word}&limit={limit}")[0], 400, limit)

    def test_stock_adds_up(self) -> None:
        first = self.ask("GET", "/items/11")[1]["stock"]
        self.assertEqual(self.add(11, '{"add": 4}')[1]["stock"], first + 4)
        self.assertEqual(self.add(11, '{"add": 0}')[1]["stock"], first + 4)
        self.assertEqual(self.ask("GET", "/items/11")[1]["stock"], first + 4)

    def test_bodies_that_say_nothing(self) -> None:
        first = self.ask("GET", "/items/12")[1]["stock"]
        for body in ("", "x", "[]", "{}", '{"add": -1}', '{"add": "1"}', '{"add": 1.5}', "4"):
            self.assertEqual(self.add(12, body)[0], 400, body)
        self.assertEqual(self.ask("GET", "/items/12")[1]["stock"], first)

    def test_additions_at_once_are_all_done(self) -> None:
        first = self.ask("GET", "/items/13")[1]["stock"]
        threads = [threading.Thread(target=self.add, args=(13, '{"add": 1}')) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.ask("GET", "/items/13")[1]["stock"], first + 16)


if __name__ == "__main__":
    unittest.main()
