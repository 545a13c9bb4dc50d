"""Named moments right after a durable step, where a test can kill the engine.

``AUTORESEARCH_FAILPOINT=store.sealed`` (or ``store.sealed:3`` for the third time) ends this process
by SIGKILL at that moment, as a power cut of the process would. Unset, it costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "AUTORESEARCH_FAILPOINT"
EVENTS = (
    "run_started", "engine_started", "contract_changed", "run_ended", "stop_requested",
    "pause_requested", "resume_requested", "paused", "resumed", "agent_failed", "warning",
    "ticket", "idea", "idea_dropped", "exhausted", "setup_started", "setup_done", "opened",
    "condensed", "answered", "proposed", "sealed", "attempt", "sample", "guarded", "decided",
    "delivered", "verify_started", "verify_sealed", "verify_attempt", "verify_sample",
    "verify_abandoned", "verified", "offered",
)  # fmt: skip
NAMES = (
    *(f"journal.{kind}" for kind in EVENTS),
    "journal.created",
    "journal.moved",
    "journal.restored",
    "run.locked",
    "store.created",
    "store.adopted",
    "store.sealed",
    "store.moved",
    "store.restored",
    "log.begun",
    "log.appended",
    "results.rebuilt",
    "results.appended",
    "branch.packed",
    "branch.moved",
    "inbox.removed",
    "setup.ran",
    "evaluation.exported",
    "workspace.exported",
    "workspace.captured",
    "agent.ended",
    "sample.taken",
    "guards.ran",
)
"""Every failpoint there is: a test kills a run or a verification at each of them."""

_watcher: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Die here, where a test asks for it."""
    if _watcher is not None:
        _watcher(name)


def watch(watcher: Callable[[str], None] | None) -> None:
    """Call ``watcher`` with the name of every failpoint passed from now on; None ends that."""
    global _watcher  # noqa: PLW0603
    _watcher = watcher


def _killer(wanted: str) -> Callable[[str], None]:
    name, _, times = wanted.partition(":")
    if name not in NAMES:
        raise SystemExit(f"{VARIABLE}={wanted}: there are {', '.join(NAMES)}")
    left = int(times or 1)

    def kill(passed: str) -> None:
        nonlocal left
        left -= passed == name
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


if VARIABLE in os.environ:
    watch(_killer(os.environ[VARIABLE]))
