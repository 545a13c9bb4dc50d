"""A real Ray head on this machine, in an environment of its own; nothing of it is imported."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import until
from tests.executors.cluster import CACHE, MissingError

PINNED = "ray[default]==2.60.0"
STARTS = 3


def installed() -> Path:
    """The environment with Ray in it, from the cache or from the package index."""
    target = CACHE / PINNED.replace("[default]==", "-")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "complete").exists():
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", target], check=True)
            argv = [target / "bin" / "python", "-m", "pip", "install", "--quiet", PINNED]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.strip().splitlines()
                raise MissingError(f"{PINNED} cannot be installed: {said[-1] if said else ''}")
            (target / "complete").touch()
    return target


class Head:
    """A head of two processors; ``address`` is that of its dashboard."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mark = f"AUTORESEARCH_TEST={root}"
        self.ports: list[int] = []
        name, _, value = self.mark.partition("=")
        folder = installed() / "bin"
        # On a busy machine its parts start one after the other for more than a minute.
        self.env = {**os.environ, name: value, "RAY_USAGE_STATS_ENABLED": "0",
                    "RAY_raylet_start_wait_time_s": "120",
                    "PATH": f"{folder}:{os.environ['PATH']}"}  # fmt: skip
        self.ray = str(folder / "ray")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        """Start it, and wait until it takes jobs; what did not start whole starts once more.

        Its parts give up on each other after fixed times, which a busy machine can exceed.
        """
        for attempt in range(STARTS):
            self._take_ports()
            argv = [self.ray, "start", "--head", "--num-cpus=2", "--disable-usage-stats",
                    "--include-dashboard=true", "--dashboard-host=127.0.0.1",
                    "--node-ip-address=127.0.0.1",
                    f"--dashboard-port={self.ports[0]}", f"--port={self.ports[1]}",
                    f"--dashboard-agent-listen-port={self.ports[2]}",
                    f"--temp-dir={self.root}",
                    f"--object-store-memory={80 << 20}"]  # fmt: skip
            said = self.root / f"start-{attempt}.log"
            with said.open("wb") as log:
                done = subprocess.run(argv, env=self.env, stdout=log, stderr=log, check=False)
            if done.returncode == 0 and self._taking_jobs():
                return
            self.close()
        raise AssertionError(f"no Ray head in {STARTS} attempts: {said.read_text()[-2000:]}")

    def _taking_jobs(self) -> bool:
        try:
            until(self._answers, 120)
        except AssertionError:
            return False
        return True

    def _take_ports(self) -> None:
        with contextlib.ExitStack() as ports:
            held = [ports.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            self.ports = [each.getsockname()[1] for each in held]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/jobs/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def processes(self) -> list[int]:
        """All that it has started, and they."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def close(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def head(root: Path) -> Iterator[Head]:
    """A head for as long as it is needed."""
    made = Head(root)
    try:
        made.start()
        yield made
    finally:
        made.close()
