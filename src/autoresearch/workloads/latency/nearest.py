"""Editable: the k nearest points of every query, by a k-d tree in pure Python.

Correct, and slow. Points are tuples of whole numbers, so that distances compare exactly; nearest
first, equal distances in the order of the points.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

LEAF_SIZE = 256
PIVOT_SAMPLE = 5
SPLIT = "cycle"  # choices: cycle, widest

Point = tuple[int, ...]


class Node:
    """A leaf holds the numbers of its points, an inner node the plane between its halves."""

    def __init__(self, points: Sequence[Point], members: list[int], depth: int) -> None:
        self.members = members
        self.axis, self.at = 0, 0
        self.below: Node | None = None
        self.above: Node | None = None
        if len(members) > LEAF_SIZE:
            self.divide(points, depth)

    def divide(self, points: Sequence[Point], depth: int) -> None:
        self.axis = axis = self.choose_axis(points, depth)
        stride = max(1, len(self.members) // PIVOT_SAMPLE)
        sample = sorted(points[i][axis] for i in self.members[::stride])
        self.at = sample[len(sample) // 2]
        below = [i for i in self.members if points[i][axis] < self.at]
        above = [i for i in self.members if points[i][axis] >= self.at]
        if below and above:
            self.below = Node(points, below, depth + 1)
            self.above = Node(points, above, depth + 1)

    def choose_axis(self, points: Sequence[Point], depth: int) -> int:
        axes = range(len(points[0]))
        if SPLIT == "cycle":
            return depth % len(axes)
        spans = []
        for axis in axes:
            values = [points[i][axis] for i in self.members]
            spans.append(max(values) - min(values))
        return max(axes, key=lambda axis: spans[axis])

    def search(
        self, points: Sequence[Point], query: Point, k: int, found: list[tuple[int, int]]
    ) -> None:
        """Improve ``found``, the sorted (squared distance, number) of the best k so far."""
        if self.below is None or self.above is None:
            for i in self.members:
                distance = sum((a - b) ** 2 for a, b in zip(points[i], query, strict=True))
                if len(found) < k or (distance, i) < found[-1]:
                    insort(found, (distance, i))
                    del found[k:]
            return
        gap = query[self.axis] - self.at
        near, far = (self.below, self.above) if gap < 0 else (self.above, self.below)
        near.search(points, query, k, found)
        if len(found) < k or gap * gap <= found[-1][0]:
            far.search(points, query, k, found)


def nearest(points: Sequence[Point], queries: Sequence[Point], k: int) -> list[list[int]]:
    """For each query the numbers of its k nearest points; of all where there are fewer."""
    if not points or k < 1:
        return [[] for _ in queries]
    tree = Node(points, list(range(len(points))), 0)
    answers = []
    for query in queries:
        found: list[tuple[int, int]] = []
        tree.search(points, query, k, found)
        answers.append([i for _, i in found])
    return answers
