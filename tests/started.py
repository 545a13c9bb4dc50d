"""The command line as a fork of a process that has imported it and done nothing else.

Half of the processor time of most tests went into importing the same modules hundreds of times.
A fork is a process of its own, with its own directory, environment, output and end; only what
Python reads when it starts would be that of the others, so that who changes it is not served.

    python started.py SOCKET    serves: one request, with descriptors for output; one pid, one end
A request with one more descriptor is answered there, by a process between that waits for the end.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module, reload
from pathlib import Path
from typing import Any, Protocol

from autoresearch import failpoint
from autoresearch.cli import COMMANDS

REQUEST_BYTES = 1 << 17
CHUNK = 1 << 16
AT_START = ("PYTHON", "LANG", "LC_", "TZ")
_keepers: list[int] = []


class Running(Protocol):
    """A command in the background, as ``subprocess.Popen`` has it."""

    pid: int
    returncode: int | Any  # None while it runs

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Fork:
    """A command that runs as a fork of a server, in a session of its own."""

    def __init__(self, ours: socket.socket) -> None:
        self.socket = ours
        self.pid = int(ours.recv(REQUEST_BYTES))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.socket], [], [], 0)[0]:
            self.returncode = int(self.socket.recv(REQUEST_BYTES))
            self.socket.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            select.select([self.socket], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Server:
    """Starts commands for one thread of one process, and ends with it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = _read_at_start(environment)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[1], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether a Python that starts in this environment would be the same."""
        return _read_at_start(environment) == self.environment

    def run(
        self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """What ``subprocess.run`` does, with nothing on standard input.

        Raises:
            subprocess.TimeoutExpired: it was killed, or left somebody who holds its output.
        """
        pipes = [os.pipe(), os.pipe()]
        try:
            request = json.dumps([list(argv), str(cwd), dict(environment)]).encode()
            socket.send_fds(self.socket, [request], [write for _, write in pipes])
            for _, write in pipes:
                os.close(write)
            pid = int(self.socket.recv(REQUEST_BYTES))
            output = _read([read for read, _ in pipes], timeout_s)
            if output is None and not select.select([self.socket], [], [], 0)[0]:
                os.kill(pid, signal.SIGKILL)
            code = int(self.socket.recv(REQUEST_BYTES))
        finally:
            for read, _ in pipes:
                os.close(read)
        if output is None:
            raise subprocess.TimeoutExpired(argv, timeout_s)
        return subprocess.CompletedProcess(argv, code, *output)

    def start(
        self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], output: int
    ) -> Fork:
        """What ``subprocess.Popen`` does, with nothing on standard input and one output."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = json.dumps([list(argv), str(cwd), dict(environment)]).encode()
            socket.send_fds(self.socket, [request], [output, output, theirs.fileno()])
        return Fork(ours)

    def close(self) -> None:
        """End the process that is forked."""
        self.socket.close()
        self.process.wait()


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_START)}


def _read(descriptors: Sequence[int], timeout_s: float) -> list[str] | None:
    """All that is written until nobody can write any more; None if somebody still can."""
    give_up = time.monotonic() + timeout_s
    output = dict.fromkeys(descriptors, b"")
    with selectors.DefaultSelector() as left:
        for each in descriptors:
            left.register(each, selectors.EVENT_READ)
        while left.get_map():
            ready = left.select(give_up - time.monotonic())
            if not ready:
                return None
            for key, _ in ready:
                data = os.read(key.fd, CHUNK)
                output[key.fd] += data
                if not data:
                    left.unregister(key.fd)
    return [output[each].decode(errors="surrogateescape") for each in descriptors]


def _serve(requests: socket.socket) -> None:
    """Return in a fork for every request, which has become what was asked for but for its call."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 3)
        if not message:
            os._exit(0)
        in_background = len(descriptors) == 3
        if in_background and (keeper := os.fork()):
            _close(descriptors)
            _reap(keeper)
            continue
        answers = socket.socket(fileno=descriptors.pop()) if in_background else requests
        if pid := os.fork():
            _close(descriptors)
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(BrokenPipeError):
                answers.send(str(os.waitstatus_to_exitcode(status)).encode())
            if in_background:
                os._exit(0)
            continue
        if in_background:
            os.setsid()
        answers.send(str(os.getpid()).encode())
        answers.close()
        requests.close()
        for number, each in enumerate(descriptors, 1):
            os.dup2(each, number)
            os.close(each)
        argv, cwd, environment = json.loads(message)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[1:], sys.path[0] = argv, cwd  # as -m does
        reload(failpoint)  # the one module of ours that looks at the environment
        return


def _close(descriptors: Sequence[int]) -> None:
    for each in descriptors:
        os.close(each)


def _reap(keeper: int) -> None:
    """Take note of processes between that have ended; the newest is still waiting."""
    _keepers.append(keeper)
    _keepers[:] = [each for each in _keepers if os.waitpid(each, os.WNOHANG) == (0, 0)]


def _run() -> None:
    """What ``python -m autoresearch`` does, without taking every imported module apart at the end.

    That would copy most of the memory that a fork shares.
    """
    try:
        runpy.run_module("autoresearch", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        code = ended.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for place, _ in COMMANDS.values():
        import_module(place.partition(":")[0])
    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    _run()
