"""What agents expect, read from their words, and how often they are right."""

from __future__ import annotations

import pytest

from autoresearch.calibration import Calibration, expectation
from autoresearch.journal.view import Experiment
from autoresearch.types import Decision, Metric, Status

LOWER, HIGHER = Metric("loss"), Metric("accuracy", "higher")


@pytest.mark.parametrize(
    ("text", "sign", "change"),
    [
        ("-0.003", -1, -0.003),
        ("−0.003", -1, -0.003),
        ("+0.01", 1, 0.01),
        ("loss - 0.02, maybe more", -1, -0.02),
        ("-0.01 to -0.005", -1, -0.01),
        ("-2%", -1, -0.04),
        ("about 1 % lower", -1, -0.02),
        ("loss falls by 0.1", -1, -0.1),
        ("improves by 0.1", -1, -0.1),
        ("worse by 0.1 at first", 1, 0.1),
        ("down to 1.9", -1, -0.1),
        ("2.0 -> 1.9", -1, -0.1),
        ("1,200.5 higher", 1, 1200.5),
        ("lower loss, more memory", -1, None),
        ("slightly better", -1, None),
        ("no change, less code", 0, None),
        ("0", None, None),
        ("I do not know", None, None),
        ("", None, None),
        ("-1e999", None, None),
    ],
)
def test_words_of_an_expectation(text: str, sign: int | None, change: float | None) -> None:
    found = expectation(text, LOWER, 2.0)
    assert (found.sign if found else None) == sign
    assert (found.change if found else None) == (None if change is None else pytest.approx(change))


def test_better_means_the_metrics_direction() -> None:
    better = expectation("better by 0.1", HIGHER, 0.5)
    assert better is not None and better.sign == 1 and better.change == 0.1
    assert expectation("-1%", HIGHER, None) is not None


def experiment(number: int, expected: str, was: float | None, value: float | None) -> Experiment:
    status = Status.DISCARD if value is not None else Status.CRASH
    made = Decision(status, "", value)
    return Experiment(number, expected=expected, was=was, decision=made)


def test_calibration_counts_what_was_expected_and_measured() -> None:
    found = Calibration()
    assert found.words() == ""
    for each in (
        experiment(1, "-0.1", 1.0, 0.9),
        experiment(2, "-0.1", 1.0, 1.1),
        experiment(3, "better", 1.0, 0.99),
        experiment(4, "-0.1", 1.0, None),
        experiment(5, "", 1.0, 0.9),
        experiment(6, "dunno", 1.0, 0.9),
        experiment(0, "-0.1", None, 0.9),
    ):
        found.add(each, LOWER)
    assert (found.measured, found.right) == (3, 2)
    assert found.mean_error == pytest.approx(0.1)
    said = found.words()
    assert said.startswith("last 3 expectations: 2 right in sign, mean error 0.1 where")
    for number in range(7, 30):
        found.add(experiment(number, "-1", 1.0, 2.0), LOWER)
    assert found.words().startswith("last 10 expectations: 0 right in sign, mean error 2 ")
    assert found.words().endswith("of all 26, 2 right in sign")
