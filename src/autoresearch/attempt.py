"""The directory of one attempt, as whoever submits it sees it; ``runner.py`` is the other side.

Everything an attempt writes is in a directory of its own, named by its nonce: an attempt that was
given up may still be running somewhere, and must share nothing with the next one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import runner
from .errors import ExecutorError, UserError
from .types import Json

RUNNER = Path(__file__).parent / "runner.py"
JOB, CLAIM, CANCEL, BEAT, RESULT = "job.json", "claim", "cancel", "heartbeat", "result.json"
# A runner that has not shown itself for that long is gone, or its node is.
GONE_S = 3600.0
LOG = "runner.log"
SENT = "attempt.tar"
BASE_BUNDLE, BUNDLE = "base.bundle", "candidate.bundle"
MOST_BYTES, MOST_WORDS = 1 << 20, 300
MOST_SENT_BYTES = 256 << 20


class Attempt:
    """One attempt at a job: ``folder`` is where its runner looks, ``nonce`` what it answers to."""

    def __init__(self, folder: Path, nonce: str) -> None:
        self.folder = folder
        self.nonce = nonce

    @property
    def name(self) -> str:
        """What a scheduler calls it."""
        return f"autoresearch-{self.nonce}"

    def prepare(self, job: dict[str, Json]) -> bool:
        """Put job and runner there, durably; false where that was done before."""
        if (self.folder / JOB).exists():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RUNNER, self.folder / RUNNER.name)
        draft = self.folder / f"{JOB}.new"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(job, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / JOB)
        return True

    @property
    def age_s(self) -> float:
        """How long ago it was prepared, perhaps by an earlier engine."""
        return time.time() - (self.folder / JOB).stat().st_mtime

    @property
    def claimed(self) -> bool:
        """Whether a runner has started here, at any time."""
        return (self.folder / CLAIM).exists()

    @property
    def beat(self) -> str:
        """Changes as long as its runner lives."""
        try:
            return (self.folder / BEAT).read_text(encoding="utf-8")
        except OSError:
            return ""

    def last_words(self) -> str:
        """The last line that its runner, or who was to start it, printed."""
        try:
            said = (self.folder / LOG).read_bytes()[-MOST_WORDS:].decode(errors="replace")
        except OSError:
            return "nothing"
        return next((line for line in reversed(said.splitlines()) if line.strip()), "nothing")

    def cancel(self) -> None:
        """Ask its runner to end the job, whether it runs or is still to start."""
        if self.folder.is_dir():
            (self.folder / CANCEL).touch()

    def result(self) -> dict[str, Json] | None:
        """Its result, once there is one; that of any other nonce is none.

        Raises:
            ExecutorError: the runner failed, or was cancelled before the job began.
        """
        try:
            with (self.folder / RESULT).open("rb") as file:
                found = json.loads(file.read(MOST_BYTES))
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("nonce") != self.nonce:
            return None
        if "error" in found:
            raise ExecutorError(f"on {found.get('node')} the job runner said: {found['error']}")
        return found


def pack(folder: Path) -> bytes:
    """A zip of the runner and of a prepared directory, in a tar that keeps links and modes.

    Raises:
        UserError: it is too large to be sent.
    """
    ours = (RUNNER.name, CLAIM, CANCEL, BEAT, RESULT, LOG)
    things = {each.name: each for each in sorted(folder.iterdir()) if each.name not in ours}
    return _zip({RUNNER.name: RUNNER.read_bytes(), SENT: _tar(things)})


def pack_common(things: Mapping[str, Path], folder: Path) -> Path:
    """Make the package of what all jobs of a run share, named by all that is in it but its times.

    Raises:
        UserError: it is too large to be sent.
    """
    data = _tar(things)
    digest = hashlib.sha256()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for each in tar:
            about = (each.name, each.type, each.mode, each.linkname, each.size)
            digest.update(repr(about).encode(errors="surrogateescape"))
            if (file := tar.extractfile(each) if each.isreg() else None) is not None:
                digest.update(file.read())
    package = folder / f"autoresearch-{digest.hexdigest()[:32]}.zip"
    package.write_bytes(_zip({package.with_suffix(".tar").name: data}))
    return package


def _tar(things: Mapping[str, Path]) -> bytes:
    made = io.BytesIO()

    def add(info: tarfile.TarInfo) -> tarfile.TarInfo:
        if made.tell() + info.size > MOST_SENT_BYTES:
            raise UserError(
                f"more than {MOST_SENT_BYTES >> 20} MiB would be sent to a node:"
                " the files of the task and its data",
                fix="let the nodes share a file system with this machine, or make it smaller",
            )
        return info

    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, path in things.items():
            tar.add(path, name, filter=add)
    return made.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # Of one time, so that what is equal is equal byte for byte.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def unpack(folder: Path, nonce: str, printed: str) -> None:
    """Take what a runner printed for whoever does not share its files: its result and its logs.

    Only what the job names is taken; where the parcel is not whole, only the last lines are.
    """
    _, _, rest = printed.partition(f"{runner.PARCEL} {nonce}\n")
    text, end, _ = rest.partition(f"{runner.PARCEL} end")
    if not end:
        (folder / LOG).write_text(printed[-MOST_WORDS:], encoding="utf-8")
        return
    steps: Any = load(folder)["steps"]
    logs = {Path(process["log"]) for step in steps for process in step["processes"]}
    try:
        files = json.loads(_inflate(base64.b64decode(text)))
        for path in (*sorted(logs), folder / RESULT):  # the result last: it says that all is there
            data = files.get(os.path.relpath(path, folder))
            if data is not None:
                draft = path.with_name(f"{path.name}.new")
                draft.write_bytes(base64.b64decode(data))
                draft.replace(path)
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        raise ExecutorError(f"what its runner sent cannot be read: {error}") from None


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(data, MOST_SENT_BYTES)
    if stream.unconsumed_tail:
        raise ValueError("it is too large")
    return found


def load(folder: Path) -> dict[str, Json]:
    """The job that was prepared in a directory."""
    job: dict[str, Json] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    return job


def held(folder: Path) -> bool:
    """Whether a job was submitted from this directory, or was about to be, and not given up."""
    return (folder / JOB).exists() and not (folder / CANCEL).exists()


def give_up(folder: Path) -> bool:
    """Ask for an attempt's end; returns whether nobody writes to its directory any more."""
    (folder / CANCEL).touch()
    if (folder / RESULT).exists() or not (folder / CLAIM).exists():
        return True  # one that has not started will find nothing to run
    last = folder / (BEAT if (folder / BEAT).exists() else CLAIM)
    return time.time() - last.stat().st_mtime > GONE_S
