"""Fixed: what the function is asked, drawn from the engine's seed."""

from __future__ import annotations

import os
import random

Point = tuple[int, ...]
DIMENSIONS = 3
K = 8
CLUSTERS = 40
WIDTH = 1_000_000


def draw() -> tuple[list[Point], list[Point], int]:
    """Points in clusters of very different width, queries among them, and k."""
    # Where the clusters lie is the same for all seeds: else some would be harder than others.
    places = random.Random(1)
    clusters = [
        [(places.randrange(WIDTH), WIDTH / 10 ** places.uniform(1, 3)) for _ in range(DIMENSIONS)]
        for _ in range(CLUSTERS)
    ]
    rng = random.Random(int(os.environ["AUTORESEARCH_SEED"]))

    def point() -> Point:
        return tuple(round(rng.gauss(centre, width)) for centre, width in rng.choice(clusters))

    count = int(os.environ["LATENCY_POINTS"])
    points, queries = [point() for _ in range(count)], [point() for _ in range(count // 4)]
    # Equal points in different places of the list: the order of equals is part of the answer.
    points[::50] = queries[: len(points[::50])]
    points[25::50] = queries[: len(points[25::50])]
    return points, queries, K
