"""The recorded curves are whole, the engine's rule loses nothing on them, and a bad one shows."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))
early_end = import_module("early_end")


def test_the_engines_rule_loses_nothing_that_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert early_end.report(early_end.RECORDED) == 0
    assert "0 of 26" in capsys.readouterr().out.splitlines()[-1]


def test_a_rule_that_ends_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_end, "ours", lambda run, known: True)
    assert early_end.report(early_end.RECORDED) == 1


def test_a_replay_counts_what_it_does_not_spend() -> None:
    ((_, rows), *_) = early_end.searches(early_end.RECORDED)
    whole = early_end.replay(rows, lambda run, known: False)
    assert sum(each.spent for each in whole) == sum("role" in row for row in rows)
    half = early_end.replay(rows, lambda run, known: run.at[-1] >= 0.5)
    ended = [each for each in half if each.ended_at is not None]
    assert len(ended) > 30
    assert all(0.5 <= each.ended_at < 0.6 and each.spent < each.runs for each in ended)
