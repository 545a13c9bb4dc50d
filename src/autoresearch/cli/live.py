"""Progress while a run goes on: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..journal import Event
from ..journal.view import RunView, seconds_between
from ..limits import used
from ..run import Listener
from ..types import Contract, Status
from . import words

ROWS = 10
REFRESH_PER_S = 4


@contextlib.contextmanager
def watch(
    contract: Contract, view: RunView, *, log: Path, stream: TextIO | None = None
) -> Generator[Listener, None, None]:
    """Show a run's events as they come; every plain line is also appended to ``log``."""
    stream = stream or sys.stdout
    with log.open("a", encoding="utf-8") as file:
        if stream.isatty():
            screen = Screen(contract, view)
            console = Console(file=stream)
            with Live(get_renderable=screen.render, console=console, transient=True,
                      refresh_per_second=REFRESH_PER_S):  # fmt: skip

                def listen(event: Event, view: RunView) -> None:
                    screen.note(event)
                    _write(file, event, view, contract)

                yield listen
        else:

            def listen(event: Event, view: RunView) -> None:
                _write(stream, event, view, contract)
                _write(file, event, view, contract)

            yield listen


def _write(stream: TextIO, event: Event, view: RunView, contract: Contract) -> None:
    if said := plain_line(event, view, contract):
        with contextlib.suppress(OSError, ValueError):
            stream.write(f"{event.at[11:19]} {said}\n")
            stream.flush()


def plain_line(event: Event, view: RunView, contract: Contract) -> str:
    """One event that matters as one line; empty for the others."""
    experiment = view.experiments.get(event.experiment) if event.experiment is not None else None
    match event.kind:
        case "engine_started":
            return f"run {view.tag}, level {view.level.value}"
        case "setup_started":
            return f"setting up: {' '.join(contract.run.setup or ())}"
        case "setup_done":
            return f"set up in {event.body['wall_s']:.0f} s"
        case "attempt" if experiment is not None:
            return words.phase(view)
        case "decided" if experiment is not None and experiment.decision is not None:
            return words.line(contract, experiment)
        case "delivered":
            return f"branch {event.body['branch']} is at {str(event.body['commit'])[:7]}"
        case "paused":
            return f"{words.phase(view)}; trying again in {event.body['wait_s']:g} s"
        case "stop_requested":
            return "stopping after the sample in flight (Ctrl-C again: now)"
        case "warning":
            return f"note: {event.body['message']}"
        case "run_ended":
            return f"ended: {event.body['reason']}"
    return ""


class Screen:
    """The live table: what is being done, the last rows, the best."""

    def __init__(self, contract: Contract, view: RunView) -> None:
        self._contract = contract
        self._view = view
        self._since = time.monotonic()
        self._walls: list[float] = []

    def note(self, event: Event) -> None:
        """Take an event into account."""
        if event.kind in ("attempt", "opened", "setup_started"):
            self._since = time.monotonic()
        if event.kind == "sample":
            wall_s = event.body["wall_s"]
            assert isinstance(wall_s, int | float)
            self._walls = [*self._walls, float(wall_s)][-5:]

    def render(self) -> RenderableType:
        """The table as of now."""
        return Group(self._head(), self._bar(), self._rows(), self._foot())

    def _head(self) -> Text:
        view = self._view
        state = "stopping after this sample" if view.stop_requested else words.phase(view)
        return Text.assemble(
            ("autoresearch ", "bold"), (view.tag, "bold cyan"), f"  {view.level.value}  ",
            (state, "yellow" if view.paused or view.stop_requested else ""),
            no_wrap=True, overflow="ellipsis",
        )  # fmt: skip

    def _bar(self) -> RenderableType:
        elapsed = time.monotonic() - self._since
        expected = max(self._walls, default=self._contract.run.budget_s)
        experiment = self._view.unfinished
        flying = experiment is not None and experiment.in_flight is not None
        bar = ProgressBar(total=expected, completed=min(elapsed, expected), width=40)
        row = Table.grid(padding=(0, 1))
        row.add_row(bar, f"{elapsed:4.0f} s" + (f" of about {expected:.0f} s" if flying else ""))
        return row

    def _rows(self) -> Table:
        table = Table(box=None, pad_edge=False, expand=True)
        for name, justify in (("#", "right"), (self._contract.metric.name, "right"),
                              ("change", "right"), ("status", "left")):  # fmt: skip
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("what was tried", ratio=1, no_wrap=True, overflow="ellipsis")
        for each in self._view.decided[-ROWS:]:
            assert each.decision is not None
            status = each.decision.status
            table.add_row(
                str(each.number), words.number(each.decision.value),
                words.change(self._contract, each), status.value, Text(words.description(each)),
                style=words.STYLES[status],
            )  # fmt: skip
        return table

    def _foot(self) -> Text:
        view, metric = self._view, self._contract.metric
        best, baseline = view.incumbent, view.experiments.get(0)
        text = Text(no_wrap=True, overflow="ellipsis")
        if best is not None and best.decision is not None and best.decision.value is not None:
            text.append(f"best {words.number(best.decision.value)}", "bold green")
            text.append(f" by #{best.number}{words.marks(self._contract, best)}")
            if best.number and baseline and baseline.decision and baseline.decision.value:
                gain = metric.gain(best.decision.value, baseline.decision.value)
                text.append(f", gain {words.number(gain)} since the baseline")
        active_s = view.active_s + seconds_between(view.engine_started, view.last_at)
        for name, amount in used(view, active_s).items():
            most = getattr(self._contract.limits, name)
            if most is not None:
                text.append(f"   {name} {amount:.3g}/{most:g}", "bright_black")
        kept = view.counts[Status.KEEP] - (1 if view.decided else 0)
        text.append(f"   kept {max(0, kept)}", "bright_black")
        text.append("   Ctrl-C stops", "bright_black")
        return text
