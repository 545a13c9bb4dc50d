"""How much code a change adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import size
from autoresearch.size import tokens, tokens_added

SMALL = "x = 1\n"


def test_comments_layout_and_docstrings_are_free() -> None:
    bare = "def f(a):\n    return a + 1\n"
    dressed = (
        '"""Module."""\n# why\n\ndef f(a):\n    """Say what.\n\n    More.\n    """\n'
        "    # reason\n\n    return (a\n        + 1)\n"
    )
    assert tokens(dressed, "a.py") == tokens(bare, "a.py") + 2  # the parentheses


def test_strings_that_mean_something_count() -> None:
    assert tokens('x = "text"\n', "a.py") == 3
    assert tokens('f("text")\n', "a.py") == 4
    assert tokens('f(\n    "text"\n)', "a.py") == 4
    assert tokens('"a" "free"\n"remark"', "a.py") == 0


def test_an_f_string_is_one_token_on_every_python() -> None:
    assert tokens("x = f'{a + b:>{width}} of {f\"{c}\"}'\n", "a.py") == 3


def test_changing_a_value_adds_nothing() -> None:
    assert tokens_added({"a.py": "LR = 0.1\n"}, {"a.py": "LR = 1e-3  # lower\n"}) == 0


def test_new_and_deleted_files_count() -> None:
    assert tokens_added({}, {"a.py": SMALL}) == 3
    assert tokens_added({"a.py": SMALL}, {}) == -3
    assert tokens_added({"a.py": SMALL, "b.py": SMALL}, {"b.py": SMALL, "c.py": SMALL * 2}) == 3


@pytest.mark.parametrize(
    ("path", "source", "count"),
    [
        ("a.c", "int x = 1; // one\n", 5),
        ("a.c", "// a comment\nint x = 1; /* two\nlines */", 5),
        ("a.c", "#include <math.h>\n", 7),
        ("a.rs", 'let url = "http://x"; // why', 5),
        ("a.go", "a /= b", 4),
        ("a.sql", "select a -- all of it\nfrom b", 4),
        ("a.sh", "echo '# text'  # said", 2),
        ("a.sh", "echo ${#list}", 6),
        ("Makefile", "all: build  # everything\n", 3),
        ("broken.py", "def f(:  # oh\n", 4),
        ("indent.py", "if x:\n    a\n  b\n", 5),
        ("empty.py", "", 0),
    ],
)
def test_other_languages_and_broken_python_are_counted_too(
    path: str, source: str, count: int
) -> None:
    assert tokens(source, path) == count


@given(st.text(), st.sampled_from(["a.py", "a.c", "a.sql", "a.txt", ""]))
def test_any_text_has_a_size(source: str, path: str) -> None:
    assert tokens(source, path) >= 0
    assert tokens_added({path: source}, {path: source}) == 0


def test_our_own_source_survives_its_comments() -> None:
    source = Path(size.__file__).read_text()
    bare = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("#"))
    assert tokens(source, "size.py") == tokens(bare, "size.py") > 100
