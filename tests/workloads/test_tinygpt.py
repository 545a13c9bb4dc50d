"""The tinygpt workload: its model and its answer; the scorer is that of tinylm."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from autoresearch.types import Status
from tests.conftest import Toy, device_memory_mb, plain_environment, until, workload
from tests.workloads.scoring import LANES, VOCAB, Scorer, load

torch = pytest.importorskip("torch", reason="needs torch: pip install 'autoresearch[gpt]'")

HONEST = (
    "import sys, runpy; sys.argv.append('--answer'); runpy.run_path('train.py', None, '__main__')"
)
EDITS = (
    # A score of its own, and a look for the hidden texts.
    """cat >>train.py <<'END'
if "--answer" not in sys.argv:
    print("METRIC val_bpb=0.1")
    print("val_bpb: 0.1")
    for name in ("val.bin", "test.bin"):
        path = os.path.join("data", name)
        if os.path.exists(path) and os.path.getsize(path):
            print("seen", path)
END""",
    # More training, where the clock of the run no longer counts.
    "sed -i 's/^    model = GPT().to(DEVICE)$/&\\n"
    '    while "--answer" in sys.argv and time.process_time() < 15: pass/\' train.py',
    # No number at all.
    "sed -i 's/^    np.savez.*/    weights[\"head.weight\"][:] = np.nan\\n&/' train.py",
    "sed -i 's/_LR = 1e-3/_LR = 5e-3/' train.py",
)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(tmp_path_factory.mktemp("small") / "tinygpt", "tinygpt")


@pytest.fixture(scope="module")
def honest(scorer: Scorer) -> float:
    return scorer.bpb(HONEST)


@pytest.fixture
def train(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with what it writes and how long it takes set as for ``scorer``."""
    for name, value in scorer.env.items():
        monkeypatch.setenv(name, value)
    return load("train", scorer.folder)


def saved(train: ModuleType, folder: Path) -> Any:
    model = train.GPT().to(train.DEVICE)
    with np.load(folder / "model.npz", allow_pickle=False) as arrays:
        model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return model


def banded(query: Any, key: Any, value: Any, is_causal: bool) -> Any:
    """Attention written out: every token sees itself and the 63 before it."""
    assert is_causal
    ages = torch.arange(query.size(-2))[:, None] - torch.arange(query.size(-2))
    scores = query @ key.transpose(-2, -1) / query.size(-1) ** 0.5
    scores = scores.masked_fill(((ages < 0) | (ages >= 64)).to(scores.device), -math.inf)
    return scores.softmax(-1) @ value


# The model


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_cache_gives_what_a_full_pass_gives(
    scorer: Scorer, train: ModuleType, monkeypatch: pytest.MonkeyPatch, qk_norm: bool
) -> None:
    monkeypatch.setattr(train, "QK_NORM", qk_norm)
    model = saved(train, scorer.folder)
    ids = torch.from_numpy(scorer.tokens[:600].astype(np.int64)).view(3, 200).to(train.DEVICE)
    with torch.inference_mode():
        caches = [train.Cache(3) for _ in model.blocks]
        steps = torch.cat([model(ids[:, at : at + 1], caches) for at in range(200)], dim=1)
        full = model(ids[:, :64])
        torch.testing.assert_close(steps[:, :64], full, atol=1e-4, rtol=1e-4)
        # Beyond the length of a training example, the oldest tokens are forgotten.
        monkeypatch.setattr(train.F, "scaled_dot_product_attention", banded)
        torch.testing.assert_close(steps, model(ids), atol=1e-4, rtol=1e-4)


def test_only_distance_counts_not_position(train: ModuleType) -> None:
    query, key = torch.randn(2, 1, train.HEAD_DIM, dtype=torch.float64)

    def product(at: int, other: int) -> float:
        turns = [train.angles(torch.tensor([float(each)])) for each in (at, other)]
        return float((train.rotate(query, turns[0]) * train.rotate(key, turns[1])).sum())

    assert product(9, 4) == pytest.approx(product(1009, 1004), abs=1e-3)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-3)


