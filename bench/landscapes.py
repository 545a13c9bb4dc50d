"""The tasks of ``bench/search.py``: a start, true ranges, crashes, noise, and the truth.

A task is measured by running the text of a script, so that a real one fits the same seam: give it
its own ``script``, a ``measure`` that runs it, and a ``truth`` that averages over fixed seeds. The
ones here are formulas over the constants of a small script; each seed draws its own.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from autoresearch.agents import constants
from autoresearch.types import Range

Value = bool | int | float | str
Values = Mapping[str, Value]
Formula = Callable[[Values], float | None]

LOGARITHMIC = ("log", "pow2", "intlog")
SIMPLER_COSTS = 0.05  # of the possible gain: what each statement taken out of a script loses


@dataclass(frozen=True)
class Axis:
    """A constant: its literal at the start and the range that samplers are given."""

    name: str
    literal: str
    low: float = 0.0
    high: float = 1.0
    scale: str = "linear"  # linear | log | pow2 | int | intlog | choice
    choices: tuple[Value, ...] = ()

    @property
    def start(self) -> Value:
        value: Value = eval(self.literal)
        return value

    def unit(self, value: Value) -> float:
        """Where a value is in the range, from 0 to 1; beyond it outside. A choice's index."""
        if self.scale == "choice":
            return float(self.choices.index(value)) if value in self.choices else -1.0
        number = float(value)
        if self.scale in LOGARITHMIC:
            number = max(number, self.low * 1e-3)
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)

    def line(self) -> str:
        told = f"  # choices: {', '.join(map(str, self.choices))}"
        return f"{self.name} = {self.literal}" + (told if self.scale == "choice" else "")

    def told(self) -> Range:
        if self.scale == "choice":
            return Range(choices=self.choices)
        return Range(self.low, self.high, self.scale in LOGARITHMIC)


@dataclass(frozen=True)
class Task:
    """Lower is better. ``measure`` and ``truth`` give None where the script crashes.

    ``measure`` takes the text of a script and a seed and gives one noisy sample; ``truth`` is what
    the curves show. ``best`` is the value at the optimum, None where nobody knows it.
    """

    name: str
    axes: tuple[Axis, ...]
    script: str
    measure: Callable[[str, int], float | None]
    truth: Callable[[str], float | None]
    best: float | None = None


def read(script: str, axes: Sequence[Axis]) -> dict[str, Value]:
    """What a script says its constants are."""
    names, found = {axis.name for axis in axes}, dict[str, Value]()
    told: list[ast.stmt] = [
        node
        for node in ast.parse(script).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in names
    ]
    exec(compile(ast.Module(told, type_ignores=[]), "script", "exec"), {}, found)
    return found


def write(script: str, values: Values) -> str:
    """The script with these constants."""
    known = {each.name: each for each in _constants(script)}
    return constants.splice(script, [(known[name], value) for name, value in values.items()])


_constants = cache(constants.read)


def formula(
    name: str, seed: int, axes: tuple[Axis, ...], at: Formula, noise: float, best: float
) -> Task:
    """A task whose truth is a formula over its constants; a simpler script is a little worse."""
    script = _script(axes)
    start = at(read(script, axes))
    assert start is not None
    length = len(script.splitlines())

    @cache
    def truth(text: str) -> float | None:
        value = at(read(text, axes))
        removed = length - len(text.splitlines())
        return None if value is None else value + SIMPLER_COSTS * (start - best) * removed

    def measure(text: str, sample: int) -> float | None:
        value = truth(text)
        luck = random.Random(f"{name}/{seed}/{sample}").gauss(0, 1)
        return None if value is None else value + noise * luck

    return Task(name, axes, script, measure, truth, best)


def _script(axes: Sequence[Axis]) -> str:
    names = ", ".join(axis.name for axis in axes)
    return (
        '"""A training script."""\n\nimport math\n\nSEED = 1337\nTIME_BUDGET = 300\n\n'
        + "\n".join(axis.line() for axis in axes)
        + "\n\n\ndef train(x):\n    x = math.tanh(x)\n    if x < 0:\n        x = -x\n"
        + f"    x *= math.pi\n    return x, {names}\n\n\nprint(train(1.0))\n"
    )


def start_of(axes: Sequence[Axis]) -> dict[str, Value]:
    return {axis.name: axis.start for axis in axes}


