"""Time that passes only when something waits for it, and a wall clock that may be set."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from ..journal import Clock

T = TypeVar("T")


class FakeClock(Clock):
    """Starts at one moment; ``advance`` moves both clocks, ``set_wall`` only the time of day."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._wall = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """The simulated time of day."""
        return self._wall

    def monotonic_s(self) -> float:
        """Simulated seconds since the start."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds
        self._wall += timedelta(seconds=seconds)

    def set_wall(self, by_s: float) -> None:
        """Set the time of day forward or back, as a person or a time server does."""
        self._wall += timedelta(seconds=by_s)


class _Leap(selectors.SelectSelector):
    """Never waits: where nothing is ready, the clock leaps to when the loop would have woken."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self._clock.advance(timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: FakeClock) -> None:
        self._fake = clock
        super().__init__(_Leap(clock))

    def time(self) -> float:
        return self._fake.monotonic_s()


def run_simulated(clock: FakeClock, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in simulated time: it waits for hours within milliseconds."""
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(main())
