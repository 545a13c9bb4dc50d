"""A full disk pauses a run, visibly, and nothing is lost; on a small file system of our own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRIVATE_MOUNTS = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]


def _may_mount(folder: Path) -> bool:
    argv = [*PRIVATE_MOUNTS, "mount", "-t", "tmpfs", "none", str(folder)]
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_disk_pauses_and_goes_on(what: str, tmp_path: Path) -> None:
    if not _may_mount(tmp_path):
        pytest.skip("no file system may be mounted here")
    done = subprocess.run(
        [*PRIVATE_MOUNTS, sys.executable, "-m", "tests.faults.full_disk", str(tmp_path), what],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("held\n"), f"{done.stdout}\n{done.stderr}"
