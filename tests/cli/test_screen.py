"""First looks at a smaller budget: real processes, a real engine, a real kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from autoresearch.decide import FIRST_LOOK, LOOKS_OF_BASELINE, Rule, decide_look
from autoresearch.git import Store
from autoresearch.history import History
from autoresearch.hopeless import spared
from autoresearch.journal.view import Experiment, Role, RunView, Taken
from autoresearch.looks import looks
from autoresearch.scope import Scope
from autoresearch.types import Decision, Outcome, Sample, Status, Task
from autoresearch.workspace import Workspace
from tests.conftest import Toy, counting, until
from tests.invariants import Acknowledged, check_invariants

MakeToy = Callable[..., Toy]
# A short run ends a tenth higher, as training does.
TRAIN = """\
import os
import time
from _random import Random

LR = 0.5
budget = float(os.environ["AUTORESEARCH_BUDGET_S"])
time.sleep(PAUSE)
print("budget:", budget)
noise = (Random(int(os.environ["AUTORESEARCH_SEED"])).random() - 0.5) / 289
print("loss:", (LR - 0.1) ** 2 + 0.1 * (budget < 20) + noise)
"""
RUN = 'command = "python3 train.py"\nbudget = "20s"\nscreen = "10s"'


def lr(value: float) -> str:
    return f"sed -i 's/^LR = .*/LR = {value}/' train.py"


def task_of(toy: MakeToy, *edits: str, pause: str = "0", run: str = RUN) -> Toy:
    train = TRAIN.replace("PAUSE", pause)
    limits = f"experiments = {len(edits)}"
    return toy({"train.py": train, "agent.sh": counting(*edits)}, run=run, limits=limits)


def roles(view: RunView, number: int) -> list[Role]:
    return [each.role for each in view.experiments[number].taken]


def test_a_first_look_ends_what_is_clearly_worse(toy: MakeToy) -> None:
    task = task_of(toy, lr(0.3), lr(0.45), lr(0.2))
    done = task.call("run", "--tag", "t")
    view = check_invariants(task, Acknowledged())
    assert task.statuses() == ["keep", "keep", "discard", "keep"]
    assert roles(view, 0) == [Role.BASELINE] * 5 + [Role.LOOK] * LOOKS_OF_BASELINE
    assert "measuring the baseline, sample 5" in done.stdout and "a first look at #2" in done.stdout
    for number in (1, 3):
        assert roles(view, number)[:2] == [Role.LOOK, Role.SCREEN]
        for each in view.experiments[number].taken:
            log = task.run_folder / f"experiments/{number}/samples/{each.k}/run.log"
            assert f"budget: {10.0 if each.role is Role.LOOK else 20.0}" in log.read_text()
        made = view.experiments[number].decision
        # Nothing that a first look measured is in a value.
        assert made is not None and made.value == pytest.approx((0.4 - 0.1 * number) ** 2, abs=0.3)
        assert made.value < 0.05
    worse = view.experiments[2].decision
    assert worse is not None
    if spared(view.seed_of(2, 0)):
        assert roles(view, 2)[:2] == [Role.LOOK, Role.SCREEN]
        return
    assert roles(view, 2) == [Role.LOOK]
    assert worse.reason.startswith(f"{FIRST_LOOK}: 0.22")
    assert worse.value is None and task.rows()[3][1] == "0.000000"
    assert "screen       3 first looks ended 1 experiments" in task.call("status").stdout
    said = json.loads(task.call("status", "--json").stdout)["screen"]
    assert said == {"looks": 3, "ended": 1, "both": 3, "rank_correlation": None}
    # Agents in this process are told what it foretold: as far behind as it was there.
    scope = Scope(Task(("train.py",), ""))
    workspace = Workspace(Store(task.run_folder / "store.git"), scope, Path())
    past = History(view, workspace).past()
    assert past[2].status is Status.DISCARD
    assert past[2].value == pytest.approx(0.35**2, abs=0.01)


def test_a_killed_first_look_is_taken_again(toy: MakeToy) -> None:
    task = task_of(toy, lr(0.3), pause="0.9 if LR == 0.3 and budget < 20 else 0")
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: any(each["role"] == "look" for each in flights(view))), 60)
    seed = flights(task.view())[0]["seed"]
    os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()
    task.call("run", "--tag", "t")
    view = check_invariants(task, Acknowledged())
    assert task.statuses() == ["keep", "keep"]
    assert roles(view, 1)[:2] == [Role.LOOK, Role.SCREEN]
    assert view.experiments[1].taken[0].sample.seed == seed
    assert view.experiments[1].attempts == len(view.experiments[1].taken) + 1


def flights(view: RunView) -> list[dict[str, object]]:
    return [each.in_flight for each in view.in_flight.values() if each.number and each.in_flight]


def test_a_command_that_takes_the_whole_budget_cannot_be_looked_at(toy: MakeToy) -> None:
    short = RUN.replace('"10s"', '"1s"')
    said = task_of(toy, lr(0.3), pause="3", run=short).call("run", code=2).stderr
    assert "the baseline cannot be measured in a first look: killed after 2 s" in said
    assert "end within AUTORESEARCH_BUDGET_S, 1 in a first look, or leave run.screen out" in said


def test_a_screen_is_cheaper_than_the_budget(toy: MakeToy) -> None:
    task = toy(run=RUN.replace('"10s"', '"20s"'))
    said = task.call("check", code=2).stderr
    assert "autoresearch.toml" in said and "screen = 20 s is no cheaper than budget = 20 s" in said


@pytest.mark.parametrize(("direction", "sign"), [("lower", 1), ("higher", -1)])
def test_only_what_is_beyond_the_noise_is_ended(direction: str, sign: int) -> None:
    rule = Rule(direction)  # type: ignore[arg-type]
    baseline = [1.0, 1.02, 0.98]
    assert decide_look(rule, baseline, [0.9], 0.9 + sign * 0.03) is None
    assert decide_look(rule, baseline, [0.9], 0.9 - sign * 0.5) is None
    ended = decide_look(rule, baseline, [0.9], 0.9 + sign * 0.2)
    assert ended is not None and ended.status is Status.DISCARD and ended.value is None


def test_what_a_candidate_gave_so_far_leaves_looks_and_the_incumbent_out() -> None:
    record = Experiment(1)
    assert record.mean is None
    for k, (role, value) in enumerate(
        [(Role.LOOK, 9.0), (Role.INCUMBENT, 7.0), (Role.BASELINE, 1.0), (Role.SCREEN, None),
         (Role.SCREEN, 2.0), (Role.FRESH, 6.0)]
    ):  # fmt: skip
        record.taken.append(Taken(k, role, Sample("c", k, Outcome.OK, value)))
        assert record.mean is None or k > 1
    assert record.mean == 3.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=5, max_size=30))
def test_the_rank_correlation_is_spearmans(pairs: Sequence[tuple[int, int]]) -> None:
    decided = [
        Experiment(
            number + 1, decision=Decision(Status.DISCARD, "", float(whole)),
            taken=[
                Taken(0, Role.LOOK, Sample("c", 1, Outcome.OK, float(look))),
                Taken(1, Role.SCREEN, Sample("c", 2, Outcome.OK, float(whole))),
            ],
        )
        for number, (look, whole) in enumerate(pairs)
    ]  # fmt: skip
    found = looks(decided)
    assert (found.taken, found.ended, found.both) == (len(pairs), 0, len(pairs))
    columns = list(zip(*pairs, strict=True))
    if any(len(set(column)) == 1 for column in columns):
        assert found.ranks is None
    else:
        assert found.ranks == pytest.approx(spearmanr(*columns).statistic)
