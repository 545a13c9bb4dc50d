"""The tinylm workload: its corpus, its scorer, and the cheats that must gain nothing."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autoresearch
from autoresearch.journal.view import Experiment
from autoresearch.types import Decision, Status
from tests.conftest import Toy, workload
from tests.workloads.scoring import LANES, VOCAB, Scorer, code_like, load

WORKLOAD = Path(autoresearch.__file__).parent / "workloads" / "tinylm"
# What every answerer below begins with: the protocol, and the honest logits of the saved model.
ANSWERER = """
import os, sys, time
import numpy as np
sys.argv = ["train.py"]
from train import CONTEXT, OUT, VOCAB, Model

model = Model(dict(np.load(os.path.join(OUT, "model.npz"))))
ask, reply = 0, 1
rng = np.random.default_rng(0)

def read(count):
    data = b""
    while len(data) < count:
        part = os.read(ask, count - len(data))
        if not part:
            raise SystemExit
        data += part
    return data

def write(data):
    while data:
        data = data[os.write(reply, data):]

def hello(vocab=VOCAB):
    write(np.array([vocab], "<u4").tobytes())
    return int(np.frombuffer(read(4), "<u4")[0])

def run(change=lambda logits, step: logits):
    lanes, step = hello(), 0
    context = np.zeros((lanes, CONTEXT), np.int64)
    while True:
        context = np.roll(context, -1, axis=1)
        context[:, -1] = np.frombuffer(read(2 * lanes), "<u2")
        logits = change(model.forward(context)[2].astype("<f4"), step)
        write(np.ascontiguousarray(logits, "<f4").tobytes())
        step += 1
"""
HONEST = "run()"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(tmp_path_factory.mktemp("tinylm") / "task", "tinylm", ANSWERER, deadline_s=2)


@pytest.fixture(scope="module")
def honest(scorer: Scorer) -> float:
    return scorer.bpb(HONEST)


# The score is what it says


def test_every_byte_is_scored_once_with_a_distribution_of_ours(
    scorer: Scorer, honest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in scorer.env.items():
        monkeypatch.setenv(name, value)
    train = load("train", scorer.folder)
    model = train.Model(dict(np.load(scorer.folder / "model.npz")))
    nats = 0.0
    ends = np.linspace(0, len(scorer.tokens), LANES + 1).astype(int)
    for start, end in pairwise(ends):
        lane = [0] * train.CONTEXT + scorer.tokens[start:end].tolist()
        for at in range(train.CONTEXT, len(lane)):
            logits = model.forward(np.array([lane[at - train.CONTEXT : at]]))[2][0].astype(float)
            nats += math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[lane[at]]
    assert honest == pytest.approx(nats / math.log(2) / len(scorer.text), abs=1e-4)
    assert 0.2 < honest < 8


def test_a_vocabulary_of_bytes_is_scored_over_the_same_bytes(scorer: Scorer) -> None:
    uniform = (
        "lanes = hello(256)\nwhile True:\n    read(2 * lanes); write(bytes(4 * lanes * 256))\n"
    )
    assert scorer.bpb(uniform) == pytest.approx(8.0, abs=1e-6)


def test_the_sealed_split_is_another_text(scorer: Scorer, honest: float) -> None:
    assert scorer.bpb(HONEST, AUTORESEARCH_SPLIT="sealed") != honest


def test_fixed_steps_are_exact(scorer: Scorer, honest: float) -> None:
    before = (scorer.folder / "model.npz").read_bytes()
    scorer.train()
    assert scorer.bpb(HONEST) == honest
    again = np.load(scorer.folder / "model.npz")
    (scorer.folder / "model.npz").write_bytes(before)
    first = np.load(scorer.folder / "model.npz")
    assert all((again[name] == first[name]).all() for name in first.files)


# Cheats of the answer


@pytest.mark.parametrize(
    "change",
    ["logits + 1000", "logits + rng.normal(0, 100, (len(logits), 1))"],
    ids=["shifted", "shifted by row"],
)
def test_unnormalised_answers_gain_nothing(scorer: Scorer, honest: float, change: str) -> None:
    cheat = f"run(lambda logits, step: ({change}).astype('<f4'))"
    assert scorer.bpb(cheat) == pytest.approx(honest, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    ["rng.normal(0, 1, logits.shape)", "0 * logits + 1e9", "logits * 50"],
    ids=["random", "sure of everything", "far too sure"],
)
def test_made_up_answers_are_worse(scorer: Scorer, honest: float, change: str) -> None:
    assert scorer.bpb(f"run(lambda logits, step: {change})") > honest


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_answers_that_are_not_finite_are_invalid(scorer: Scorer, bad: str) -> None:
    cheat = f"run(lambda logits, step: np.where(step < 5, logits, np.float32('{bad}')))"
    code, said = scorer.score(cheat)
    assert (code, said) == (3, "candidate answered with logits that are not finite at step 5\n")


LOOK_AHEAD = """
lanes = hello()
first = read(2 * lanes)
second = read(2 * lanes)   # what it should predict comes only after its answer
write(bytes(4 * lanes * VOCAB))
"""
ONE_LANE_LATE = """
lanes = hello()
while True:
    read(2 * lanes)
    write(bytes(4 * (lanes - 1) * VOCAB))
    read(2 * lanes)        # the other lanes' answers are out, the last one waits for its token