def capped(part: float) -> float:
    """Losses beyond the start's grow slowly."""
    return part if part < 1 else 1 + math.log(part)


def bowl(
    rng: random.Random, axes: Sequence[Axis], *, spread: float, matter: int, coupling: float
) -> Callable[[Values], float]:
    """Distance from a random optimum near the start: few constants matter much, pairs interact."""
    count = len(axes)
    numeric = [i for i, axis in enumerate(axes) if axis.scale != "choice"]
    weights = [0.05 + 0.1 * rng.random() for _ in axes]
    for i in rng.sample(range(count), matter):
        weights[i] = rng.uniform(0.5, 2.0)
    target: list[float] = []
    for axis in axes:
        if axis.scale == "choice":
            target.append(float(rng.randrange(len(axis.choices))))
        else:
            at = axis.unit(axis.start) + rng.gauss(0, spread)
            target.append(min(1.0, max(0.0, at)))
    costs = {
        i: [0.0 if k == target[i] else rng.uniform(0.02, 0.08) for k in range(len(axis.choices))]
        for i, axis in enumerate(axes)
        if axis.scale == "choice"
    }
    pairs = [tuple(rng.sample(numeric, 2)) for _ in range(count)]
    slopes = [rng.uniform(-coupling, coupling) for _ in pairs]

    def at_values(values: Values) -> float:
        gaps = [
            0.0 if axis.scale == "choice" else axis.unit(values[axis.name]) - target[i]
            for i, axis in enumerate(axes)
        ]
        total = sum(w * g**2 for w, g in zip(weights, gaps, strict=True))
        for (i, j), slope in zip(pairs, slopes, strict=True):
            total += slope * math.sqrt(weights[i] * weights[j]) * gaps[i] * gaps[j]
        for i, cost in costs.items():
            where = int(axes[i].unit(values[axes[i].name]))
            total += weights[i] * cost[where] if where >= 0 else 1.0
        return max(total, 0.0)

    return at_values


def log2(value: Value) -> float:
    return math.log2(max(float(value), 1e-9))


PUBLISHED = (
    Axis("DEPTH", "8", 4, 24, "int"),
    Axis("ASPECT_RATIO", "64", 32, 128, "int"),
    Axis("HEAD_DIM", "128", 64, 256, "pow2"),
    Axis("DEVICE_BATCH_SIZE", "128", 32, 256, "pow2"),
    Axis("TOTAL_BATCH_SIZE", "2**19", 65536, 2097152, "pow2"),
    Axis("EMBEDDING_LR", "0.6", 0.01, 2, "log"),
    Axis("UNEMBEDDING_LR", "0.004", 0.0005, 0.05, "log"),
    Axis("MATRIX_LR", "0.04", 0.005, 0.2, "log"),
    Axis("SCALAR_LR", "0.5", 0.05, 2, "log"),
    Axis("WEIGHT_DECAY", "0.2", 0.0, 0.5),
    Axis("WARMUP_RATIO", "0.0", 0.0, 0.3),
    Axis("WARMDOWN_RATIO", "0.5", 0.1, 0.8),
    Axis("FINAL_LR_FRAC", "0.0", 0.0, 0.2),
    Axis(
        "WINDOW_PATTERN", '"SSSL"', scale="choice",
        choices=("SSSL", "SSLL", "SLSL", "LLLL", "SSSS", "LSSL"),
    ),
)  # fmt: skip


def published(seed: int) -> Task:
    """In the style of the published 14-constant task: out of memory when products are large."""
    rng = random.Random(f"published/{seed}")
    shape = bowl(rng, PUBLISHED, spread=0.22, matter=5, coupling=0.5)
    start = start_of(PUBLISHED)
    worst = shape(start) or 1.0

    def truth(values: Values) -> float | None:
        width = log2(values["ASPECT_RATIO"]) + log2(values["DEPTH"])
        memory = width + log2(values["DEVICE_BATCH_SIZE"]) + 0.3 * log2(values["DEPTH"])
        if memory > 16 + 0.9 + 0.75:
            return None
        if float(values["TOTAL_BATCH_SIZE"]) < 2048 * float(values["DEVICE_BATCH_SIZE"]):
            return None
        part = shape(values) / worst
        return 0.970 + 0.0217 * capped(part)

    return formula("published", seed, PUBLISHED, truth, 0.00035, 0.970)


