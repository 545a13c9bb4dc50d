"""Fixed: checks every answer, and takes the processor time as the engine measured it.

The function runs in a process of the candidate, which may patch anything there. So nothing of it
is believed: the inputs are drawn again from the seed, and each answer is compared with a search of
all points.

Exit code 3: the candidate's answer is invalid. Any other failure is ours.
"""

from __future__ import annotations

import json
import os
import sys
from heapq import nsmallest
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


def reference(points: list[Point], query: Point, k: int) -> list[int]:
    """The numbers of the k nearest points, by looking at all of them."""
    x, y, z = query
    distances = [(a - x) ** 2 + (b - y) ** 2 + (c - z) ** 2 for a, b, c in points]
    return [i for _, i in nsmallest(k, zip(distances, range(len(points)), strict=True))]


def main() -> None:
    points, queries, k = draw()
    answers = read(Path(os.environ["AUTORESEARCH_OUT"], "answers.json"))
    if not isinstance(answers, list) or len(answers) != len(queries):
        invalid(f"expected a list of {len(queries)} answers")
    for number, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        if answer != reference(points, query, k):
            invalid(f"answer {number} of {len(queries)} is wrong")
    usage = json.loads(Path(os.environ["AUTORESEARCH_USAGE"]).read_text())
    print(f"METRIC cpu_seconds={usage['cpu_s']}")


if __name__ == "__main__":
    main()
