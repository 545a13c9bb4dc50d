"""The private store and the delivery of the branch, with a real git."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch import git
from autoresearch.errors import DiskFullError, StoreError, UserError
from autoresearch.git import EXECUTABLE, REGULAR, Store
from tests.conftest import Toy

REF = "refs/autoresearch/t/candidate"
BRANCH = "autoresearch/t"


@pytest.fixture
def person(tmp_path: Path) -> Toy:
    return Toy(
        tmp_path / "person", {"sub/dir/tool.sh": "#!/bin/sh\n", "crlf.txt": "a\r\n"}
    ).create()


@pytest.fixture
def store(person: Toy, tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "store.git")
    store.adopt(person.root, git.head(person.root))
    return store


def test_export_is_byte_for_byte(person: Toy, store: Store, tmp_path: Path) -> None:
    (person.root / ".gitattributes").write_text("*.txt text eol=lf ident\n")
    person.git("add", "--all")
    person.git("-c", "user.name=P", "-c", "user.email=p@e", "commit", "-qm", "Attributes")
    commit = git.head(person.root)
    store.adopt(person.root, commit)
    sealed = store.seal(commit, {"new.txt": (REGULAR, b"$Id$\r\n")}, "New", REF)
    store.export(sealed, tmp_path / "out")
    assert (tmp_path / "out" / "new.txt").read_bytes() == b"$Id$\r\n"
    assert os.access(tmp_path / "out" / "sub" / "dir" / "tool.sh", os.X_OK)


def test_seal_changes_adds_and_deletes(store: Store, person: Toy) -> None:
    base = git.head(person.root)
    odd = 'sp ace "quote" \\ ü.py'
    sealed = store.seal(
        base,
        {"train.py": (REGULAR, b"x\n"), odd: (EXECUTABLE, b"y"), "crlf.txt": None},
        "Title\n\nBody",
        REF,
    )
    before, after = store.tree(base), store.tree(sealed)
    assert set(after) == (set(before) - {"crlf.txt"}) | {odd}
    assert store.read(after["train.py"].oid) == b"x\n"
    assert after[odd].mode == EXECUTABLE
    assert store.resolve(REF) == sealed
    assert store.lines_changed(base, sealed)["train.py"] == (1, 6)
    assert "+x" in store.diff(base, sealed)


def test_what_is_sealed_is_what_git_reads(store: Store) -> None:
    """Files become folders and the other way round, and names sort as in no other place."""
    rng, files = random.Random(3), dict[str, tuple[str, bytes]]()
    names = ("a", "a/x", "b.c", "b-", "b/c", "b/d", "b/d/e", "ü/o", 'q"uo\\te', "z")
    commit = store.begin_log("refs/autoresearch/t/log", "run t")
    for number in range(60):
        before = dict(files)
        for path in rng.sample(names, 3):
            beside = [each for each in files if f"{each}/".startswith(f"{path}/")
                      or f"{path}/".startswith(f"{each}/")]  # fmt: skip
            for each in beside:
                del files[each]
            if not beside or rng.random() < 0.7:
                files[path] = (rng.choice((REGULAR, EXECUTABLE)), b"%d" % number)
        edits = {path: files.get(path) for path in before.keys() | files.keys()}
        commit = store.seal(commit, edits, f"#{number}", REF)
        read = Store(store.path).tree(commit)
        assert store.tree(commit) == read
        assert files == {path: (each.mode, store.read(each.oid)) for path, each in read.items()}
    subprocess.run(["git", "fsck", "--strict"], cwd=store.path, check=True, capture_output=True)


def test_the_log_keeps_every_candidate_reachable(store: Store, person: Toy) -> None:
    base = git.head(person.root)
    ref = "refs/autoresearch/t/log"
    last = store.begin_log(ref, "run t")
    sealed = []
    for i in range(3):
        sealed.append(store.seal(base, {"train.py": (REGULAR, b"%d" % i)}, f"c{i}", REF))
        last = store.append(ref, last, sealed[-1], f"#{i}")
    history = store.history(ref)
    assert [message for _, message in history] == ["#2", "#1", "#0", "run t"]
    reachable = subprocess.run(
        ["git", "rev-list", ref], cwd=store.path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(sealed) <= set(reachable)
    subprocess.run(["git", "fsck", "--strict"], cwd=store.path, check=True, capture_output=True)


def test_delivery_only_advances_its_branch(store: Store, person: Toy) -> None:
    base = git.head(person.root)
    first = store.seal(base, {"train.py": (REGULAR, b"1")}, "First", REF)
    second = store.seal(first, {"train.py": (REGULAR, b"2")}, "Second", REF)
    (person.root / "train.py").write_text("being edited")
    before = person.git("status", "--porcelain")
    store.deliver(person.root, first, BRANCH, None)
    store.deliver(person.root, second, BRANCH, first)
    assert person.git("rev-parse", BRANCH) == second
    assert person.git("rev-parse", f"{BRANCH}~2") == base == person.git("rev-parse", "HEAD")
    assert person.git("status", "--porcelain") == before
    person.git("fsck", "--strict")


def test_delivery_refuses_a_moved_or_checked_out_branch(store: Store, person: Toy) -> None:
    base = git.head(person.root)
    first = store.seal(base, {"train.py": (REGULAR, b"1")}, "First", REF)
    second = store.seal(first, {"train.py": (REGULAR, b"2")}, "Second", REF)
    store.deliver(person.root, first, BRANCH, None)
    person.git("checkout", "--quiet", BRANCH)
    with pytest.raises(UserError, match="checked out"):
        store.deliver(person.root, second, BRANCH, first)
    person.git("checkout", "--quiet", "main")
    person.git("branch", "--force", BRANCH, base)
    with pytest.raises(UserError, match="moved by somebody else"):
        store.deliver(person.root, second, BRANCH, first)
    assert person.git("rev-parse", BRANCH) == base


def test_hooks_of_the_person_do_not_run(store: Store, person: Toy, tmp_path: Path) -> None:
    hook = person.root / ".git" / "hooks" / "reference-transaction"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    sealed = store.seal(git.head(person.root), {"train.py": (REGULAR, b"1")}, "First", REF)
    store.deliver(person.root, sealed, BRANCH, None)
    assert not (tmp_path / "ran").exists()


def test_what_a_kill_left_in_the_store_is_cleared(store: Store, person: Toy) -> None:
    base = git.head(person.root)
    lock, draft = store.path / f"{REF}.lock", store.path / "objects" / "ab" / "tmp_obj_cd"
    for left in (lock, draft):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
    sealed = store.seal(base, {"train.py": (REGULAR, b"1")}, "First", REF)
    assert store.resolve(REF) == sealed and not lock.exists()
    store.clear_leftovers()
    assert not draft.exists()


def test_a_disk_that_refuses_is_named_and_nothing_is_left(
    store: Store, person: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = git.head(person.root)
    objects = set(store.path.rglob("*"))
    for number, wanted in ((errno.ENOSPC, DiskFullError), (errno.EIO, StoreError)):
        with monkeypatch.context() as patched, pytest.raises(wanted, match=r"store\.git"):
            patched.setattr(os, "fsync", _refusing(number))
            store.seal(base, {"train.py": (REGULAR, b"2")}, "Second", REF)
    assert {each for each in store.path.rglob("*") if each.is_file()} <= objects
    assert store.resolve(REF) is None
    shutil.rmtree(store.path / "objects")
    with pytest.raises(StoreError, match="cannot be written"):
        store.begin_log(REF, "run t")


def _refusing(number: int) -> Callable[[int], None]:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_killed_reader_is_started_again(store: Store, person: Toy) -> None:
    base = git.head(person.root)
    oid = store.tree(base)["train.py"].oid
    other = store.tree(base)["crlf.txt"].oid
    store.read(oid)
    assert store._reader is not None
    store._reader.kill()
    store._reader.wait()
    assert store.read(other) == b"a\r\n"


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not in a git repository"):
        git.repository_root(tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match="no commit yet"):
        git.head(tmp_path)
