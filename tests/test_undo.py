"""Taking steps out of a commit, in a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch import git
from autoresearch.git import EXECUTABLE, REGULAR, Edits, Store
from autoresearch.undo import builds_on, leave_out
from tests.conftest import Toy

LINES = [f"NAME_{i} = {i}" for i in range(8)]


class Steps:
    """A store with a base commit and steps on top of it, one after the other."""

    def __init__(self, folder: Path, **files: str) -> None:
        toy = Toy(folder / "task", files).create()
        self.store = Store.create(folder / "store.git")
        self.commits = [git.head(toy.root)]
        self.store.adopt(toy.root, self.commits[0])

    def step(self, **files: str | bytes | None) -> int:
        """Add a step; its number is one more than that of the step before."""
        edits: dict[str, tuple[str, bytes] | None] = {}
        for name, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            edits[name] = None if data is None else (REGULAR, data)
        return self.seal(edits)

    def seal(self, edits: Edits) -> int:
        self.commits.append(self.store.seal(self.commits[-1], edits, "Step", "refs/x/candidate"))
        return len(self.commits) - 1

    def without(self, *steps: int) -> Edits | None:
        return leave_out(self.store, self.commits[-1], [self.pair(n) for n in sorted(steps)])

    def pair(self, number: int) -> tuple[str, str]:
        return self.commits[number - 1], self.commits[number]


def text(**changed: str) -> str:
    """The lines of LINES with some replaced, by ``n3="..."``."""
    return "".join(changed.get(f"n{i}", line) + "\n" for i, line in enumerate(LINES))


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, train=text(), other="other\n")


def test_a_step_is_taken_out_from_under_later_ones(steps: Steps) -> None:
    steps.step(train=text(n1="A"))
    steps.step(train=text(n1="A", n6="B"))
    assert steps.without(1) == {"train": (REGULAR, text(n6="B").encode())}
    assert steps.without(2) == {"train": (REGULAR, text(n1="A").encode())}
    assert steps.without(1, 2) == {"train": (REGULAR, text().encode())}


def test_neighbouring_lines_are_steps_of_their_own(steps: Steps) -> None:
    steps.step(train=text(n3="A"))
    steps.step(train=text(n3="A", n4="B"))
    assert steps.without(1) == {"train": (REGULAR, text(n4="B").encode())}


def test_a_line_that_was_changed_again_cannot_be_taken_out(steps: Steps) -> None:
    steps.step(train=text(n3="A"))
    steps.step(train=text(n3="B"))
    assert steps.without(1) is None
    assert steps.without(2) == {"train": (REGULAR, text(n3="A").encode())}
    assert steps.without(1, 2) == {"train": (REGULAR, text().encode())}


def test_what_builds_on_a_step_goes_with_it(steps: Steps) -> None:
    for edited in (text(n3="A"), text(n3="A", n6="B"), text(n3="C", n6="B"), text(n3="D", n6="B")):
        steps.step(train=edited)
    pairs = [steps.pair(n) for n in (1, 2, 3, 4)]
    assert builds_on(steps.store, pairs) == [2, 3]
    assert builds_on(steps.store, pairs[1:]) == builds_on(steps.store, pairs[3:]) == []
    assert steps.without(1, 3, 4) == {"train": (REGULAR, text(n6="B").encode())}


def test_a_step_that_was_undone_leaves_nothing(steps: Steps) -> None:
    steps.step(train=text(n3="A"))
    steps.step(train=text())
    steps.step(other="more\n")
    assert steps.without(1) == {}


def test_files_come_and_go(steps: Steps) -> None:
    steps.step(new="new\n", other=None)
    steps.step(train=text(n0="A"))
    assert steps.without(1) == {"new": None, "other": (REGULAR, b"other\n")}
    steps.step(new="newer\n")
    assert steps.without(1) is None


def test_modes_and_bytes_that_are_no_text(steps: Steps) -> None:
    steps.seal({"train": (EXECUTABLE, text(n1="A").encode())})
    steps.step(other=b"\0\1")
    assert steps.without(1) == {"train": (REGULAR, text().encode())}
    steps.step(other=b"\0\2")
    assert steps.without(2) is None


def test_a_text_without_a_last_line_break(steps: Steps) -> None:
    steps.step(train=text(n1="A"))
    steps.step(train=text(n1="A", n2="B").rstrip("\n"))
    assert steps.without(1) == {"train": (REGULAR, text(n2="B").rstrip("\n").encode())}