def test_muon_evens_out_what_a_step_does(train: ModuleType) -> None:
    for shape in ((192, 64), (64, 256)):
        matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
        update = train.orthogonal(matrix)
        values = torch.linalg.svdvals(update) / (0.2 * max(shape) ** 0.5)
        assert values.min() > 0.5 and values.max() < 1.4
        assert update.shape == matrix.shape
        # As large as the steps of AdamW, so that one learning rate suits both.
        assert 0.1 < update.square().mean().sqrt() < 0.3


@pytest.mark.parametrize("change", [("OPTIMIZER", "muon"), ("ACTIVATION", "relu2"), ("DEPTH", 1)])
def test_every_choice_learns(
    scorer: Scorer, train: ModuleType, change: tuple[str, object], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(scorer.folder)
    monkeypatch.setattr(train, *change)
    monkeypatch.setattr(train, "OUT", str(tmp_path))
    monkeypatch.setattr(train, "STEPS", 40)
    monkeypatch.setattr(train, "MATRIX_LR", 5e-3)
    train.train()
    said = dict(
        line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line
    )
    assert float(said["train_loss"]) < math.log(VOCAB) - 0.3
    assert said["steps"] == "40"
    assert ("peak_vram_mb" in said) == (train.DEVICE == "cuda")


def test_fixed_steps_are_exact(scorer: Scorer, honest: float) -> None:
    before = (scorer.folder / "model.npz").read_bytes()
    scorer.train()
    again = np.load(scorer.folder / "model.npz")
    (scorer.folder / "model.npz").write_bytes(before)
    first = np.load(scorer.folder / "model.npz")
    assert all((again[name] == first[name]).all() for name in first.files)


def test_optimizers_of_torch_are_not_imported(scorer: Scorer, tmp_path: Path) -> None:
    code = (
        "import runpy, sys; runpy.run_path('train.py', None, '__main__')\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules])"
    )
    env = scorer.env | {"TINYGPT_STEPS": "1", "AUTORESEARCH_OUT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scorer.folder, env=env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


# The answer


def test_the_score_is_that_of_the_model(
    scorer: Scorer, train: ModuleType, honest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(train, scorer.folder)
    monkeypatch.setattr(train.F, "scaled_dot_product_attention", banded)
    nats = 0.0
    ends = np.linspace(0, len(scorer.tokens), LANES + 1).astype(int)
    with torch.inference_mode():
        for start, end in pairwise(ends):
            lane = scorer.tokens[start:end].astype(np.int64)
            asked = torch.from_numpy(np.concatenate([[0], lane[:-1]]))[None].to(train.DEVICE)
            told = torch.from_numpy(lane).to(train.DEVICE)
            nats += float(torch.nn.functional.cross_entropy(model(asked)[0], told, reduction="sum"))
    assert honest == pytest.approx(nats / math.log(2) / len(scorer.text), abs=1e-4)
    assert 0.2 < honest < 8


def answers(scorer: Scorer, asked: np.ndarray) -> np.ndarray:
    """What the real answerer says, f4[steps, lanes, VOCAB], to tokens of u2[steps, lanes]."""
    steps, lanes = asked.shape
    done = subprocess.run(
        [sys.executable, "train.py", "--answer"], cwd=scorer.folder, check=True,
        env=scorer.env | {"AUTORESEARCH_ASK_FD": "0", "AUTORESEARCH_ANSWER_FD": "1"},
        input=np.array([lanes], "<u4").tobytes() + asked.astype("<u2").tobytes(),
        capture_output=True,
    )  # fmt: skip
    assert np.frombuffer(done.stdout[:4], "<u4")[0] == VOCAB
    return np.frombuffer(done.stdout[4:], "<f4").reshape(steps, lanes, VOCAB)


def test_an_answer_depends_on_its_own_lane_and_on_nothing_later(scorer: Scorer) -> None:
    asked = np.random.default_rng(0).integers(0, VOCAB, (100, 4))
    other = asked.copy()
    other[70:, 2] = (other[70:, 2] + 1) % VOCAB
    first, second = answers(scorer, asked), answers(scorer, other)
    np.testing.assert_allclose(first[:70], second[:70], atol=1e-5)
    np.testing.assert_allclose(first[:, [0, 1, 3]], second[:, [0, 1, 3]], atol=1e-5)
    assert np.abs(first[70:, 2] - second[70:, 2]).max() > 0.01


class Planted:
    """Makes a directory when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["a pickle", "an array of objects"])
def test_an_artefact_that_is_code_is_not_run(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    mark, artefact = tmp_path / "mark", tmp_path / "model.npz"
    if form == "a pickle":
        artefact.write_bytes(pickle.dumps(Planted(mark)))
    else:
        np.savez(artefact, **{"head.weight": np.array([Planted(mark)], object)})
    monkeypatch.setitem(scorer.env, "AUTORESEARCH_OUT", str(tmp_path))
    assert scorer.score(HONEST) == (3, "candidate stopped answering\n")
    assert not mark.exists()


# The whole task, with its real corpus, in the real engine


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """A run on the real task, whose agent tries cheats and then a learning rate.

    A fixed number of steps: what is tested is not how many fit into a budget beside other tests.
    """
    smaller = ("\nenv = { ", '\nenv = { TINYGPT_STEPS = "30", ')
    folder = tmp_path_factory.mktemp("real") / "tinygpt"
    with pytest.MonkeyPatch.context() as patch:
        plain_environment(patch)
        task = workload(folder, "tinygpt", smaller, *EDITS)
        running = task.start("run", "--max-experiments", str(len(EDITS)))
        until(lambda: running.poll() is not None, 1800)
        assert running.returncode == 0, task.said.read_text()
        yield task


@pytest.mark.slow
def test_in_the_real_task_cheats_gain_nothing_and_a_learning_rate_does(real: Toy) -> None:
    decisions = [each.decision for each in real.view().decided]
    baseline, forged, trained_on, silent, honest = (d for d in decisions if d)
    assert baseline.value is not None and 2 < baseline.value < 8
    assert forged.value == pytest.approx(baseline.value, abs=0.3)
    log = real.run_folder / "experiments" / "1" / "samples" / "0" / "run.log"
    assert "---" in log.read_text() and "seen" not in log.read_text()
    assert trained_on.status is Status.TIMEOUT and "s in its answer" in trained_on.reason
    assert (silent.status, silent.reason) == (
        Status.CRASH,
        "candidate answered with logits that are not finite at step 0",
    )
    assert honest.status is Status.KEEP and honest.value is not None
    assert honest.value < baseline.value - 0.2


# On a GPU


@pytest.fixture
def on_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")


@pytest.mark.gpu
@pytest.mark.usefixtures("on_gpu")
def test_device_memory_is_free_again_after_a_kill(tmp_path: Path) -> None:
    on_a_gpu = ('clock = "cpu"', 'clock = "wall"\ngpus = 1')
    hoard = (
        "sed -i 's/^def train.*/&\\n    hoard = torch.ones(2**29, device=DEVICE)\\n"
        "    if os.fork() == 0: os.setsid()\\n    time.sleep(1e6)/' train.py"
    )
    task = workload(tmp_path / "tinygpt", "tinygpt", on_a_gpu, hoard)
    contract = task.root / "autoresearch.toml"
    contract.write_text(contract.read_text().replace('"4GB"', '"16GB"'))
    task.git("commit", "--all", "--quiet", "-m", "More memory")
    before = device_memory_mb()
    running = task.start("run", "--max-experiments", "1")
    until(lambda: device_memory_mb() > before + 2000, 300)
    until(lambda: running.poll() is not None, 300)
    until(lambda: device_memory_mb() < before + 100, 10)
    assert task.statuses() == ["keep", "timeout"]
    baseline = task.run_folder / "experiments" / "0" / "samples" / "0" / "run.log"
    assert "peak_vram_mb: " in baseline.read_text()
