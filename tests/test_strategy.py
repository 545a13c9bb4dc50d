"""The strategy: greedy at a width of one, several lineages beyond, bolder while nothing helps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch import config
from autoresearch.journal import Event
from autoresearch.journal.view import Role, RunView, sample_body
from autoresearch.strategy import (
    BRANCH_POINTS,
    EVERY,
    FOLLOW,
    PATIENCE,
    RESTART,
    WINDOW,
    next_plan,
    parting,
)
from autoresearch.types import Contract, Decision, Kind, Outcome, Parallel, Plan, Sample, Status

from .conftest import Toy

CONTRACT = config.parse(
    '[task]\neditable = ["train.py"]\n[run]\ncommand = "x"\n[metric]\nname = "loss"\n',
    Path("/task/autoresearch.toml"),
)


def wide(frontier: int) -> Contract:
    return replace(CONTRACT, parallel=Parallel(frontier=frontier))


class Story:
    """A run in its journal's own words."""

    def __init__(self) -> None:
        self.last = ""
        self.view = RunView()
        self._event("run_started", tag="t", contract={}, base="c0", seed=1, branch="b")
        self.add(Status.KEEP, 1.0, kind=Kind.BASELINE, role=Role.BASELINE, samples=(0.999, 1.001))

    def _event(self, kind: str, number: int | None = None, /, **body: object) -> None:
        self.view.apply(Event(self.view.seq + 1, "", kind, number, body))  # type: ignore[arg-type]

    def add(
        self, status: Status, value: float | None = None, *, parent: str = "", tokens: int = 0,
        kind: Kind = Kind.IMPROVE, combines: int | None = None, role: Role = Role.FRESH,
        samples: tuple[float, ...] = (),
    ) -> str:  # fmt: skip
        """One more decided experiment, on the incumbent by default; its commit."""
        number = self.view.next_number
        best = self.view.incumbent
        parent = parent or (best.commit if best else "c0")
        commit = f"c{number}"
        self._event(
            "opened", number, kind=kind, parent=parent, agent="a", combines=combines, reason="r"
        )
        self._event("proposed", number, description="an edit")
        self._event("sealed", number, commit=commit, tokens_added=tokens, fingerprint=commit)
        for k, each in enumerate(samples or (() if value is None else (value,))):
            body = sample_body(Sample(commit, k, Outcome.OK, each))
            self._event("sample", number, k=k, role=role.value, **body)
        decided = Decision(status, "said", value)
        self._event("decided", number, decision=asdict(decided) | {"status": status.value})
        return commit

    def discards(self, count: int, value: float = 2.0) -> None:
        for _ in range(count):
            self.add(Status.DISCARD, value)

    def plans(self, count: int, contract: Contract = CONTRACT) -> list[Plan]:
        """What is asked for over so many experiments that are all carried out and all fail."""
        plans = []
        for _ in range(count):
            plans.append(plan := self.plan(contract))
            self.add(
                Status.DISCARD, 2.0, parent=plan.parent, kind=plan.kind, combines=plan.combines
            )
        return plans

    def plan(self, contract: Contract = CONTRACT, seed: int | None = None) -> Plan:
        number = self.view.next_number
        return next_plan(self.view, contract, number, number if seed is None else seed)


def test_a_frontier_of_one_goes_on_from_the_best() -> None:
    story = Story()
    assert story.plan() == Plan("c0", Kind.IMPROVE)
    story.add(Status.DISCARD, 1.0001)
    commit = story.add(Status.KEEP, 0.9)
    story.discards(PATIENCE - 1)
    assert story.plan() == Plan(commit, Kind.IMPROVE)


def test_it_escalates_visibly_while_nothing_is_kept() -> None:
    story = Story()
    story.add(Status.DISCARD, 1.001)
    best = story.add(Status.KEEP, 0.9)
    story.discards(PATIENCE)
    plans = story.plans(RESTART - PATIENCE)
    in_turn = [plan for i, plan in enumerate(plans) if i % EVERY]
    assert in_turn == [Plan(best, Kind.IMPROVE)] * len(in_turn)
    out_of_turn = plans[::EVERY]
    assert out_of_turn[0] == Plan(
        best, Kind.COMBINE, combines=1,
        reason=f"nothing was kept for {PATIENCE} experiments: what #1 changed came close, so it is"
        " tried on the best",
    )  # fmt: skip
    assert {plan.kind for plan in out_of_turn} == {Kind.COMBINE, Kind.EXPLORE}
    assert all(f"nothing was kept for {PATIENCE + EVERY * i} " in plan.reason
               for i, plan in enumerate(out_of_turn))  # fmt: skip
    story.add(Status.KEEP, 0.8)
    assert story.plan().reason == ""


