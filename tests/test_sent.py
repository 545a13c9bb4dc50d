"""A task is measured on a node that sees no file of the engine's machine but what is sent."""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch import config, git, loose, runner, sandbox
from autoresearch.attempt import BASE_BUNDLE, BUNDLE, RUNNER, Attempt, pack, pack_common, unpack
from autoresearch.bench import Bench, Places
from autoresearch.engine import Engine
from autoresearch.errors import ExecutorError, UserError
from autoresearch.git import EXECUTABLE, LINK, REGULAR, Store
from autoresearch.run import FOLDER, Run
from autoresearch.types import Contract, Level, Limits, Outcome
from tests.conftest import Toy
from tests.faults.story import story

CONFINED = sandbox.probe()
REF = "refs/autoresearch/t/candidate"
needs_namespaces = pytest.mark.skipif(
    CONFINED.level is not Level.NAMESPACES, reason=CONFINED.reason
)


class Elsewhere:
    """Runs each job while the task, its journal and all that was prepared for it are gone."""

    detached, shared = True, False

    def __init__(self, root: Path, nodes: Path, path: str = os.environ["PATH"]) -> None:
        self.root = root
        self.nodes = nodes
        self.path = path
        self.jobs: list[dict[str, Any]] = []
        self.parcels: list[bytes] = []
        self.commons: set[tuple[str, int]] = set()

    async def run(self, job: dict[str, Any]) -> dict[str, Any]:
        attempt = Attempt(Path(job["directory"]), job["nonce"])
        assert attempt.prepare(job)
        self.jobs.append(job)
        self.parcels.append(pack(attempt.folder))
        common = Path(job["common"])
        self.commons.add((common.name, os.stat(common).st_mtime_ns))  # noqa: PTH116
        cached = self.nodes / common.stem
        zipfile.ZipFile(common).extractall(cached)
        node = self.nodes / attempt.nonce
        node.mkdir()
        zipfile.ZipFile(io.BytesIO(self.parcels[-1])).extractall(node)
        gone = self.root.rename(self.root.with_name("gone"))
        try:
            argv = [sys.executable, "-I", "-S", "-B", RUNNER.name, "--attempt", "."]
            env = {**os.environ, "PATH": self.path, "PYTHONPATH": f"/nowhere:{cached}"}
            done = subprocess.run(argv, cwd=node, env=env, stdout=subprocess.PIPE, check=True)  # noqa: ASYNC221
        finally:
            gone.rename(self.root)
        unpack(attempt.folder, attempt.nonce, done.stdout.decode())
        result = attempt.result()
        assert result is not None
        return result

    async def close(self) -> None:
        pass


@contextmanager
def begun(task: Toy, contract: Contract) -> Iterator[Run]:
    run = Run(Places(task.root / FOLDER / "t", task.root, task.root), "t")
    run.begin(contract, git.head(task.root), {})
    try:
        yield run
    finally:
        run.release()


def contract_of(task: Toy, *, setup: bool = False) -> Contract:
    contract = config.load(task.root / config.NAME)
    return contract if setup else replace(contract, run=replace(contract.run, setup=None))


def listing(folder: Path) -> dict[str, tuple[int, str | bytes]]:
    """All files and links below a folder: whether they are programs, and what is in them."""
    return {
        str(each.relative_to(folder)): (0, str(each.readlink()))
        if each.is_symlink()
        else (each.stat().st_mode & 0o111, each.read_bytes())
        for each in folder.rglob("*")
        if each.is_symlink() or each.is_file()
    }


@needs_namespaces
@pytest.mark.parametrize("setup", [True, False])
def test_all_that_a_job_needs_is_sent(setup: bool, tmp_path: Path) -> None:
    task = story(tmp_path / "task")
    git.exclude(task.root, f"{FOLDER}/\ndata/")
    executor = Elsewhere(task.root, tmp_path / "nodes")
    large = random.Random(1).randbytes(1 << 20)
    if not setup:
        # The data then lie beside the person's contract, at the place where they are shown.
        (task.root / "data").mkdir()
        (task.root / "data" / "target").write_text("0.1")
        (task.root / "data" / "large").write_bytes(large)

    async def main() -> None:
        contract = replace(contract_of(task, setup=setup), limits=Limits(experiments=1))
        with begun(task, contract) as run:
            await Engine(run, contract, CONFINED, executor).loop()

    asyncio.run(main())
    view = task.view()
    assert task.statuses() == ["keep", "keep"] and view.experiments[1].guards_passed
    assert {each.sample.outcome for each in view.experiments[1].taken} == {Outcome.OK}
    log = task.run_folder / "experiments" / "1" / "samples" / "0" / "run.log"
    assert log.read_text() == "trained\n"
    sent = [path.name for path in (tmp_path / "nodes").rglob("target")]
    assert sent, "the hidden data were never there, and the evaluation saw them all the same"
    # Samples of two commits and guards: what they share was packed once, and is in no parcel.
    assert len(executor.jobs) > 4 and len(executor.commons) == 1
    assert max(map(len, executor.parcels)) < 20_000 + RUNNER.stat().st_size
    store, trees = Store(task.run_folder / "store.git"), set()
    for commit in {each.commit for each in view.experiments.values()}:
        store.export(commit, tmp_path / commit)
        trees.add(str(listing(tmp_path / commit)))
    places = {"data/target", "data/large", "data"}
    for job in executor.jobs:
        found = listing(executor.nodes / job["nonce"] / "tree")
        trees.discard(str({path: found[path] for path in found if path not in places}))
    store.close()
    assert not trees, "a node made something else of a candidate's bundle"


