"""Values compare between machines of one kind only."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch import config, git
from autoresearch.bench import Places
from autoresearch.engine import Engine
from autoresearch.errors import UserError
from autoresearch.journal.view import Role, RunView
from autoresearch.run import FOLDER, Run
from autoresearch.sandbox import Sandbox
from autoresearch.testing.agent import ScriptedAgent
from autoresearch.testing.clock import FakeClock, run_simulated
from autoresearch.testing.executor import FakeExecutor, Ran
from autoresearch.types import Assignment, Level, Limits, Outcome, Proposal, Status
from tests.conftest import Toy

# What a loss is multiplied with there: nothing that a candidate did.
FACTORS = {"old": 1.0, "new": 0.5}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    # With seeds drawn anew a screen would sometimes be lucky, as it may be.
    monkeypatch.setattr("autoresearch.run.secrets.randbits", lambda bits: 7)
    made = Toy(tmp_path / "task", {"train.py": "x" * 50}).create()
    git.exclude(made.root, f"{FOLDER}/")
    return made


def simulate(task: Toy, where: Callable[[int, int], str], remove: int, experiments: int) -> RunView:
    """Run the real engine; ``where`` says on which hardware a sample of an experiment is taken.

    It is given the experiment's number and how many samples were taken before. Each experiment
    removes so many of fifty equal parts of the loss.
    """
    taken = 0

    def program(step: str, cwd: Path, env: Mapping[str, str]) -> Ran:
        nonlocal taken
        executor.hardware = where(int(env["AUTORESEARCH_EXPERIMENT"]), taken)
        taken += 1
        loss = (cwd / "train.py").read_text().count("x")
        noise = random.Random(int(env["AUTORESEARCH_SEED"])).gauss(0, 0.01)
        return Ran(f"loss: {(loss + noise) * FACTORS[executor.hardware]}")

    executor = FakeExecutor(program)

    def edit(assignment: Assignment) -> Proposal:
        train = assignment.workspace / "train.py"
        text = train.read_text() + "y" * assignment.number
        train.write_text(text.replace("x", "", remove))
        return Proposal("some less")

    async def main() -> None:
        contract = config.load(task.root / "autoresearch.toml")
        contract = replace(contract, limits=Limits(experiments=experiments))
        run = Run(Places(task.root / FOLDER / "t", task.root, task.root), "t", clock)
        run.begin(contract, git.head(task.root), {})
        try:
            engine = Engine(run, contract, Sandbox(Level.NONE), executor)
            engine.workers[0].desk.agent = ScriptedAgent(edit)
            await engine.loop()
        finally:
            run.release()

    clock = FakeClock()
    run_simulated(clock, main)
    return task.view()


def test_another_machine_is_no_gain(task: Toy) -> None:
    view = simulate(task, lambda number, _: "new" if number else "old", remove=0, experiments=3)
    assert view.counts[Status.KEEP] == 1, "a candidate was kept for the machine it ran on"
    first = view.experiments[1]
    assert Role.INCUMBENT in {each.role for each in first.taken}, "it was never measured there"
    assert {each.sample.hardware for each in first.taken} == {"new"}


def test_a_gain_on_a_slower_machine_is_one(task: Toy) -> None:
    view = simulate(task, lambda number, _: "old" if number else "new", remove=5, experiments=2)
    assert [each.decision.status for each in view.decided if each.decision] == [Status.KEEP] * 3
    assert view.decided[1].decision and view.decided[1].decision.value == pytest.approx(45, abs=1)
    assert view.noise.sigma(45)[0] < 1, "the difference of machines was taken for noise"


def test_a_run_that_comes_back_compares_with_what_it_measured_there(task: Toy) -> None:
    hardware = {0: "old", 1: "new", 2: "old", 3: "new"}
    view = simulate(task, lambda number, _: hardware[number], remove=0, experiments=3)
    assert view.counts[Status.DISCARD] == 3
    for number in (1, 2, 3):
        samples = view.experiments[number].taken
        assert {each.sample.hardware for each in samples} == {hardware[number]}
    again = [each.role for each in view.experiments[3].taken]
    assert again == [Role.SCREEN], "the incumbent was measured there two experiments ago"


def test_a_sample_on_other_hardware_is_taken_again(task: Toy) -> None:
    seen: list[int] = []

    def where(number: int, taken: int) -> str:
        if number == 1:
            seen.append(taken)
        return "new" if number == 1 and len(seen) == 2 else "old"

    view = simulate(task, where, remove=5, experiments=1)
    samples = [each.sample for each in view.experiments[1].taken]
    assert [each.outcome for each in samples[:3]] == [Outcome.OK, Outcome.VOID, Outcome.OK]
    assert samples[1].reason == "taken on new, the others of this experiment on old"
    assert samples[1].seed == samples[2].seed
    assert view.counts[Status.KEEP] == 2


def test_a_baseline_on_mixed_hardware_ends_with_advice(task: Toy) -> None:
    with pytest.raises(UserError, match="the others of this experiment on old") as caught:
        simulate(task, lambda _, taken: "new" if taken else "old", remove=0, experiments=1)
    assert "of one kind" in caught.value.fix