def valley(seed: int) -> Task:
    """Eight coupled rates: a narrow valley that no single constant follows."""
    axes = tuple(
        Axis(name, literal, low, high, "log")
        for name, literal, low, high in (
            ("LR", "1e-3", 1e-5, 1e-1), ("EMBED_LR", "3e-3", 1e-5, 1e-1),
            ("HEAD_LR", "1e-3", 1e-5, 1e-1), ("INIT_SCALE", "0.5", 0.01, 10.0),
            ("GRAD_CLIP", "1.0", 0.05, 20.0), ("TEMPERATURE", "1.0", 0.1, 10.0),
            ("WEIGHT_DECAY", "0.1", 0.001, 1.0), ("GAIN", "2.0", 0.1, 20.0),
        )
    )  # fmt: skip
    rng = random.Random(f"valley/{seed}")
    target = [axis.unit(axis.start) + rng.gauss(0, 0.17) for axis in axes]
    count = len(axes)
    basis = [[rng.gauss(0, 1) for _ in range(count)] for _ in range(count)]
    for i, row in enumerate(basis):
        for other in basis[:i]:
            dot = sum(a * b for a, b in zip(row, other, strict=True))
            row[:] = [a - dot * b for a, b in zip(row, other, strict=True)]
        size = math.sqrt(sum(a * a for a in row))
        row[:] = [a / size for a in row]
    stretch = [10 ** (-1.5 * i / (count - 1)) for i in range(count)]

    def shape(values: Values) -> float:
        gaps = [axis.unit(values[axis.name]) - t for axis, t in zip(axes, target, strict=True)]
        return sum(
            s * sum(a * g for a, g in zip(row, gaps, strict=True)) ** 2
            for s, row in zip(stretch, basis, strict=True)
        )

    worst = shape(start_of(axes))

    def truth(values: Values) -> float | None:
        part = shape(values) / worst
        return None if part > 25 else 2.0 + 0.5 * capped(part)

    return formula("valley", seed, axes, truth, 0.006, 2.0)


def mixed(seed: int) -> Task:
    """Sizes, choices and switches; the best rates depend on the optimizer chosen."""
    axes = (
        Axis("OPTIMIZER", '"sgd"', scale="choice", choices=("sgd", "adam", "muon")),
        Axis("LEARNING_RATE", "0.01", 1e-4, 1.0, "log"),
        Axis("BATCH_SIZE", "64", 8, 512, "pow2"),
        Axis("HIDDEN_DIM", "128", 32, 1024, "pow2"),
        Axis("LAYERS", "2", 1, 8, "int"),
        Axis("DROPOUT", "0.1", 0.0, 0.6),
        Axis("BETA2", "0.99", 0.8, 0.9999),
        Axis("TIED", "False", scale="choice", choices=(False, True)),
        Axis("ACTIVATION", '"relu"', scale="choice", choices=("relu", "gelu", "silu", "tanh")),
        Axis("WARMUP_STEPS", "100", 10, 1000, "intlog"),
    )
    rng = random.Random(f"mixed/{seed}")
    shape = bowl(rng, axes, spread=0.2, matter=4, coupling=0.6)
    shift = {"sgd": rng.gauss(0, 0.15), "adam": rng.gauss(0, 0.15), "muon": rng.gauss(0, 0.15)}
    offset = {"sgd": 0.08, "adam": rng.uniform(0.0, 0.08), "muon": rng.uniform(0.0, 0.08)}
    centre = axes[1].unit(0.01) + rng.gauss(0, 0.1)

    def full(values: Values) -> float:
        name = str(values["OPTIMIZER"])
        rate = axes[1].unit(values["LEARNING_RATE"])
        return shape(values) + offset[name] + 2.0 * (rate - centre - shift[name]) ** 2

    worst = full(start_of(axes))

    def truth(values: Values) -> float | None:
        size = 2 * log2(values["HIDDEN_DIM"]) + log2(values["LAYERS"]) + log2(values["BATCH_SIZE"])
        if size > 14 + 1 + 6 + 3.5:
            return None
        part = full(values) / worst
        return 1.0 + 0.4 * capped(part)

    return formula("mixed", seed, axes, truth, 0.006, 1.0)


