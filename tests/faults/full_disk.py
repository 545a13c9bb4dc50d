"""Fills a small file system under a run: started by ``test_full_disk.py`` where it may be mounted.

python -m tests.faults.full_disk FOLDER bytes|inodes
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch.bench import Places
from autoresearch.errors import DiskFullError
from autoresearch.run import Run
from tests.conftest import Toy, until
from tests.faults.story import story
from tests.invariants import Acknowledged, check_invariants, processes

SIZE = {"bytes": "size=32m", "inodes": "size=256m,nr_inodes=4000"}


def fill(folder: Path, what: str) -> list[Path]:
    """Take all bytes, or all names, that a file system has left."""
    taken = [folder / "filler"]
    folder.mkdir(exist_ok=True)
    try:
        if what == "bytes":
            with taken[0].open("wb", buffering=0) as file:
                disk = os.statvfs(folder)
                # At once: an engine that sees it coming gives up its reserve before all is taken.
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize)
                file.seek(0, os.SEEK_END)
                while True:
                    file.write(bytes(4096))
        while True:
            taken.append(folder / f"filler-{len(taken)}")
            taken[-1].touch()
    except OSError:
        return taken


def paused(task: Toy) -> bool:
    reason = task.view().paused
    return reason is not None and reason.startswith("disk full")


def main(root: Path, what: str) -> None:
    """Run the check; nothing it started is left."""
    task = story(root / "task", pause_s=0.05)
    try:
        check(task, what)
    finally:
        for pid in processes(task):
            os.kill(pid, signal.SIGKILL)
    print("held")


def check(task: Toy, what: str) -> None:
    home = task.root / ".autoresearch"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", SIZE[what], "none", str(home)], check=True)
    seen = Acknowledged()
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: view.decided), 120)
    for _ in range(3):
        before = len(task.view().decided)
        until(lambda before=before: len(task.view().decided) > before, 120)
        seen.read(task)
        taken = fill(home / "other", what)
        until(lambda: paused(task), 60)
        assert engine.poll() is None
        said = json.loads(task.call("status", "--json").stdout)
        assert said["state"] == "paused" and said["reason"].startswith("disk full"), said
        shown = task.call("status").stdout
        assert "paused" in shown and "disk full" in shown, shown
        # The reserve was given up: take that place, too, and see that it survives even this.
        taken += fill(home / "other2", what)
        for path in taken:
            path.unlink(missing_ok=True)
        full_at = len(task.view().decided)
        until(lambda full_at=full_at: len(task.view().decided) > full_at, 120)
    assert "paused: disk full" in task.said.read_text()
    task.call("stop")
    assert engine.wait(60) == 0
    seen.read(task)
    view = check_invariants(task, seen)
    decisions = [each.decision for each in view.decided if each.decision]
    blamed = [each for each in decisions if each.status.value not in ("keep", "discard")]
    assert not blamed, f"a full disk was blamed on a candidate: {blamed}"
    check_resume(task, home, what)
    check_new(task, home, what)
    task.call("run", "--tag", "t", "--max-experiments", str(len(task.view().decided)))
    check_invariants(task, seen)
    assert "Traceback" not in task.said.read_text()
    check_reserve(task, home, what)


def check_resume(task: Toy, home: Path, what: str) -> None:
    """With nothing left at all, an engine that is started waits, and one that waits can end."""
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: view.ended is None), 60)
    taken = fill(home / "other", what)
    until(lambda: paused(task), 60)
    taken += fill(home / "other2", what)
    refused = task.call("stop", code=1)
    assert "disk full" in refused.stderr and "make room" in refused.stderr, refused.stderr
    engine.send_signal(signal.SIGINT)
    assert engine.wait(20) == 130
    # What a killed engine holds for itself would be enough to say so in the journal.
    (home / "t" / "reserve").unlink(missing_ok=True)
    taken += fill(home / "other3", what)
    said, log = task.said.stat().st_size, home / "t" / "engine.log"
    engine = task.start("run", "--tag", "t")
    until(lambda: b"trying again in 2 s" in task.said.read_bytes()[said:], 60)
    assert b"paused: disk full" in task.said.read_bytes()[said:]
    assert what == "bytes" or log.read_text().endswith("trying again in 2 s\n")
    engine.send_signal(signal.SIGINT)
    assert engine.wait(5) == 130
    engine = task.start("run", "--tag", "t")
    until(lambda: task.said.read_bytes().count(b"trying again in 2 s", said) == 2, 60)
    before = len(task.view().decided)
    for path in taken:
        path.unlink(missing_ok=True)
    until(task.saw(lambda view: len(view.decided) > before), 120)
    task.call("stop")
    assert engine.wait(60) == 0


def check_new(task: Toy, home: Path, what: str) -> None:
    """A new run on a full disk waits, too, and is one run however often it was tried."""
    taken = fill(home / "other", what)
    said = task.said.stat().st_size
    engine = task.start("run", "--new", "--tag", "new", "--max-experiments", "0")
    until(lambda: b"trying again in 2 s" in task.said.read_bytes()[said:], 60)
    for path in taken:
        path.unlink(missing_ok=True)
    assert engine.wait(120) == 0
    assert sorted(path.parent.name for path in home.glob("*/journal.db")) == ["new", "t"]
    shutil.rmtree(home / "new")


def check_reserve(task: Toy, home: Path, what: str) -> None:
    """With nothing left at all, an event still reaches the journal."""
    run = Run(Places(home / "t", task.root, task.root), "t")
    try:
        run.reserve.require()
        taken = fill(home / "other", what)
        event = run.append("warning", message="the disk is full" * 1000)
        with pytest.raises(DiskFullError):
            run.require_room()
        for path in taken:
            path.unlink(missing_ok=True)
        run.reserve.require()
        assert list(run.journal.events())[-1] == event
    finally:
        run.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
