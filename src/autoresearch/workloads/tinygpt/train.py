"""Editable: a small GPT of source code in PyTorch, trained in ten seconds of processor time.

``python train.py`` trains and writes model.npz to AUTORESEARCH_OUT; ``python train.py --answer``
answers the evaluation with logits. It uses a GPU where it sees one; there the budget is wall time.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB = 512  # choices: 256, 512, 1024, 2048
DEPTH = 3
DIM = 64
HEAD_DIM = 16  # choices: 8, 16, 32, 64
MLP_RATIO = 4
SEQ_LEN = 64  # tokens of a training example, and how far the model looks back
BATCH_SIZE = 16
ACTIVATION = "gelu"  # choices: gelu, relu2
QK_NORM = False
ROPE_BASE = 10_000.0
OPTIMIZER = "adamw"  # choices: adamw, muon
EMBED_LR = 1e-3
MATRIX_LR = 1e-3
HEAD_LR = 1e-3
BETA1 = 0.9
BETA2 = 0.999
MOMENTUM = 0.95  # of Muon
WEIGHT_DECAY = 0.1
GRAD_CLIP = 1.0  # 0: none
WARMUP = 0.1
WARMDOWN = 0.0
FINAL_LR = 0.1

BUDGET_S = float(os.environ.get("AUTORESEARCH_BUDGET_S", "10"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", "0"))
OUT = os.environ.get("AUTORESEARCH_OUT", ".")
STEPS = int(os.environ.get("TINYGPT_STEPS", "0"))  # more than 0: so many steps, whatever they take
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOCK = time.perf_counter if DEVICE == "cuda" else time.process_time
HEADS = max(1, DIM // HEAD_DIM)


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def activate(x: Tensor) -> Tensor:
    return F.gelu(x) if ACTIVATION == "gelu" else F.relu(x).square()


def angles(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines that turn queries and keys by their position (arXiv 2104.09864)."""
    pair = torch.arange(HEAD_DIM // 2, device=positions.device)
    turn = positions[:, None] / ROPE_BASE ** (2 * pair / HEAD_DIM)
    return turn.cos(), turn.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    (cos, sin), (a, b) = turn, x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Cache:
    """One block's keys and values of the last SEQ_LEN tokens, for every lane."""

    def __init__(self, lanes: int) -> None:
        self.kept = torch.zeros(2, lanes, HEADS, SEQ_LEN, HEAD_DIM, device=DEVICE)
        self.seen = 0

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the next token in the place of the oldest: order is in the rotation alone."""
        self.kept[..., self.seen % SEQ_LEN, :] = torch.stack([key, value]).squeeze(-2)
        self.seen += 1
        key, value = self.kept[..., : self.seen, :]
        return key, value


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * HEADS * HEAD_DIM, bias=False)
        self.out = nn.Linear(HEADS * HEAD_DIM, DIM, bias=False)
        self.up = nn.Linear(DIM, MLP_RATIO * DIM, bias=False)
        self.down = nn.Linear(MLP_RATIO * DIM, DIM, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        heads = self.qkv(norm(x)).unflatten(-1, (3, HEADS, HEAD_DIM))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, turn), rotate(key, turn)
        if QK_NORM:
            query, key = norm(query), norm(key)
        if cache is not None:
            key, value = cache.add(key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(activate(self.up(norm(x))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(DIM, VOCAB, bias=False)

    def forward(self, ids: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Logits for the token after each of ``ids`` int[lanes, tokens]; with caches, one token."""
        first = caches[0].seen if caches else 0
        turn = angles(torch.arange(first, first + ids.size(1), device=ids.device))
        x = norm(self.embed(ids))
        for i, block in enumerate(self.blocks):
            x = block(x, turn, caches[i] if caches else None)
        return self.head(norm(x))


class Optimizer:
    """AdamW (arXiv 1711.05101), or Muon for the matrices within blocks.

    Written out: importing ``torch.optim`` costs more than a second of processor time.
    """

    def __init__(self, model: GPT) -> None:
        rates = {model.embed.weight: EMBED_LR, model.head.weight: HEAD_LR}
        self.weights = [
            (weight, rates.get(weight, MATRIX_LR), OPTIMIZER == "muon" and weight not in rates,
             torch.zeros_like(weight), torch.zeros_like(weight))
            for weight in model.parameters()
        ]  # fmt: skip
        self.steps = 0

    @torch.no_grad()
    def step(self, scale: float) -> None:
        self.steps += 1
        for weight, rate, muon, mean, square in self.weights:
            gradient = weight.grad
            if muon:
                mean.lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(mean, MOMENTUM))
            else:
                mean.lerp_(gradient, 1 - BETA1)
                square.lerp_(gradient.square(), 1 - BETA2)
                spread = (square / (1 - BETA2**self.steps)).sqrt() + 1e-8
                update = mean / (1 - BETA1**self.steps) / spread
            weight.mul_(1 - rate * scale * WEIGHT_DECAY).sub_(update, alpha=rate * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with its singular values made about equal: five Newton-Schulz steps.

    As in Muon (Jordan et al., kellerjordan.github.io/posts/muon), with entries as large as those of
    AdamW's steps, so that one learning rate suits both (Liu et al., arXiv 2502.16982).
    """
    x = matrix.bfloat16() if DEVICE == "cuda" else matrix
    x = x.T if matrix.size(0) > matrix.size(1) else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.T if matrix.size(0) > matrix.size(1) else x
    return 0.2 * max(matrix.shape) ** 0.5 * x


def schedule(progress: float) -> float:
    """The share of the learning rate to use when ``progress`` of the budget is gone."""
    if progress < WARMUP:
        return progress / WARMUP
    if progress > 1 - WARMDOWN:
        return FINAL_LR + (1 - FINAL_LR) * (1 - progress) / WARMDOWN
    return 1.0


def train() -> None:
    torch.manual_seed(SEED)
    tokens = torch.from_numpy(np.load(f"data/train_{VOCAB}.npy").astype(np.int64)).to(DEVICE)
    window = torch.arange(SEQ_LEN + 1, device=DEVICE)
    model = GPT().to(DEVICE)
    optimizer = Optimizer(model)
    # Nats per token of the training text, as bits per byte.
    scale = len(tokens) / os.path.getsize("data/train.bin") / np.log(2)
    steps, loss, shown, recent = 0, 0.0, 0.05, list[float]()
    began = CLOCK()
    while True:
        progress = steps / STEPS if STEPS else (CLOCK() - began) / BUDGET_S
        if recent and progress >= shown:
            # Its own guess at the score, on text it trains on: only ever compared with its like.
            print(f"progress: {progress:.3f} val_bpb: {scale * sum(recent) / len(recent):.4f}")
            shown, recent = progress + 0.05, []
        if progress >= 1:
            break
        starts = torch.randint(len(tokens) - SEQ_LEN, (BATCH_SIZE, 1), device=DEVICE)
        batch = tokens[starts + window]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            logits = model(batch[:, :-1])
        error = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad()
        error.backward()
        if GRAD_CLIP:
            nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step(schedule(progress))
        now = error.item()
        loss = now if steps == 0 else 0.98 * loss + 0.02 * now
        recent.append(now)
        steps += 1
    weights = {name: weight.numpy(force=True) for name, weight in model.named_parameters()}
    np.savez(os.path.join(OUT, "model.npz"), **weights)
    print("---")
    print(f"train_loss: {loss:.4f}")
    print(f"steps: {steps}")
    print(f"train_seconds: {CLOCK() - began:.2f}")
    print(f"parameters: {sum(weight.size for weight in weights.values())}")
    if DEVICE == "cuda":
        print(f"peak_vram_mb: {torch.cuda.max_memory_reserved() / 2**20:.1f}")


@torch.inference_mode()
def answer() -> None:
    """Logits for each lane's next token, from the tokens that were revealed so far."""
    model = GPT().to(DEVICE)
    with np.load(os.path.join(OUT, "model.npz"), allow_pickle=False) as saved:
        model.load_state_dict({name: torch.from_numpy(saved[name]) for name in saved.files})
    ask = os.fdopen(int(os.environ["AUTORESEARCH_ASK_FD"]), "rb")
    reply = os.fdopen(int(os.environ["AUTORESEARCH_ANSWER_FD"]), "wb")
    reply.write(np.array([VOCAB], "<u4").tobytes())
    reply.flush()
    lanes = int(np.frombuffer(ask.read(4), "<u4")[0])
    caches = [Cache(lanes) for _ in model.blocks]
    while len(question := ask.read(2 * lanes)) == 2 * lanes:
        ids = torch.from_numpy(np.frombuffer(question, "<u2").astype(np.int64))[:, None]
        logits = model(ids.to(DEVICE), caches)[:, -1]
        reply.write(logits.numpy(force=True).astype("<f4").tobytes())
        reply.flush()


if __name__ == "__main__":
    answer() if "--answer" in sys.argv else train()
