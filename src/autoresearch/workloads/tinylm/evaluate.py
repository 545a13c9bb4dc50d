"""Fixed: bits per byte of the validation text, asked of the candidate over a pipe.

The candidate never sees the text. The scorer owns tokenisation, order and the log-softmax; it
advances many lanes of the text in lock-step and reveals each lane's next token only after all
lanes have answered, so that no answer can depend on what it predicts. Every byte is scored exactly
once. A model may learn from what was revealed, within ``answer_cpu``: that is causal, too.

The protocol, little-endian: the candidate says its vocabulary size (u4); the scorer says the
number of lanes (u4); then, step by step, the scorer sends the last token of every lane (u2 each,
0 at the start) and the candidate answers with logits (f4[lanes, vocabulary]).

Exit code 3: the candidate's answer is invalid. Any other failure is ours.
"""

from __future__ import annotations

import json
import math
import os
import select
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from prepare import VOCABULARIES, encode

LANES = 64
DEADLINE_S = 90.0
INVALID = 3


class Pipe:
    """Exact reads and writes within one deadline."""

    def __init__(self, ask: int, answer: int) -> None:
        self.ask, self.answer = ask, answer
        self.deadline = time.monotonic() + DEADLINE_S

    def send(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self.ask, data) :]
        except BrokenPipeError:
            invalid("stopped answering")

    def receive(self, count: int) -> bytes:
        parts = []
        while count:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.answer], [], [], left)[0]:
                invalid(f"did not answer within {DEADLINE_S:g} s")
            part = os.read(self.answer, min(count, 1 << 20))
            if not part:
                invalid("stopped answering")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def invalid(why: str) -> None:
    """Say that the candidate's answer cannot be scored, and end."""
    print(f"candidate {why}")
    sys.stdout.flush()
    os._exit(INVALID)


def lanes_of(tokens: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """The text cut into lanes of nearly equal length: ids[lanes, steps] and which of them count."""
    ends = np.linspace(0, len(tokens), lanes + 1).astype(int)
    steps = int(np.diff(ends).max())
    ids = np.zeros((lanes, steps), np.uint16)
    real = np.zeros((lanes, steps), bool)
    for lane, (start, end) in enumerate(pairwise(ends)):
        ids[lane, : end - start] = tokens[start:end]
        real[lane, : end - start] = True
    return ids, real


def score(tokens: np.ndarray, vocabulary: int, pipe: Pipe) -> float:
    """The candidate's total surprise over all tokens, in nats."""
    ids, real = lanes_of(tokens, LANES)
    assert real.sum() == len(tokens), "every token is scored exactly once"
    pipe.send(np.array([LANES], "<u4").tobytes())
    last = np.zeros(LANES, "<u2")
    total, rows = 0.0, np.arange(LANES)
    for step in range(ids.shape[1]):
        pipe.send(last.tobytes())
        logits = np.frombuffer(pipe.receive(4 * LANES * vocabulary), "<f4")
        logits = logits.reshape(LANES, vocabulary)
        if not np.isfinite(logits).all():
            invalid(f"answered with logits that are not finite at step {step}")
        top = logits.max(axis=1)
        # The normalisation is ours: shifting or scaling logits cannot make a distribution of more.
        norm = np.log(np.exp(logits - top[:, None], dtype=np.float64).sum(axis=1)) + top
        nats = norm - logits[rows, ids[:, step]]
        total += float(nats[real[:, step]].sum())
        last = ids[:, step].astype("<u2")
    return total


def main() -> None:
    split = "test.bin" if os.environ.get("AUTORESEARCH_SPLIT") == "sealed" else "val.bin"
    text = Path("data", split).read_bytes()
    merges = [tuple(pair) for pair in json.loads(Path("data", "merges.json").read_text())]
    ask, answer = (os.environ[f"AUTORESEARCH_{name}_FD"] for name in ("ASK", "ANSWER"))
    pipe = Pipe(int(ask), int(answer))
    vocabulary = int(np.frombuffer(pipe.receive(4), "<u4")[0])
    if vocabulary not in VOCABULARIES:
        invalid(f"says a vocabulary of {vocabulary}; possible are {VOCABULARIES}")
    tokens = encode(text, merges[: vocabulary - 256])
    nats = score(tokens, vocabulary, pipe)
    print(f"tokens: {len(tokens)}")
    print(f"val_bpb: {nats / math.log(2) / len(text):.6f}")


if __name__ == "__main__":
    main()