def prepared(root: Path) -> Toy:
    """A task with tracked files that only evaluations may see, and others that only `verify`."""
    task = story(root)
    contract = task.root / config.NAME
    lines = 'hidden = ["data/target", "key"]\nsealed = ["vault"]'
    contract.write_text(contract.read_text().replace('hidden = ["data/target"]', lines))
    (task.root / "key").write_text("the hidden words")
    (task.root / "vault").write_text("the sealed words")
    (task.root / "data").mkdir()
    (task.root / "data" / "target").write_text("0.1")
    task.git("add", "key", "vault", config.NAME)
    task.git("commit", "--quiet", "-m", "Hide")
    return task


@needs_namespaces
@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_sealed_goes_only_where_it_is_measured(sealed: bool, tmp_path: Path) -> None:
    task = prepared(tmp_path / "task")
    executor = Elsewhere(task.root, tmp_path / "nodes")
    contract, base = contract_of(task), git.head(task.root)
    with begun(task, contract) as run:
        bench = Bench(contract, run.places, run.store, base, CONFINED, executor, sealed=sealed)
        sample = asyncio.run(bench.measure(base, 0, 0, 1))
    assert sample.outcome is Outcome.OK
    (job,) = executor.jobs
    node = executor.nodes / job["nonce"]
    found = {path.name for path in (node / "shown").rglob("*")}
    assert "key" in found and ("vault" in found) == sealed
    assert not {"key", "vault"} & {path.name for path in (node / "tree").rglob("*")}
    for secret in (b"the hidden words", b"the sealed words"):
        assert secret not in objects(node, tmp_path / "objects.git")


@needs_namespaces
def test_a_node_without_git_is_named(tmp_path: Path) -> None:
    task = prepared(tmp_path / "task")
    executor = Elsewhere(task.root, tmp_path / "nodes", path="/nonexistent")
    contract, base = contract_of(task), git.head(task.root)
    with begun(task, contract) as run:
        bench = Bench(contract, run.places, run.store, base, CONFINED, executor)
        with pytest.raises(ExecutorError, match=rf"on {os.uname().nodename} .* git is missing"):
            asyncio.run(bench.measure(base, 0, 0, 1))


# Bundles


