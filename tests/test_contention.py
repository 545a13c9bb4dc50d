"""Rivals on the cores of a sample: found, told from the sample's own processes, bounded."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.attempt import RUNNER
from autoresearch.bench import Slot, available_cores
from autoresearch.contention import (
    LIMITS,
    contention_of,
    limit,
    unless_void,
    usual,
    why_void,
)
from autoresearch.journal.view import RunView
from autoresearch.sandbox import Box, Sandbox
from autoresearch.types import Contention, Decision, Level, Outcome, Run, Sample, Status, Usage
from tests.cli.test_live import Story
from tests.conftest import TRAIN, Toy, lr_patch
from tests.test_runner import Server, job

MakeToy = Callable[..., Toy]
WALL, CPU = Run(("x",), budget_s=10.0), Run(("x",), budget_s=10.0, clock="cpu")
shares = st.floats(0.0, 1.0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def sample(
    share: float, outcome: Outcome = Outcome.OK, wall_s: float = 10.0, **more: Any
) -> Sample:
    found = Contention(core_s=wall_s, lost_s=share * wall_s)
    usage = Usage(wall_s, (1 - share) * wall_s)
    return Sample("c", 1, outcome, 1.0, usage=usage, contention=found)


def voids(run: Run, measured: list[float], before: list[float] | None = None) -> list[bool]:
    """Which of these samples, one after the other, are void."""
    known, found = list(before or []), []
    for share in measured:
        found.append(bool(why_void(sample(share), run, known)))
        known.append(share)
    return found


# The judgement


def test_a_run_that_was_ended_early_is_void_where_rivals_held_it_up() -> None:
    ended = sample(0.3, Outcome.HOPELESS)
    assert unless_void(ended, WALL, [0.0] * 9, exact=False).outcome is Outcome.VOID
    assert unless_void(ended, WALL, [0.0] * 9, exact=True) is ended
    assert unless_void(ended, WALL, [0.3] * 9, exact=False) is ended


def test_a_disturbed_sample_of_a_quiet_run_is_void() -> None:
    assert voids(WALL, [0.0, 0.01, 0.3, 0.02, 0.0]) == [False, False, True, False, False]
    reason = why_void(sample(0.3), WALL, [0.02] * 9)
    assert reason == "30 % of its cores' time went to other programs, usual here are 2 %"


def test_processor_time_is_disturbed_less() -> None:
    assert LIMITS["cpu"] > LIMITS["wall"]
    assert voids(CPU, [0.0, 0.2, 0.0, 0.25, 0.9]) == [False, False, False, False, True]


@given(st.lists(shares, max_size=30), shares)
def test_the_value_is_not_looked_at(before: list[float], share: float) -> None:
    taken = sample(share)
    for value in (None, -1e9, 1e9):
        assert why_void(taken, WALL, before) == why_void(replace(taken, value=value), WALL, before)


@given(shares, st.sampled_from([WALL, CPU]))
def test_a_machine_that_is_always_busy_is_used_all_the_same(share: float, run: Run) -> None:
    assert sum(voids(run, [share] * 50)) <= 2


@given(st.lists(shares, max_size=30), shares)
def test_what_lasts_becomes_usual(before: list[float], share: float) -> None:
    found = voids(WALL, [share] * 20, before)
    assert sum(found) <= 5
    assert not any(found[5:])


@given(st.lists(st.floats(0.2, 0.5), min_size=200, max_size=200))
def test_a_busy_machine_that_varies_makes_few_voids(measured: list[float]) -> None:
    assert sum(voids(WALL, measured)) <= 60


@given(st.lists(shares, max_size=30))
def test_the_limit_is_beyond_what_is_usual(before: list[float]) -> None:
    assert 0.0 <= usual(before) <= 1.0
    assert limit("wall", before) >= usual(before) + LIMITS["wall"]


def test_only_who_was_held_up_is_excused_a_timeout() -> None:
    assert why_void(sample(0.6, Outcome.TIMEOUT, 20.0), WALL, [])
    assert why_void(sample(0.6, Outcome.TIMEOUT, 20.0), CPU, [])
    # It had its budget twice over, whatever else went on.
    assert not why_void(sample(0.2, Outcome.TIMEOUT, 20.0), WALL, [])
    assert not why_void(sample(0.2, Outcome.TIMEOUT, 20.0), CPU, [])
    assert not why_void(sample(0.0, Outcome.TIMEOUT, 20.0), WALL, [])
    assert not why_void(sample(0.9, Outcome.CRASH), WALL, [])


def test_short_samples_are_not_judged() -> None:
    found = contention_of({"steps": [{"contention": None}, {"contention": None}]})
    assert found == Contention() and found.share == 0.0


def test_waiting_bounds_what_others_took() -> None:
    step = {"core_s": 10.0, "waited_s": 1.0, "others_s": 6.0, "stolen_s": 0.5}
    # A job that sleeps does not mind what else runs.
    assert contention_of({"steps": [{"contention": step}]}).share == pytest.approx(0.15)
    unknown = step | {"waited_s": None}
    assert contention_of({"steps": [{"contention": unknown}]}).share == pytest.approx(0.65)


# Measured, with real rivals on the core


@contextlib.contextmanager
def burners(count: int, core: int) -> Iterator[None]:
    """Programs that are not ours and want all of a core, each in a session of its own."""
    script = f"import os\nos.sched_setaffinity(0, [{core}])\nparent = os.getppid()\n"
    script += "while os.getppid() == parent:\n    sum(range(10_000))\n"
    started = [
        subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        for _ in range(count)
    ]
    time.sleep(0.3)
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.communicate()


def measured(server: Server, tmp_path: Path, code: str) -> dict[str, Any]:
    """The entry of a step that runs Python code on the last core."""
    box = Box([sys.executable, "-c", code], Path("/"), {}, tmp_path / "log")
    work = job(
        Sandbox(Level.NONE).process(box),
        cores=list(Slot().share(available_cores(), 1)),
        deadline_s=60,
    )
    (step,) = server.run(work)["steps"]
    assert step["outcome"] == "ok", (tmp_path / "log").read_text()
    found: dict[str, Any] = step
    return found


BURN = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\n"
CHILDREN = "import os\nfor _ in range(3):\n  if os.fork() == 0: break\n"
HIDDEN = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end = time.monotonic() + 3
while time.monotonic() < end:
    if os.fork() == 0:
        sum(range(200_000))
        os._exit(0)
    sum(range(200_000))
"""


