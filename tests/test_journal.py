"""The journal is durable, and everything else follows from it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch.errors import StoreError
from autoresearch.journal import SAFE_WAL, Journal


def test_events_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.append("run_started", tag="t")
    journal.append("opened", 1, kind="improve", nested={"a": [1, None, "ü"]})
    first, second = Journal(tmp_path / "journal.db", read_only=True).events()
    assert (first.seq, first.kind, first.experiment, first.body) == (
        1, "run_started", None, {"tag": "t"},
    )  # fmt: skip
    assert second.body == {"kind": "improve", "nested": {"a": [1, None, "ü"]}}
    assert second.at.endswith("Z")
    assert [each.seq for each in journal.events(after=1)] == [2]


def test_acknowledged_events_survive_kill(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from autoresearch.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for i in range(10**6):\n"
        "    print(journal.append('e', i).seq, flush=True)\n"
    )
    path = tmp_path / "journal.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    for _ in range(50):
        acknowledged = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    journal = Journal(path)
    journal.check()
    found = list(journal.events())
    assert len(found) >= acknowledged
    assert [each.experiment for each in found] == list(range(len(found)))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for i in range(200):
        journal.append("e", i, text="x" * 100)
    journal.close()
    data = bytearray(path.read_bytes())
    data[5000:9000] = os.urandom(4000)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"journal\.db"):
        Journal(path).check()


def test_nan_never_enters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Journal(tmp_path / "journal.db").append("sample", 0, value=float("nan"))


def test_readers_cannot_write(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.db").append("e")
    reader = Journal(tmp_path / "journal.db", read_only=True)
    with pytest.raises((StoreError, sqlite3.Error)):
        reader.append("e")


def test_a_file_without_a_schema_has_no_events(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    sqlite3.connect(path).close()
    path.touch()
    assert list(Journal(path, read_only=True).events()) == []
    Journal(path).append("e")
    assert len(list(Journal(path, read_only=True).events())) == 1


@pytest.mark.skipif(sqlite3.sqlite_version_info >= SAFE_WAL, reason="no rollback journal")
def test_a_reader_recovers_from_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    journal.append("kept", 1)
    # Fill a cache of one page within a transaction, so that it spills to the file, and copy both.
    journal._db.execute("PRAGMA cache_size = 1")
    journal._db.execute("BEGIN IMMEDIATE")
    for i in range(300):
        journal._db.execute(
            "INSERT INTO event VALUES (NULL, '', 0, 'lost', NULL, ?, '')", ("x" * 999,)
        )
        if i == 290:
            crashed = tmp_path / "crashed"
            shutil.copytree(tmp_path, crashed, ignore=shutil.ignore_patterns("crashed"))
    assert (crashed / "journal.db-journal").stat().st_size > 0
    found = list(Journal(crashed / "journal.db", read_only=True).events())
    assert [each.kind for each in found] == ["kept"]
