"""Fixed: checks every answer, and takes the processor time as the engine measured it.

The function runs in a process of the candidate, which may patch anything there. So nothing of it
is believed: the inputs are drawn again from the seed, and each answer is compared with a search of
every point that could be as near as the farthest it names.

Exit code 3: the candidate's answer is invalid. Any other failure is ours.
"""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_left, bisect_right
from heapq import nsmallest
from math import isqrt
from pathlib import Path

from inputs import Point, draw

INVALID = 3
BYTES = 16 << 20


def invalid(why: str) -> None:
    """Say that the candidate's answers do not count, and end."""
    print(why)
    sys.exit(INVALID)


def read(path: Path) -> object:
    """What the candidate left as its answers."""
    if not path.is_file():
        invalid("no answers were written")
    if path.stat().st_size > BYTES:
        invalid("the answers are too large")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        invalid("the answers are not JSON")


class Reference:
    """The right answers, by a plain search within one coordinate of the query."""

    def __init__(self, points: list[Point]) -> None:
        self.points = points
        self.order = sorted(range(len(points)), key=points.__getitem__)
        self.firsts = [points[i][0] for i in self.order]

    def distance(self, query: Point, i: int) -> int:
        x, y, z = query
        a, b, c = self.points[i]
        return (a - x) ** 2 + (b - y) ** 2 + (c - z) ** 2

    def agrees(self, query: Point, answer: object, k: int) -> bool:
        """Whether an answer names the k nearest points in their order."""
        count = min(k, len(self.points))
        if not isinstance(answer, list) or len(answer) != count:
            return False
        if any(type(i) is not int or not 0 <= i < len(self.points) for i in answer):
            return False
        # If k different points are within a radius, so are the k nearest.
        radius = isqrt(max(self.distance(query, i) for i in answer)) + 1
        low = bisect_left(self.firsts, query[0] - radius)
        high = bisect_right(self.firsts, query[0] + radius)
        near = [(self.distance(query, i), i) for i in self.order[low:high]]
        return answer == [i for _, i in nsmallest(count, near)]


def main() -> None:
    points, queries, k = draw()
    answers = read(Path(os.environ["AUTORESEARCH_OUT"], "answers.json"))
    if not isinstance(answers, list) or len(answers) != len(queries):
        invalid(f"expected a list of {len(queries)} answers")
    reference = Reference(points)
    for number, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        if not reference.agrees(query, answer, k):
            invalid(f"answer {number} of {len(queries)} is wrong")
    usage = json.loads(Path(os.environ["AUTORESEARCH_USAGE"]).read_text())
    print(f"METRIC cpu_seconds={usage['cpu_s']}")


if __name__ == "__main__":
    main()
