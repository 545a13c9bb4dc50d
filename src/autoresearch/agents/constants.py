"""Named constants of source files: read them, guess their scale, write a value back in place.

A constant is a module-level ``NAME = literal`` in capitals. Everything but the literal stays byte
for byte. This module knows nothing of experiments or histories.
"""

from __future__ import annotations

import ast
import io
import math
import operator
import re
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..types import Range

Value = bool | int | float | str
Scale = Literal["linear", "log", "softlog", "complement", "doubling", "choice"]

NAME = re.compile(r"[A-Z][A-Z0-9_]*\Z")
CHOICES = re.compile(r"^[\s)]*#.*?\bchoices?\s*[:=]\s*(.+?)\s*$")
LARGEST = 1 << 80
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: lambda a, b: _whole(a) << _small(b),
    ast.Pow: lambda a, b: float(a**b) if isinstance(b, float) or b < 0 else a ** _small(b),
}


@dataclass(frozen=True, slots=True)
class Constant:
    """One named literal; ``start`` and ``end`` are offsets of ``text`` in the decoded source."""

    path: str
    name: str
    value: Value
    text: str
    start: int
    end: int
    choices: tuple[Value, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.path, self.name


@dataclass(frozen=True, slots=True)
class Dimension:
    """How a constant may move: ``place`` maps values to a line where one is a natural step.

    ``grain`` is what integers are a multiple of; ``weight`` is how much a constant of this name
    usually matters.
    """

    scale: Scale
    low: float
    high: float
    step: float = 1.0
    whole: bool = False
    grain: int = 1
    choices: tuple[Value, ...] = ()
    weight: float = 1.0

    @property
    def ordered(self) -> bool:
        """Whether neighbours are alike: numbers, or choices that are numbers in order."""
        return self.scale != "choice" or (
            all(isinstance(each, int | float) for each in self.choices)
            and list(self.choices) in (sorted(self.choices), sorted(self.choices, reverse=True))
            and len(self.choices) > 2
        )

    def place(self, value: Value) -> float:
        """Where a value is, in natural steps; for a choice, its index or -1."""
        if self.scale == "choice":
            for index, choice in enumerate(self.choices):
                if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                    return float(index)
            return -1.0
        return self._forward(min(max(float(value), self.low), self.high)) + 0.0

    def value(self, place: float) -> Value:
        """The nearest allowed value, rounded as a person would write it."""
        if self.scale == "choice":
            return self.choices[min(max(round(place), 0), len(self.choices) - 1)]
        exact = min(max(self._backward(place), self.low), self.high)
        if self.whole:
            if self.scale == "doubling":
                least, most = math.ceil(math.log2(self.low)), math.floor(math.log2(self.high))
                return 1 << min(max(round(math.log2(exact)), least), most)
            return self._whole(exact)
        if self.scale == "complement":
            return self._inside(1 - float(f"{1 - exact:.2g}"))
        return self._inside(float(f"{exact:.3g}" if self.scale == "linear" else f"{exact:.2g}"))

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest place."""
        if self.scale == "choice":
            return 0.0, len(self.choices) - 1.0
        ends = self._forward(self.low), self._forward(self.high)
        return min(ends), max(ends)

    def _whole(self, exact: float) -> int:
        grained = self.grain * round(exact / self.grain)
        return min(max(grained, math.ceil(self.low)), math.floor(self.high))

    def _inside(self, rounded: float) -> float:
        return min(max(float(f"{rounded:.10g}"), self.low), self.high)

    def _forward(self, value: float) -> float:
        if self.scale in ("log", "doubling"):
            return math.log(value) / self.step
        if self.scale == "softlog":
            return math.log2(1 + value / self.step)
        if self.scale == "complement":
            return -math.log(1 - value) / self.step
        return value / self.step

    def _backward(self, place: float) -> float:
        place = min(max(place, -700.0), 700.0)
        if self.scale in ("log", "doubling"):
            return math.exp(min(place * self.step, 700.0))
        if self.scale == "softlog":
            return self.step * (math.pow(2.0, place) - 1)
        if self.scale == "complement":
            return 1 - math.exp(-place * self.step)
        return place * self.step


# Reading


def decode(data: bytes) -> tuple[str, str] | None:
    """The text of a source file and its encoding; None if they do not give back its bytes."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
        return (text, encoding) if text.encode(encoding) == data else None
    except (SyntaxError, UnicodeError, LookupError):
        return None


def read(source: str, path: str = "") -> list[Constant]:
    """The named constants of a Python source, in order; none where it cannot be parsed."""
    tree = parse(source)
    if tree is None:
        return []
    lines = split_lines(source)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found: list[Constant] = []
    for node in tree.body:
        name, literal = _assigned(node)
        if name is None or literal is None or not NAME.match(name):
            continue
        value = evaluate(literal)
        if value is None or literal.end_lineno is None or literal.end_col_offset is None:
            continue
        start = starts[literal.lineno - 1] + _column(lines[literal.lineno - 1], literal.col_offset)
        last = lines[literal.end_lineno - 1]
        column = _column(last, literal.end_col_offset)
        end = starts[literal.end_lineno - 1] + column
        choices = _told_choices(last[column:], value)
        found.append(Constant(path, name, value, source[start:end], start, end, choices))
    counts = _stores(tree)
    return [each for each in found if counts.get(each.name) == 1]


def parse(source: str) -> ast.Module | None:
    """The syntax tree, or None where the text is not Python of this version."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def split_lines(source: str) -> list[str]:
    """Lines as Python's parser counts them, line ends included."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z", source) or [""]


def evaluate(node: ast.expr) -> Value | None:
    """The value of a literal or of arithmetic on literals, else None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, bool | int | float | str) else None
    try:
        number = _number(node)
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return None
    if isinstance(number, float):
        return number if math.isfinite(number) else None
    return number if number is not None and abs(number) < LARGEST else None


def _number(node: ast.expr) -> int | float | None:
    if isinstance(node, ast.Constant):
        plain = type(node.value) in (int, float)
        return node.value if plain else None  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _number(node.operand)
        return inner if inner is None or isinstance(node.op, ast.UAdd) else -inner
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _number(node.left), _number(node.right)
        if left is None or right is None or abs(left) > LARGEST or abs(right) > LARGEST:
            return None
        return OPERATORS[type(node.op)](left, right)
    return None


def _whole(number: float) -> int:
    if not isinstance(number, int):
        raise TypeError("shifts need whole numbers")
    return number


def _small(number: float) -> int:
    if not 0 <= _whole(number) <= 80:
        raise ValueError("too large")
    return _whole(number)


def _assigned(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    else:
        return None, None
    return (target.id if isinstance(target, ast.Name) else None), node.value


def _stores(tree: ast.Module) -> dict[str, int]:
    """How often each name in capitals is assigned anywhere: a constant is assigned once."""
    counts: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            counts[node.id] = counts.get(node.id, 0) + 1
    return counts


def _column(line: str, offset: int) -> int:
    """A character column from the parser's column, which counts UTF-8 bytes."""
    return offset if line.isascii() else len(line.encode()[:offset].decode())


def _told_choices(rest: str, value: Value) -> tuple[Value, ...]:
    """Choices named in the comment behind a constant: ``# choices: adam, sgd``."""
    told = CHOICES.match(rest)
    if told is None:
        return ()
    items = [item.strip() for item in re.split(r"[,|]", told.group(1)) if item.strip()]
    choices = [_choice(item, value) for item in items]
    return tuple(dict.fromkeys(each for each in choices if each is not None))


def _choice(item: str, like: Value) -> Value | None:
    """One told choice as a value of the constant's own type."""
    tree = parse(item)
    node = tree.body[0] if tree and len(tree.body) == 1 else None
    value = evaluate(node.value) if isinstance(node, ast.Expr) else None
    return fit(item if value is None and isinstance(like, str) else value, like)


def fit(value: Value | None, like: Value) -> Value | None:
    """The value in the type of the constant, or None where that would change its meaning."""
    if isinstance(value, bool) or isinstance(like, bool | str):
        return value if type(value) is type(like) else None
    if value is None or isinstance(value, str):
        return None
    if isinstance(like, float):
        return float(value)
    return int(value) if float(value).is_integer() else None


# Writing


def splice(source: str, changes: Iterable[tuple[Constant, Value]]) -> str:
    """The source with new values in place of the constants' literals, all else untouched."""
    for constant, value in sorted(changes, key=lambda change: -change[0].start):
        text = render(value, constant.text)
        source = source[: constant.start] + text + source[constant.end :]
    return source


def render(value: Value, like: str) -> str:
    """A literal for the value, in the style of the literal it replaces."""
    if isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        quoted = repr(value)
        double = like.startswith('"') and '"' not in quoted and quoted.startswith("'")
        return f'"{quoted[1:-1]}"' if double else quoted
    return _render_int(value, like) if isinstance(value, int) else _render_float(value, like)


def _render_int(value: int, like: str) -> str:
    compact = like.replace(" ", "")
    power = value.bit_length() - 1 if value > 0 and value & (value - 1) == 0 else None
    space = " " if " " in like else ""
    if power is not None and re.fullmatch(r"2\*\*\d+", compact):
        return f"2{space}**{space}{power}"
    if power is not None and re.fullmatch(r"1<<\d+", compact):
        return f"1{space}<<{space}{power}"
    if product := re.fullmatch(r"\d+\*(\d+)", compact):
        right = int(product.group(1))
        if right and value and value % right == 0:
            return f"{value // right}{space}*{space}{right}"
    if re.fullmatch(r"0[xX][0-9a-fA-F_]+", compact):
        return hex(value)
    return f"{value:_}" if re.fullmatch(r"\d{1,3}(_\d{3})+", compact) else str(value)


def _render_float(value: float, like: str) -> str:
    shortest = repr(value)
    exponent = math.floor(math.log10(abs(value))) if value else 0
    scientific = re.fullmatch(r"[\d._]+[eE][+-]?\d+", like)
    if scientific and value and not (-1 <= exponent <= 1):
        precisely = (f"{value:.{digits}e}" for digits in range(17))
        mantissa, _, power = next(t for t in precisely if float(t) == value).partition("e")
        return f"{mantissa}e{int(power)}"
    if "e" in shortest and not scientific and -12 < exponent < 16:
        fixed = (f"{value:.{digits}f}" for digits in range(1, 30))
        return next((text for text in fixed if float(text) == value), shortest)
    return shortest


# Guessing scales

# Never varied unless told to: what they set is not the candidate's to choose.
FIXED = re.compile(
    r"SEED|BUDGET|TIMEOUT|DEADLINE|SECONDS|MINUTES|HOURS|PATH|DIR|FILE|FILENAME|URL|HOST|PORT"
    r"|VERSION|DEBUG|VERBOSE|LOGGING|PRINT|EVAL|VAL|VALID|VALIDATION|TEST|REPORT|CHECKPOINT|SAVE"
    r"|INTERVAL|FLOPS|WORKERS|THREADS|CORES|CPUS|GPUS|RANK|PROFILE|TAG|PROJECT|EPSILON|EPS|SPLIT"
    r"|EOT|BOS|PAD|EOS"
)
# These, too, unless another word says that they are about the model: DEVICE_BATCH_SIZE.
AROUND = re.compile(r"TIME|DEVICE|LOG|EVERY|OUT|OUTPUT|CACHE|DATA|NAME")
OF_THE_MODEL = re.compile(r"BATCH|LR|DEPTH|DIM|WIDTH|SCALE|INIT")
ZERO_TO_ONE = re.compile(
    r"RATIO|FRAC|FRACTION|PROB|PROBABILITY|DROPOUT|DROP|PCT|WARMUP|WARMDOWN|COOLDOWN|SMOOTHING"
    r"|MIX|ALPHA|PERCENTILE|QUANTILE|SPARSITY"
)
CLOSE_TO_ONE = re.compile(r"BETA\d*|MOMENTUM|EMA|DECAY|GAMMA|LAMBDA|DISCOUNT")
SIZES = re.compile(
    r"BATCH|SIZE|DIM|WIDTH|HIDDEN|VOCAB|SEQ|LEN|LENGTH|BLOCK|CHUNK|CONTEXT|EMBD|EMBED|CHANNELS"
    r"|HEADS|BUCKETS|UNITS|FEATURES|TOKENS"
)
COUNTS = re.compile(r"DEPTH|LAYERS?|BLOCKS|NUM|N|K|COUNT|EPOCHS|STEPS|ITERS|ITERATIONS|RATIO")
RATES = re.compile(r"LR|RATE")
OF_A_SCHEDULE = re.compile(
    r"FINAL|END|MIN|MAX|FLOOR|FRAC|FRACTION|RATIO|FACTOR|MULT|MULTIPLIER|SCALE|DECAY|WARMUP"
    r"|WARMDOWN|COOLDOWN|GAMMA|POWER|DROP|DROPOUT"
)
WEIGHTS = (
    (re.compile(r"LR|RATE"), 1.4),
    (re.compile(r"BATCH|VOCAB|DEPTH|LAYERS?|SEQ|CONTEXT|WIDTH|DIM|HIDDEN"), 1.2),
    (re.compile(r"BETA\d*|MOMENTUM|DECAY|EMA|CLIP"), 0.6),
)


def dimension(constant: Constant, told: Range | None = None) -> Dimension | None:
    """How to vary a constant: as told, else guessed from name and value; None: leave it alone.

    Raises:
        ValueError: what was told does not suit the constant.
    """
    words = constant.name.split("_")
    weight = next((w for pattern, w in WEIGHTS if _any(pattern, words)), 1.0)
    if told is not None:
        return _told(constant, told, weight)
    if constant.choices:
        return _of_choices(constant.choices, constant.value, weight)
    if _any(FIXED, words) or (_any(AROUND, words) and not _any(OF_THE_MODEL, words)):
        return None
    if isinstance(constant.value, bool):
        return _of_choices((False, True), constant.value, weight)
    if isinstance(constant.value, str):
        return None
    if isinstance(constant.value, int):
        return _guess_int(constant, words, weight)
    return _guess_float(constant.value, words, weight)


def is_learning_rate(name: str) -> bool:
    """Whether a name is that of a learning rate itself: HEAD_LR is, FINAL_LR_FRAC is not."""
    words = name.split("_")
    itself = "LR" in words or {"LEARNING", "RATE"} <= set(words)
    return itself and not _any(OF_A_SCHEDULE, words)


def _any(pattern: re.Pattern[str], words: Sequence[str]) -> bool:
    return any(pattern.fullmatch(word) for word in words)


def _of_choices(choices: tuple[Value, ...], value: Value, weight: float) -> Dimension | None:
    """Choices in the order told; numbers among them are searched as steps of a ladder."""
    among = choices if value in choices else (value, *choices)
    return Dimension("choice", 0, len(among) - 1, choices=among, weight=weight)


def _told(constant: Constant, told: Range, weight: float) -> Dimension | None:
    name, value = constant.name, constant.value
    if told.choices:
        fitted = [fit(choice, value) for choice in told.choices]
        if None in fitted:
            wrong = told.choices[fitted.index(None)]
            raise ValueError(
                f"{name} = {constant.text} is of another type than its choice {wrong!r}"
            )
        return _of_choices(tuple(each for each in fitted if each is not None), value, weight)
    if isinstance(value, bool | str) or told.low is None or told.high is None:
        raise ValueError(f"{name} = {constant.text} takes choices, not an interval")
    low, high = min(told.low, float(value)), max(told.high, float(value))
    if isinstance(value, int):
        return _ints(value, low, high, log=told.log, doubling=_doubles(constant), weight=weight)
    if told.log and low > 0:
        span = math.log(high / low)
        return Dimension("log", low, high, max(min(0.7, span / 4), 1e-9), weight=weight)
    return Dimension("linear", low, high, max((high - low) / 5, 1e-12), weight=weight)


def _guess_float(value: float, words: Sequence[str], weight: float) -> Dimension:
    if 0.5 <= value < 1 and _any(CLOSE_TO_ONE, words) and "WEIGHT" not in words:
        return Dimension(
            "complement", 0.0, 1 - min(1e-4, (1 - value) / 8), math.log(2), weight=weight
        )
    if 0 <= value <= 1 and _any(ZERO_TO_ONE, words):
        if 0 < value < 0.15:
            return Dimension("softlog", 0.0, 1.0, value, weight=weight)
        return Dimension("linear", 0.0, 1.0, 0.1 if value < 0.15 else 0.15, weight=weight)
    if value == 0:
        step = 0.01 if _any(re.compile("DECAY|L1|L2|CLIP|NOISE"), words) else 0.1
        return Dimension("softlog", 0.0, 31 * step, step, weight=weight)
    if value < 0:
        return Dimension("linear", 4 * value, -4 * value, -value / 3, weight=weight)
    if _any(re.compile("DECAY|CLIP|REG|L1|L2|PENALTY"), words):
        return Dimension("softlog", 0.0, 31 * value, value, weight=weight)
    factor = 1.75 if _any(RATES, words) or value < 0.2 else 1.5
    return Dimension("log", value / 64, value * 64, math.log(factor), weight=weight)


def _guess_int(constant: Constant, words: Sequence[str], weight: float) -> Dimension:
    value = int(constant.value)
    if value < 0:
        return Dimension("linear", 4 * value, -4 * value, max(1, -value / 3), whole=True)
    if value == 0:
        return Dimension("softlog", 0, 15, 1, whole=True, weight=weight)
    doubling = _doubles(constant)
    return _ints(value, max(1, value / 32), value * 32, log=True, doubling=doubling, weight=weight)


def _doubles(constant: Constant) -> bool:
    """Whether a whole number is a power of two that should stay one."""
    value, words = int(constant.value), constant.name.split("_")
    if value < 2 or value & (value - 1):
        return False
    if re.fullmatch(r"2 ?\*\* ?\d+|1 ?<< ?\d+", constant.text):
        return True
    return not _any(COUNTS, words[-1:]) and (value >= 32 or _any(SIZES, words))


def _ints(
    value: int, low: float, high: float, *, log: bool, doubling: bool, weight: float
) -> Dimension:
    grain = 8 if value % 8 == 0 and value >= 32 else 1
    if doubling:
        return Dimension("doubling", low, high, math.log(2), whole=True, weight=weight)
    if log and low > 0:
        step = max(math.log(1.35), math.log((value + 1) / value))
        return Dimension("log", low, high, step, whole=True, grain=grain, weight=weight)
    span = high - low
    return Dimension(
        "linear", low, high, max(1.0, span / 6), whole=True,
        grain=grain if span >= 6 * grain else 1, weight=weight,
    )  # fmt: skip


def named(constants: Iterable[Constant]) -> Mapping[tuple[str, str], str]:
    """What to call each constant: its name, or ``file:NAME`` where two files share it."""
    keys = [each.key for each in constants]
    twice = {name for _, name in keys if sum(other == name for _, other in keys) > 1}
    return {(path, name): f"{path}:{name}" if name in twice else name for path, name in keys}
