"""``run --workers N``: several experiments at once, decided one after the other."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from autoresearch import config
from autoresearch.bench import Slot, available_cores
from autoresearch.cli.run import Begin, hold
from autoresearch.journal import Journal
from autoresearch.journal.view import ENGINE
from autoresearch.types import Kind, Plan, Status
from tests.conftest import Toy, until
from tests.invariants import check_invariants

MakeToy = Callable[..., Toy]
CORES = pytest.mark.skipif(len(available_cores()) < 2, reason="needs two cores")
# Two constants that stand one below the other, and a sample long enough for two to be in flight.
TRAIN = """\
import os
import time
from _random import Random

LR = 0.5
WD = 0.5
noise = (Random(int(os.environ["AUTORESEARCH_SEED"])).random() - 0.5) / 289
time.sleep(0.5)
print("cores:", sorted(os.sched_getaffinity(0)))
print("loss:", (LR - 0.1) ** 2 + (WD - 0.1) ** 2 + noise)
"""
ALWAYS_NEW = '#!/bin/sh\necho "x$(date +%N) = 1" >> train.py\n'
SHARED = "oversubscribe = true"


def crew(toy: MakeToy, first: str, second: str, train: str = TRAIN) -> Toy:
    """A task with two agents, each an edit of its own, that share what cores there are."""
    agents = "".join(
        f'[[agent]]\nuse = "command"\n[agent.command]\nargv = ["./{name}.sh"]\n'
        for name in ("first", "second")
    )
    files = {
        f"{name}.sh": f"#!/bin/sh\n{edit}\necho {name}\n"
        for name, edit in (("first", first), ("second", second))
    }
    return toy({"train.py": train, **files}, agent="", parallel=f"{SHARED}\n\n{agents}")


def change(name: str, value: str) -> str:
    """An edit that sets a constant."""
    return f"sed -i 's/^{name} = .*/{name} = {value}/' train.py"


def started(task: Toy, *argv: str) -> None:
    """Two workers, each with cores of its own."""
    task.call("run", "--workers", "2", *argv)


def overlaps(task: Toy) -> int:
    """How many samples were in flight at once at most."""
    flight, most = set[tuple[int | None, object]](), 0
    for event in Journal(task.run_folder / "journal.db", read_only=True).events():
        name = (event.experiment, event.body.get("k"))
        if event.kind == "attempt":
            flight.add(name)
        elif event.kind == "sample":
            flight.discard(name)
        most = max(most, len(flight))
    return most


def test_two_gains_that_were_found_at_once_are_combined(toy: MakeToy) -> None:
    task = crew(toy, change("LR", "0.1"), change("WD", "0.1"))
    # While the second is still measured, the first worker's agent repeats itself.
    task.call("run", "--max-experiments", "9")
    view = check_invariants(task)
    assert overlaps(task) == 2
    both = next(each for each in view.decided if each.kind is Kind.COMBINE)
    other = view.experiments[both.combines or 0]
    assert other.decision is not None and other.decision.status is Status.DISCARD
    assert "kept meanwhile" in other.decision.reason
    assert both.decision is not None and both.decision.status is Status.KEEP, both.decision
    source = task.git("show", f"{view.branch}:train.py")
    assert "LR = 0.1" in source and "WD = 0.1" in source
    # What was selected for being good is not what it is kept for.
    assert len([each for each in both.taken if each.sample.value is not None]) > 1


def test_gains_that_do_not_go_together_are_both_remembered(toy: MakeToy) -> None:
    # The better one is decided first; its worker then has nothing new, and soon waits.
    task = crew(toy, change("LR", "0.1"), f"sleep 0.7; {change('LR', '0.3')}")
    task.call("run", "--max-experiments", "9")
    view = check_invariants(task)
    assert "LR = 0.1" in task.git("show", f"{view.branch}:train.py")
    clash = next(each for each in view.decided if each.combines is not None)
    # What lines cannot do, an agent that reads may.
    told = (task.run_folder / "experiments" / str(clash.number) / "briefing.md").read_text()
    assert f"Bring what experiment {clash.combines} changed into these files" in told


def test_a_combination_that_was_cut_short_comes_before_a_ticket(toy: MakeToy) -> None:
    task = crew(toy, change("LR", "0.1"), change("WD", "0.1"))
    task.call("run", "--max-experiments", "2")
    won = next(iter(task.view().to_combine))
    with hold(config.load(task.root / "autoresearch.toml"), Begin()) as held:
        best = held.view.incumbent
        assert best is not None
        held.open(3, Plan(best.commit, Kind.COMBINE, combines=won), ENGINE)
        held.append("ticket", ticket="mine", message="mine", files={}, patch=None)
    task.call("run", "--workers", "2", "--max-experiments", "4")
    view = check_invariants(task)
    assert view.experiments[3].combines == won and not view.experiments[3].ticket
    assert view.experiments[4].ticket == "mine"


@CORES
def test_samples_share_no_core(toy: MakeToy) -> None:
    task = toy({"train.py": TRAIN, "agent.sh": ALWAYS_NEW})
    started(task, "--max-experiments", "4")
    assert overlaps(task) == 2
    used: dict[int, set[str]] = {}
    for each in task.view().decided[1:]:
        for log in (task.run_folder / "experiments" / str(each.number)).glob("samples/*/run.log"):
            cores = re.search(r"cores: (.*)", log.read_text())
            assert cores is not None
            used.setdefault(each.worker, set()).add(cores[1])
    assert sorted(used) == [0, 1]
    assert all(len(cores) == 1 for cores in used.values()) and used[0] != used[1]


def test_a_killed_crew_is_resumed_by_one(toy: MakeToy) -> None:
    slow = TRAIN.replace("sleep(0.5)", "sleep(2)")
    task = crew(toy, change("LR", "0.1"), change("WD", "0.4"), slow)
    engine = task.start("run")
    until(task.saw(lambda view: len(view.in_flight) == 2 and len(view.leases) == 2), 120)
    os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()
    numbers = set(task.view().in_flight)
    task.call("run", "--agent", "search", "--workers", "1", "--max-experiments", "2")
    view = check_invariants(task)
    assert numbers == {1, 2} and numbers <= {each.number for each in view.decided}
    assert view.workers == 1


def test_every_agent_has_a_worker(toy: MakeToy) -> None:
    task = crew(toy, 'echo "a$(date +%N) = 1" >> train.py', 'echo "b$(date +%N) = 1" >> train.py')
    task.call("run", "--max-experiments", "4")
    view = check_invariants(task)
    assert view.workers == 2
    said = {(each.worker, each.description) for each in view.decided[1:]}
    assert {(0, "first"), (1, "second")} <= said
    # What agents are shown is written once, not for each of them.
    assert [path.name for path in task.run_folder.glob("memory*")] == ["memory"]
    assert {path.name for path in (task.run_folder / "memory").iterdir()} == {
        "diffs", "logs", "lessons.md", "results.tsv",
    }  # fmt: skip
    contract = task.root / "autoresearch.toml"
    contract.write_text(contract.read_text().replace(SHARED, "workers = 1"))
    failed = task.call("run", "--max-experiments", "5", code=2)
    assert "there are 2 agents" in failed.stderr


def test_more_workers_than_cores_are_refused(toy: MakeToy) -> None:
    task = toy()
    many = len(available_cores()) + 1
    failed = task.call("run", "--workers", str(many), code=2)
    assert f"needs {many} cores" in failed.stderr and "oversubscribe" in failed.stderr


def test_an_idea_waits_for_its_worker(toy: MakeToy) -> None:
    task = toy({"train.py": TRAIN, "agent.sh": ALWAYS_NEW}, parallel=f"workers = 2\n{SHARED}")
    task.call("run", "--max-experiments", "1")
    task.call("idea", "add", "a wider layer", "--worker", "1")
    task.call("idea", "add", "never", "--worker", "2", code=2)
    task.call("run", "--max-experiments", "4")
    view = check_invariants(task)
    assert [view.experiments[n].worker for n in view.ideas.all[0].experiments] == [1]


def test_devices_are_dealt_like_cores() -> None:
    assert Slot(0, 2).share(["0", "1", "2", "3"], 2) == ("2", "3")
    assert Slot(1, 2).share(["0", "1", "2", "3"], 2) == ("0", "1")
    assert Slot(2, 3).share([0, 1], 1) == (1,)
    assert Slot(0, 1).share([], 1) == ()


@CORES
def test_the_devices_of_a_sample_are_told_to_it(
    toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    train = TRAIN.replace("cores:", "device:").replace(
        "sorted(os.sched_getaffinity(0))", 'os.environ["CUDA_VISIBLE_DEVICES"]'
    )
    run = 'command = "python3 train.py"\nbudget = "5s"\ngpus = 1'
    task = toy({"train.py": train, "agent.sh": ALWAYS_NEW}, run=run)
    started(task, "--max-experiments", "3")
    for each in task.view().decided[1:]:
        for log in (task.run_folder / "experiments" / str(each.number)).glob("samples/*/run.log"):
            assert f"device: {'7' if each.worker == 0 else '4'}\n" in log.read_text()
