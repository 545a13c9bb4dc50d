"""Thousands of experiments of the real engine in simulated time, killed at random failpoints.

Engine, run, journal, private store and delivery are the real ones; the clock, the agent and the
programs are scripted, and misbehave in every way they can. A kill is an exception at a failpoint
after which nothing can be written any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from autoresearch import config, failpoint, git
from autoresearch.bench import Places
from autoresearch.engine import Engine
from autoresearch.errors import AgentError, ExecutorError
from autoresearch.inbox import drop
from autoresearch.journal import Event, tsv
from autoresearch.journal.ideas import TRIES, State
from autoresearch.journal.view import RunView
from autoresearch.run import FOLDER, Run
from autoresearch.sandbox import Sandbox
from autoresearch.testing.agent import ScriptedAgent
from autoresearch.testing.clock import FakeClock, run_simulated
from autoresearch.testing.executor import FakeExecutor, Ran
from autoresearch.types import Assignment, Level, Proposal, Status
from tests.conftest import Toy
from tests.invariants import check_invariants

HOUR_S = 3600.0
SHM = Path("/dev/shm")


class KilledError(BaseException):
    """The engine's process would have ended here."""


@dataclass
class World:
    """What happens to a run, drawn from one seed."""

    rng: random.Random
    clock: FakeClock
    crowded: bool = False
    met: Counter[str] = field(default_factory=Counter)
    rows: list[str] = field(default_factory=list)
    seeds: dict[tuple[int, int], object] = field(default_factory=dict)

    def happens(self, what: str, probability: float) -> bool:
        hit = self.rng.random() < probability
        self.met[what] += hit
        return hit

    def program(self, step: str, cwd: Path, env: Mapping[str, str]) -> Ran:
        """What a simulated command or guard does."""
        if self.happens("clock set", 0.02):
            self.clock.set_wall(self.rng.choice([-HOUR_S, HOUR_S]))
        if self.happens("executor failed", 0.02):
            raise ExecutorError("the node is gone")
        if self.happens("disk full", 0.02):
            raise OSError(errno.ENOSPC, "No space left on device")
        if step.startswith("guard"):
            broken = step == "guard-0" and "broken" in (cwd / "train.py").read_text()
            return Ran("no", "failed", 1.0, 1) if broken else Ran("ok")
        if self.happens("interrupted sample", 0.02):
            return Ran("", "cancelled", 3.0, None)
        if int(env["AUTORESEARCH_EXPERIMENT"]) and self.happens("timeout", 0.02):
            return Ran("", "timeout", 10.0, None)
        if int(env["AUTORESEARCH_EXPERIMENT"]) and self.happens("crash", 0.03):
            return Ran("Traceback", "failed", 1.0, 1)
        rate = float((cwd / "train.py").read_text().split("LR = ")[1].split()[0])
        noise = random.Random(int(env["AUTORESEARCH_SEED"])).gauss(0, 0.001)
        return Ran(f"loss: {(rate - 0.1) ** 2 + noise}", seconds=self.rng.uniform(1, 5))

    def edit(self, assignment: Assignment) -> Proposal:
        """What a scripted agent does."""
        if self.happens("agent failed", 0.05):
            raise AgentError("no credit")
        train = assignment.workspace / "train.py"
        if self.happens("protected file changed", 0.03):
            (assignment.workspace / "autoresearch.toml").write_text("mine")
        if not self.happens("no change", 0.03):
            rate = self.rng.choice([self.rng.uniform(0.05, 0.6), round(self.rng.random(), 1)])
            extra = "\nbroken = True" if self.happens("broken for the guard", 0.05) else ""
            train.write_text(f"LR = {rate:.4f} {extra}\n")
        return Proposal("an idea", tokens=10, cost_usd=0.01)


@contextlib.contextmanager
def killed_after(count: int, run: Run, met: Counter[str]) -> Iterator[None]:
    """Kill at the ``count``-th failpoint from now: nothing reaches the journal after it.

    Raises:
        KilledError: it came to that.
    """

    def pass_by(name: str) -> None:
        nonlocal count
        count -= 1
        if count <= 0:
            met[f"killed at {name}"] += count == 0
            run.journal.close()
            raise KilledError

    failpoint.watch(pass_by)
    try:
        yield
    except BaseException as error:
        if count > 0:
            raise
        raise KilledError from error
    finally:
        failpoint.watch(None)


