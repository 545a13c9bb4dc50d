"""Installs the published packages of the coding agents, at the versions that are pinned here.

Once for all sessions on a machine, in a folder of the user's cache: ``python -m
tests.agents.clis.install claude codex`` does it beforehand. The lock files name no registry, so
that npm asks the one that it is configured for; their hashes say what it may answer. opencode is
the package with its program for Linux alone: those for other systems are not in every registry.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "autoresearch-tests")
PROGRAMS = {"opencode": "node_modules/opencode-linux-x64/bin"}
PINNED = ("package.json", "package-lock.json")
LONGEST_S = 600
NO_NPM = (
    "these tests talk to real coding agents, which npm installs, and there is no npm:"
    " apt-get install nodejs npm"
)
# What npm says where no registry answers, which is no fault of the code under test.
UNREACHABLE = re.compile(
    r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH)\b"
)


def installed(name: str) -> Path:
    """The folder with the program of a coding agent; it is installed where it is not there yet.

    Skips the test where no registry of npm packages answers.
    """
    pinned = [(HERE / name / file).read_bytes() for file in PINNED]
    folder = CACHE / f"{name}-{hashlib.sha256(b''.join(pinned)).hexdigest()[:16]}"
    programs = folder / PROGRAMS.get(name, "node_modules/.bin")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (programs / name).exists():
            return programs
        npm = shutil.which("npm")
        assert npm and shutil.which("node"), NO_NPM
        draft = CACHE / f"{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for file, content in zip(PINNED, pinned, strict=True):
            (draft / file).write_bytes(content)
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--fetch-retries=1"], cwd=draft,
            capture_output=True, text=True,
            timeout=LONGEST_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        problem = f"npm cannot install {name}: {done.stdout}\n{done.stderr}"
        if done.returncode and UNREACHABLE.search(done.stderr):
            pytest.skip(problem)
        assert done.returncode == 0, problem
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    assert (programs / name).exists(), f"{name}'s package has no {programs / name}"
    return programs


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(installed(each))
