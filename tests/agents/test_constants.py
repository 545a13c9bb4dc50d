"""Constants are read where they stand, scaled sensibly, and written back without a stray byte."""

from __future__ import annotations

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.agents.constants import (
    Constant,
    Value,
    decode,
    dimension,
    read,
    render,
    splice,
)
from autoresearch.types import Range

SOURCE = '''\
"""Größe: a script."""
from math import pi
DEPTH = 8
LR: float = 1e-3  # naïve, häh
BATCH = 2**17; WIDTH = 64 * 2
TOTAL = 524_288
NEGATIVE = -0.5
OPTIMIZER = "adam"  # the optimizer; choices: adam, sgd, 'muon'
SIZE = 256  # choices: 256 | 512, 1024
FLAG = True
PAIR = (1, 2)
lower = 3
TWICE = 1
TWICE = 2
LATER = 1
CALLED = int("3")
NAMED = f"{pi}"
HUGE = 2**9999
if FLAG:
    LATER = 2
LONG = (
    3e-4  # inside
)
'''


def constants(source: str) -> dict[str, Constant]:
    return {each.name: each for each in read(source, "train.py")}


def test_reads_literals_of_module_level_names_in_capitals() -> None:
    found = constants(SOURCE)
    assert {name: each.value for name, each in found.items()} == {
        "DEPTH": 8, "LR": 1e-3, "BATCH": 131072, "WIDTH": 128, "TOTAL": 524288, "NEGATIVE": -0.5,
        "OPTIMIZER": "adam", "SIZE": 256, "FLAG": True, "LONG": 3e-4,
    }  # fmt: skip
    assert found["OPTIMIZER"].choices == ("adam", "sgd", "muon")
    assert found["SIZE"].choices == (256, 512, 1024)
    assert all(SOURCE[each.start : each.end] == each.text for each in found.values())


@pytest.mark.parametrize("broken", ["def (", "\0", "X = 1\n\ud800", "x" * 10 + "((" * 500])
def test_what_is_not_python_has_no_constants(broken: str) -> None:
    assert read(broken) == []


@pytest.mark.parametrize(
    ("literal", "value", "expected"),
    [
        ("1e-3", 0.002, "2e-3"),
        ("1e-3", 0.00025, "2.5e-4"),
        ("1.5e-3", 0.5, "0.5"),
        ("0.001", 0.00002, "0.00002"),
        ("0.04", 0.06, "0.06"),
        ("2**17", 65536, "2**16"),
        ("2 ** 17", 65536, "2 ** 16"),
        ("1 << 10", 2048, "1 << 11"),
        ("64 * 1024", 32768, "32 * 1024"),
        ("524_288", 1048576, "1_048_576"),
        ("0x10", 32, "0x20"),
        ("128", 64, "64"),
        ("-0.5", -0.25, "-0.25"),
        ('"adam"', "sgd", '"sgd"'),
        ("'adam'", "sgd", "'sgd'"),
        ("True", False, "False"),
        ("1/3", 0.25, "0.25"),
        ("0.0", 0.1, "0.1"),
    ],
)
def test_a_new_value_keeps_the_style_of_the_old(literal: str, value: Value, expected: str) -> None:
    assert render(value, literal) == expected


LITERALS = ["1e-3", "0.5", "2**17", "64 * 8", "1_000", "0x1f", "-3", "'a'", '"b"', "True", "1<<3"]
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
)


@given(VALUES, st.sampled_from(LITERALS))
def test_what_is_written_reads_back_as_the_same_value(value: Value, like: str) -> None:
    back = ast.literal_eval(_plain(render(value, like)))
    assert back == value
    assert type(back) is type(value)


def _plain(text: str) -> str:
    """Arithmetic evaluated, as ``literal_eval`` refuses it."""
    found = read(f"X = {text}")
    return repr(found[0].value)


ENDS = st.sampled_from(["\n", "\r\n", "\r"])
OTHERS = st.sampled_from(
    ["", "# ünïcode ≥ 日本", "x = 'é' + \"→\"", "def f():\n    return 'ö'", "y = [1,\n  2]", "\t"]
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, list[str]]:
    end = draw(ENDS)
    lines, names = [], []
    for i in range(draw(st.integers(1, 6))):
        lines.append(draw(OTHERS))
        if draw(st.booleans()):
            names.append(f"NAME_{i}")
            before = draw(st.sampled_from(["", "'é'; ", "z = 'ü'; "]))
            after = draw(st.sampled_from(["", "  # é", " ; w = 1", "   "]))
            lines.append(f"{before}NAME_{i} = {draw(st.sampled_from(LITERALS))}{after}")
    last = draw(st.sampled_from(["", "\n"]))
    return ("\n".join(lines) + last).replace("\n", end), names


@given(files(), st.data())
def test_splicing_changes_only_the_bytes_of_values(
    file: tuple[str, list[str]], data: st.DataObject
) -> None:
    source, names = file
    found = read(source)
    assert [each.name for each in found] == names
    changes = [(each, data.draw(VALUES)) for each in found if data.draw(st.booleans())]
    after = splice(source, changes)
    new = {each.name: value for each, value in changes}
    again = read(after)
    assert [each.name for each in again] == names
    assert _frame(source) == _frame(after)
    for before, now in zip(found, again, strict=True):
        assert now.value == new.get(before.name, before.value)
        assert before.name in new or now.text == before.text


def _frame(source: str) -> list[str]:
    """Everything but the literals."""
    parts, at = [], 0
    for each in read(source):
        parts.append(source[at : each.start])
        at = each.end
    return [*parts, source[at:]]


