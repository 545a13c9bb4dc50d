"""Progress of a run: the lines, the live table, the summary; and terminals that are in the way."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import asdict
from fcntl import ioctl
from pathlib import Path

import pytest
from inline_snapshot import snapshot
from rich.console import Console

from autoresearch import config
from autoresearch.cli.live import Forgiving, Screen, watch
from autoresearch.journal import Event, Journal
from autoresearch.journal.view import Role, RunView, sample_body
from autoresearch.types import (
    Contract,
    Decision,
    Json,
    Level,
    Limits,
    Metric,
    Outcome,
    Run,
    Sample,
    Status,
    Task,
    Usage,
)
from tests.conftest import Toy

HOSTILE = "=cmd|'calc'\t\x1b[2J\x1b]0;owned\x07 [bold red]hi[/] \u202e$\\frac{1}$ 中文\nend"


class Story:
    """Journals the events that an engine journals, without measuring anything."""

    def __init__(self, folder: Path, direction: str = "lower", metric: str = "val_bpb") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.contract = Contract(
            path=folder / "autoresearch.toml",
            task=Task(("train.py",), "a better model"),
            run=Run(("python3", "train.py"), budget_s=10),
            metric=Metric(metric, "higher" if direction == "higher" else "lower"),
            limits=Limits(experiments=100, hours=8.0),
        )
        self.view = RunView()
        self.listeners: list[Callable[[Event, RunView], None]] = []
        self._journal = Journal(folder / "journal.db")
        self.tell("run_started", tag="nov23", contract=config.snapshot(self.contract),
                  base="b" * 40, seed=1, branch="autoresearch/nov23")  # fmt: skip

    def tell(self, kind: str, experiment: int | None = None, /, **body: Json) -> None:
        event = self._journal.append(kind, experiment, **body)
        self.view.apply(event)
        for listener in self.listeners:
            listener(event, self.view)

    def open(self, description: str, *, open: bool = False) -> int:
        number = self.view.next_number
        self.tell("opened", number, kind="improve" if number else "baseline", parent="b" * 40,
                  hypothesis="", agent="search", open=open, ticket="")  # fmt: skip
        self.tell("proposed", number, description=description)
        commit = f"{number:07x}" + "c" * 33
        self.tell("sealed", number, commit=commit, tokens_added=0, fingerprint=commit)
        return number

    def attempt(self, role: Role) -> tuple[int, int, str]:
        experiment = self.view.unfinished
        assert experiment is not None
        k, commit = experiment.attempts, experiment.commit
        self.tell("attempt", experiment.number, k=k, role=role.value, seed=k, commit=commit)
        return experiment.number, k, commit

    def sample(self, role: Role, value: float | None, outcome: Outcome = Outcome.OK) -> None:
        number, k, commit = self.attempt(role)
        taken = Sample(commit, k, outcome, value, "", Usage(12.0, 11.0, 1 << 28), 0.25,
                       Level.NAMESPACES, "here")  # fmt: skip
        self.tell("sample", number, k=k, role=role.value, gpus=0, **sample_body(taken))

    def decide(self, decision: Decision) -> None:
        body: dict[str, Json] = asdict(decision) | {"status": decision.status.value}
        assert self.view.unfinished is not None
        self.tell("decided", self.view.unfinished.number, decision=body)

    def baseline(self, value: float, half: float = 0.01) -> None:
        self.tell("engine_started", level="namespaces")
        self.open("baseline")
        for _ in range(2):
            self.sample(Role.BASELINE, value)
        reason = f"baseline: {value:g} over 2 samples"
        self.decide(Decision(Status.KEEP, reason, value, value - half, value + half))

    def experiment(
        self, description: str, value: float | None = None, status: Status = Status.DISCARD,
        reason: str = "not worth a confirmation", half: float = 0.01, *, open: bool = False,
    ) -> None:  # fmt: skip
        self.open(description, open=open)
        best = self.view.incumbent
        assert best is not None and best.decision is not None and best.decision.value is not None
        if value is None:
            if status is not Status.REJECTED:
                self.sample(Role.SCREEN, None, Outcome(status.value))
            self.decide(Decision(status, reason))
            return
        self.sample(Role.SCREEN, value)
        if status is Status.KEEP:
            self.sample(Role.FRESH, value)
        gain = self.contract.metric.gain(value, best.decision.value)
        self.decide(Decision(status, reason, value, value - half, value + half, gain, 0.99))


def tell_all(story: Story) -> None:
    """A little of everything."""
    story.baseline(2.4508)
    story.experiment("MATRIX_LR 0.04 -> 0.06", 2.4091, Status.KEEP)
    story.experiment("DEPTH 4 -> 6", 2.46)
    story.experiment(HOSTILE, None, Status.CRASH, "\x1b[31mboom")
    story.experiment("rename prepare.py", None, Status.REJECTED, "prepare.py is protected")
    story.tell("paused", reason="search: no \x1b[1mpower", wait_s=4.0)
    story.tell("resumed")
    story.open("wd", open=True)
    story.sample(Role.SCREEN, 2.1)
    story.tell("guarded", 5, passed=False, reason="guard failed: tox", counts=[])
    story.decide(Decision(Status.DISCARD, "guard failed: tox", 2.1))
    story.tell("warning", message="autoresearch/nov23 was moved")
    story.tell("delivered", branch="autoresearch/nov23-2", commit="c" * 40)
    story.tell("ticket", ticket="t", message="try this", files={}, patch=None)
    story.open("last")
    story.attempt(Role.INCUMBENT)
    story.tell("stop_requested", by="Ctrl-C")
    story.tell("run_ended", reason="stopped by request")


def test_a_file_gets_one_plain_line_an_event(tmp_path: Path) -> None:
    story = Story(tmp_path / "run")
    out = io.StringIO()
    with watch(story.contract, story.view, log=tmp_path / "log", stream=out) as listener:
        story.listeners.append(listener)
        tell_all(story)
    text = out.getvalue()
    assert (tmp_path / "log").read_text() == text
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in text.splitlines())
    day = story.view.engine_started[:10]
    said = [line[9:].replace(day, "DAY") for line in text.splitlines()]
    assert said == snapshot(
        [
            "run nov23, level namespaces, DAY, times in UTC",
            "measuring the baseline, sample 1",
            "measuring the baseline, sample 2",
            "#0 keep     2.4508 (self-reported)  baseline",
            "measuring #1: MATRIX_LR 0.04 -> 0.06",
            "confirming #1, fresh sample 1 of up to 4",
            "#1 keep     2.4091 (was 2.4508, -0.0417) (self-reported)  MATRIX_LR 0.04 -> 0.06",
            "measuring #2: DEPTH 4 -> 6",
            "#2 discard  2.46 (was 2.4091, +0.0509) (self-reported)  DEPTH 4 -> 6",
            "measuring #3: cmd|'calc' [bold red]hi[/] $\\frac{1}$ 中文 end",
            "#3 crash     cmd|'calc' [bold red]hi[/] $\\frac{1}$ 中文 end: boom",
            "#4 rejected  rename prepare.py: prepare.py is protected",
            "paused: search: no power; trying again in 4 s",
            "measuring #5: wd",
            "#5 discard  2.1 (was 2.4091, -0.309) (self-reported, open)  wd: guard failed: tox",
            "note: autoresearch/nov23 was moved",
            "branch autoresearch/nov23-2 is at ccccccc",
            "queued: try this",
            "measuring the incumbent again, for #6",
            "stopping after the sample in flight (Ctrl-C again: now)",
            "ended: stopped by request",
        ]
    )


def test_a_gain_that_does_not_reproduce_is_said_everywhere(tmp_path: Path) -> None:
    story = Story(tmp_path / "run")
    out = io.StringIO()
    with watch(story.contract, story.view, log=tmp_path / "log", stream=out) as listener:
        story.listeners.append(listener)
        story.baseline(2.4508)
        story.experiment(HOSTILE, 2.4091, Status.KEEP)
        screen = Screen(story.contract, story.view)
        story.listeners.append(lambda event, view: screen.note(event))
        assert "reproduce" not in drawn(screen)[0]
        commits: dict[str, Json] = {"baseline": "b" * 40, "incumbent": "c" * 40}
        story.tell("verify_started", milestone=True, each=False, sealed=False, budget_s=10.0,
                   samples=2, experiment=1, kept=1, commits=commits)  # fmt: skip
        story.tell("verify_attempt", arm="baseline", k=0, seed=5, commit="b" * 40)
        assert "verifying: baseline, sample 1 of 2" in drawn(screen)[0]
        taken = Sample("b" * 40, 5, Outcome.OK, 2.45, "", Usage(12.0, 11.0), 0.25)
        story.tell("verify_sample", arm="baseline", gpus=0, **sample_body(taken))
        gain: dict[str, Json] = {"gain": 0.01, "low": -0.1, "high": 0.12, "sure": 0.6,
                                 "exact": False}  # fmt: skip
        story.tell("verified", reproduces=False, reason="no gain is 99 % sure: 0.01 was found",
                   gain=gain, recorded=gain | {"gain": 0.0417}, baseline=2.45, incumbent=2.44,
                   steps=[], offer=None)  # fmt: skip
    assert "the gain does not reproduce" in drawn(screen)[0]
    day = story.view.engine_started[:10]
    assert [line[9:].replace(day, "DAY") for line in out.getvalue().splitlines()[-3:]] == snapshot(
        [
            "verifying the baseline and #1 with fresh seeds",
            "verifying: baseline, sample 1 of 2",
            "total gain 0.01 (-0.1 to 0.12), recorded 0.0417: DOES NOT REPRODUCE, no gain is 99 %"
            " sure: 0.01 was found; #1, 2 samples each, DAY",
        ]
    )


def test_the_summary_says_what_was_reached(tmp_path: Path) -> None:
    from autoresearch.cli.words import summary  # noqa: PLC0415

    story = Story(tmp_path / "run")
    assert summary(story.contract, story.view, Path("run")) == "nothing was measured yet"
    story.baseline(2.4508)
    assert "nothing better was found yet" in summary(story.contract, story.view, Path("run"))
    story.experiment("MATRIX_LR 0.04 -> 0.06", 2.4091, Status.KEEP)
    story.experiment(HOSTILE, 2.3, Status.KEEP)
    story.tell("delivered", branch="autoresearch/nov23", commit="c" * 40)
    text = summary(story.contract, story.view, Path("run"))
    assert text.isprintable() or set(text) - {"\n"} == {c for c in text if c.isprintable()}
    for part in ("2.4508", "2.3", "gain", "MATRIX_LR", "autoresearch/nov23", "run/results.tsv"):
        assert part in text


def drawn(screen: Screen, width: int = 80, height: int = 24) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height).print(screen)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def without_time(line: str) -> str:
    return re.sub(r"\d+\.\d s", "TIME", line)


def test_the_table_fits_eighty_columns(tmp_path: Path) -> None:
    story = Story(tmp_path / "run")
    story.baseline(2.4508)
    story.experiment("MATRIX_LR 0.04 -> 0.06", 2.4091, Status.KEEP)
    story.experiment(HOSTILE * 3, None, Status.CRASH, "exit code 1")
    story.open("x" * 300, open=True)
    story.sample(Role.SCREEN, 2.4)
    screen = Screen(story.contract, story.view)
    number, k, commit = story.attempt(Role.FRESH)
    screen.note(Event(99, "", "attempt", number, {"k": k, "role": "fresh", "commit": commit}))
    assert [without_time(line) for line in drawn(screen)] == snapshot(
        [
            "autoresearch nov23  namespaces  confirming #3, fresh sample 1 of up to 4",
            "                                          TIME of about 12 s",
            "",
            "#  val_bpb   change  status  what was tried",
            "0   2.4508           keep    baseline",
            "1   2.4091  -0.0417  keep    MATRIX_LR 0.04 -> 0.06",
            "2        -           crash   cmd|'calc' [bold red]hi[/] $\\frac{1}$ 中文 end=cmd…",
            "3      2.4           ...     (open) xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…",
            "",
            "best 2.4091 (2.3991 to 2.4191) (self-reported) by #1, gain 0.0417",
            "1 kept   experiments 2 of 100   hours 0.00 of 8",
            "Ctrl-C: finish this sample and stop",
        ]
    )


@pytest.mark.parametrize(("width", "height"), [(200, 60), (80, 24), (60, 15), (40, 10), (30, 9)])
def test_the_table_fits_every_terminal(tmp_path: Path, width: int, height: int) -> None:
    story = Story(tmp_path / "run", metric="validation_bits_per_byte[/]")
    story.baseline(2.4508)
    for i in range(30):
        story.experiment(f"{i} {HOSTILE * 2}", 2.4508 - i / 100, Status.KEEP)
    story.open(HOSTILE)
    story.attempt(Role.SCREEN)
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Screen(story.contract, story.view))
    text = out.getvalue()
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    lines = text.splitlines()
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    assert "#30" in text or width < 60
    assert str(30) in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 15), (40, 10), (30, 9)])
def test_the_table_fits_with_many_workers(tmp_path: Path, width: int, height: int) -> None:
    story = Story(tmp_path / "run")
    story.baseline(2.4508)
    for i in range(10):
        story.experiment(f"RATE -> {i}", 2.4)
    screen = Screen(story.contract, story.view)
    for number in range(11, 27):
        story.open(f"RATE -> {number}")
        body = {"k": 0, "role": "screen", "seed": 0, "commit": f"{number:07x}" + "c" * 33}
        story.tell("attempt", number, **body)  # type: ignore[arg-type]
        screen.note(Event(99, "", "attempt", number, body))
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen)
    lines = out.getvalue().splitlines()
    assert len(lines) <= height and max(map(len, lines)) <= width
    bars = sum(line.startswith("#1") for line in lines)
    assert (bars == 4) == (height > 12)
    assert width < 80 or f", and {16 - bars} more" in out.getvalue()
    assert any(line.startswith("10 ") for line in lines) or height < 12


def test_drawing_does_not_compose_again(tmp_path: Path) -> None:
    story = Story(tmp_path / "run")
    story.baseline(1.0)
    screen = Screen(story.contract, story.view)
    story.experiment("not noted yet", 0.9, Status.KEEP)
    assert not any("not noted" in line for line in drawn(screen))
    screen.note(Event(99, "", "decided", 1, {}))
    assert any("not noted" in line for line in drawn(screen))


class Gone(io.StringIO):
    """A terminal whose window was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    flush = close = lambda self: (_ for _ in ()).throw(OSError(errno.EIO, "gone"))  # type: ignore[assignment]


