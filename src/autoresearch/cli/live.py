"""Progress while a run goes on: one live table on a terminal, plain lines elsewhere.

The screen is composed when an event arrives, in the engine's thread; rich's own thread only draws
what was composed and the time bar. A terminal that goes away must not end the run.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..journal import Event
from ..journal.view import Experiment, Role, RunView
from ..limits import used
from ..run import Listener
from ..text import clean
from ..types import Contract, Decision, Outcome, Run, Status
from . import words

ROWS = 10
AROUND_THE_ROWS = 8
REFRESH_PER_S = 4
BARS = 4
RECENT = 8
NARROW = 60


@contextlib.contextmanager
def watch(
    contract: Contract, view: RunView, *, log: Path, stream: TextIO | None = None
) -> Generator[Listener, None, None]:
    """Show a run's events as they come; every plain line is also appended to ``log``."""
    stream = stream or sys.stdout
    with log.open("a", encoding="utf-8") as file, contextlib.ExitStack() as stack:
        screen = None
        safe: Any = Forgiving(stream)
        lines: Any = Forgiving(file)
        if _animates(stream):
            screen = Screen(contract, view)
            stack.enter_context(
                Live(screen, console=Console(file=safe), transient=True,
                     refresh_per_second=REFRESH_PER_S, redirect_stdout=stream is sys.stdout)
            )  # fmt: skip

        def listen(event: Event, view: RunView) -> None:
            if screen is not None:
                screen.note(event)
            if said := plain_line(event, view, contract):
                for sink in (lines,) if screen is not None else (lines, safe):
                    sink.write(f"{event.at[11:19]} {said}\n")
                    sink.flush()

        yield listen


def _animates(stream: TextIO) -> bool:
    """Whether a table that moves can be drawn there."""
    console = Console(file=stream)
    return stream.isatty() and console.is_terminal and not console.is_dumb_terminal


class Forgiving:
    """A stream that may be closed while we write, or know few characters: no reason to stop."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "replace").decode())
        return len(text)

    def flush(self) -> None:
        """Flush if there is still someone to read."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def plain_line(event: Event, view: RunView, contract: Contract) -> str:
    """One event that matters as one line; empty for the others."""
    experiment = view.experiments.get(event.experiment) if event.experiment is not None else None
    match event.kind:
        case "engine_started":
            crew = f", {view.workers} workers" if view.workers > 1 else ""
            level = view.level.value
            return f"run {view.tag}, level {level}{crew}, {event.at[:10]}, times in UTC"
        case "contract_changed":
            return "the contract's limits, agent or instructions changed"
        case "setup_started":
            return f"setting up: {clean(' '.join(contract.run.setup or ()))}"
        case "setup_done":
            return f"set up in {event.body['wall_s']:.0f} s"
        case "ticket":
            return f"queued: {clean(str(event.body['message']))}"
        case "attempt" if experiment is not None:
            tried = event.body["role"] in (Role.LOOK.value, Role.SCREEN.value)
            return words.step(experiment) + (f": {words.description(experiment)}" if tried else "")
        case "sample" if event.body["outcome"] == Outcome.VOID.value:
            return f"void: {clean(str(event.body['reason']))}; this sample is not used"
        case "decided" if experiment is not None and experiment.decision is not None:
            return _decided(contract, experiment, experiment.decision)
        case "delivered":
            return f"branch {event.body['branch']} is at {str(event.body['commit'])[:7]}"
        case "verify_started":
            each = ", and what it is without each step" if event.body["each"] else ""
            best = event.body["experiment"]
            return f"verifying the baseline and #{best} with fresh seeds{each}"
        case "verify_sealed":
            return f"measuring the best {clean(str(event.body['arm']))}, too"
        case "verify_attempt":
            return words.phase(view)
        case "verified" if view.verified is not None:
            return words.verification(view.verified)
        case "verify_abandoned":
            return f"not verified: {clean(str(event.body['reason']))}"
        case "offered":
            return f"branch {event.body['branch']} is at {str(event.body['commit'])[:7]}"
        case "idea":
            return f"{'note' if event.body['note'] else 'idea'}: {clean(str(event.body['text']))}"
        case "condensed":
            return f"lessons condensed: {event.body['lines']} lines in lessons.md"
        case "idea_dropped":
            return f"dropped: idea {event.body['idea']}"
        case "pause_requested":
            return "pausing after the sample in flight"
        case "paused":
            wait_s = event.body["wait_s"]
            again = "" if wait_s is None else f"; trying again in {wait_s:g} s"
            who = f"worker {event.body.get('worker', 0)} " if view.workers > 1 else ""
            return f"{who}paused: {clean(str(event.body['reason']), 120)}{again}"
        case "resume_requested":
            return "going on"
        case "stop_requested":
            return "stopping after the sample in flight (Ctrl-C again: now)"
        case "warning":
            return f"note: {clean(str(event.body['message']))}"
        case "run_ended":
            return f"ended: {clean(str(event.body['reason']))}"
    return ""


