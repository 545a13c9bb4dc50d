"""The tinylm workload as a task of ``bench/search.py``: exact for a seed, about a second a run.

Its real ``train.py`` is run in this process for a number of steps that follows from its constants:
as many as one core would do in ``TRAIN_S`` by the arithmetic they ask for, so that larger models
still pay for their size, and the machine's load changes nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Before NumPy reads them: where cores are busy, two threads take seven times as long as one.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import landscapes  # noqa: E402
import numpy as np  # noqa: E402
from landscapes import Axis, Task  # noqa: E402

import autoresearch  # noqa: E402

WORKLOAD = Path(autoresearch.__file__).parent / "workloads" / "tinylm"
DATA = Path(tempfile.gettempdir()) / "autoresearch-bench-tinylm"
TRAIN_S = 0.7
# Measured on one core: seconds for each step, matrix operation, weight updated and logit.
STEP_S, FLOP_S, WEIGHT_S, LOGIT_S = 1.5e-4, 1.7e-11, 1e-8, 5e-9
TRUTH_SEEDS = (-1, -2, -3)

AXES = (
    Axis("VOCAB", "512", 256, 2048, "pow2"),
    Axis("CONTEXT", "3", 1, 8, "int"),
    Axis("EMBED_DIM", "16", 4, 128, "pow2"),
    Axis("HIDDEN", "64", 16, 512, "pow2"),
    Axis("BATCH_SIZE", "256", 16, 1024, "pow2"),
    Axis("ACTIVATION", '"tanh"', scale="choice", choices=("tanh", "relu")),
    Axis("EMBED_LR", "3e-4", 1e-5, 1e-1, "log"),
    Axis("HIDDEN_LR", "3e-4", 1e-5, 1e-1, "log"),
    Axis("HEAD_LR", "3e-4", 1e-5, 1e-1, "log"),
    Axis("BETA1", "0.9", 0.5, 0.99),
    Axis("BETA2", "0.999", 0.9, 0.9999),
    Axis("WEIGHT_DECAY", "0.01", 0.0, 0.3),
    Axis("WARMUP", "0.1", 0.0, 0.5),
    Axis("WARMDOWN", "0.0", 0.0, 1.0),
    Axis("FINAL_LR", "0.1", 0.0, 1.0),
    Axis("EMBED_INIT", "0.1", 0.01, 1.0, "log"),
    Axis("HEAD_INIT", "0.1", 0.001, 1.0, "log"),
)


def tinylm(seed: int) -> Task:
    """The task; ``seed`` chooses the seeds of its samples."""
    script = (WORKLOAD / "train.py").read_text()
    started = landscapes.read(script, AXES)
    assert started == {axis.name: axis.start for axis in AXES}, "the workload has changed"

    def measure(text: str, sample: int) -> float | None:
        return bits_per_byte(text, 10_000 * (seed + 1) + sample)

    def truth(text: str) -> float | None:
        values = [bits_per_byte(text, 1000 - each) for each in TRUTH_SEEDS]
        known = [each for each in values if each is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    return Task("tinylm", AXES, script, measure, truth)


def prepare() -> None:
    """Make the corpus, once."""
    if not (DATA / "data" / "manifest.json").is_file():
        print("preparing the corpus of tinylm ...", flush=True)
        DATA.mkdir(exist_ok=True)
        requirements = (WORKLOAD / "requirements.txt").read_text()
        (DATA / "requirements.txt").write_text(requirements)
        subprocess.run([sys.executable, WORKLOAD / "prepare.py"], cwd=DATA, check=True)


@cache
def validation(vocabulary: int) -> tuple[np.ndarray, int]:
    """The validation text as tokens, and its length in bytes."""
    sys.path.insert(0, str(WORKLOAD))
    try:
        from prepare import encode  # noqa: PLC0415
    finally:
        sys.path.remove(str(WORKLOAD))
    text = (DATA / "data" / "val.bin").read_bytes()
    merges = [tuple(pair) for pair in json.loads((DATA / "data" / "merges.json").read_text())]
    return encode(text, merges[: vocabulary - 256]).astype(np.int64), len(text)


def steps(constants: Mapping[str, Any]) -> int:
    """How many steps a core would do in ``TRAIN_S``."""
    vocabulary, hidden, batch = (constants[name] for name in ("VOCAB", "HIDDEN", "BATCH_SIZE"))
    matrices = (constants["CONTEXT"] * constants["EMBED_DIM"] + vocabulary) * hidden
    weights = matrices + vocabulary * constants["EMBED_DIM"]
    step_s = STEP_S + WEIGHT_S * weights + LOGIT_S * batch * vocabulary
    return max(1, round(TRAIN_S / (step_s + FLOP_S * 6 * batch * matrices)))


def bits_per_byte(script: str, seed: int) -> float | None:
    """Train by the script and score its model as ``evaluate.py`` does; None where it crashes."""
    return run(script, seed)[0]


def run(script: str, seed: int) -> tuple[float | None, str]:
    """The score of a script, None where it crashes, and what it printed."""
    said = io.StringIO()
    constants = {axis.name: axis.start for axis in AXES} | landscapes.read(script, AXES)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(said):
        os.environ["AUTORESEARCH_SEED"] = str(seed)
        os.environ["AUTORESEARCH_OUT"] = out
        os.environ["TINYLM_STEPS"] = str(steps(constants))
        try:
            os.chdir(DATA)
            with np.errstate(all="ignore"):
                names: dict[str, Any] = {"__name__": "train"}
                exec(compile(script, "train.py", "exec"), names)
                names["train"]()
                model = names["Model"](dict(np.load(Path(out, "model.npz"))))
                return _score(model, names["VOCAB"], names["CONTEXT"]), said.getvalue()
        except Exception:
            return None, said.getvalue()  # whatever the edited script did wrong
        finally:
            os.chdir(here)


def _score(model: Any, vocabulary: int, context: int) -> float | None:
    tokens, length = validation(vocabulary)
    padded = np.concatenate([np.zeros(context, np.int64), tokens])
    windows = np.lib.stride_tricks.sliding_window_view(padded, context)[: len(tokens)]
    nats = 0.0
    for at in range(0, len(tokens), 4096):
        logits = model.forward(windows[at : at + 4096])[2].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        norm = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        rows = np.arange(len(logits))
        nats += float((norm - logits[rows, tokens[at : at + 4096]]).sum())
    value = nats / math.log(2) / length
    return value if math.isfinite(value) else None