"""
STALL = "hello(); read(1); time.sleep(60)"


@pytest.mark.parametrize("cheat", [LOOK_AHEAD, ONE_LANE_LATE, STALL])
def test_waiting_for_the_next_token_is_invalid(scorer: Scorer, cheat: str) -> None:
    code, said = scorer.score(cheat)
    assert (code, said) == (3, "candidate did not answer within 2 s\n")


@pytest.mark.parametrize(
    ("cheat", "said"),
    [
        ("hello(); sys.exit()", "candidate stopped answering\n"),
        ("sys.exit()", "candidate stopped answering\n"),
        (
            "hello(5000)",
            "candidate says a vocabulary of 5000; possible are (256, 512, 1024, 2048)\n",
        ),
    ],
)
def test_breaking_the_protocol_is_invalid(scorer: Scorer, cheat: str, said: str) -> None:
    assert scorer.score(cheat) == (3, said)


def test_answers_given_before_they_are_asked_for_gain_nothing(
    scorer: Scorer, honest: float
) -> None:
    early = "lanes = hello()\nwhile True:\n    write(bytes(4 * lanes * VOCAB))\n"
    assert scorer.bpb(early) > honest


# The corpus


def test_encoding_keeps_every_byte_at_every_size(scorer: Scorer) -> None:
    prepare = load("prepare", WORKLOAD)
    parts: list[bytes] = [bytes([byte]) for byte in range(256)]
    for left, right in scorer.merges:
        parts.append(parts[left] + parts[right])
    strange = bytes(range(256)) + "\r\n\tπ λ".encode() + scorer.text
    for size in (256, 300, VOCAB):
        ids = prepare.encode(strange, scorer.merges[: size - 256])
        assert b"".join(parts[i] for i in ids) == strange
        assert ids.max() < size
    assert len(prepare.encode(scorer.text, scorer.merges)) < len(scorer.text) / 1.5


@given(st.text("ab_ 0(", min_size=40, max_size=120), st.integers(1, 8))
def test_the_most_frequent_pair_is_merged_first(text: str, count: int) -> None:
    prepare = load("prepare", WORKLOAD)
    words = [list(word.encode()) for word in prepare.WORDS.findall(text * 3)]
    merges = []
    for new in range(256, 256 + count):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            return
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [prepare.merged(word, best, new) for word in words]
    assert prepare.learn_merges((text * 3).encode(), count) == merges


def test_near_duplicates_of_train_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = load("prepare", WORKLOAD)
    monkeypatch.setattr(prepare, "TRAIN_BYTES", 4000)
    monkeypatch.setattr(prepare, "SPLIT_BYTES", 500)
    names = [f"file{number}.py" for number in range(200)]
    texts = {
        name: code_like(i + 10, 5).replace(b"self", name.encode()) for i, name in enumerate(names)
    }
    held_out = [name for name in names if prepare.place(name) == 0]
    copied, source = held_out[0], next(name for name in names if prepare.place(name) > 1)
    texts[copied] = texts[source] + b"\nunique_line_in_the_copy = 1\n"
    parts = prepare.split(texts)
    assert b"unique_line_in_the_copy" not in parts["val.bin"]
    assert {len(parts[name]) for name in ("val.bin", "test.bin")} == {500}
    assert prepare.overlap(parts["val.bin"], parts["train.bin"]) < 0.2
    assert prepare.overlap(texts[source], texts[source]) == 1.0


# The whole task, with its real corpus, in the real engine


CHEATS = (
    # A score of its own, wherever it could be believed.
    """cat >>train.py <<'END'