def test_a_change_that_was_not_kept_gets_another_chance_while_it_gets_better() -> None:
    story = Story()
    story.add(Status.KEEP, 0.9)
    first = story.add(Status.DISCARD, 1.2, tokens=9)
    other = story.add(Status.DISCARD, 1.3, tokens=9)
    best = story.add(Status.KEEP, 0.8)
    story.add(Status.DISCARD, 0.9)  # by numbers: it is where the optimizer has been
    story.discards(RESTART)

    def followed(value: float) -> str:
        """What is extended next, out of turn, by something of such a value."""
        while (plan := story.plan()).parent == best or plan.kind is not Kind.IMPROVE:
            story.add(Status.DISCARD, 2.0, kind=Kind.TUNE)
        assert "another chance for #" in plan.reason
        story.last = story.add(Status.DISCARD, value, parent=plan.parent, kind=Kind.TUNE)
        return plan.parent

    assert followed(1.1) == first
    better = story.last
    # It got better, so that it has as many more; then it is the turn of the next one.
    assert [followed(1.3) for _ in range(2 * FOLLOW - 1)] == [better] * (2 * FOLLOW - 1)
    assert [followed(1.4) for _ in range(FOLLOW)] == [other] * FOLLOW


def test_with_constants_alone_a_wide_search_and_what_it_finds_take_turns() -> None:
    story = Story()
    best = story.add(Status.KEEP, 0.9, kind=Kind.TUNE)
    for _ in range(RESTART):
        story.add(Status.DISCARD, 2.0, kind=Kind.TUNE)

    def plans(count: int) -> list[Plan]:
        found = []
        for _ in range(count):
            found.append(plan := story.plan())
            bold = plan.kind is Kind.EXPLORE
            kind = plan.kind if bold else Kind.TUNE
            story.add(Status.DISCARD, 1.5 if bold else 2.0, parent=plan.parent, kind=kind)
        return found

    asked = plans(2 * FOLLOW)
    assert [each.kind for each in asked] == [Kind.EXPLORE, Kind.IMPROVE] * FOLLOW
    assert {each.parent for each in asked[::2]} == {best}
    first = story.view.experiments[RESTART + 2]
    assert {each.parent for each in asked[1::2]} == {first.commit}
    assert all("another chance for #" in each.reason for each in asked[1::2])
    story.add(Status.DISCARD, 2.0)  # somebody changed the structure
    assert Kind.EXPLORE not in {each.kind for each in plans(EVERY)[1::EVERY]}


def test_two_near_misses_of_one_incumbent_are_tried_together_once() -> None:
    story = Story()
    first = story.add(Status.DISCARD, 0.999)
    story.add(Status.DISCARD, 0.9995)
    story.discards(PATIENCE - 2)
    plans = [plan for plan in story.plans(40) if plan.kind is Kind.COMBINE]
    assert (plans[0].parent, plans[0].combines) == (first, 2)
    assert "#1 and #2 came close" in plans[0].reason
    assert len({(plan.parent, plan.combines) for plan in plans}) == len(plans)


def test_what_did_not_go_together_is_not_asked_for_again() -> None:
    story = Story()
    story.add(Status.DISCARD, 1.001)
    best = story.add(Status.KEEP, 0.9)
    story.discards(PATIENCE)
    assert story.plan().combines == 1
    story.add(Status.REJECTED, parent=best, kind=Kind.COMBINE, combines=1)
    assert all(plan.combines != 1 for plan in story.plans(40))


def test_workers_at_one_time_do_not_all_leave_their_turn() -> None:
    story = Story()
    story.discards(PATIENCE)
    plans = [next_plan(story.view, CONTRACT, story.view.next_number + i, 0) for i in range(EVERY)]
    assert [bool(plan.reason) for plan in plans] == [True] + [False] * (EVERY - 1)


def test_a_merge_takes_all_of_a_lineage() -> None:
    story = Story()
    first = story.add(Status.DISCARD, 1.01)
    story.add(Status.KEEP, 0.9)
    second = story.add(Status.DISCARD, 0.95, parent=first)
    best = story.add(Status.KEEP, 0.8)
    assert parting(story.view, second, best) == "c0"
    assert parting(story.view, best, second) == "c0"
    assert parting(story.view, story.add(Status.DISCARD, 0.9), best) == best


def test_a_wider_frontier_extends_what_is_promising_and_new() -> None:
    story = Story()
    story.add(Status.CRASH)
    bad = story.add(Status.DISCARD, 9.0)
    close = story.add(Status.DISCARD, 1.01)
    story.add(Status.DISCARD, 2.0)
    parents = [story.plan(wide(3), seed).parent for seed in range(60)]
    assert set(parents) == {"c0", close}
    assert 15 < parents.count(close) < 45
    for _ in range(8):
        story.add(Status.DISCARD, 5.0, parent=close)
    new = story.add(Status.DISCARD, 1.02)
    assert {story.plan(wide(3), seed).parent for seed in range(60)} == {"c0", new}
    assert bad not in parents


def test_code_counts_against_a_place() -> None:
    story = Story()
    story.add(Status.DISCARD, 1.01, tokens=4000)
    small = story.add(Status.DISCARD, 1.02)
    assert {story.plan(wide(2), seed).parent for seed in range(40)} == {"c0", small}