def objects(folder: Path, repository: Path) -> bytes:
    """All that is in the bundles of a node."""
    subprocess.run(["git", "init", "--quiet", "--bare", repository], check=True)
    for name in (BASE_BUNDLE, BUNDLE):
        argv = ["git", "fetch", "--quiet", folder / name, "refs/*:refs/*", "--force"]
        subprocess.run(argv, cwd=repository, check=True)
    argv = ["git", "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(argv, cwd=repository, stdout=subprocess.PIPE, check=True).stdout


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.create(tmp_path / "store.git")
    yield made
    made.close()


def test_a_bundle_becomes_what_the_export_is(store: Store, tmp_path: Path) -> None:
    files = {
        ".gitattributes": "* text eol=crlf ident export-subst filter=evil\n",
        "tool.sh": "#!/bin/sh\n", "crlf.txt": "$Id$\r\n", "sub/gone.txt": "x", "sub/key": "secret",
        "same/a": "same\n", "same/b": "same\n",
    }  # fmt: skip
    person = Toy(tmp_path / "person", files).create()
    (person.root / "odd \n ü").write_text("new line")
    (person.root / "link").symlink_to("sub")
    (person.root / "dangling").symlink_to("/nowhere")
    (person.root / "tool.sh").chmod(0o755)
    person.git("add", "--all")
    person.git("commit", "--quiet", "-m", "A private message")
    base = git.head(person.root)
    store.adopt(person.root, base)
    edits = {
        "tool.sh": (REGULAR, b"no program now\n"), "new/tool": (EXECUTABLE, b"\0$Id$\r\n"),
        "new/link": (LINK, b"../tool.sh"), "sub/gone.txt": None, "new/key": (REGULAR, b"secret"),
    }  # fmt: skip
    commit = store.seal(base, edits, "A change", REF)

    def without(path: str) -> bool:
        return path.endswith("key")

    before = listing(store.path)
    node = tmp_path / "node"
    node.mkdir()
    store.bundle(base, node / BASE_BUNDLE, without=without)
    store.bundle(commit, node / BUNDLE, beyond=base, without=without)
    assert listing(store.path) == before, "something was left in the store"
    assert (node / BUNDLE).stat().st_size < 1000
    again = tmp_path / "again"
    store.bundle(base, again, without=without)
    assert again.read_bytes() == (node / BASE_BUNDLE).read_bytes()
    store.export(commit, tmp_path / "export", without=without)
    trees = [node / "tree", node / "answer"]
    (node / "tree" / "sub").mkdir(parents=True)
    (node / "tree" / "sub" / "point").touch()
    runner.write_trees([os.fsencode(each) for each in trees], str(node), 1 << 30)
    exported = listing(tmp_path / "export")
    assert listing(node / "answer") == exported and not (node / "answer" / "new" / "key").exists()
    assert listing(node / "tree") == exported | {"sub/point": (0, b"")}
    sent = objects(node, tmp_path / "objects.git")
    assert b"secret" not in sent and b"private" not in sent and b"example.org" not in sent
    with pytest.raises(ValueError, match="more than 9 bytes"):
        runner.write_trees([os.fsencode(tmp_path / "small")], str(node), 9)


def test_what_is_slow_to_receive_is_given_up(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runner, "RECEIVE_S", 1)
    job = {"trees": [str(tmp_path / "tree")], "disk_bytes": 1}
    with pytest.raises(TimeoutError, match="could not be unpacked in 1 s"):
        runner.receive(job, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["git"]


def outside(target: Path, store: Path) -> dict[str, list[tuple[str, bytes, str]]]:
    """Trees, as mode, name and object, that would write a file below ``target`` if they could."""
    blob = loose.put(store, "blob", b"evil")
    link = loose.put(store, "blob", os.fsencode(target))
    inner = tree(store, [("100644", b"evil", blob)])
    return {
        "up": [("40000", b"..", tree(store, [("40000", b"..", inner)]))],
        "absolute": [("100644", os.fsencode(target / "evil"), blob)],
        "slashes": [("100644", b"a/../../../evil", blob)],
        "through a link": [("120000", b"a", link), ("40000", b"a", inner)],
        "over a link": [("120000", b"a", link), ("100644", b"a", blob)],
        "link below a link": [
            ("120000", b"a", link), ("40000", b"a", tree(store, [("120000", b"evil", blob)])),
        ],
    }  # fmt: skip


def tree(store: Path, entries: list[tuple[str, bytes, str]]) -> str:
    data = [mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries]
    return loose.put(store, "tree", b"".join(data))


@pytest.mark.parametrize(
    "how",
    ["up", "absolute", "slashes", "through a link", "over a link", "link below a link"],
)
def test_nothing_is_written_outside_of_a_tree(how: str, store: Store, tmp_path: Path) -> None:
    target, node = tmp_path / "target", tmp_path / "node"
    target.mkdir()
    node.mkdir()
    base = store.begin_log(REF, "Base")
    evil = tree(store.path, outside(target, store.path)[how])
    root = tree(store.path, [("40000", b"inner", evil)])
    commit = loose.commit(store.path, root, [], f"{git.IDENTITY} 0 +0000", "Evil")
    store.bundle(base, node / BASE_BUNDLE)
    store.bundle(commit, node / BUNDLE, beyond=base)
    with pytest.raises((ValueError, OSError)):
        runner.write_trees([os.fsencode(node / "tree")], str(node), 1 << 30)
    found = [path for path in tmp_path.rglob("evil") if node / "tree" not in path.parents]
    assert not found and not list(target.iterdir())


def test_a_package_has_the_name_of_what_is_in_it(tmp_path: Path) -> None:
    names = []
    for turn, text in enumerate(["same", "same", "other"]):
        thing, folder = tmp_path / f"thing-{turn}", tmp_path / str(turn)
        thing.mkdir()
        folder.mkdir()
        (thing / "file").write_text(text)
        os.utime(thing / "file", (turn, turn))
        names.append(pack_common({"thing": thing}, folder).name)
    assert names[0] == names[1] != names[2]


def test_what_is_too_large_is_an_input_error(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("autoresearch.attempt.MOST_SENT_BYTES", 1 << 10)
    (tmp_path / "data").write_bytes(bytes(1 << 11))
    with pytest.raises(UserError, match="would be sent to a node"):
        pack_common({"data": tmp_path / "data"}, tmp_path)
