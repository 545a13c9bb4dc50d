"""System calls that fail, and kills at the k-th of them, over journal and git writes (strace).

``when=`` counts per traced process, so paths (``-P``) and the git processes below are what reach
all the writes that matter. One k of each kind is tried; with ``--endurance`` every second k, up to
the 23rd of a call, the 7th at a path and the 11th of what fails: 154 of 299 injections, since all
of them take too long.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Toy, until
from tests.faults.story import story
from tests.invariants import Acknowledged, check_invariants, processes, wait_for_no_process

KILLED = ("fsync", "fdatasync", "rename", "unlink", "pwrite64", "link")
FAILED = (("EIO", "fsync"), ("EIO", "fdatasync"), ("EIO", "pwrite64"), ("EIO", "write"),
          ("ENOSPC", "pwrite64"), ("ENOSPC", "write"), ("ENOSPC", "fsync"))  # fmt: skip
JOURNAL = ("journal.db", "journal.db-journal", "journal.db-wal")
GIT = ("store.git/refs/autoresearch/t/log.lock", "store.git/refs/autoresearch/t/log",
       "store.git/refs/autoresearch/t/candidate.lock")  # fmt: skip
AT_PATHS = (
    *((name, "openat") for name in (*JOURNAL[:2], *GIT)),
    ("journal.db-journal", "unlink"), ("store.git/refs/autoresearch/t/log.lock", "rename"),
)  # fmt: skip
EXPERIMENTS = 2
PAUSED = "trying again in 4 s"  # for the third time: it does not get better


def strace(task: Toy, call: str, *options: str) -> tuple[int | None, str]:
    """One experiment of a run with faults injected: exit code, None where it pauses, and words."""
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    if "error=" in options[-1]:
        argv.append("--seccomp-bpf")  # much faster, but signals are then not injected (6.1)
    argv += [*options, *task.command("run", "--tag", "t", "--max-experiments", str(EXPERIMENTS))]
    said = task.said.with_name("traced.log")
    with said.open("w") as out:
        traced = subprocess.Popen(argv, cwd=task.root, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=out)  # fmt: skip
        until(lambda: traced.poll() is not None or PAUSED in said.read_text(), 120)
        code = traced.poll()
        if code is None:
            for pid in processes(task):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            traced.wait()
    return code, said.read_text()


def _may_trace() -> bool:
    try:
        argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true"]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not _may_trace(), reason="strace is not installed or may not trace")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    task = story(tmp_path_factory.mktemp("original") / "task")
    task.call("run", "--tag", "t", "--max-experiments", "1")
    return task


def injections(task: Toy, *, full: bool) -> list[tuple[str, ...]]:
    """What is injected: a call, and strace's options that say where, how and how late."""
    folder = task.root / ".autoresearch" / "t"
    found: list[tuple[str, ...]] = []
    for call, k in itertools.product(KILLED, range(1, 25, 2) if full else (2,)):
        found.append((call, "-e", f"inject={call}:signal=KILL:when={k}"))
    for (name, call), k in itertools.product(AT_PATHS, range(1, 9, 2) if full else (1,)):
        inject = f"inject={call}:signal=KILL:when={k}"
        found.append((call, "-P", str(folder / name), "-e", inject))
    paths = [word for name in (*JOURNAL, *GIT) for word in ("-P", str(folder / name))]
    for (error, call), k in itertools.product(FAILED, range(1, 12, 2) if full else (2,)):
        found.append((call, *paths, "-e", f"inject={call}:error={error}:when={k}+"))
    for error, k in itertools.product(("EIO", "ENOSPC"), range(1, 12, 2) if full else (3,)):
        found.append(("fsync", "-e", f"inject=fsync:error={error}:when={k}"))
    return found


@pytest.mark.slow
def test_failing_and_killing_system_calls_lose_nothing(
    original: Toy, tmp_path: Path, endurance: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = Counter[str]()
    task = Toy(tmp_path / "task")
    began = time.monotonic()
    for options in injections(task, full=endurance):
        shutil.rmtree(task.root, ignore_errors=True)
        shutil.copytree(original.root, task.root, symlinks=True)
        task.said.unlink(missing_ok=True)
        seen = Acknowledged()
        seen.read(task)
        code, said = strace(task, *options)
        what = f"{options[-1]}: {code} {said}"
        assert "Traceback" not in said, what
        wait_for_no_process(task)
        task.said.write_text(said)
        seen.read(task)
        if code is None:
            assert "paused: disk full" in said or "was killed by signal" in said, what
            ends["paused"] += 1
        elif code == 1:
            assert "error:" in said and "fix:" in said, what
            ends["refused"] += 1
        elif code == 0:
            ends["not met, or overcome"] += 1
        else:
            assert code in (-signal.SIGKILL, 128 + signal.SIGKILL), what
            ends["killed"] += 1
        again = task.call("run", "--tag", "t", "--max-experiments", str(EXPERIMENTS))
        assert "rebuilt" not in again.stdout, f"{what}\n{again.stdout}"
        view = check_invariants(task, seen)
        assert len(view.decided) == EXPERIMENTS + 1, what
    with capsys.disabled():
        print(
            f"\n{ends.total()} system calls that killed or failed, {dict(ends)}, 0 violations,"
            f" {time.monotonic() - began:.0f} s"
        )
    assert ends["killed"] > ends.total() / 5 and ends["refused"], ends
