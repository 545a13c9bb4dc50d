"""``autoresearch pause`` and ``resume``: a run waits as long as a person wants it to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from autoresearch.cli.live import Screen
from autoresearch.inbox import drop
from autoresearch.journal import Journal
from autoresearch.journal.ideas import asked
from autoresearch.journal.view import Role, RunView
from autoresearch.run import FOLDER
from autoresearch.testing.clock import FakeClock
from autoresearch.text import block
from autoresearch.worker import BY_REQUEST
from tests.cli.test_live import Story
from tests.cli.test_verify import EARLY
from tests.conftest import TRAIN, Toy, counting, until
from tests.invariants import check_invariants, processes

MakeToy = Callable[..., Toy]
SLOW = TRAIN + "import time; time.sleep(0.4)\n"
AGENT = '#!/bin/sh\nsed -i "s/^LR = .*/LR = 0.9$(date +%N | cut -c1-6)/" train.py\n'


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    """A paused engine would wait for ever where a test fails."""
    yield
    for pid in processes(Toy(tmp_path)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def state(task: Toy) -> tuple[str, str | None]:
    """State and reason as ``status --json`` says them."""
    found = json.loads(task.call("status", "--json").stdout)
    return found["state"], found["reason"]


def wait_until_held(task: Toy) -> RunView:
    until(lambda: task.view().held, 120)
    return task.view()


def test_the_sample_in_flight_finishes_and_then_it_waits(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT, "train.py": SLOW})
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: view.experiments and view.experiments[0].in_flight), 120)
    drop(task.run_folder, {"kind": "pause"})
    view = wait_until_held(task)
    assert view.experiments[0].in_flight is None and not view.decided, "not between two samples"
    assert "paused already" in task.call("pause").stdout
    assert state(task) == ("paused", "by request; autoresearch resume goes on")
    task.call("idea", "add", "a later one")
    time.sleep(1)
    assert task.view().samples_taken == view.samples_taken
    assert len(task.view().ideas.queue) == 1, "it hears nothing while it is paused"
    # What somebody tries waits, too, and says for what.
    (task.root / "train.py").write_text(SLOW.replace("0.5", "0.2"))
    mine = task.start("try", "-m", "mine")
    until(lambda: "the run is paused: autoresearch resume" in task.said.read_text(), 60)
    assert task.view().samples_taken == view.samples_taken
    assert task.call("resume").stdout == "run t goes on\n"
    assert mine.wait(120) == 0
    (task.root / "train.py").write_text(SLOW)
    until(lambda: len(task.view().decided) > 1, 120)
    assert state(task) == ("running", None)
    assert task.call("resume").stdout == "run t is not paused\n"
    # In the order of asking, however fast.
    task.call("pause")
    task.call("resume")
    count = len(task.view().decided)
    until(lambda: len(task.view().decided) > count + 1, 120)
    assert not task.view().held
    # Who stops need not resume first.
    said = task.call("pause").stdout
    assert said == "run t pauses after the sample in flight; autoresearch resume goes on\n"
    wait_until_held(task)
    task.call("stop")
    assert engine.wait(60) == 0
    assert check_invariants(task).end_reason == "stopped by request"
    assert "paused: by request; autoresearch resume goes on" in task.said.read_text()


def test_a_pause_outlives_its_engine_only_until_somebody_runs_it(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT, "train.py": SLOW})
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: view.decided), 120)
    task.call("pause")
    wait_until_held(task)
    engine.kill()
    engine.wait(60)
    killed = "the engine was killed while it was paused; autoresearch run continues"
    assert state(task) == ("stopped", killed)
    assert task.call("pause").stdout == "run t is not running: there is nothing to pause\n"
    assert "autoresearch run goes on with it" in task.call("resume", code=2).stderr
    # Left by somebody who did not see that the engine was gone.
    request = task.run_folder / "inbox" / "1.json"
    request.write_text('{"kind": "pause"}')
    before = len(task.view().decided)
    task.call("run", "--max-experiments", str(before + 1))
    assert len(check_invariants(task).decided) == before + 2


def test_a_milestone_pauses_between_its_samples(
    toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "command", lambda _, *argv: [sys.executable, "-c", EARLY, *argv])
    halve = "awk '/^LR/ { printf \"LR = %.6f\\n\", 0.1 + ($3 - 0.1) / 2; next } { print }'"
    edit = f"{halve} train.py >new; cat new >train.py; rm new"
    task = toy({"agent.sh": counting(*[edit] * 9), "train.py": SLOW})
    engine = task.start("run", "--tag", "t", "--max-experiments", "2")
    until(task.saw(lambda view: view.verifying), 120)
    drop(task.run_folder, {"kind": "pause"})
    view = wait_until_held(task)
    assert view.verifying is None and not view.verifications[0].ended
    taken = len(view.verifications[0].taken)
    task.call("resume")
    assert engine.wait(120) == 0
    view = check_invariants(task)
    assert view.verifications[0].ended and len(view.verifications[0].taken) > taken


def test_it_waits_by_itself_is_not_paused(toy: MakeToy) -> None:
    task = toy({"agent.sh": "#!/bin/sh\necho no credit; exit 1\n"})
    engine = task.start("run", "--tag", "t")
    # By then it waits for eight seconds.
    until(task.saw(lambda view: sum(view.agent_failures.values()) == 4 and view.paused), 120)
    said = task.call("resume").stdout
    assert "not paused; it waits by itself" in said and "no credit" in said
    task.call("stop")
    engine.wait(60)


def test_the_live_table_shows_a_pause_and_what_waits(tmp_path: Path) -> None:
    story = Story(tmp_path / FOLDER / "nov23")
    story.baseline(2.4508)

    def shown() -> str:
        out = io.StringIO()
        screen = Screen(story.contract, story.view)
        Console(file=out, width=80, height=24, force_terminal=True).print(screen.render())
        return block(out.getvalue())

    story.tell("idea", **asked({"ticket": "1", "text": "wider"}, story.view.ideas))  # type: ignore[arg-type]
    story.open("a step")
    story.attempt(Role.SCREEN)
    story.tell("pause_requested", by="inbox")
    assert "pausing after this sample: measuring #1" in shown() and "ideas open 1" in shown()
    story.tell("paused", reason=BY_REQUEST, wait_s=None)
    assert "paused: by request; autoresearch resume goes on" in shown()
    story.tell("resume_requested", by="inbox")
    story.tell("resumed")
    story.tell("idea_dropped", idea=1)
    assert "paus" not in shown() and "ideas" not in shown()


def test_the_time_of_a_pause_is_not_the_runs(tmp_path: Path) -> None:
    clock = FakeClock()
    journal = Journal(tmp_path / "journal.db", clock=clock)

    def tell(kind: str, seconds: float, **body: float | str | None) -> None:
        clock.advance(seconds)
        journal.append(kind, **body)

    tell("engine_started", 0, level="none")
    tell("pause_requested", 5, by="inbox")
    tell("paused", 5, reason="by request", wait_s=None)
    tell("resume_requested", 3600, by="inbox")
    tell("resumed", 1)
    tell("paused", 10, reason="a rate limit", wait_s=60.0)
    tell("resumed", 60)
    tell("run_ended", 5, reason="done")
    assert RunView(journal.events()).active_s == 85
