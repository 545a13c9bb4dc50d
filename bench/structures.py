"""Tasks of ``bench/strategies.py`` whose script grows: parts that bring constants of their own.

A part is a line of the script and the constants that it names. It helps where those suit it, which
its first guess may not; some parts only do harm, some do the same as another, some need memory.
``Coder`` is a scripted coding agent that adds them. It is no model, and knows as little of what a
part is good for as a model does before it was measured.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import landscapes
from landscapes import Axis, Task, Values, bowl, capped, log2, read, start_of

from autoresearch.agents import constants
from autoresearch.types import Assignment, Kind, Proposal

BASE = (
    Axis("LEARNING_RATE", "0.01", 1e-4, 1.0, "log"),
    Axis("WEIGHT_DECAY", "0.1", 1e-3, 1.0, "log"),
    Axis("BATCH_SIZE", "64", 8, 512, "pow2"),
    Axis("HIDDEN_DIM", "128", 32, 1024, "pow2"),
    Axis("DROPOUT", "0.1", 0.0, 0.6),
    Axis("INIT_SCALE", "0.5", 0.05, 5.0, "log"),
)
STAGES = 6  # places in the script where a part may stand: two parts of one place cannot be merged
ROOM = 0.75  # doublings of memory that the start leaves
LINE = re.compile(r"^    x = (part_\w+)\(x")
PLAIN = ("    x = math.tanh(x)", "    if x < 0:", "        x = -x", "    x *= math.pi")


@dataclass(frozen=True)
class Part:
    """``gain`` is what it brings at ``target``, in parts of the whole; below zero it only harms.

    ``memory`` is what it needs, in doublings. Of the parts of one ``family`` one can be there.
    """

    name: str
    axes: tuple[Axis, ...]
    gain: float
    target: tuple[float, ...]
    width: float
    memory: float = 0.0
    family: str = ""
    stage: int = 0
    pull: tuple[int, float] = (0, 0.5)  # a constant of the script's own, and where it wants that

    def misfit(self, values: Values) -> float:
        """How badly its constants and that of the script suit it; 1 takes all of its gain."""
        gaps = [
            (axis.unit(values[axis.name]) - at) / self.width
            for axis, at in zip(self.axes, self.target, strict=True)
        ]
        index, wanted = self.pull
        other = (BASE[index].unit(values[BASE[index].name]) - wanted) / 0.6
        return capped(sum(gap * gap for gap in gaps) / len(gaps) + 0.5 * other * other)

    def effect(self, values: Values) -> float:
        """What it adds to the loss."""
        if self.gain <= 0:
            return -self.gain
        return self.gain * (self.misfit(values) - 1)

    @property
    def line(self) -> str:
        return f"    x = {self.name}(x, {', '.join(axis.name for axis in self.axes)})"


@dataclass(frozen=True)
class Structured(Task):
    """A task with parts that a script may have."""

    parts: tuple[Part, ...] = ()

    def present(self, script: str) -> list[Part]:
        found = {match[1] for line in script.splitlines() if (match := LINE.match(line))}
        return [part for part in self.parts if part.name in found]

    def add(self, script: str, part: Part) -> str:
        """The script with one more part, and without the others of its family."""
        for other in self.present(script):
            if part.family and other.family == part.family:
                script = self.remove(script, other)
        lines = script.splitlines()
        lines.insert(lines.index(f"    # stage {part.stage}") + 1, part.line)
        where = next(i for i, line in enumerate(lines) if line.startswith(BASE[part.stage].name))
        lines[where + 1 : where + 1] = [axis.line() for axis in part.axes]
        return "\n".join(lines) + "\n"

    def remove(self, script: str, part: Part) -> str:
        names = tuple(f"{axis.name} = " for axis in part.axes)
        kept = [
            line for line in script.splitlines() if line != part.line and not line.startswith(names)
        ]
        return "\n".join(kept) + "\n"

    def values(self, script: str) -> dict[str, landscapes.Value]:
        axes = [*BASE, *(axis for part in self.parts for axis in part.axes)]
        return read(script, axes)


def _script() -> str:
    stages = "\n".join(f"    # stage {i}" for i in range(STAGES))
    names = ", ".join(axis.name for axis in BASE)
    return (
        '"""A training script."""\n\nimport math\n\nSEED = 1337\n\n'
        + "\n".join(axis.line() for axis in BASE)
        + "\n\n\ndef train(x):\n"
        + "\n".join(PLAIN)
        + f"\n{stages}\n    return x, {names}\n\n\nprint(train(1.0))\n"
    )


def _task(
    name: str, seed: int, parts: tuple[Part, ...], twins: Sequence[tuple[int, int]], noise: float,
    base: float,
) -> Structured:  # fmt: skip
    """``base`` is what tuning the script's own constants brings; ``twins`` do the same thing."""
    rng = random.Random(f"{name}/{seed}/bowl")
    shape = bowl(rng, BASE, spread=0.2, matter=3, coupling=0.5)
    worst = shape(start_of(BASE)) or 1.0

    def combined(effects: Mapping[str, float]) -> float:
        total = sum(effects.values())
        for a, b in twins:
            both = [max(0.0, -effects.get(parts[i].name, 0.0)) for i in (a, b)]
            total += 0.8 * min(both)  # the second brings little
        return total

    def truth(script: str) -> float | None:
        values = task.values(script)
        if not {axis.name for axis in BASE} <= values.keys():
            return None
        here = task.present(script)
        if any(axis.name not in values for part in here for axis in part.axes):
            return None
        size = log2(values["BATCH_SIZE"]) + log2(values["HIDDEN_DIM"])
        if size + sum(part.memory for part in here) > 6 + 7 + ROOM:
            return None
        removed = sum(line not in script for line in PLAIN)
        own = base * capped(shape(values) / worst)
        return 1 + own + combined({part.name: part.effect(values) for part in here}) + 0.1 * removed

    def measure(script: str, sample: int) -> float | None:
        value = truth(script)
        luck = random.Random(f"{name}/{seed}/{sample}").gauss(0, 1)
        return None if value is None else value + noise * luck

    good = [part for part in parts if part.gain > 0]
    best = min(
        combined({part.name: -part.gain for part in chosen})
        for count in range(len(good) + 1)
        for chosen in itertools.combinations(good, count)
        if all(
            sum(part.family == family for part in chosen) < 2
            for family in {part.family for part in chosen if part.family}
        )
    )
    task = Structured(name, BASE, _script(), measure, truth, 1 + best, parts)
    return task


