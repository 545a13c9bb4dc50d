"""What people do to engines: start four, press Ctrl-C, close the terminal, send signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from autoresearch.run import held_by_engine
from tests.conftest import Toy, until
from tests.faults.story import story
from tests.invariants import Acknowledged, check_invariants, newest


def on_terminal(task: Toy, *argv: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start the command line on a terminal of its own; returns our side of it."""
    ours, theirs = pty.openpty()
    engine = subprocess.Popen(
        ["setsid", "--ctty", *task.command(*argv)], cwd=task.root, stdin=theirs, stdout=theirs,
        stderr=theirs, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    return engine, ours


def drain(ours: int, into: bytearray) -> threading.Thread:
    """Read what comes to a terminal until it is closed."""

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                into.extend(data)
        except OSError:
            pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("fresh", [True, False], ids=["a new run", "a run that is resumed"])
def test_of_four_engines_started_at_once_one_works(fresh: bool, tmp_path: Path) -> None:
    task = story(tmp_path / "task", pause_s=0.3)
    if not fresh:
        task.call("run", "--tag", "t", "--max-experiments", "1")
    wanted = 1 if fresh else 2
    argv = task.command("run", "--tag", "t", "--max-experiments", str(wanted))
    engines = [
        subprocess.Popen(argv, cwd=task.root, stdin=subprocess.DEVNULL, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(4)
    ]  # fmt: skip
    said = [engine.communicate(timeout=300)[0] for engine in engines]
    codes = sorted(engine.returncode for engine in engines)
    assert codes == [0, 4, 4, 4], said
    assert all("another engine holds run" in text for text, engine in
               zip(said, engines, strict=True) if engine.returncode == 4)  # fmt: skip
    view = check_invariants(task)
    assert len(view.decided) == wanted + 1


def test_the_terminal_closed_does_not_end_a_run(tmp_path: Path) -> None:
    task = story(tmp_path / "task")
    engine, ours = on_terminal(task, "run", "--tag", "t")
    shown = bytearray()
    reader = drain(ours, shown)
    until(task.saw(lambda view: len(view.decided) > 1), 120)
    assert b"loss" in shown
    os.close(ours)
    reader.join(10)
    had = len(task.view().decided)
    until(lambda: len(task.view().decided) > had + 1, 120)
    assert engine.poll() is None
    task.call("stop")
    assert engine.wait(60) == 0
    check_invariants(task)
    log = (task.run_folder / "engine.log").read_text()
    assert f"#{had + 1} " in log and "Traceback" not in log


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_on_a_terminal(times: int, tmp_path: Path) -> None:
    task = story(tmp_path / "task", pause_s=1.0 if times == 2 else 0.2)
    engine, ours = on_terminal(task, "run", "--tag", "t")
    shown = bytearray()
    drain(ours, shown)
    until(task.saw(lambda view: view.experiments and view.experiments[0].in_flight), 120)
    os.write(ours, b"\x03")
    until(lambda: task.view().stop_requested, 30)
    if times == 2:
        os.write(ours, b"\x03")
    assert engine.wait(120) == 130
    os.close(ours)
    assert b"Traceback" not in shown
    view = check_invariants(task)
    assert view.end_reason in ("interrupted", "stopped by request")
    in_flight = [each.in_flight for each in view.experiments.values() if each.in_flight]
    assert len(in_flight) == (times == 2)
    task.call("run", "--max-experiments", "1")
    assert len(check_invariants(task).decided) == 2


def test_sigterm_ends_at_once_and_the_attempt_is_redone(tmp_path: Path) -> None:
    task = story(tmp_path / "task", pause_s=1.0)
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: view.experiments and view.experiments[0].in_flight), 120)
    engine.send_signal(signal.SIGTERM)
    assert engine.wait(20) == 130
    view = check_invariants(task)
    assert view.experiments[0].in_flight is not None
    engine = task.start("run")
    until(task.saw(lambda view: view.experiments[0].taken), 120)
    engine.send_signal(signal.SIGTERM)
    engine.wait(20)
    assert task.view().experiments[0].attempts > len(task.view().experiments[0].taken)


def test_a_detached_run_outlives_who_started_it(tmp_path: Path) -> None:
    task = story(tmp_path / "task")
    engine, ours = on_terminal(task, "run", "--detach", "--tag", "t", "--max-experiments", "2")
    shown = bytearray()
    drain(ours, shown)
    assert engine.wait(120) == 0
    os.close(ours)
    until(lambda: newest(task) and not held_by_engine(task.run_folder), 120)
    assert b"running in the background" in shown
    view = check_invariants(task, Acknowledged())
    assert view.end_reason == "limit reached: experiments 2"
