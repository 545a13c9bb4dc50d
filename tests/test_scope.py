"""Which files a candidate may change."""

from __future__ import annotations

import pytest

from autoresearch.scope import Changes, Scope, breach
from autoresearch.suite import PROTECTED
from autoresearch.types import Task


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("train.py", ["train.py", "sub/train.py"], ["xtrain.py", "train.pyc", "train_py"]),
        ("/train.py", ["train.py"], ["sub/train.py"]),
        ("src/", ["src/a.py", "src/b/c.py", "x/src/a"], ["src", "xsrc/a"]),
        ("src/*.py", ["src/a.py"], ["src/b/c.py", "a.py", "x/src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/b/c.py"], ["lib/a.py"]),
        ("src/**", ["src/a", "src/b/c"], ["lib/a"]),
        ("**/kernel.cu", ["kernel.cu", "a/b/kernel.cu"], ["kernel.cuh"]),
        ("data/val.bin", ["data/val.bin"], ["data/val_bin", "data/train.bin"]),
        ("a?c.[tj]s", ["abc.ts", "x/abc.js"], ["ac.ts", "abc.rs"]),
        ("[!a]bc", ["xbc"], ["abc"]),
        ("*", ["a", "a/b"], []),
    ],
)
def test_globs_are_gitignore_style(pattern: str, yes: list[str], no: list[str]) -> None:
    scope = Scope(Task(editable=(pattern,), goal=""))
    assert [path for path in yes if not scope.editable(path)] == []
    assert [path for path in no if scope.editable(path)] == []


def test_what_is_hidden_is_not_editable() -> None:
    scope = Scope(Task(("*",), "", hidden=("data/val.bin",), sealed=("test/",)))
    assert scope.editable("data/train.bin")
    assert not scope.editable("data/val.bin")
    assert not scope.editable("test/a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            Changes(changed=("a",), protected_changed=("evaluate.py",)),
            "changed evaluate.py, which is",
        ),
        (Changes(changed=("a",), protected_deleted=tuple("wxyz")), "deleted w, x, y and 1 more"),
        (Changes(changed=("a",), unsafe=(("b", "is a symbolic link"),)), "b is a symbolic link"),
        (Changes(), "no change"),
        (Changes(dropped=("new.txt",)), "no change (only new.txt, not editable)"),
    ],
)
def test_a_breach_is_one_sentence(changes: Changes, said: str) -> None:
    reason = breach(changes)
    assert reason is not None and reason.startswith(said)


def test_allowed_changes_pass_even_with_stray_files() -> None:
    assert breach(Changes(changed=("train.py",), dropped=("notes.txt",))) is None


def test_what_is_protected_is_not_editable_whatever_else_is() -> None:
    scope = Scope(Task(("src/", "*.go"), "", protected=PROTECTED))
    yes = ("src/calc/add.py", "calc.go", "src/contest.py", "src/latest.py")
    no = ("src/conftest.py", "src/calc/tests/x.py", "src/test_calc.py", "calc_test.go",
          "src/calc.test.ts", "src/__tests__/a.js")  # fmt: skip
    assert [path for path in yes if not scope.editable(path)] == []
    assert [path for path in no if scope.editable(path)] == []