def _part(
    rng: random.Random, index: int, gain: float, misfit: tuple[float, float], *,
    constants: int = 0, memory: float = 0.0, family: str = "",
) -> Part:  # fmt: skip
    """A part whose first guess is as bad as ``misfit`` says, from and to; 1 takes all its gain."""
    letter = chr(65 + index)
    count = constants or rng.randint(1, 3)
    axes, target = [], []
    width = 0.25
    for k in range(count):
        axis = (
            Axis(f"{letter}{k}_RATE", "0.03", 1e-3, 1.0, "log")
            if rng.random() < 0.6
            else Axis(f"{letter}{k}_RATIO", "0.4", 0.0, 1.0)
        )
        away = width * math.sqrt(rng.uniform(*misfit)) * rng.choice((-1, 1))
        axes.append(axis)
        target.append(min(1.0, max(0.0, axis.unit(axis.start) + away)))
    own = rng.randrange(len(BASE))
    pull = own, BASE[own].unit(BASE[own].start) + rng.uniform(-0.2, 0.2)
    return Part(
        f"part_{letter.lower()}", tuple(axes), gain, tuple(target), width, memory, family,
        rng.randrange(STAGES), pull,
    )  # fmt: skip


def blocks(seed: int) -> Structured:
    """Ten parts: some help at once, some once they are tuned, half do harm; two need memory."""
    return _blocks("blocks", seed, 0.012)


def loud(seed: int) -> Structured:
    """The same under three times the noise."""
    return _blocks("loud", seed, 0.036)


def _blocks(name: str, seed: int, noise: float) -> Structured:
    rng = random.Random(f"blocks/{seed}")
    gains = [rng.uniform(0.08, 0.25) for _ in range(5)]
    parts = [_part(rng, i, gain, (0.2, 1.8), memory=float(i == 0)) for i, gain in enumerate(gains)]
    parts += [
        _part(rng, 5 + i, -rng.uniform(0.02, 0.3), (0.2, 1.8), memory=2.0 * (i == 0))
        for i in range(5)
    ]
    return _task(name, seed, tuple(parts), [(1, 2)], noise, base=0.4)


