"""The journal: what happened, one durable event after the other; everything else is a view of it.

One SQLite file, one writer (the holder of the run's lock), any number of readers. Each event is
on disk before the engine acts on it. Below SQLite 3.51.3 write-ahead logging can lose committed
data with several connections (sqlite.org/wal.html#walresetbug), so those versions use a rollback
journal with synchronous=EXTRA.

SQLite does not notice a flipped bit inside a value, so each row carries a digest of itself and of
the digest before it: a changed, missing or exchanged row is damage. Rows missing at the end are
noticed by whoever holds the second copy (``run.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from ..disk import sync_directory
from ..errors import DamagedError, DiskFullError, StoreError
from ..failpoint import failpoint
from ..types import Json

SAFE_WAL = (3, 51, 3)
VERSION = 2
OF_THE_DISK = ("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY")
COMPANIONS = ("-journal", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; ``experiment`` is the number it belongs to, if any.

    ``at`` is the wall clock's time; ``clock_s`` runs evenly from when the writer opened the journal
    and is what durations are taken from.
    """

    seq: int
    at: str
    kind: str
    experiment: int | None
    body: dict[str, Json] = field(default_factory=dict)
    clock_s: float = 0.0


class Clock:
    """The time of day for people, and seconds that never jump for everything else."""

    def now(self) -> datetime:
        """The wall clock's time, which a person or a server may set."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Seconds since some moment; they stand still while the machine sleeps."""
        return time.monotonic()


class Journal:
    """The events of one run in a SQLite file.

    Raises:
        DamagedError: it is not a journal, or not what was written.
        DiskFullError: it cannot be opened for lack of room; nothing is damaged.
        StoreError: the disk failed.
    """

    def __init__(self, path: Path, *, read_only: bool = False, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or Clock()
        self._opened_s = self._clock.monotonic_s()
        self._seq, self._digest = 0, ""
        try:
            if read_only:
                self._db = self._open_to_read()
            else:
                self._db = sqlite3.connect(path, isolation_level=None)
                self._prepare()
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def _open_to_read(self) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        reader = sqlite3.connect(address, uri=True)
        try:
            reader.execute("PRAGMA user_version").fetchone()
            return reader
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_READONLY"):
                raise
        # A killed engine left half a transaction; only a writer can roll it back.
        reader.close()
        writer = sqlite3.connect(self.path)
        writer.execute("PRAGMA user_version").fetchone()
        writer.close()
        return sqlite3.connect(address, uri=True)

    def _prepare(self) -> None:
        wal = sqlite3.sqlite_version_info >= SAFE_WAL
        self._db.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        self._db.execute(f"PRAGMA synchronous = {'FULL' if wal else 'EXTRA'}")
        if self._empty():
            schema = resources.files(__package__).joinpath("schema.sql").read_text()
            self._db.executescript(f"BEGIN;{schema}COMMIT;")
            failpoint("journal.created")
        last = "SELECT seq, digest FROM event ORDER BY seq DESC LIMIT 1"
        self._seq, self._digest = self._db.execute(last).fetchone() or (0, "")

    def _empty(self) -> bool:
        """Whether the file was created and its maker killed before there was a table."""
        return self._db.execute("SELECT 1 FROM sqlite_master").fetchone() is None

    def check(self) -> None:
        """Read the whole file once.

        Raises:
            DamagedError: it is not what was written.
        """
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            said = self._db.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        if version != VERSION:
            raise self._damaged(f"version {version} of the journal; this program writes {VERSION}")
        if said != "ok":
            raise self._damaged(said)
        for _ in self.events():
            pass

    @property
    def clock_s(self) -> float:
        """Now, on the clock that events are stamped with."""
        return self._clock.monotonic_s() - self._opened_s

    @property
    def digest(self) -> str:
        """The digest of the last event, and by it of all before."""
        return self._digest

    def digest_of(self, seq: int) -> str | None:
        """The digest of an event, as it was written; None where there is no such event."""
        try:
            found = self._db.execute("SELECT digest FROM event WHERE seq = ?", (seq,)).fetchone()
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        return found[0] if found else None

    def count(self, kind: str) -> int:
        """How many events of a kind there are; reads none of them."""
        try:
            found = self._db.execute("SELECT count(*) FROM event WHERE kind = ?", (kind,))
            return int(found.fetchone()[0])
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def append(self, kind: str, experiment: int | None = None, /, **body: Json) -> Event:
        """Write one event durably; it is on disk when this returns.

        Raises:
            DiskFullError: there was no room; nothing was written.
            StoreError: the disk failed.
        """
        at = self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = Event(self._seq + 1, at, kind, experiment, body, round(self.clock_s, 3))
        self._insert(event)
        failpoint(f"journal.{kind}")
        return event

    def _insert(self, event: Event) -> None:
        body = json.dumps(event.body, allow_nan=False, separators=(",", ":"))
        row = (event.seq, event.at, event.clock_s, event.kind, event.experiment, body)
        digest = _digest(self._digest, row)
        try:
            self._db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, digest))
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        self._seq, self._digest = event.seq, digest

    def _no_room(self) -> bool:
        """Whether the disk has no byte or no name left: SQLite says only that it cannot open."""
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail == 0 or (disk.f_files > 0 and disk.f_favail == 0)

    def events(self, after: int = 0) -> Iterator[Event]:
        """All events with a number above ``after``, in order.

        Raises:
            DamagedError: a row is not the one that was written.
        """
        try:
            if self._empty():
                return
            before = "SELECT digest FROM event WHERE seq = ?"
            digest = (self._db.execute(before, (after,)).fetchone() or ("",))[0]
            rows = self._db.execute("SELECT * FROM event WHERE seq > ? ORDER BY seq", (after,))
            expected = after
            for *row, stored in rows:
                expected += 1
                digest = _digest(digest, row)
                if row[0] != expected or digest != stored:
                    raise self._damaged(f"event {expected} is not what was written")
                seq, at, clock_s, kind, experiment, body = row
                yield Event(seq, at, kind, experiment, json.loads(body), clock_s)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        self._db.close()

    def _damaged(self, error: object) -> StoreError:
        name = getattr(error, "sqlite_errorname", None) or ""
        if name == "SQLITE_FULL" or (name.startswith(OF_THE_DISK) and self._no_room()):
            return DiskFullError(f"disk full: {self.path} cannot grow")
        if name.startswith(OF_THE_DISK):
            return StoreError(
                f"{self.path}: {error}",
                fix="look after the disk; then autoresearch run continues where it was",
            )
        return DamagedError(
            f"{self.path} is damaged: {error}",
            fix="autoresearch run moves it aside and rebuilds it from the log of decisions in"
            " store.git; nothing was changed so far",
        )


def restore(path: Path, events: Iterable[Event]) -> None:
    """Write a journal anew with events that were kept elsewhere, in one step."""
    draft = path.with_name(f"{path.name}.new")
    for name in ("", *COMPANIONS):
        draft.with_name(draft.name + name).unlink(missing_ok=True)
    journal = Journal(draft)
    journal._db.execute("BEGIN")
    for event in events:
        journal._insert(event)
    journal._db.execute("COMMIT")
    journal.close()
    draft.replace(path)
    sync_directory(path.parent)


def _digest(before: str, row: Iterable[object]) -> str:
    text = "\0".join([before, *(repr(field) for field in row)])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
