"""Fixed: an HTTP client that keeps many connections busy at once, by the clock of its own process.

An answer counts from the moment its request was due, whether or not a connection was free then: a
service that stalls cannot make itself be asked less.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass, field

CHUNK = 1 << 16
LARGEST = 1 << 20
DEADLINE_S = 10.0


class UnansweredError(Exception):
    """A request got no answer that HTTP allows."""


@dataclass
class Exchange:
    """One request on its way, and what came back; times in seconds of one monotonic clock."""

    data: bytes
    due: float = 0.0
    sent: list[float] = field(default_factory=list)
    done: float = 0.0
    status: int = 0
    body: bytes = b""

    @property
    def took_s(self) -> float:
        return self.done - self.due


@dataclass
class Line:
    """One connection, perhaps with an exchange on it."""

    socket: socket.socket | None = None
    exchange: Exchange | None = None
    data: bytearray = field(default_factory=bytearray)
    fresh: bool = True


class Client:
    """``lines`` connections to one port, opened when needed and kept as long as allowed."""

    def __init__(self, port: int, lines: int) -> None:
        self.address = ("127.0.0.1", port)
        self.free = [Line() for _ in range(lines)]
        self.busy = 0
        self.selector = selectors.DefaultSelector()

    def wait_until_up(self, deadline_s: float) -> None:
        """Return when the service accepts connections.

        Raises:
            UnansweredError: it does not in time.
        """
        give_up = time.monotonic() + deadline_s
        while True:
            try:
                socket.create_connection(self.address, 1).close()
                return
            except OSError:
                if time.monotonic() > give_up:
                    raise UnansweredError(f"was not up after {deadline_s:g} s") from None
                time.sleep(0.02)

    def run(
        self, exchanges: list[Exchange], rate: float | None = None, for_s: float = float("inf")
    ) -> float:
        """Send ``rate`` per second, or as fast as answers come for ``for_s``; then wait for all.

        Returns the seconds it took; what was not sent in time has an empty ``sent``.

        Raises:
            UnansweredError: one was refused, broken off, late or answered before it was asked.
        """
        began = time.perf_counter()
        for number, exchange in enumerate(exchanges):
            exchange.due = began + (number / rate if rate else 0.0)
        waiting = deque(exchanges)
        while waiting or self.busy:
            now = time.perf_counter()
            if now > began + for_s:
                waiting.clear()
            while waiting and self.free and waiting[0].due <= now:
                exchange = waiting.popleft()
                if not rate:
                    exchange.due = now
                self._send(self.free.pop(), exchange)
                now = time.perf_counter()
            pause = max(0.0, waiting[0].due - now) if waiting and self.free else 1.0
            for key, _ in self.selector.select(pause):
                self._receive(key.data)
            self._check_deadlines()
        return time.perf_counter() - began

    def _send(self, line: Line, exchange: Exchange) -> None:
        if line.socket is not None and not self._idle(line.socket):
            self._hang_up(line)
        line.fresh = line.socket is None
        if line.socket is None:
            try:
                line.socket = socket.create_connection(self.address, DEADLINE_S)
            except OSError as error:
                raise UnansweredError(f"was refused: {error}") from None
            line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.exchange = exchange
        line.data.clear()
        self.selector.register(line.socket, selectors.EVENT_READ, line)
        self.busy += 1
        exchange.sent.append(time.perf_counter())
        try:
            line.socket.sendall(exchange.data)
        except OSError as error:
            self._broken(line, str(error))

    def _idle(self, connection: socket.socket) -> bool:
        """Whether a connection that nobody uses is still open."""
        connection.setblocking(False)
        try:
            if connection.recv(1):
                raise UnansweredError("was answered before it was asked")
            return False
        except BlockingIOError:
            connection.settimeout(DEADLINE_S)
            return True
        except OSError:
            return False

    def _receive(self, line: Line) -> None:
        assert line.socket is not None and line.exchange is not None
        try:
            data = line.socket.recv(CHUNK)
        except OSError as error:
            self._broken(line, str(error))
            return
        if not data:
            self._broken(line, "the connection was closed")
            return
        line.data += data
        if len(line.data) > LARGEST:
            raise UnansweredError("got an answer that is too large")
        head, found, rest = bytes(line.data).partition(b"\r\n\r\n")
        if not found:
            return
        status, length, keep = _parse(head)
        if len(rest) < length:
            return
        if len(rest) > length:
            raise UnansweredError("got more than its answer")
        exchange = line.exchange
        exchange.done, exchange.status, exchange.body = time.perf_counter(), status, rest
        self._release(line)
        if not keep:
            self._hang_up(line)

    def _release(self, line: Line) -> None:
        assert line.socket is not None
        self.selector.unregister(line.socket)
        line.exchange = None
        self.busy -= 1
        self.free.append(line)

    def _broken(self, line: Line, why: str) -> None:
        """Ask again where an old connection was closed just as we used it, as HTTP clients do."""
        exchange, first = line.exchange, not line.fresh and not line.data
        assert exchange is not None
        self._release(line)
        self._hang_up(line)
        if not first:
            raise UnansweredError(f"was broken off: {why}")
        self.free.remove(line)
        self._send(line, exchange)

    def _hang_up(self, line: Line) -> None:
        assert line.socket is not None
        line.socket.close()
        line.socket = None

    def _check_deadlines(self) -> None:
        now = time.perf_counter()
        for key in self.selector.get_map().values():
            exchange = key.data.exchange
            if exchange is not None and now - exchange.sent[-1] > DEADLINE_S:
                raise UnansweredError(f"had no answer after {DEADLINE_S:g} s")


def _parse(head: bytes) -> tuple[int, int, bool]:
    """Status, length of the body, and whether the connection stays open."""
    first, *lines = head.decode("latin-1").split("\r\n")
    try:
        version, status, *_ = first.split(" ")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip().lower()
        length = int(fields["content-length"])
    except (ValueError, KeyError):
        raise UnansweredError("got no answer in HTTP with a Content-Length") from None
    keep = fields.get("connection", "" if version == "HTTP/1.1" else "close") != "close"
    return int(status), max(0, length), keep