def sparse(seed: int) -> Task:
    """Twenty constants of which four matter, under heavy noise."""
    rng = random.Random(f"sparse/{seed}")
    axes = tuple(
        Axis(f"FACTOR_{chr(65 + i)}", f"{0.1 * 1.5 ** rng.randint(-4, 6):.3g}", 1e-3, 10.0, "log")
        for i in range(14)
    ) + tuple(Axis(f"MIX_RATIO_{chr(65 + i)}", "0.5", 0.0, 1.0) for i in range(6))
    shape = bowl(rng, axes, spread=0.2, matter=4, coupling=0.4)
    worst = shape(start_of(axes))

    def truth(values: Values) -> float | None:
        part = shape(values) / worst
        return 5.0 + 1.0 * capped(part)

    return formula("sparse", seed, axes, truth, 0.04, 5.0)


def cliff(seed: int) -> Task:
    """The optimum lies beside a cliff: rates that are too large together diverge."""
    axes = (
        Axis("PEAK_LR", "0.02", 1e-3, 1.0, "log"),
        Axis("MOMENTUM", "0.9", 0.5, 0.999),
        Axis("BATCH_SIZE", "32", 4, 256, "pow2"),
        Axis("NUM_LAYERS", "4", 1, 16, "int"),
        Axis("INIT_STD", "0.02", 0.001, 0.2, "log"),
        Axis("COOLDOWN_FRAC", "0.2", 0.0, 1.0),
        Axis("WEIGHT_DECAY", "0.0", 0.0, 0.3),
    )
    rng = random.Random(f"cliff/{seed}")
    shape = bowl(rng, axes, spread=0.12, matter=3, coupling=0.4)
    gap = rng.uniform(1.0, 2.0)
    momentum_pull = rng.uniform(0.3, 0.8)

    def heat(values: Values) -> float:
        left = max(1e-6, 1 - float(values["MOMENTUM"]))
        return (
            log2(values["PEAK_LR"])
            - momentum_pull * math.log2(left)
            + 0.3 * log2(values["NUM_LAYERS"])
        )

    start = start_of(axes)
    edge = heat(start) + gap

    def full(values: Values) -> float:
        # Hotter is better, until it breaks.
        return 0.3 * shape(values) + 0.06 * (edge - heat(values))

    worst, floor = full(start), 0.004

    def truth(values: Values) -> float | None:
        if heat(values) > edge:
            return None
        part = max(0.0, full(values) - floor) / (worst - floor)
        return 3.0 + 0.6 * capped(part)

    return formula("cliff", seed, axes, truth, 0.008, 3.0)


def rugged(seed: int) -> Task:
    """No noise at all, but ripples: many small local optima on a wide bowl."""
    axes = tuple(
        Axis(name, literal, low, high, scale)
        for name, literal, low, high, scale in (
            ("LEARNING_RATE", "3e-4", 1e-5, 1e-1, "log"), ("THRESHOLD", "0.5", 0.01, 10, "log"),
            ("CHUNK_SIZE", "2**10", 64, 65536, "pow2"), ("N_BUCKETS", "24", 2, 200, "intlog"),
            ("CUTOFF_RATIO", "0.3", 0.0, 1.0, "linear"), ("BIAS_SCALE", "-1.5", -6, 6, "linear"),
            ("ALPHA", "0.25", 0.0, 1.0, "linear"), ("PENALTY", "0.5", 0.01, 10, "log"),
            ("POWER", "1.5", 0.2, 8.0, "log"),
        )
    )  # fmt: skip
    rng = random.Random(f"rugged/{seed}")
    shape = bowl(rng, axes, spread=0.2, matter=5, coupling=0.3)
    worst = shape(start_of(axes))
    phases = [rng.uniform(0, 6.28) for _ in axes]

    def truth(values: Values) -> float | None:
        ripple = sum(
            1 - math.cos(25 * axis.unit(values[axis.name]) + phase)
            for axis, phase in zip(axes, phases, strict=True)
        )
        part = shape(values) / worst + 0.02 * ripple / len(axes)
        return 10 * capped(part)

    return formula("rugged", seed, axes, truth, 0.0, 0.0)


TASKS: Mapping[str, Callable[[int], Task]] = {
    make.__name__: make for make in (published, valley, mixed, sparse, cliff, rugged)
}