@linux
def test_rivals_on_the_core_are_found(server: Server, tmp_path: Path) -> None:
    with burners(4, Slot().share(available_cores(), 1)[0]):
        step = measured(server, tmp_path, BURN)
    found = step["contention"]
    assert contention_of({"steps": [step]}).share > 0.4
    assert found["others_s"] > 0.4 * found["core_s"]
    assert 1.5 < found["core_s"] < 2.5 + step["usage"]["wall_s"] - 3


@linux
@pytest.mark.parametrize("code", [BURN, CHILDREN + BURN], ids=["alone", "with children"])
def test_its_own_processes_are_not_rivals(server: Server, tmp_path: Path, code: str) -> None:
    step = measured(server, tmp_path, code)
    found = step["contention"]
    # Whatever else goes on here, no second of the core is both ours and theirs.
    own_s = step["usage"]["cpu_s"] - (step["usage"]["wall_s"] - found["core_s"])
    assert found["others_s"] <= found["core_s"] - own_s + 0.2
    if "fork" in code:
        # They wait for each other all the time, and that does not count.
        assert found["waited_s"] > found["core_s"]


@linux
def test_children_that_nobody_waits_for_are_no_rivals(tmp_path: Path) -> None:
    """On a machine whose accounts miss them, their time must not pass for somebody else's."""
    runner = tmp_path / "runner.py"
    text = RUNNER.read_text()
    for account in ("make_group()", "open_clock()"):
        assert f"= {account}" in text
        text = text.replace(f"= {account}", "= None")
    runner.write_text(text)
    server = Server(runner)
    before = foreign_s(server)
    step = measured(server, tmp_path, HIDDEN)
    foreign = foreign_s(server) - before
    server.process.communicate()
    found = step["contention"]
    assert step["usage"]["cpu_s"] < 0.9 * step["usage"]["wall_s"], "the account saw them"
    assert found["others_s"] <= foreign + 0.1