def live(task: Toy, world: World, decided: int, kill_after: int) -> RunView:
    """One life of an engine: from taking the lock to its end or its death."""
    contract = config.load(task.root / "autoresearch.toml")
    workers = world.rng.choice([1, 2, 4]) if world.crowded else 1
    parallel = replace(contract.parallel, workers=workers, oversubscribe=True)
    contract = replace(contract, parallel=parallel)
    places = Places(task.root / FOLDER / "t", task.root, task.root)
    run = Run(places, "t", clock=world.clock)

    def note(event: Event, view: RunView) -> None:
        if event.kind == "attempt":
            pair = (int(str(event.body["seed"])), int(str(event.body["k"])))
            # Once more only for the code it was for: of a void experiment that is repeated.
            assert world.seeds.setdefault(pair, event.body["commit"]) == event.body["commit"]
        if event.kind == "paused" and event.body["wait_s"] is None:
            world.met["paused by a person"] += 1
            drop(task.run_folder, {"kind": "resume"})
        if engine is not None and len(view.decided) >= decided:
            engine.request_stop_once()

    class Stopping(Engine):
        asked = False

        def request_stop_once(self) -> None:
            if not self.asked:
                self.asked = True
                self.request_stop("test")

    engine: Stopping | None = None
    run.listeners.append(note)
    if decided and world.happens("pause asked for", 0.1):
        drop(task.run_folder, {"kind": "pause"})
    try:
        with killed_after(kill_after, run, world.met):
            if run.view.base:
                run.resume(contract)
            else:
                run.begin(contract, git.head(task.root), {})
            engine = Stopping(run, contract, Sandbox(Level.NONE), FakeExecutor(world.program))
            for each in engine.workers:
                each.desk.agent = ScriptedAgent(world.edit)
            run_simulated(world.clock, engine.loop)
        run.release()
    except KilledError:
        os.close(run._lock)
        run.store.close()
    return run.view


def check_ideas(view: RunView, asked: list[str]) -> None:
    """No idea is lost, tried more often than it should be, or left without an answer."""
    assert sorted(each.ticket for each in view.ideas.all) == sorted(asked)
    for idea in view.ideas.all:
        tried = [view.experiments[number] for number in idea.experiments]
        assert all(each.idea == idea.number for each in tried)
        statuses = [each.decision.status for each in tried if each.decision]
        said_nothing = [
            each for each in tried
            if each.decision and each.decision.status not in (Status.KEEP, Status.DISCARD)
            and not (each.decision.status is Status.VOID and each.repeats is None)
        ]  # fmt: skip
        assert len(said_nothing) <= idea.tries <= (1 if idea.code else TRIES)
        match idea.state:
            case State.CONFIRMED:
                assert statuses[-1] is Status.KEEP
            case State.REFUTED:
                assert statuses[-1] is Status.DISCARD
            case State.FAILED:
                assert idea.tries == (1 if idea.code else TRIES)
            case State.TAKEN:
                assert tried[-1].number in view.in_flight
            case _:
                assert not statuses or len(said_nothing) == 1 or statuses[-1] is Status.VOID
    owners = {n for idea in view.ideas.all for n in idea.experiments}
    assert owners == {each.number for each in view.experiments.values() if each.idea}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_simulated_run_keeps_every_invariant(
    seed: int,
    endurance: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiments = 1500 if endurance else 120
    world = World(random.Random(seed), FakeClock(), crowded=seed > 0)
    monkeypatch.setattr("autoresearch.run.secrets.randbits", world.rng.getrandbits)
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-model-", dir=SHM if SHM.is_dir() else None))
    began = time.monotonic()
    lives, asked = 0, list[str]()
    try:
        task = Toy(folder / "task", {"train.py": "LR = 0.5\n"}, {"guard": 'command = "true"'})
        task.create()
        git.exclude(task.root, f"{FOLDER}/")
        while len(world.rows) <= experiments:
            lives += 1
            if lives % 7 == 0:
                drop(task.run_folder, {"kind": "ticket", "ticket": f"{lives}", "message": "mine",
                                       "files": {}, "patch": None})  # fmt: skip
            if lives % 3 == 0:
                asked.append(f"{lives}")
                drop(task.run_folder, {
                    "kind": "idea", "ticket": asked[-1], "text": f"an idea of life {lives}",
                    "priority": lives % 5, "patch": "bm9uZQ==" if lives % 2 else None,
                })  # fmt: skip
            view = live(task, world, len(world.rows) + 20, int(world.rng.expovariate(1 / 70)) + 1)
            rows = [tsv.row(each) for each in view.decided]
            assert rows[: len(world.rows)] == world.rows, "a decided row is gone or changed"
            world.rows = rows
            if lives % 20 == 0:
                check_invariants(task, recovered=False)
        view = live(task, world, 0, 10**9)
        view = check_invariants(task)
        tickets = [each.ticket for each in view.decided if each.ticket and each.repeats is None]
        assert len(tickets) == len(set(tickets)), "a ticket was carried out twice"
        check_ideas(view, asked)
        assert view.active_s <= world.clock.monotonic_s(), "set clocks count as time"
        assert all(sum(s.outcome.value == "void" for s in e.own) <= 3 for e in view.decided[1:])
    finally:
        failpoint.watch(None)
        shutil.rmtree(folder, ignore_errors=True)
    with capsys.disabled():
        kills = {name: n for name, n in world.met.items() if name.startswith("killed") and n}
        print(
            f"\n{len(world.rows)} simulated experiments in {lives} lives of an engine,"
            f" {sum(kills.values())} kills at {len(kills)} failpoints, 0 violations,"
            f" {time.monotonic() - began:.0f} s"
        )
    assert not {name for name, count in world.met.items() if not count}, (world.met, view.counts)
