"""Journal and store damaged at rest: repaired, or refused by name; never begun anew silently."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import IDENTITY, Toy
from tests.faults.story import story
from tests.invariants import Acknowledged, check_invariants

EXPERIMENTS = 3


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A run with three experiments; tests damage copies of it."""
    task = story(tmp_path_factory.mktemp("original") / "task")
    # The base has a parent, which the store does not take over.
    task.git(*IDENTITY, "commit", "--quiet", "--allow-empty", "-m", "Second")
    task.call("run", "--tag", "t", "--max-experiments", str(EXPERIMENTS))
    return task


@pytest.fixture
def task(original: Toy, tmp_path: Path) -> Toy:
    return copy_of(original, tmp_path)


def copy_of(original: Toy, folder: Path) -> Toy:
    shutil.rmtree(folder / "task", ignore_errors=True)
    shutil.copytree(original.root, folder / "task", symlinks=True)
    return Toy(folder / "task")


def folder(task: Toy) -> Path:
    return task.root / ".autoresearch" / "t"


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(data)


def continues(task: Toy, original: Toy, *more: str) -> str:
    """Continue a damaged run by one experiment and compare what it knew; returns what it said."""
    before = original.view()
    seen = Acknowledged(rows=original.rows()[1:])
    done = task.call("run", "--max-experiments", str(EXPERIMENTS + 1), *more)
    view = check_invariants(task, seen)
    assert len(view.decided) == EXPERIMENTS + 2
    known, old = view.experiments, before.experiments
    for number, experiment in old.items():
        assert known[number].taken == experiment.taken
        assert known[number].decision == experiment.decision
    assert view.seed == before.seed and view.base == before.base
    assert [each.number for each in view.kept][: len(before.kept)] == [
        each.number for each in before.kept
    ]
    assert known[EXPERIMENTS + 1].parent == before.kept[-1].commit
    return done.stdout


def _sql(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


def _change(path: Path) -> None:
    # A better number for one sample: SQLite itself is content with it.
    _sql(path, "UPDATE event SET body = replace(body, '\"value\":0.', '\"value\":0.0')"
               " WHERE seq = (SELECT max(seq) FROM event WHERE kind = 'sample')")  # fmt: skip


JOURNALS: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one page short": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "not a database": lambda path: path.write_bytes(b"hello" * 999) and None,
    "one value changed": _change,
    "last rows removed": lambda path: _sql(path, "DELETE FROM event WHERE seq > 30"),
    "a row removed": lambda path: _sql(path, "DELETE FROM event WHERE seq = 20"),
    "all rows removed": lambda path: _sql(path, "DELETE FROM event"),
}


@pytest.mark.parametrize("damage", JOURNALS)
def test_a_damaged_journal_is_rebuilt_from_the_log(damage: str, task: Toy, original: Toy) -> None:
    JOURNALS[damage](folder(task) / "journal.db")
    said = continues(task, original)
    assert "journal.db" in said and "rebuilt from the log of decisions with all 4" in said
    if damage != "deleted":
        assert (folder(task) / "journal.db.damaged-1").exists()
    again = task.call("run", "--max-experiments", str(EXPERIMENTS + 1)).stdout
    assert "rebuilt" not in again


def test_readers_name_a_damaged_journal(task: Toy) -> None:
    os.truncate(folder(task) / "journal.db", 6000)
    for command in ("status", "log", "show 1"):
        done = task.call(*command.split(), code=1)
        assert "journal.db is damaged" in done.stderr and "autoresearch run" in done.stderr


def _every_object(store: Path, random_: random.Random) -> None:
    for path in store.glob("objects/??/*"):
        flip(path, random_.randrange(8 * path.stat().st_size))


STORES: dict[str, Callable[[Path], None]] = {
    "deleted": shutil.rmtree,
    "no log": lambda store: (store / "refs/autoresearch/t/log").unlink(),
    "log is garbage": lambda store: (store / "refs/autoresearch/t/log").write_text("x") and None,
    "no HEAD": lambda store: (store / "HEAD").unlink(),
    "no config": lambda store: (store / "config").write_text("[core") and None,
    "no objects": lambda store: shutil.rmtree(store / "objects"),
    "all objects flipped": lambda store: _every_object(store, random.Random(1)),
    "no shallow": lambda store: (store / "shallow").unlink(),
}