def foreign_s(server: Server) -> float:
    """Processor seconds of all processes but the runner's and the kernel's."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if path.parent.name != str(server.process.pid) and not int(fields[6]) & 0x200000:
                total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


@linux
def test_a_sleeper_loses_nothing(server: Server, tmp_path: Path) -> None:
    with burners(2, Slot().share(available_cores(), 1)[0]):
        step = measured(server, tmp_path, "import time; time.sleep(2.5)")
    assert contention_of({"steps": [step]}).share < 0.02 < step["contention"]["others_s"]


def test_short_steps_and_free_ones_have_no_contention(server: Server, tmp_path: Path) -> None:
    assert measured(server, tmp_path, "pass")["contention"] is None
    box = Box([sys.executable, "-c", "import time; time.sleep(2.1)"], Path("/"), {}, tmp_path / "l")
    (step,) = server.run(job(Sandbox(Level.NONE).process(box)))["steps"]
    assert step["contention"] is None


# A run


def test_a_void_ticket_stays_queued_once(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.0)
    view = story.view
    story.tell("ticket", ticket="t", message="mine", files={}, patch=None)
    for repeats in (None, 1):
        number = view.next_number
        story.tell("opened", number, kind="improve", parent="b" * 40, agent="try", open=True,
                   ticket="t", repeats=repeats)  # fmt: skip
        story.tell("proposed", number, description="mine")
        story.tell("sealed", number, commit="c" * 40, tokens_added=0, fingerprint="f")
        assert "t" in view.tickets
        story.decide(Decision(Status.VOID, "3 samples say nothing"))
        assert bool(view.to_repeat) == (repeats is None)
        assert "f" not in view.fingerprints
    assert "t" not in view.tickets
    assert RunView(story._journal.events()).to_repeat == {}


# Only the first candidate wants its core: whatever else goes on here, the others lose nothing.
WANTS = """
import time
end = time.monotonic() + 2.5
while time.monotonic() < end:
    if LR != 0.7:
        time.sleep(2.1)
        break
"""


@linux
def test_a_contended_experiment_is_void_and_measured_once_more(toy: MakeToy) -> None:
    task = toy(
        {
            "train.py": TRAIN + WANTS,
            "patches/1.patch": lr_patch("0.7"),
            "patches/2.patch": lr_patch("0.8"),
        },
        agent='use = "replay"\n[agent.replay]\ndir = "patches"',
        limits="experiments = 3",
    )
    task.call("run", "--tag", "t", "--max-experiments", "0")
    with burners(8, Slot().share(available_cores(), 1)[0]):
        engine = task.start("run", "--tag", "t")
        give_up = time.monotonic() + 120
        while task.view().counts[Status.VOID] == 0 and time.monotonic() < give_up:
            time.sleep(0.05)
    assert engine.wait(120) == 0
    view = task.view()
    void, again, second = (view.experiments[number] for number in (1, 2, 3))
    assert void.decision is not None and void.decision.status is Status.VOID
    assert "3 samples say nothing" in void.decision.reason
    assert "of its cores' time went to other programs" in void.decision.reason
    assert [each.sample.outcome for each in void.taken] == [Outcome.VOID] * 3
    assert {each.sample.value for each in void.taken} == {None}
    assert all(each.sample.contention.share > 0.3 for each in void.taken)
    # The same candidate, with the same seeds: being void is no way to draw again.
    assert (again.commit, again.repeats, again.description) == (void.commit, 1, "1")
    seeds = {each.sample.seed for each in void.taken}
    assert len(seeds) == 1 and again.taken[0].sample.seed in seeds
    # On a machine that is always busy it may be void again, but is not repeated any more.
    assert task.statuses()[:2] == ["keep", "void"] and task.statuses()[2] in ("discard", "void")
    assert task.statuses()[3] == "discard"
    assert (second.description, second.repeats) == ("2", None)
    assert "void: " in (task.run_folder / "engine.log").read_text()
    shown = task.call("show", "1").stdout
    assert "void: " in shown and "other programs" in shown
    assert "repeats     #1" in task.call("show", "2").stdout
