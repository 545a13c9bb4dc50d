"""The language models' scorer in a small folder, with a briefly trained model to answer it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from autoresearch.cli.demo import prepare as copy_workload

VOCAB = 512
LANES = 64


def load(name: str, folder: Path) -> ModuleType:
    """A module of a workload, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def code_like(seed: int, lines: int) -> bytes:
    """Text with the repetitions of source code."""
    rng = np.random.default_rng(seed)
    words = np.random.default_rng(0).integers(97, 123, (300, 7), np.uint8)
    out = []
    for number in range(lines):
        a, b = ("_".join(bytes(words[k]).decode() for k in rng.integers(0, 300, 2)) for _ in "ab")
        out.append(f"def {a}(self, {b}):\n    return self.{b}[{number % 17}]")
    return "\n".join(out).encode()


class Scorer:
    """A workload on a small corpus: a briefly trained model, and any answerer against it."""

    def __init__(
        self, folder: Path, workload: str, preamble: str = "", deadline_s: float = 60
    ) -> None:
        self.folder, self.preamble = folder, preamble
        copy_workload(workload, folder)
        prepare = load("prepare", folder)
        data = folder / "data"
        data.mkdir()
        text = code_like(1, 4000)
        self.merges = prepare.learn_merges(text, VOCAB - 256)
        self.text = code_like(2, 150)
        self.tokens = prepare.encode(self.text, self.merges)
        (data / "train.bin").write_bytes(text)
        (data / "val.bin").write_bytes(self.text)
        (data / "test.bin").write_bytes(code_like(3, 150))
        (data / "merges.json").write_text(json.dumps(self.merges))
        np.save(data / f"train_{VOCAB}.npy", prepare.encode(text, self.merges))
        evaluate = folder / "evaluate.py"
        deadline = f"DEADLINE_S = {deadline_s}"
        evaluate.write_text(evaluate.read_text().replace("DEADLINE_S = 90.0", deadline))
        self.env = {
            "PATH": os.environ["PATH"],
            "AUTORESEARCH_OUT": str(folder),
            "AUTORESEARCH_SEED": "1",
            f"{workload.upper()}_STEPS": "60",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(folder),
        }
        self.train()

    def train(self) -> None:
        subprocess.run([sys.executable, "train.py"], cwd=self.folder, env=self.env, check=True)

    def score(self, answerer: str, **env: str) -> tuple[int, str]:
        """Exit code and output of the evaluation of an answerer's source."""
        ask_read, ask_write = os.pipe()
        answer_read, answer_write = os.pipe()
        standard = {"AUTORESEARCH_ASK_FD": "0", "AUTORESEARCH_ANSWER_FD": "1"}
        answering = subprocess.Popen(
            [sys.executable, "-c", self.preamble + answerer], cwd=self.folder,
            env=self.env | standard, stdin=ask_read, stdout=answer_write,
        )  # fmt: skip
        os.close(ask_read)
        os.close(answer_write)
        descriptors = {
            "AUTORESEARCH_ASK_FD": str(ask_write),
            "AUTORESEARCH_ANSWER_FD": str(answer_read),
        }
        done = subprocess.run(
            [sys.executable, "evaluate.py"], cwd=self.folder, env=self.env | descriptors | env,
            pass_fds=(ask_write, answer_read), capture_output=True, text=True, check=False,
        )  # fmt: skip
        os.close(ask_write)
        os.close(answer_read)
        answering.kill()
        answering.wait()
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout

    def bpb(self, answerer: str, **env: str) -> float:
        code, said = self.score(answerer, **env)
        assert code == 0, said
        found = re.search(r"^val_bpb: (\S+)$", said, re.MULTILINE)
        assert found is not None
        return float(found[1])