def routes(seed: int) -> Structured:
    """Two ways that exclude each other: one helps at once, the other far more once it is tuned."""
    rng = random.Random(f"routes/{seed}")
    parts = (
        _part(rng, 0, 0.2, (0.05, 0.3), constants=1, family="route"),
        _part(rng, 1, 0.7, (0.8, 1.4), constants=3, family="route"),
        _part(rng, 2, rng.uniform(0.05, 0.15), (0.2, 1.5)),
        _part(rng, 3, rng.uniform(0.05, 0.15), (0.2, 1.5)),
        *(_part(rng, 4 + i, -rng.uniform(0.02, 0.3), (0.2, 1.8)) for i in range(4)),
    )
    return _task("routes", seed, parts, [], 0.012, base=0.25)


def basins(seed: int) -> Task:
    """Eight constants and four basins: the start is in one that is not the deepest."""
    axes = tuple(
        Axis(name, literal, low, high, "log")
        for name, literal, low, high in (
            ("LR", "1e-3", 1e-5, 1e-1), ("EMBED_LR", "3e-3", 1e-5, 1e-1),
            ("INIT_SCALE", "0.5", 0.01, 10.0), ("GRAD_CLIP", "1.0", 0.05, 20.0),
            ("TEMPERATURE", "1.0", 0.1, 10.0), ("WEIGHT_DECAY", "0.1", 0.001, 1.0),
            ("GAIN", "2.0", 0.1, 20.0), ("PENALTY", "0.5", 0.01, 10.0),
        )
    )  # fmt: skip
    rng = random.Random(f"basins/{seed}")
    bowls = [bowl(rng, axes, spread=0.1, matter=4, coupling=0.5)]
    bowls += [bowl(rng, axes, spread=0.28, matter=4, coupling=0.5) for _ in range(3)]
    depths = [0.35, *(rng.uniform(0.0, 0.3) for _ in range(3))]
    depths[rng.randrange(1, 4)] = 0.0
    start = start_of(axes)
    scale = (1.0 - depths[0]) / (bowls[0](start) or 1.0)
    scales = [scale, *(rng.uniform(1.0, 1.6) / (each(start) or 1.0) for each in bowls[1:])]

    def truth(values: Values) -> float | None:
        if float(values["LR"]) * float(values["GAIN"]) > 0.05:
            return None
        found = (d + s * f(values) for d, s, f in zip(depths, scales, bowls, strict=True))
        return 2 + capped(min(found))

    return landscapes.formula("basins", seed, axes, truth, 0.012, 2.0)


TASKS: Mapping[str, Callable[[int], Task]] = {
    **{make.__name__: make for make in (blocks, loud, routes, basins)},
    **{name: landscapes.TASKS[name] for name in ("published", "mixed", "sparse")},
}


@dataclass
class Coder:
    """Adds a part that was not tried here yet, or changes a constant by hand; bold: two parts.

    It remembers nothing between calls, as the real ones.
    """

    task: Structured

    async def propose(self, assignment: Assignment) -> Proposal:
        file = assignment.workspace / assignment.editable[0]
        script, rng = file.read_text(), random.Random(f"{assignment.seed}/coder")
        here = self._parts(script)
        tried = {self._parts(past.sources()["train.py"]) for past in assignment.history}
        bold = assignment.plan.kind is Kind.EXPLORE
        absent = [part for part in self.task.parts if part.name not in here]
        options = [
            chosen
            for chosen in itertools.combinations(absent, 2 if bold else 1)
            if self._parts(self._having(script, chosen)) not in tried
        ]
        if options and (bold or rng.random() < 0.7):
            chosen = rng.choice(options)
            script = self._having(script, chosen)
            said = "add " + " and ".join(part.name for part in chosen)
        else:
            script, said = self._by_hand(script, rng)
        file.write_text(script)
        return Proposal(said, tokens=0, cost_usd=0.0)

    def _parts(self, script: str) -> frozenset[str]:
        return frozenset(part.name for part in self.task.present(script))

    def _having(self, script: str, chosen: Sequence[Part]) -> str:
        for part in chosen:
            script = self.task.add(script, part)
        return script

    def _by_hand(self, script: str, rng: random.Random) -> tuple[str, str]:
        """One constant, half or twice as far from nothing."""
        known = {each.name for each in constants.read(script)}
        values = self.task.values(script)
        name, value = rng.choice(sorted((n, v) for n, v in values.items() if n in known))
        factor = rng.choice((0.5, 2.0))
        changed = int(float(value) * factor) if isinstance(value, int) else float(value) * factor
        if not isinstance(value, int):
            changed = float(f"{changed:.3g}")
        return landscapes.write(script, {name: changed}), f"{name} {value} -> {changed}"