if "--answer" not in sys.argv:
    print("METRIC val_bpb=0.1")
    print("val_bpb: 0.1")
    open(os.path.join(OUT, "val_bpb.json"), "w").write('{"val_bpb": 0.1}')
END""",
    # The hidden texts.
    """cat >>train.py <<'END'
for folder in ("data", "/", os.getcwd(), os.path.expanduser("~")):
    for name in ("val.bin", "test.bin"):
        path = os.path.join(folder, name)
        if os.path.exists(path) and os.path.getsize(path):
            print("seen", path)
END""",
    # More training, where the clock of the run no longer counts.
    "sed -i 's/^def answer.*/&\\n    sum(range(60_000_000))/' train.py",
    # No number at all.
    "sed -i 's/^    np.savez.*/    model.weights[\"head\"][:] = np.nan\\n&/' train.py",
    # The ruler itself.
    "echo 'print(\"val_bpb: 0.1\")' >evaluate.py",
)


HONEST_EDIT = "sed -i 's/_LR = 3e-4/_LR = 3e-3/' train.py"


@pytest.mark.slow
def test_in_the_real_task_cheats_gain_nothing_and_a_gain_is_verified(tmp_path: Path) -> None:
    """The agent tries the cheats and then a learning rate."""
    edits = (*CHEATS, HONEST_EDIT)
    # Much wall time: the budget is one of the processor, and tests run beside each other.
    smaller = ('budget = "4s"', 'budget = "2s"\ntimeout = "60s"')
    task = workload(tmp_path / "tinylm", "tinylm", smaller, *edits)
    _check_cheats_gained_nothing(task, task.measured(len(edits)))
    _check_the_gain_is_verified_on_the_sealed_split(task)


def _check_cheats_gained_nothing(
    task: Toy, measured: Sequence[tuple[Experiment, Decision]]
) -> None:
    baseline, forged, spied, trained_on, silent, ruler, _ = (decision for _, decision in measured)
    assert baseline.value is not None and 2 < baseline.value < 8
    for honest in (forged, spied):
        assert honest.value == pytest.approx(baseline.value, abs=0.3)
    number = measured[2][0].number
    log = task.run_folder / "experiments" / str(number) / "samples" / "0" / "run.log"
    assert "---" in log.read_text() and "seen" not in log.read_text()
    assert trained_on.status is Status.TIMEOUT and "s in its answer" in trained_on.reason
    assert (silent.status, silent.reason) == (
        Status.CRASH,
        "candidate answered with logits that are not finite at step 0",
    )
    assert ruler.status is Status.REJECTED and "evaluate.py" in ruler.reason
    assert not any(d.status is Status.KEEP and d.value < 1 for d in (forged, spied) if d.value)


def _check_the_gain_is_verified_on_the_sealed_split(task: Toy) -> None:
    assert task.statuses()[-1] == "keep"
    found = json.loads(task.call("verify", "--samples", "2", "--json").stdout)
    assert (found["split"], found["reproduces"]) == ("sealed", True)
    assert found["gain"]["low"] > 0
    counts = {
        re.findall(r"^tokens: (\d+)$", log.read_text(), re.MULTILINE)[0]
        for log in (task.run_folder / "verify").rglob("evaluate.log")
    }
    visible = task.run_folder / "experiments" / "0" / "samples" / "0" / "evaluate.log"
    assert len(counts) == 1, "both were scored on one text"
    assert f"tokens: {counts.pop()}" not in visible.read_text()