@pytest.mark.parametrize(
    "data",
    [
        "X = 1\n".encode("utf-8-sig"),
        "# coding: latin-1\nX = 'é'\nY = 2\n".encode("latin-1"),
        b"X = 1\r\nY = 2\r\n",
        "# -*- coding: cp1252 -*-\nY = '€'; X = 3\n".encode("cp1252"),
    ],
)
def test_decoding_gives_back_the_bytes(data: bytes) -> None:
    decoded = decode(data)
    assert decoded is not None
    text, encoding = decoded
    assert text.encode(encoding) == data
    found = read(text)
    assert splice(text, [(each, each.value) for each in found]).encode(encoding) == data


@pytest.mark.parametrize("data", [b"# coding: nonsense\nX = 1\n", b"X = '\xff'\n"])
def test_what_cannot_be_decoded_is_left_alone(data: bytes) -> None:
    assert decode(data) is None


def guessed(line: str, told: Range | None = None) -> list[Value] | None:
    """The neighbours of a constant: two natural steps down, one, one up, two."""
    [constant] = read(line)
    found = dimension(constant, told)
    if found is None:
        return None
    at = found.place(constant.value)
    return [found.value(at + by) for by in (-2, -1, 1, 2)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("MATRIX_LR = 0.04", [0.013, 0.023, 0.07, 0.12]),
        ("BATCH_SIZE = 64", [16, 32, 128, 256]),
        ("TOTAL_BATCH_SIZE = 2**19", [2**17, 2**18, 2**20, 2**21]),
        ("DEVICE_BATCH_SIZE = 128", [32, 64, 256, 512]),
        ("DEPTH = 8", [4, 6, 11, 15]),
        ("N_LAYERS = 2", [1, 1, 3, 4]),
        ("ASPECT_RATIO = 64", [32, 48, 88, 120]),
        ("BETA2 = 0.95", [0.8, 0.9, 0.975, 0.987]),
        ("MOMENTUM = 0.9", [0.6, 0.8, 0.95, 0.975]),
        ("WARMUP = 0.0", [0.0, 0.0, 0.1, 0.2]),
        ("WARMDOWN_RATIO = 0.5", [0.2, 0.35, 0.65, 0.8]),
        ("DROPOUT = 0.1", [0.0, 0.0, 0.3, 0.7]),
        ("FINAL_LR_FRAC = 0.0", [0.0, 0.0, 0.1, 0.2]),
        ("WEIGHT_DECAY = 0.0", [0.0, 0.0, 0.01, 0.03]),
        ("WEIGHT_DECAY = 0.2", [0.0, 0.0, 0.6, 1.4]),
        ("SCALE = 2.0", [0.89, 1.3, 3.0, 4.5]),
        ("OFFSET = -3.0", [-5.0, -4.0, -2.0, -1.0]),
        ("SHIFT = 0", [0, 0, 1, 3]),
        ("USE_BIAS = True", [False, False, True, True]),
        ('MODE = "b"  # choices: a, b, c, d', ["a", "a", "c", "d"]),
    ],
)
def test_guessed_steps(line: str, expected: list[Value]) -> None:
    assert guessed(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "SEED = 1", "TIME_BUDGET = 300", "DATA_DIR = 'x'", "MODEL_PATH = 'x'", "DEVICE = 'cuda'",
        "EVAL_TOKENS = 100", "EVAL_BATCH_SIZE = 8", "LOG_EVERY = 10", "ADAM_EPS = 1e-8",
        "MODE = 'free text'", "PEAK_FLOPS = 9.9e14", "NUM_WORKERS = 4", "VERSION = 3",
    ],
)  # fmt: skip
def test_what_is_not_the_candidates_to_choose_is_left_alone(line: str) -> None:
    assert guessed(line) is None


def test_the_contract_overrides_a_guess() -> None:
    assert guessed("SEED = 1", Range(0, 6)) == [0, 0, 2, 3]
    assert guessed("LR = 0.1", Range(0.01, 1.0, log=True)) == [0.025, 0.05, 0.2, 0.41]
    assert guessed("MODE = 'b'", Range(choices=("a", "b"))) == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("MODE = 'b'", Range(0, 1)),
        ("FLAG = True", Range(choices=(1, 2))),
        ("DEPTH = 2", Range(choices=(1, 2.5))),
    ],
)
def test_a_range_that_does_not_suit_is_refused(line: str, told: Range) -> None:
    with pytest.raises(ValueError, match=line.split(maxsplit=1)[0]):
        guessed(line, told)


NUMBERS = st.one_of(
    st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-8), st.integers(-5000, 2**20)
)
NAMES = st.sampled_from(
    ["LR", "DEPTH", "BATCH_SIZE", "BETA1", "WARMUP_RATIO", "WEIGHT_DECAY", "THING", "DROPOUT"]
)


@given(NAMES, NUMBERS, st.floats(-100, 100))
def test_every_value_of_a_dimension_is_in_range_and_stays_put(
    name: str, start: float, by: float
) -> None:
    [constant] = read(f"{name} = {start!r}")
    found = dimension(constant)
    assert found is not None
    low, high = found.bounds()
    place = found.place(constant.value)
    assert low <= place <= high
    value = found.value(place + by)
    assert type(value) is type(constant.value)
    assert isinstance(value, int | float)
    assert math.isfinite(value)
    assert found.low <= value <= found.high
    again = found.value(found.place(value))
    assert isinstance(again, int | float)
    assert again == pytest.approx(value, rel=0.02, abs=found.grain if found.whole else 1e-9)
