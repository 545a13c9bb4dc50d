"""What counts as the same code, and what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch.novelty import LARGEST_BYTES, form

PYTHON = '''\
"""A module."""
import math

def width(x, y = 2,
          z = 'three'):
    """Says nothing."""
    # as in the paper
    return (math.sqrt(x) +
            y)   # and so on


LR = 1e-3
'''
SAME_PYTHON = {
    "comments": PYTHON.replace("# as in the paper", "# tuned").replace("# and so on", ""),
    "docstrings": PYTHON.replace("Says nothing.", "Says a lot."),
    "no docstring": PYTHON.replace('"""A module."""\n', ""),
    "layout": PYTHON.replace("\n\n\n", "\n").replace("    ", "  "),
    "quotes and one line": PYTHON.replace("'three'", '"three"').replace("+\n", "+ "),
    "line ends": PYTHON.replace("\n", "\r\n"),
    "the same number": PYTHON.replace("1e-3", "0.001"),
}
OTHER_PYTHON = {
    "a number": PYTHON.replace("1e-3", "2e-3"),
    "a default": PYTHON.replace("y = 2", "y = 2.0"),
    "a string": PYTHON.replace("'three'", "'Three'"),
    "what is in a block": "if a:\n    b()\n    c()\n",
    "an effect in a string": PYTHON + 'f"{print(1)}"\n',
}


@pytest.mark.parametrize("how", SAME_PYTHON)
def test_comments_and_layout_of_python_change_nothing(how: str) -> None:
    other = SAME_PYTHON[how]
    assert other != PYTHON
    assert form("a/train.py", other.encode()) == form("a/train.py", PYTHON.encode())


@pytest.mark.parametrize("how", OTHER_PYTHON)
def test_code_of_python_does(how: str) -> None:
    assert form("train.py", OTHER_PYTHON[how].encode()) != form("train.py", PYTHON.encode())


def test_indentation_of_python_is_code() -> None:
    inside, outside = b"if a:\n    b()\n    c()\n", b"if a:\n    b()\nc()\n"
    assert form("train.py", inside) != form("train.py", outside)


def test_a_formatter_makes_nothing_new(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(PYTHON)
    formatter = Path(sys.executable).parent / "ruff"
    subprocess.run([formatter, "format", "--quiet", "--isolated", file], check=True)
    assert file.read_text() != PYTHON
    assert form("train.py", file.read_bytes()) == form("train.py", PYTHON.encode())


C = "int main() {\n\tint a = 1; // one\n\n  return a;\n}\n"


def test_other_languages_by_their_lines() -> None:
    assert form("a.c", C.replace("\t", "    ").replace("\n\n", "\n").encode()) == form(
        "a.c", C.encode()
    )
    assert form("a.c", C.replace("\n", " \r\n").encode()) == form("a.c", C.encode())
    assert form("a.c", C.replace("a = 1", "a  = 1").encode()) != form("a.c", C.encode())
    assert form("a.c", C.replace("one", "two").encode()) != form("a.c", C.encode())


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("prompt.txt", "Be brief.\n", "Be  brief.\n"),
        ("prompt.md", "a\nb\n", "a  \nb\n"),
        ("Makefile", "a:\n\tb\n", "a:\n        b\n"),
        ("a.yaml", "a:\n  b: 1\n", "a:\nb: 1\n"),
        ("a.js", "x = `a\n  b`\n", "x = `a\nb`\n"),
        ("a.java", 'x = """\n  a\n  """\n', 'x = """\na\n"""\n'),
        ("a.cpp", 'x = R"(a\n  b)"\n', 'x = R"(a\nb)"\n'),
        ("a.c", "#define A \\\n  1\n", "#define A \\\n\n  1\n"),
        ("a.sh", "cat <<E\n a\nE\n", "cat <<E\na\nE\n"),
        ("a.rs", 'x = "a\n  b"\n', 'x = "a\nb"\n'),
        ("broken.py", "x = (\n", "x  = (\n"),
    ],
)
def test_where_layout_may_be_content_every_byte_counts(path: str, before: str, after: str) -> None:
    assert form(path, before.encode()) != form(path, after.encode())


@pytest.mark.parametrize(
    "source",
    [
        b"x=" + b"-" * 100_000 + b"1", b"x=" + b"1+" * 100_000 + b"1", b"x=a" + b".b" * 100_000,
        b"x=" + b"(" * 1000, b"x=" + b"not " * 50_000 + b"1", b"x = '\\d'\n\0", b"\xff\xfe",
        b"# -*- coding: nonsense -*-\n", b"x=" + b"9" * 10_000, b"x\n" * (LARGEST_BYTES // 2 + 1),
    ],
    ids=range(10),
)  # fmt: skip
def test_hostile_source_is_compared_by_its_bytes(
    source: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert form("train.py", source) != form("train.py", source + b"# more")
    assert form("train.py", b"x = '\\d'\n") == form("train.py", b"x =  '\\d'\n")
    assert capfd.readouterr().err == ""
