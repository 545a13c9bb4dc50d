"""Learning curves read from logs as real programs print them."""

from __future__ import annotations

import math
import random

import pytest

from autoresearch.bench import read_metric
from autoresearch.curves import curves, track, words

FALLING = [3.0 * math.exp(-i / 20) + 0.5 for i in range(50)]
KARPATHY = "".join(
    f"\rstep {i * 10:05d} ({2 * i:.1f}%) | loss: {v:.6f} | lrm: 1.00 | dt: 312ms |"
    f" tok/sec: 420,113 | mfu: 38.1% | epoch: 1 | remaining: {300 - 6 * i}s    "
    for i, v in enumerate(FALLING)
)
FORMS = {
    "METRIC": "".join(f"METRIC val_bpb={v:.4f} step={i * 10}\n" for i, v in enumerate(FALLING)),
    "progress": "".join(
        f"progress: {i / 49:.3f} val_bpb: {v:.4f}\n" for i, v in enumerate(FALLING)
    ),
    "three files": KARPATHY.replace("loss:", "val_bpb:"),
    "nanogpt": "".join(f"iter {i}: val_bpb {v:.4f}, time 20.1ms\n" for i, v in enumerate(FALLING)),
    "json": "".join(f'{{"step": {i}, "val_bpb": {v:.4f}}}\n' for i, v in enumerate(FALLING)),
    "epochs": "".join(f"Epoch [{i}/50] val_bpb={v:.4f}\n" for i, v in enumerate(FALLING)),
    "step=": "".join(f"[I] step={i} lr=3.0e-4 val_bpb={v:.4f}\n" for i, v in enumerate(FALLING)),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_curve(form: str) -> None:
    noise = "Loading 3 files\nparameters: 124,000\n"
    (found,) = curves(noise + FORMS[form] + "\nval_bpb: 0.7\n", "val_bpb", "lower")
    assert found.name == "val_bpb" and found.points == 50
    assert found.first[1] == pytest.approx(3.5, abs=1e-3)
    assert found.last[1] == pytest.approx(FALLING[-1], abs=1e-3)
    assert found.trend == "falling" and found.change < 0
    assert "still falling" in words(found)


def test_the_metric_comes_first_then_what_is_telling() -> None:
    log = "".join(
        f"step {i} lr 0.1 train_loss {3 - i / 50} val_loss {3.1 - i / 50} tokens_per_s 1e5\n"
        for i in range(20)
    )
    assert [each.name for each in curves(log, "bpb", "lower")] == ["val_loss", "train_loss"]
    assert curves(log, "tokens_per_s", "higher")[0].name == "tokens_per_s"


def log_of(values: list[float]) -> str:
    return "".join(f"step {i} loss {v}\n" for i, v in enumerate(values))


def test_flat_diverged_and_turned_up() -> None:
    rng = random.Random(1)
    flat = [3.0 * math.exp(-i / 3) + 0.5 + rng.gauss(0, 0.01) for i in range(60)]
    assert curves(log_of(flat), "loss", "lower")[0].trend == "flat"
    gone = [*FALLING[:20], math.nan, math.nan]
    (found,) = curves(log_of(gone), "loss", "lower")
    assert found.trend == "diverged" and found.diverged_at == 20
    assert "not a number from 20 on" in words(found)
    burst = [*FALLING[:20], 8.0, 20.0, 40.0]
    assert curves(log_of(burst), "loss", "lower")[0].trend == "diverged"
    overfit = [*FALLING, *(FALLING[-1] + i / 50 for i in range(30))]
    (found,) = curves(log_of(overfit), "loss", "lower")
    assert found.trend == "rising" and "best" in words(found)
    better = [i / 50 for i in range(50)]
    assert curves(log_of(better), "loss", "higher")[0].trend == "rising"


def test_what_is_no_curve_gives_none() -> None:
    assert curves("", "loss", "lower") == []
    assert curves("loss: 3.2\nstep\nstep 1\nwords only 3 times\n", "loss", "lower") == []
    assert curves("step 1 loss 2.0\n", "loss", "lower") == []


def test_hostile_logs_stay_bounded() -> None:
    for log in (
        "step 1 " + "9" * 1_000_000,
        "step 1 " * 150_000,
        "".join(f"step {i} loss{i} 1.0\n" for i in range(60_000)),
        "step 1e999 loss 1e999\nstep nan loss 1\n" * 10_000,
        "a" * 1_000_000,
        "step 1 loss 1e308\nstep 2 loss -1e308\nstep 3 loss 1e308\nstep 4 loss 2\n" * 100,
    ):
        for each in curves(log, "loss", "lower"):
            assert len(words(each)) < 300


ALONG_THE_WAY = """\
METRIC val_bpb=1.5 step=100
progress: 0.4 val_bpb: 1.4
  progress: 0.5 train_loss: 2.0 val_bpb: 1.3
METRIC val_bpb=1.2 step=200
"""


def test_a_value_along_the_way_is_never_the_final_one() -> None:
    patterns = (None, r"val_bpb[:=]\s*(\S+)", r"(\d\.\d)", r"val_bpb=(\S+) step=\d+$")
    for pattern in patterns:
        with pytest.raises(ValueError, match="no val_bpb was printed"):
            read_metric(ALONG_THE_WAY, "val_bpb", pattern)
        with pytest.raises(ValueError, match="no val_bpb was printed"):
            read_metric(ALONG_THE_WAY.replace("\n", "\r"), "val_bpb", pattern)
    for said in ("METRIC val_bpb=1.1\n", "val_bpb: 1.1\n", '{"val_bpb": 1.1}\n'):
        text = f"{ALONG_THE_WAY}{said}progress: 1.0 val_bpb: 0.1\n"
        if not said.startswith("{"):
            text += "METRIC val_bpb=0.1 step=300\n"
        assert read_metric(text, "val_bpb", None) == 1.1
    assert read_metric(f"{ALONG_THE_WAY}val_bpb: 1.1\n", "val_bpb", r"val_bpb[:=]\s*(\S+)") == 1.1


def test_only_the_two_forms_tell_of_a_value_along_the_way() -> None:
    for form in ("METRIC", "progress"):
        found = track(f"val_bpb: 9\n{FORMS[form]}val_bpb: 0.7\nMETRIC val_bpb=0.7\n", "val_bpb")
        assert found.steps is (form == "METRIC")
        assert found.values == pytest.approx(FALLING, abs=1e-4)
    for form in FORMS.keys() - {"METRIC", "progress"}:
        assert not track(FORMS[form], "val_bpb").at
    assert not track(FORMS["METRIC"], "val").at


def test_a_curve_only_goes_on() -> None:
    log = "progress: 0.5 x: 1\nprogress: 0.2 x: 0\nMETRIC x=7 step=9\nprogress: 1.5 x: 2\n"
    assert track(f"{log}progress: 0.6 x: 3\nprogress: -1 x: 3\n", "x").at == [0.5, 0.6]
