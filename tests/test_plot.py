"""The progress plot: the same bytes every time, labels apart, and nothing that breaks it."""

from __future__ import annotations

import math
import random
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.errors import UserError
from autoresearch.report.plot import LABEL_HEIGHT, Label, arrange, draw
from autoresearch.types import Status
from tests.cli.test_live import HOSTILE, Story

pytest.importorskip("matplotlib")


def night(folder: Path, experiments: int = 60, direction: str = "lower") -> Story:
    """A run with gains, failures and values that are far off."""
    chance = random.Random(experiments)
    story = Story(folder, direction)
    sign = 1 if direction == "lower" else -1
    best = 2.45
    story.baseline(best)
    for i in range(1, experiments + 1):
        if i % 6 == 1:
            best -= sign * 0.3 * 0.8**i + sign * 0.002
            story.experiment(f"change number {i} of {HOSTILE}", best, Status.KEEP)
        elif i % 10 == 2:
            story.experiment("breaks", None, chance.choice([Status.CRASH, Status.REJECTED]))
        elif i % 17 == 3:
            story.experiment("far off", best + sign * chance.choice([40.0, -40.0]))
        else:
            story.experiment("no better", best + sign * 0.1 * chance.random())
    return story


def said(svg: Path) -> str:
    """The text of a plot: drawn as shapes, and kept as comments."""
    return "\n".join(re.findall(r"<!--(.*?)-->", svg.read_text(), re.S))


MAGIC = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}


@pytest.mark.parametrize("direction", ["lower", "higher"])
@pytest.mark.parametrize("suffix", MAGIC)
def test_a_run_is_drawn_the_same_every_time(tmp_path: Path, suffix: str, direction: str) -> None:
    story = night(tmp_path / "run", direction=direction)
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(story.view, story.contract, first)
        draw(story.view, story.contract, second)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(MAGIC[suffix])
    assert {path for path in tmp_path.iterdir() if path.is_file()} == {first, second}


@pytest.mark.parametrize("direction", ["lower", "higher"])
def test_a_plot_says_what_it_shows(tmp_path: Path, direction: str) -> None:
    story = night(tmp_path / "run", direction=direction)
    draw(story.view, story.contract, tmp_path / "a.svg")
    ElementTree.parse(tmp_path / "a.svg")
    text = said(tmp_path / "a.svg")
    reported = f"val_bpb ({direction} is better, self-reported)"
    for part in ("val_bpb 2.45", "better (", "60 experiments, 10 kept", "best so far", reported,
                 "off the scale", "crash"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("experiments", [0, 1, 2])
def test_a_short_run_is_drawn(tmp_path: Path, experiments: int) -> None:
    story = night(tmp_path / "run", experiments)
    draw(story.view, story.contract, tmp_path / "plot.svg")
    assert f"{experiments} experiment" in said(tmp_path / "plot.svg")


@pytest.mark.parametrize("value", [0.0, 1e-12, -3.5, 1e9])
def test_values_of_every_size_are_drawn(tmp_path: Path, value: float) -> None:
    story = Story(tmp_path / "run")
    story.baseline(value, half=0.0)
    story.experiment("equal", value, half=0.0)
    draw(story.view, story.contract, tmp_path / "plot.svg")
    story.experiment(HOSTILE, value - 1e-13, Status.KEEP, half=0.0, open=True)
    draw(story.view, story.contract, tmp_path / "plot.svg")
    ElementTree.parse(tmp_path / "plot.svg")


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    story = Story(tmp_path / "run")
    with pytest.raises(UserError, match="nothing was measured yet"):
        draw(story.view, story.contract, tmp_path / "plot.svg")
    story.baseline(1.0)
    with pytest.raises(UserError, match=r"cannot draw to 'plot\.txt'"):
        draw(story.view, story.contract, tmp_path / "plot.txt")
    with pytest.raises(UserError, match="No such file"):
        draw(story.view, story.contract, tmp_path / "missing" / "plot.svg")


place = st.tuples(st.floats(0, 800), st.floats(0, 400))


@given(
    labels=st.lists(st.builds(Label, st.just("x"), place, st.floats(10, 200), st.just(0.0))),
    dots=st.lists(place, max_size=30),
    angle=st.sampled_from([math.pi / 6, -math.pi / 6]),
)
def test_labels_never_overlap(
    labels: list[Label], dots: list[tuple[float, float]], angle: float
) -> None:
    shifts = arrange(labels, dots, angle)
    assert len(shifts) == len(labels)
    assert not labels or shifts[0] is not None
    sign = 1 if angle > 0 else -1
    shown = []
    for label, shift in zip(labels, shifts, strict=True):
        if shift is not None:
            x, y = label.at[0], label.at[1] + sign * shift
            u = x * math.cos(angle) + y * math.sin(angle)
            shown.append((u, u + label.length, y * math.cos(angle) - x * math.sin(angle)))
    for i, (a, b, v) in enumerate(shown):
        for c, d, w in shown[:i]:
            assert abs(v - w) > LABEL_HEIGHT - 1e-6 or b < c or d < a
