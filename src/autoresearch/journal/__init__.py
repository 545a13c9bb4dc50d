"""The journal: what happened, one durable event after the other; everything else is a view of it.

One SQLite file, one writer (the holder of the run's lock), any number of readers. Each event is
on disk before the engine acts on it. Below SQLite 3.51.3 write-ahead logging can lose committed
data with several connections (sqlite.org/wal.html#walresetbug), so those versions use a rollback
journal with synchronous=EXTRA.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from ..errors import StoreError
from ..types import Json

SAFE_WAL = (3, 51, 3)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; ``experiment`` is the number it belongs to, if any."""

    seq: int
    at: str
    kind: str
    experiment: int | None
    body: dict[str, Json] = field(default_factory=dict)


class Journal:
    """The events of one run in a SQLite file."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
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
        if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
            schema = resources.files(__package__).joinpath("schema.sql").read_text()
            self._db.executescript(f"BEGIN;{schema}COMMIT;")

    def check(self) -> None:
        """Read the whole file once.

        Raises:
            StoreError: it is damaged.
        """
        try:
            said = self._db.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        if said != "ok":
            raise self._damaged(said)

    def append(self, kind: str, experiment: int | None = None, /, **body: Json) -> Event:
        """Write one event durably; it is on disk when this returns."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = json.dumps(body, allow_nan=False, separators=(",", ":"))
        try:
            cursor = self._db.execute(
                "INSERT INTO event (at, kind, experiment, body) VALUES (?, ?, ?, ?)",
                (at, kind, experiment, text),
            )
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        return Event(cursor.lastrowid or 0, at, kind, experiment, body)

    def events(self, after: int = 0) -> Iterator[Event]:
        """All events with a number above ``after``, in order."""
        try:
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                return  # created and killed before its first event
            rows = self._db.execute(
                "SELECT seq, at, kind, experiment, body FROM event WHERE seq > ? ORDER BY seq",
                (after,),
            )
            for seq, at, kind, experiment, body in rows:
                yield Event(seq, at, kind, experiment, json.loads(body))
        except (sqlite3.Error, ValueError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        self._db.close()

    def _damaged(self, error: object) -> StoreError:
        return StoreError(
            f"{self.path}: {error}",
            fix="nothing was changed; the decisions are also in store.git beside it"
            " (git log of the run's ref). Free disk space or restore the file, then run again",
        )
