"""Fixed: the guard. What ``nearest`` must do in the cases that random inputs do not reach."""

from __future__ import annotations

import random
import unittest

from nearest import nearest


class Nearest(unittest.TestCase):
    def test_no_points(self) -> None:
        self.assertEqual(nearest([], [(1, 2)], 3), [[]])

    def test_no_queries(self) -> None:
        self.assertEqual(nearest([(1, 2)], [], 3), [])

    def test_none_wanted(self) -> None:
        self.assertEqual(nearest([(1, 2)], [(0, 0)], 0), [[]])

    def test_fewer_points_than_wanted(self) -> None:
        self.assertEqual(nearest([(9, 9), (1, 1)], [(0, 0)], 5), [[1, 0]])

    def test_equal_distances_in_the_order_of_the_points(self) -> None:
        points = [(1, 0), (0, 1), (-1, 0), (0, -1)]
        self.assertEqual(nearest(points, [(0, 0)], 3), [[0, 1, 2]])

    def test_many_equal_points(self) -> None:
        self.assertEqual(nearest([(5, 5)] * 100, [(5, 5)], 4), [[0, 1, 2, 3]])

    def test_the_points_are_left_as_they_were(self) -> None:
        points = [(3, 1), (2, 2), (1, 3)]
        nearest(points, [(0, 0)], 2)
        self.assertEqual(points, [(3, 1), (2, 2), (1, 3)])

    def test_every_number_of_dimensions(self) -> None:
        rng = random.Random(1)
        for dimensions in (1, 2, 5):
            draw = [tuple(rng.randrange(20) for _ in range(dimensions)) for _ in range(120)]
            points, queries = draw[:100], draw[100:]
            for query, answer in zip(queries, nearest(points, queries, 6), strict=True):
                distances = [
                    sum((a - b) ** 2 for a, b in zip(point, query, strict=True)) for point in points
                ]
                order = sorted(range(len(points)), key=distances.__getitem__)
                self.assertEqual(answer, order[:6])


if __name__ == "__main__":
    unittest.main()