def _decided(contract: Contract, experiment: Experiment, decision: Decision) -> str:
    """One decided experiment as one line, its reason where the value does not say it."""
    said = f"#{experiment.number} {decision.status.value:8}"
    if decision.value is not None:
        said += f" {words.number(decision.value)}"
        if experiment.was is not None:
            moved = decision.value - experiment.was
            said += f" (was {words.number(experiment.was)}, {moved:+.3g})"
        said += words.marks(contract, experiment)
    return f"{said}  {words.description(experiment)}{words.why(experiment)}"


@dataclass(frozen=True, slots=True)
class Clock:
    """What is being waited for: since when, and how long it may take."""

    since: float
    expected_s: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What the screen shows until the next event, except for the time bar."""

    head: Text
    rows: list[Experiment]
    current: list[tuple[str, str, Text]]
    foot: Group


class Screen:
    """The live table: what is being done, the last rows, the best, what is used."""

    def __init__(self, contract: Contract, view: RunView) -> None:
        self._contract = contract
        self._view = view
        self._walls = [
            each.sample.usage.wall_s
            for row in view.decided[-RECENT:] for each in row.taken if each.role is not Role.LOOK
        ][-RECENT:]  # fmt: skip
        self._clock = Clock(time.monotonic())
        self._clocks: dict[int, Clock] = {}
        self._frame = self._compose()
        self._drawn: tuple[object, list[Segment], list[Segment]] = (None, [], [])

    def note(self, event: Event) -> None:
        """Take an event into account."""
        now = time.monotonic()
        match event.kind:
            case "attempt" | "verify_attempt":
                look = event.body.get("role") == Role.LOOK.value
                run = self._contract.run.first_look if look else self._contract.run
                self._clock = Clock(now, self._usual_s(run), self._bound(run))
                if event.experiment is not None:
                    self._clocks[event.experiment] = self._clock
            case "sample" | "verify_sample":
                # What the person waits for: the evaluation and our own work as well.
                began = self._clocks.pop(event.experiment or 0, self._clock)
                if event.body.get("role") != Role.LOOK.value:
                    self._walls = [*self._walls, now - began.since][-RECENT:]
                self._clock = Clock(now)
            case "paused":
                wait_s = event.body["wait_s"]
                assert wait_s is None or isinstance(wait_s, int | float)
                self._clock = Clock(now, wait_s)
            case "opened" | "sealed" | "setup_started" | "resumed":
                self._clock = Clock(now)
        self._frame = self._compose()

    def render(self) -> Screen:
        """The screen as something that rich prints."""
        return self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        frame, width, height = self._frame, options.max_width, console.size.height
        made_for, above, below = self._drawn
        # A worker's bar takes the place of a row.
        bars = max(1, min(BARS, len(self._clocks), height - AROUND_THE_ROWS))
        if made_for != (frame, width, height):
            above = list(console.render(frame.head, options))
            fit = max(1, min(ROWS, height - AROUND_THE_ROWS - bars + 1))
            table = self._table(frame, fit, narrow=width < NARROW)
            parts = Group(Text(), table, Text(), frame.foot)
            below = list(console.render(parts, options))
            self._drawn = ((frame, width, height), above, below)
        yield from above
        yield self._bars(width, bars)
        yield from below

    # Composed when an event arrives

    def _compose(self) -> Frame:
        return Frame(
            self._compose_head(),
            list(self._view.decided[-ROWS:]),
            [self._row(each) for each in self._view.in_flight.values() if each.commit],
            Group(self._compose_best(), self._compose_used(), self._keys()),
        )

    def _compose_head(self) -> Text:
        view = self._view
        alert = view.paused or view.stop_requested or view.pause_requested
        state = words.doing(view)
        return Text.assemble(
            ("autoresearch ", "bold"), (view.tag, "bold cyan"), ("  " + view.level.value, "dim"),
            ("  the gain does not reproduce" if words.doubtful(view) else "", "bold yellow"),
            "  ", (clean(state), "yellow" if alert else ""), no_wrap=True, overflow="ellipsis",
        )  # fmt: skip

    def _row(self, experiment: Experiment) -> tuple[str, str, Text]:
        """The row of an experiment that is not decided yet."""
        value = "" if experiment.mean is None else words.number(experiment.mean)
        return str(experiment.number), value, _tried(experiment)

    def _compose_best(self) -> Text:
        view, metric = self._view, self._contract.metric
        best, baseline = view.incumbent, view.experiments.get(0)
        text = Text(no_wrap=True, overflow="ellipsis")
        if best is None or best.decision is None or best.decision.value is None:
            return text
        made = best.decision
        text.append(f"best {words.number(made.value)}", "bold green")
        if made.low is not None and made.high is not None and made.low < made.high:
            text.append(f" ({words.number(made.low)} to {words.number(made.high)})", "green")
        text.append(words.best_marks(self._contract, view), "yellow")
        old = baseline.decision.value if baseline and baseline.decision else None
        if best.number == 0:
            text.append(": the baseline")
        elif old is not None and made.value is not None:
            text.append(f" by #{best.number}, gain {metric.gain(made.value, old):.3g}")
        return text

    def _compose_used(self) -> Text:
        view = self._view
        said = [f"{max(0, view.counts[Status.KEEP] - 1)} kept"]
        for name, value in used(view, view.active_s).items():
            most = getattr(self._contract.limits, name)
            if most is not None:
                said.append(f"{name.replace('_', ' ')} {amount(name, value)} of {most:g}")
            elif name == "experiments":
                said.append(f"{name} {amount(name, value)}")
        if waiting := len(view.ideas.queue):
            said.append(f"ideas open {waiting}")
        return Text("   ".join(said), "dim", no_wrap=True, overflow="ellipsis")

    def _keys(self) -> Text:
        if self._view.stop_requested:
            keys = "Ctrl-C again: stop now; the sample in flight is lost"
        else:
            keys = "Ctrl-C: finish this sample and stop"
        return Text(keys, "dim", no_wrap=True, overflow="ellipsis")

    # Drawn several times a second

    def _bars(self, width: int, most: int) -> Table:
        """A bar for each sample in flight, or one for what the engine does else."""
        grid = Table.grid(padding=(0, 2))
        flight = list(self._clocks.items())[:most]
        if len(flight) < 2:
            grid.add_row(*self._bar(flight[0][1] if flight else self._clock, width))
        else:
            more = len(self._clocks) - len(flight)
            for number, clock in flight:
                bar, said = self._bar(clock, width)
                if more and number == flight[-1][0]:
                    said.append(f", and {more} more", "dim")
                grid.add_row(f"#{number}", bar, said)
        return grid

    def _bar(self, clock: Clock, width: int) -> tuple[ProgressBar, Text]:
        elapsed = max(0.0, time.monotonic() - clock.since)
        total = clock.expected_s
        said = _time(elapsed)
        if total is not None:
            said += f" of about {_time(total)}" if elapsed <= 1.2 * total + 1 else clock.note
        size = max(10, min(40, width - 30))
        done = min(elapsed, total) if total else 0.0
        bar = ProgressBar(total=total or 1.0, completed=done, width=size)
        return bar, Text(said, no_wrap=True)

    def _table(self, frame: Frame, fit: int, *, narrow: bool) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        metric = clean(self._contract.metric.name, 40)
        table.add_column("#", justify="right", no_wrap=True)
        table.add_column(Text(metric, overflow="ellipsis"), justify="right", no_wrap=True,
                         max_width=12)  # fmt: skip
        if not narrow:
            table.add_column("change", justify="right", no_wrap=True)
        table.add_column("status", no_wrap=True)
        table.add_column("what was tried", ratio=1, no_wrap=True, overflow="ellipsis")
        current = frame.current[: max(1, fit // 2)]
        most = fit - len(current)
        for each in frame.rows[max(0, len(frame.rows) - most) :]:
            assert each.decision is not None
            change = [] if narrow else [words.change(self._contract, each)]
            table.add_row(
                str(each.number), words.number(each.decision.value), *change,
                each.decision.status.value, _tried(each),
                style=STYLES[each.decision.status],
            )  # fmt: skip
        for number, value, what in current:
            table.add_row(number, value, *([] if narrow else [""]), "...", what, style="bold")
        return table

    def _usual_s(self, run: Run) -> float:
        whole = run.budget_s == self._contract.run.budget_s
        return median(self._walls) if self._walls and whole else run.budget_s

    def _bound(self, run: Run) -> str:
        return f", longer than usual; ended at {_time(run.timeout_s)}"


def amount(limit: str, value: float) -> str:
    """What is used of a limit: whole experiments and tokens, parts of hours and money."""
    return f"{value:.0f}" if limit in ("experiments", "tokens") else f"{value:.2f}"


def _tried(experiment: Experiment) -> Text:
    return Text(("(open) " if experiment.open else "") + words.description(experiment, 200))


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
    )


STYLES = words.STYLES | {Status.DISCARD: "dim"}
