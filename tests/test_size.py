"""How much code a change adds."""

from __future__ import annotations

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


def test_changing_a_value_adds_nothing() -> None:
    assert tokens_added({"a.py": "LR = 0.1\n"}, {"a.py": "LR = 1e-3  # lower\n"}) == 0


def test_new_and_deleted_files_count() -> None:
    assert tokens_added({}, {"a.py": SMALL}) == 3
    assert tokens_added({"a.py": SMALL}, {}) == -3


def test_other_languages_and_broken_python_are_counted_too() -> None:
    assert tokens("int x = 1; // one\n", "a.c") == 5
    assert tokens("def f(:\n", "broken.py") == 4
    assert tokens("// a comment\nint x = 1;", "a.c") == 5