@pytest.mark.parametrize("damage", STORES)
def test_a_damaged_store_is_rebuilt_from_journal_and_repository(
    damage: str, task: Toy, original: Toy
) -> None:
    STORES[damage](folder(task) / "store.git")
    said = continues(task, original)
    assert "store.git" in said and "rebuilt" in said
    if damage in ("deleted", "no objects", "all objects flipped"):
        lost = [each.number for each in original.view().decided[1:] if each not in
                original.view().kept and each.commit]  # fmt: skip
        kept = {each.number for each in original.view().kept}
        for number in lost:
            assert number in kept or f"#{number}" in said, "what is lost must be named"
    assert "rebuilt" not in task.call("run", "--max-experiments", str(EXPERIMENTS + 1)).stdout


def test_both_damaged_is_refused_by_name(task: Toy) -> None:
    os.truncate(folder(task) / "journal.db", 6000)
    shutil.rmtree(folder(task) / "store.git")
    before = sorted(folder(task).rglob("*"))
    done = task.call("run", code=1)
    assert "journal.db is damaged" in done.stderr and "store.git" in done.stderr
    assert "--new" in done.stderr
    assert [path for path in before if not path.exists()] == []
    (folder(task) / "journal.db").unlink()
    done = task.call("run", "--tag", "t", code=1)
    assert "journal.db is missing" in done.stderr and "store.git" in done.stderr


def test_a_best_that_is_nowhere_is_refused_by_name(task: Toy) -> None:
    view = task.view()
    assert view.incumbent is not None and view.incumbent.number > 0
    task.git("branch", "-D", view.branch)
    task.git("reflog", "expire", "--expire=now", "--all")
    task.git("gc", "--quiet", "--prune=now")
    shutil.rmtree(folder(task) / "store.git")
    done = task.call("run", code=1)
    assert view.incumbent.commit[:7] in done.stderr and "store.git" in done.stderr
    assert not (folder(task) / "store.git").exists()


def test_a_candidate_in_flight_whose_code_is_lost_begins_again(task: Toy, original: Toy) -> None:
    killed = {**os.environ, "AUTORESEARCH_FAILPOINT": "journal.sealed"}
    subprocess.run(task.command("run", "--max-experiments", "9"), cwd=task.root, env=killed,
                   capture_output=True, check=False)  # fmt: skip
    assert task.view().unfinished is not None
    shutil.rmtree(folder(task) / "store.git")
    continues(task, original)


def bits(path: Path, count: int, rng: random.Random) -> list[int]:
    """Bits all over a file, those of its head first: there a few of them mean a lot."""
    size = 8 * path.stat().st_size
    return [rng.randrange(min(size, 800)) if i % 3 == 0 else rng.randrange(size)
            for i in range(count)]  # fmt: skip


@pytest.mark.slow
def test_any_flipped_bit_is_repaired_or_refused(
    original: Toy, tmp_path: Path, endurance: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(5)
    count = 300 if endurance else 14
    ends = {"repaired": 0, "harmless": 0, "refused": 0}
    store = folder(original) / "store.git"
    objects = sorted(store.glob("objects/??/*"))
    others = [store / name for name in ("refs/autoresearch/t/log", "shallow", "config", "HEAD")]
    for number in range(count):
        task = copy_of(original, tmp_path)
        path = folder(original) / "journal.db"
        if number % 2:
            path = rng.choice(objects if number % 4 == 1 else others)
        (bit,) = bits(path, 1, rng)
        flip(folder(task) / path.relative_to(folder(original)), bit)
        done = task.call("run", "--max-experiments", str(EXPERIMENTS), code=None)
        where = f"bit {bit} of {path.name}: {done.stdout} {done.stderr}"
        if done.returncode == 0:
            view = check_invariants(task, Acknowledged(rows=original.rows()[1:]))
            assert [each.taken for each in view.decided] == [
                each.taken for each in original.view().decided
            ], where
            ends["repaired" if "rebuilt" in done.stdout else "harmless"] += 1
        else:
            assert done.returncode == 1, where
            assert "journal.db" in done.stderr or "store.git" in done.stderr, where
            assert "fix:" in done.stderr, where
            ends["refused"] += 1
    with capsys.disabled():
        print(f"\n{count} flipped bits: {ends}")
