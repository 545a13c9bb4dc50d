"""Limits end a run in time, each with its reason; what cannot be known cannot be limited."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch import config, git
from autoresearch.bench import Places
from autoresearch.engine import End, Engine
from autoresearch.errors import AgentError, UserError
from autoresearch.run import FOLDER, Run
from autoresearch.sandbox import Sandbox
from autoresearch.testing.agent import ScriptedAgent
from autoresearch.testing.clock import FakeClock, run_simulated
from autoresearch.testing.executor import FakeExecutor, Ran
from autoresearch.types import AgentFailure, Assignment, Level, Limits, Prices, Proposal
from tests.conftest import Toy

HOUR_S = 3600.0
SAMPLE_S = 60.0


def saying(**said: object) -> str:
    """An agent that edits, and says in its proposal file what it used."""
    return (
        "#!/bin/sh\n"
        'sed -i "s/^LR = .*/LR = 0.4$(wc -l < "$AUTORESEARCH_PROMPT")/" train.py\n'
        f"echo '{json.dumps(said)}' > \"$AUTORESEARCH_PROPOSAL\"\n"
    )


@pytest.mark.parametrize(
    ("limit", "said", "reason"),
    [
        ("cost_usd = 0.5", {"cost_usd": 0.6}, "limit reached: cost_usd 0.5"),
        ("tokens = 100", {"tokens": 120}, "limit reached: tokens 100"),
    ],
)
def test_what_agents_report_is_limited(
    limit: str, said: dict[str, float], reason: str, toy: Callable[..., Toy]
) -> None:
    task = toy(files={"agent.sh": saying(**said)}, limits=limit)
    task.call("run")
    assert task.view().end_reason == reason
    name, most = limit.split(" = ")
    shown = json.loads(task.call("status", "--json").stdout)["limits"][name]
    assert shown == {"used": said[name], "max": float(most)}
    assert f"limit        {name} " in task.call("status").stdout
    # A night later it has not forgotten; more is spent only where more is allowed.
    task.call("run")
    assert len(task.view().decided) == 2
    contract = task.root / "autoresearch.toml"
    contract.write_text(contract.read_text().replace(limit, f"{name} = {2 * said[name]}"))
    task.call("run")
    assert len(task.view().decided) == 3


@pytest.mark.parametrize("name", ["cost_usd", "tokens"])
def test_a_limit_on_what_nobody_reports_is_refused(name: str, toy: Callable[..., Toy]) -> None:
    task = toy(files={"agent.sh": saying(description="silent")}, limits=f"{name} = 5")
    done = task.call("run", code=2)
    assert f"limits.{name} = 5 cannot be held: the agent 'command' did not say" in done.stderr
    assert "take the limit out" in done.stderr
    assert "cannot be held" in task.view().end_reason
    assert len(task.view().decided) == 1


def test_prices_turn_tokens_into_money(toy: Callable[..., Toy]) -> None:
    agent = (
        'use = "command"\n[agent.command]\nargv = ["./agent.sh"]\n'
        "[agent.prices]\ninput = 1.0\noutput = 5.0"
    )
    task = toy(
        files={"agent.sh": saying(tokens=100_000)}, agent=agent, limits="cost_usd = 0.5"
    )  # fmt: skip
    task.call("run")
    assert task.view().end_reason == "limit reached: cost_usd 0.5"
    assert task.experiment(1).cost_usd == 0.5


def test_prices() -> None:
    prices = Prices(input=2.0, output=10.0, cached=0.5)
    assert prices.cost_usd(1_000_000, 100_000, 600_000) == pytest.approx(0.8 + 0.3 + 1.0)
    assert Prices(2.0, 10.0).cost_usd(1_000_000, 0, 600_000) == 2.0
    assert prices.most_usd(1_000_000) == 10.0


def test_agents_that_cost_nothing_may_be_limited(toy: Callable[..., Toy]) -> None:
    task = toy(agent='use = "search"', limits="cost_usd = 1.0\ntokens = 10\nexperiments = 1")
    task.call("run")
    assert task.view().end_reason == "limit reached: experiments 1"


def test_prices_are_checked_and_survive_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "autoresearch.toml"
    text = (
        '[task]\neditable = ["a"]\n[run]\ncommand = "b"\n[metric]\nname = "c"\n'
        "[agent]\n[agent.prices]\ninput = 1\noutput = {}\n"
    )
    contract = config.parse(text.format("5"), path)
    assert contract.agents[0].prices == Prices(1.0, 5.0)
    assert config.from_snapshot(config.snapshot(contract), path) == contract
    with pytest.raises(config.ContractError, match=r"prices\.output = -1"):
        config.parse(text.format("-1"), path)
    with pytest.raises(config.ContractError, match="unknown key; known are input, output, cached"):
        config.parse(text.format("5\ncost = 3"), path)


# In simulated time


def simulate(
    task: Toy, clock: FakeClock, edit: Callable[[Assignment], Proposal], limits: Limits,
    gpus: int = 0,
) -> End:  # fmt: skip
    """Run the real engine until it ends; a sample takes a minute."""

    def program(step: str, cwd: Path, env: object) -> Ran:
        return Ran(f"loss: {(cwd / 'train.py').read_text().count('x')}", seconds=SAMPLE_S)

    async def main() -> End:
        path = task.root / "autoresearch.toml"
        contract = config.load(path)
        contract = replace(contract, limits=limits, run=replace(contract.run, gpus=gpus))
        run = Run(Places(task.root / FOLDER / "t", task.root, task.root), "t", clock)
        if run.view.contract:
            run.resume(contract)
        else:
            run.begin(contract, git.head(task.root), {})
        try:
            engine = Engine(run, contract, Sandbox(Level.NONE), FakeExecutor(program))
            engine.workers[0].desk.agent = ScriptedAgent(edit)
            return await engine.loop()
        finally:
            run.release()

    return run_simulated(clock, main)


def better_each_time(assignment: Assignment) -> Proposal:
    train = assignment.workspace / "train.py"
    train.write_text(train.read_text().replace("x", "", 1))
    return Proposal("one less", tokens=1, cost_usd=0.0)


@pytest.fixture
def simulated(tmp_path: Path) -> Toy:
    task = Toy(tmp_path / "task", {"train.py": "x" * 50}).create()
    git.exclude(task.root, f"{FOLDER}/")
    return task


@pytest.mark.parametrize(("name", "gpus"), [("hours", 0), ("device_hours", 1)])
def test_no_sample_begins_after_the_limit(name: str, gpus: int, simulated: Toy) -> None:
    clock = FakeClock()
    end = simulate(simulated, clock, better_each_time, Limits(**{name: 0.11}), gpus)
    assert end.reason == f"limit reached: {name} 0.11"
    assert 0.11 * HOUR_S <= clock.monotonic_s() < 0.11 * HOUR_S + SAMPLE_S + 1
    view = simulated.view()
    assert view.unfinished is not None
    taken = [each.sample for each in view.unfinished.taken]
    # With more time it goes on where it was, and what it used before still counts.
    end = simulate(simulated, clock, better_each_time, Limits(**{name: 0.3}), gpus)
    assert end.reason == f"limit reached: {name} 0.3"
    assert clock.monotonic_s() < 0.3 * HOUR_S + SAMPLE_S + 1
    own = [each.sample for each in simulated.experiment(view.unfinished.number).taken]
    assert own[: len(taken)] == taken
    assert len(simulated.view().decided) > len(view.decided)


def test_a_pause_ends_with_the_hours(simulated: Toy) -> None:
    def out_of_credit(assignment: Assignment) -> Proposal:
        raise AgentError("used up", failure=AgentFailure.USAGE_LIMIT, retry_after_s=5 * HOUR_S)

    clock = FakeClock()
    end = simulate(simulated, clock, out_of_credit, Limits(hours=0.2))
    assert end.reason == "limit reached: hours 0.2"
    assert clock.monotonic_s() == pytest.approx(0.2 * HOUR_S, abs=5)


def test_agents_are_told_what_the_limits_leave(simulated: Toy) -> None:
    told: list[tuple[float | None, float | None]] = []

    def edit(assignment: Assignment) -> Proposal:
        told.append((assignment.tokens_left, assignment.cost_left_usd))
        if len(told) == 2:
            raise AgentError("it broke, and cost all the same", tokens=30, cost_usd=0.25)
        return replace(better_each_time(assignment), tokens=20, cost_usd=0.5)

    end = simulate(simulated, FakeClock(), edit, Limits(tokens=100, cost_usd=1.0))
    assert end.reason == "limit reached: cost_usd 1"
    assert told == [(100, 1.0), (80, 0.5), (50, 0.25)]


def test_a_failure_without_a_report_ends_nothing(simulated: Toy) -> None:
    calls = 0

    def edit(assignment: Assignment) -> Proposal:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise AgentError("no connection")
        return better_each_time(assignment)

    end = simulate(simulated, FakeClock(), edit, Limits(cost_usd=1.0, experiments=1))
    assert end.reason == "limit reached: experiments 1"
    with pytest.raises(UserError, match="cost_usd = 1 cannot be held"):
        simulate(
            simulated, FakeClock(),
            lambda a: replace(better_each_time(a), cost_usd=None), Limits(cost_usd=1.0),
        )  # fmt: skip