def test_lineages_take_over_what_the_best_gained() -> None:
    story = Story()
    other = story.add(Status.DISCARD, 1.01)
    story.add(Status.DISCARD, 1.005, parent=other)
    best = story.add(Status.KEEP, 0.9)
    number = story.view.experiments[3].number
    plans = [story.plan(wide(4), seed) for seed in range(200)]
    taken = [plan for plan in plans if plan.kind is Kind.COMBINE]
    assert {plan.combines for plan in taken} == {number}
    assert best not in {plan.parent for plan in taken}
    assert all(plan.reason for plan in plans if plan.parent != best)


def test_what_is_looked_at_does_not_grow() -> None:
    story = Story()
    for _ in range(BRANCH_POINTS + 9):
        story.add(Status.KEEP, 0.9)
    story.discards(WINDOW)
    plan = story.plan(wide(4), 3)
    for each in story.view.decided[1:10]:
        each.decision = None  # whoever looked would fail
    assert story.plan(wide(4), 3) == plan


OUTCOMES = st.tuples(
    st.sampled_from([Status.KEEP, *[Status.DISCARD] * 6, Status.CRASH, Status.REJECTED]),
    st.floats(0.5, 1.5),
    st.integers(-50, 200),
)


@settings(max_examples=60)
@given(st.lists(OUTCOMES, max_size=60), st.integers(1, 4), st.integers(0, 2**31))
def test_any_history_gives_a_plan_that_can_be_carried_out(
    outcomes: list[tuple[Status, float, int]], frontier: int, seed: int
) -> None:
    story, again = Story(), Story()
    for i, (status, value, tokens) in enumerate(outcomes):
        for each in (story, again):
            plan = each.plan(wide(frontier), seed + i)
            kept = status is Status.KEEP and plan.parent == each.view.incumbent.commit  # type: ignore[union-attr]
            measured = status not in (Status.CRASH, Status.REJECTED)
            each.add(
                status if kept or status is not Status.KEEP else Status.DISCARD,
                value if measured else None, parent=plan.parent, tokens=tokens,
                kind=plan.kind, combines=plan.combines,
            )  # fmt: skip
    plan = story.plan(wide(frontier), seed)
    assert plan == again.plan(wide(frontier), seed)
    made = {each.commit: each for each in story.view.decided}
    parent, best = made[plan.parent].decision, story.view.incumbent
    assert parent is not None
    assert parent.status in (Status.KEEP, Status.DISCARD)
    assert best is not None
    assert (plan.reason == "") == (plan == Plan(best.commit, Kind.IMPROVE))
    if plan.combines is not None:
        assert plan.kind is Kind.COMBINE
        assert plan.combines in story.view.experiments
        assert story.view.experiments[plan.combines].commit != plan.parent


AGENT = """\
#!/bin/sh
sed -i "s/^LR = .*/LR = $(wc -l < .autoresearch/results.tsv).5/" train.py
"""


def test_the_reason_is_journaled_shown_and_told(toy: Callable[..., Toy]) -> None:
    task = toy({"agent.sh": AGENT}, limits=f"experiments = {PATIENCE + 1}")
    task.call("run")
    number = PATIENCE + 1
    last = task.experiment(number)
    assert last.reason.startswith(f"nothing was kept for {PATIENCE} experiments")
    assert last.kind is Kind.EXPLORE
    assert task.experiment(number - 1).reason == ""
    assert f"why         {last.reason}" in task.call("show", str(number)).stdout
    assert json.loads(task.call("show", str(number), "--json").stdout)["why"] == last.reason
    folder = task.run_folder / "experiments"
    told = (folder / str(number) / "briefing.md").read_text()
    assert f"Why this turn: {last.reason}." in told
    assert "Be bold" in told
    assert "Be bold" not in (folder / "1" / "briefing.md").read_text()


WALKER = """\
#!/bin/sh
n=$(wc -l < .autoresearch/results.tsv)
case $((n % 2)) in
0) sed -i "s/^A = .*/A = $n.25/" train.py ;;
1) sed -i "s/^B = .*/B = $n.25/" train.py ;;
esac
"""
WALKED = """\
import os
import random

A = 1.0

B = 1.0
noise = random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.5)
print("loss:", 10 - 0.001 * (A + B) + noise)
"""


def test_a_run_with_a_wider_frontier(toy: Callable[..., Toy]) -> None:
    """Little is told from noise here, so that other lineages promise as much as the incumbent."""
    task = toy(
        {"agent.sh": WALKER, "train.py": WALKED},
        limits="experiments = 14", parallel="frontier = 3",
    )  # fmt: skip
    task.call("run")
    view = task.view()
    aside = [each for each in view.decided if each.apart]
    assert aside
    assert all("another lineage" in each.reason for each in aside)
    assert all(each.decision and each.decision.status is not Status.KEEP for each in aside)
    assert {each.parent for each in aside} <= view.numbers.keys()
    asked = [each.number for each in aside if each.combines is None]
    folders = [task.run_folder / "experiments" / str(number) for number in asked]
    told = [(folder / "briefing.md").read_text() for folder in folders]
    assert told
    assert all("not of the best so far" in text for text in told)
