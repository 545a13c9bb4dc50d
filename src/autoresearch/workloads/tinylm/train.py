"""Editable: a small neural language model of source code, trained in a few seconds.

The next token is predicted from the CONTEXT tokens before it: their embeddings, side by side, go
through one hidden layer to the logits. ``python train.py`` trains and writes model.npz to
AUTORESEARCH_OUT; ``python train.py --answer`` answers the evaluation with logits.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

VOCAB = 512  # choices: 256, 512, 1024, 2048
CONTEXT = 3
EMBED_DIM = 16
HIDDEN = 64
BATCH_SIZE = 256
ACTIVATION = "tanh"  # choices: tanh, relu
EMBED_LR = 3e-4
HIDDEN_LR = 3e-4
HEAD_LR = 3e-4
BETA1 = 0.9
BETA2 = 0.999
WEIGHT_DECAY = 0.01
WARMUP = 0.1
WARMDOWN = 0.0
FINAL_LR = 0.1
EMBED_INIT = 0.1
HEAD_INIT = 0.1

BUDGET_S = float(os.environ.get("AUTORESEARCH_BUDGET_S", "4"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", "0"))
OUT = os.environ.get("AUTORESEARCH_OUT", ".")
STEPS = int(os.environ.get("TINYLM_STEPS", "0"))  # more than 0: so many steps, whatever they take


class Model:
    """Embeddings, one hidden layer, logits; with its own backward pass."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights

    @classmethod
    def create(cls, rng: np.random.Generator) -> Model:
        def normal(*shape: int, scale: float) -> np.ndarray:
            return (rng.standard_normal(shape) * scale).astype(np.float32)

        width = CONTEXT * EMBED_DIM
        return cls(
            {
                "embed": normal(VOCAB, EMBED_DIM, scale=EMBED_INIT),
                "hidden": normal(width, HIDDEN, scale=width**-0.5),
                "hidden_bias": np.zeros(HIDDEN, np.float32),
                "head": normal(HIDDEN, VOCAB, scale=HEAD_INIT),
                "head_bias": np.zeros(VOCAB, np.float32),
            }
        )

    def forward(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, hidden activations and logits for ``context`` int[batch, CONTEXT]."""
        w = self.weights
        inputs = w["embed"][context].reshape(len(context), -1)
        hidden = inputs @ w["hidden"] + w["hidden_bias"]
        hidden = np.tanh(hidden) if ACTIVATION == "tanh" else np.maximum(hidden, 0)
        return inputs, hidden, hidden @ w["head"] + w["head_bias"]

    def gradients(
        self, context: np.ndarray, target: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Mean loss in nats and the gradient of every weight."""
        w = self.weights
        inputs, hidden, logits = self.forward(context)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        rows = np.arange(len(target))
        loss = -float(np.log(logits[rows, target] + 1e-9).mean())
        logits[rows, target] -= 1
        logits /= len(target)
        d_hidden = logits @ w["head"].T
        d_hidden *= (1 - hidden**2) if ACTIVATION == "tanh" else (hidden > 0)
        d_inputs = d_hidden @ w["hidden"].T
        d_embed = np.zeros_like(w["embed"])
        np.add.at(d_embed, context.ravel(), d_inputs.reshape(-1, EMBED_DIM))
        return loss, {
            "embed": d_embed,
            "hidden": inputs.T @ d_hidden,
            "hidden_bias": d_hidden.sum(axis=0),
            "head": hidden.T @ logits,
            "head_bias": logits.sum(axis=0),
        }


class Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.mean = {name: np.zeros_like(weight) for name, weight in weights.items()}
        self.square = {name: np.zeros_like(weight) for name, weight in weights.items()}
        self.rates = {"embed": EMBED_LR, "hidden": HIDDEN_LR, "hidden_bias": HIDDEN_LR,
                      "head": HEAD_LR, "head_bias": HEAD_LR}  # fmt: skip
        self.steps = 0

    def step(self, gradients: dict[str, np.ndarray], scale: float) -> None:
        self.steps += 1
        fix1, fix2 = 1 - BETA1**self.steps, 1 - BETA2**self.steps
        for name, gradient in gradients.items():
            mean, square = self.mean[name], self.square[name]
            mean += (1 - BETA1) * (gradient - mean)
            square += (1 - BETA2) * (gradient**2 - square)
            rate = self.rates[name] * scale
            weight = self.weights[name]
            if not name.endswith("bias"):
                weight *= 1 - rate * WEIGHT_DECAY
            weight -= rate / fix1 * mean / (np.sqrt(square / fix2) + 1e-8)


def schedule(progress: float) -> float:
    """The share of the learning rate to use when ``progress`` of the budget is gone."""
    if progress < WARMUP:
        return progress / WARMUP
    if progress > 1 - WARMDOWN:
        return FINAL_LR + (1 - FINAL_LR) * (1 - progress) / WARMDOWN
    return 1.0


def train() -> None:
    began = time.process_time()
    rng = np.random.default_rng(SEED)
    tokens = np.load(f"data/train_{VOCAB}.npy").astype(np.int64)
    window = np.arange(-CONTEXT, 0)
    model = Model.create(rng)
    optimizer = Adam(model.weights)
    # Nats per token of the training text, as bits per byte.
    scale = len(tokens) / os.path.getsize("data/train.bin") / np.log(2)
    steps, loss, shown, recent = 0, 0.0, 0.05, list[float]()
    while True:
        progress = steps / STEPS if STEPS else time.process_time() / BUDGET_S
        if recent and progress >= shown:
            # Its own guess at the score, on text it trains on: only ever compared with its like.
            print(f"progress: {progress:.3f} val_bpb: {scale * sum(recent) / len(recent):.4f}")
            shown, recent = progress + 0.05, []
        if progress >= 1:
            break
        at = rng.integers(CONTEXT, len(tokens), BATCH_SIZE)
        now, gradients = model.gradients(tokens[at[:, None] + window], tokens[at])
        loss = now if steps == 0 else 0.98 * loss + 0.02 * now
        recent.append(now)
        optimizer.step(gradients, schedule(progress))
        steps += 1
    np.savez(os.path.join(OUT, "model.npz"), **model.weights)
    print("---")
    print(f"train_loss: {loss:.4f}")
    print(f"steps: {steps}")
    print(f"train_cpu_seconds: {time.process_time() - began:.2f}")
    print(f"parameters: {sum(weight.size for weight in model.weights.values())}")


def answer() -> None:
    """Logits for each lane's next token, from the tokens that were revealed so far."""
    with np.load(os.path.join(OUT, "model.npz"), allow_pickle=False) as saved:
        model = Model(dict(saved))
    ask = os.fdopen(int(os.environ["AUTORESEARCH_ASK_FD"]), "rb")
    reply = os.fdopen(int(os.environ["AUTORESEARCH_ANSWER_FD"]), "wb")
    reply.write(np.array([VOCAB], "<u4").tobytes())
    reply.flush()
    lanes = int(np.frombuffer(ask.read(4), "<u4")[0])
    context = np.zeros((lanes, CONTEXT), np.int64)
    while len(question := ask.read(2 * lanes)) == 2 * lanes:
        context = np.roll(context, -1, axis=1)
        context[:, -1] = np.frombuffer(question, "<u2")
        reply.write(model.forward(context)[2].astype("<f4").tobytes())
        reply.flush()


if __name__ == "__main__":
    answer() if "--answer" in sys.argv else train()