def test_a_closed_terminal_and_a_poor_one_are_forgiven(tmp_path: Path) -> None:
    Forgiving(Gone()).write("x")
    Forgiving(Gone()).flush()
    poor = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Forgiving(poor).write("数 -> x\n")
    poor.flush()
    assert poor.buffer.getvalue() == b"? -> x\n"  # type: ignore[attr-defined]
    story = Story(tmp_path / "run")
    with watch(story.contract, story.view, log=tmp_path / "log", stream=Gone()) as listener:
        story.listeners.append(listener)
        tell_all(story)
    assert "ended: stopped by request" in (tmp_path / "log").read_text()


AGENT = """\
#!/bin/sh
awk '/^LR/ { printf "LR = %.6f\\n", 0.1 + ($3 - 0.1) / 2; next } { print }' train.py >new
cat new >train.py; rm new; sleep 0.6
printf 'lower \\033[2J LR\\n'
"""


def on_a_terminal(task: Toy, *argv: str, close_after: bytes = b"") -> tuple[int, bytes]:
    """Run a command on a terminal of 80x24, which is closed when it has shown something."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {key: v for key, v in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-m", "autoresearch", *argv], cwd=task.root, stdin=slave, stdout=slave,
        stderr=slave, start_new_session=True, env=env | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    said = b""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        try:
            said += os.read(master, 65536)
        except OSError:
            break
        if close_after and close_after in said:
            break
    os.close(master)
    return child.wait(120), said


@pytest.fixture
def task(toy: Callable[..., Toy]) -> Toy:
    return toy({"agent.sh": AGENT}, limits="experiments = 2")


def test_a_terminal_shows_the_table_and_then_the_summary(task: Toy) -> None:
    code, said = on_a_terminal(task, "run", "--tag", "t", "--unconfined")
    assert code == 0
    text = said.decode()
    assert "\x1b[2J" not in text
    assert "command proposes #" in text
    assert "Ctrl-C: finish this sample and stop" in text
    assert text.endswith("\x1b[?25h") or "\x1b[?25h" in text.split("loss, lower is better")[0]
    assert "ended: limit reached: experiments 2" in text
    assert "ended: limit" in (task.run_folder / "engine.log").read_text()


def test_a_run_outlives_its_terminal(task: Toy) -> None:
    on_a_terminal(task, "run", "--tag", "t", "--unconfined", close_after=b"proposes #1")
    assert task.statuses() == ["keep", "keep", "keep"]
    assert "ended: limit reached" in (task.run_folder / "engine.log").read_text()
