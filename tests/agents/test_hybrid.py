"""The hybrid: a coding agent changes structure, the optimizer tunes what there is, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import config
from autoresearch.agents.hybrid import HybridAgent
from autoresearch.agents.landscape import Landscape
from autoresearch.agents.search import SearchAgent, dimensions_of
from autoresearch.agents.sources import Parsed
from autoresearch.agents.turns import AT_MOST, EACH_NEW, new_constants, optimizer_next
from autoresearch.config import ContractError
from autoresearch.types import Assignment, Kind, Metric, Past, Plan, Proposal, Range, Status

from ..conftest import Toy

LOSS = Metric("loss")
SOURCE = "LR = 0.5\nDEPTH = 4\n\nprint(LR * DEPTH)\n"
BETTER = """\
LR = 0.5
DEPTH = 4
MOMENTUM = 0.6
SCALE = 2.0

print(LR * DEPTH * MOMENTUM * SCALE)
"""


def past(
    number: int, kind: Kind, status: Status, value: float | None, text: str = SOURCE,
    parent: int = 0, seconds: float = 10.0,
) -> Past:  # fmt: skip
    return Past(
        number, f"c{number}", f"c{parent}", kind, status, value, "", lambda: {"train.py": text},
        seconds,
    )  # fmt: skip


BASELINE = past(0, Kind.BASELINE, Status.KEEP, 1.0)
KEPT = past(1, Kind.IMPROVE, Status.KEEP, 0.9, BETTER)


@dataclass
class Coder:
    """The coding agent: says that it was asked."""

    asked: list[Plan] = field(default_factory=list)

    async def propose(self, assignment: Assignment) -> Proposal:
        self.asked.append(assignment.plan)
        return Proposal("structure")


def propose(
    folder: Path, history: Sequence[Past], text: str, plan: Plan | None = None,
    pending: Sequence[Past] = (),
) -> tuple[str, Proposal]:  # fmt: skip
    """Who was asked, and what for."""
    (folder / "train.py").write_text(text)
    coder = Coder()
    agent = HybridAgent({}, coder)
    plan = plan or Plan(history[-1].commit, Kind.IMPROVE)
    assignment = Assignment(
        len(history), folder, ("train.py",), plan, 7, LOSS, {}, history, folder, folder, pending
    )
    proposal = asyncio.run(agent.propose(assignment))
    return ("coder" if coder.asked else "optimizer"), proposal


def moved(proposal: Proposal) -> set[str]:
    return {move.split()[0] for move in proposal.description.split(", ")}


def test_new_constants_are_tuned_first(tmp_path: Path) -> None:
    history = [BASELINE, KEPT]
    for number in range(2, 2 + 2 * EACH_NEW):
        who, proposal = propose(tmp_path, history, BETTER, Plan("c1", Kind.IMPROVE))
        assert who == "optimizer"
        assert moved(proposal) <= {"MOMENTUM", "SCALE"}
        text = (tmp_path / "train.py").read_text()
        history.append(past(number, Kind.TUNE, Status.DISCARD, 1.0, text, 1))
    who, _ = propose(tmp_path, history, BETTER, Plan("c1", Kind.IMPROVE))
    assert who == "coder"
    assert 2 * EACH_NEW <= AT_MOST


def test_what_others_tune_at_this_moment_counts(tmp_path: Path) -> None:
    pending: list[Past] = []
    while len(pending) < 2 * EACH_NEW:
        who, proposal = propose(tmp_path, [BASELINE, KEPT], BETTER, pending=pending)
        assert who == "optimizer" and moved(proposal) <= {"MOMENTUM", "SCALE"}
        text = (tmp_path / "train.py").read_text()
        assert text not in [each.sources()["train.py"] for each in pending]
        tuned = past(2 + len(pending), Kind.TUNE, Status.VOID, None, text, 1)
        pending.append(replace(tuned, status=None))
    here, trials = Parsed.of({"train.py": BETTER}), SearchAgent().trials([BASELINE, KEPT, *pending])
    assert new_constants(here, trials, dimensions_of(here, trials, {}, ("train.py",))) == ()


def test_near_misses_of_structure_are_tuned_too(tmp_path: Path) -> None:
    """The strategy may go on from one: its new constants were never anything but a guess."""
    history = [BASELINE, replace(KEPT, status=Status.DISCARD, value=1.05)]
    who, proposal = propose(tmp_path, history, BETTER, Plan("c1", Kind.IMPROVE))
    assert who == "optimizer"
    assert moved(proposal) <= {"MOMENTUM", "SCALE"}


@pytest.mark.parametrize(
    ("plan", "who"),
    [
        (Plan("c0", Kind.IMPROVE, "use a cosine schedule"), "coder"),
        (Plan("c0", Kind.EXPLORE), "coder"),
        (Plan("c0", Kind.TUNE), "optimizer"),
        (Plan("c0", Kind.SIMPLIFY), "optimizer"),
    ],
)
def test_words_are_for_the_coding_agent(tmp_path: Path, plan: Plan, who: str) -> None:
    assert propose(tmp_path, [BASELINE], SOURCE, plan)[0] == who


def test_without_constants_the_coding_agent_has_every_turn(tmp_path: Path) -> None:
    nothing = "print(1)\n"
    history = [past(0, Kind.BASELINE, Status.KEEP, 1.0, nothing)]
    assert propose(tmp_path, history, nothing) == ("coder", Proposal("structure"))


def turns(gains: Mapping[bool, float], seconds: Mapping[bool, float]) -> list[bool]:
    """Whose turns they are where each always gains so much and takes so long."""
    history, taken, value = [BASELINE], [], 1.0
    for number in range(1, 61):
        mine = optimizer_next(Plan("c0", Kind.IMPROVE), history, LOSS, ())
        taken.append(mine)
        kind = Kind.TUNE if mine else Kind.IMPROVE
        value -= gains[mine]
        status = Status.KEEP if gains[mine] > 0 else Status.DISCARD
        history.append(past(number, kind, status, value, seconds=seconds[mine]))
    return taken


def test_who_gains_more_for_its_time_has_more_turns() -> None:
    same, none = {True: 10.0, False: 10.0}, {True: 0.0, False: 0.0}
    assert 20 <= sum(turns(none, same)) <= 40
    assert sum(turns({True: 0.01, False: 0.0}, same)) > 36
    assert sum(turns({True: 0.0, False: 0.01}, same)) < 24
    assert sum(turns(none, {True: 10.0, False: 60.0})) > 36


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_nobody_is_forgotten(a: float, b: float, s: float, t: float) -> None:
    taken = turns({True: a, False: b}, {True: s, False: t})
    assert {*taken} == {True, False}


def test_what_the_engine_combined_is_no_merit_of_the_coding_agent() -> None:
    history = [BASELINE]
    for number in range(1, 7):
        kind = Kind.TUNE if number % 2 else Kind.IMPROVE
        history.append(past(number, kind, Status.DISCARD, 1.1))
    combined = past(7, Kind.COMBINE, Status.KEEP, 0.5)
    plan = Plan("c7", Kind.IMPROVE)
    for one in (True, False):
        last = past(8, Kind.IMPROVE if one else Kind.TUNE, Status.DISCARD, 1.1)
        assert optimizer_next(plan, [*history, combined, last], LOSS, ()) is one


def radius(history: Sequence[Past], parent: str, text: str) -> float:
    """How far the optimizer goes from a commit."""
    here, trials = Parsed.of({"train.py": text}), SearchAgent().trials(history)
    varied = dimensions_of(here, trials, {}, ("train.py",))
    return Landscape.of(here, varied, trials, LOSS, parent).radius


def test_a_line_beside_the_best_is_searched_as_widely_as_a_new_one() -> None:
    history = [BASELINE, *(past(n, Kind.TUNE, Status.DISCARD, 1.1) for n in range(1, 31))]
    history.append(past(31, Kind.IMPROVE, Status.DISCARD, 1.2, BETTER))
    narrow, wide = radius(history, "c0", SOURCE), radius(history, "c31", BETTER)
    assert wide > 3 * narrow
    history.append(past(32, Kind.TUNE, Status.DISCARD, 1.3, BETTER, parent=31))
    assert narrow < radius(history, "c31", BETTER) < wide
    history.append(past(33, Kind.TUNE, Status.DISCARD, 1.15, BETTER, parent=31))
    assert radius(history, "c33", BETTER) == wide
    assert radius(history, "c0", SOURCE) == narrow


def test_the_state_is_told_in_words() -> None:
    history = [BASELINE]
    for number, depth in enumerate((5, 6, 8, 10), 1):
        text = SOURCE.replace("DEPTH = 4", f"DEPTH = {depth}")
        status, value = (Status.CRASH, None) if depth > 5 else (Status.DISCARD, 1.001)
        history.append(past(number, Kind.TUNE, status, value, text))
    for number, rate in enumerate((0.3, 0.35, 0.8, 0.7), 5):
        text = SOURCE.replace("LR = 0.5", f"LR = {rate}")
        history.append(past(number, Kind.TUNE, Status.DISCARD, 1.0 + rate - 0.5, text))
    new = SOURCE.replace("DEPTH = 4", "DEPTH = 4\nGAMMA = 0.3").replace("DEPTH)", "DEPTH * GAMMA)")
    history.append(past(9, Kind.IMPROVE, Status.KEEP, 0.99, new))
    lines = HybridAgent({}, Coder()).state({"train.py": new}, history, LOSS, {})
    assert "3 constants" in lines[0]
    by_name = {line.split()[0]: line for line in lines[1:]}
    assert by_name.keys() == {"GAMMA", "LR", "DEPTH"}
    assert "new, not varied yet" in by_name["GAMMA"]
    assert "LR = 0.5 (tries 0." in by_name["LR"]
    assert "less looks better" in by_name["LR"]
    assert "crashed at 6 and more" in by_name["DEPTH"]
    told = HybridAgent({}, Coder()).state({"train.py": new}, history, LOSS, {"LR": Range(0.4, 0.6)})
    assert "LR = 0.5 (tries 0.452 to 0.548): matters, less looks better" in told


# In a contract, and in a run

CONTRACT = """
[task]
editable = ["train.py"]
[run]
command = "python train.py"
[metric]
name = "loss"
[agent]
use = "hybrid"
"""


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "hybrid needs a coding agent"),
        ("[agent.hybrid]\n", "agent.hybrid.structure: is required"),
        ('[agent.hybrid]\nstructure = "search"\n', "must be a coding agent"),
        ('[agent.hybrid]\nstructure = "hybrid"\n', "must be a coding agent"),
        ('[agent.hybrid]\nstructure = "api"\n', "api needs a model"),
        ('[agent.hybrid]\nstruct = "claude"\n', "did you mean structure?"),
    ],
)
def test_mistakes_are_named(rest: str, said: str) -> None:
    with pytest.raises(ContractError) as caught:
        config.parse(CONTRACT + rest, Path("/task/autoresearch.toml"))
    assert said in caught.value.message


def test_each_agent_keeps_its_own_table() -> None:
    text = CONTRACT + '[agent.hybrid]\nstructure = "claude"\n[agent.claude]\nmodel = "opus"\n'
    options = config.parse(text, Path("/task/autoresearch.toml")).agents[0].options
    assert options["structure"] == "claude"
    assert isinstance(options["claude"], Mapping)
    assert options["claude"]["model"] == "opus"


TRAIN = """\
import os
import random

LR = 0.5
noise = random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.0005)
loss = 1 + (LR - 0.3) ** 2
print("loss:", loss + noise)
"""
CODER = """\
#!/bin/sh
if grep -q MOMENTUM train.py
then echo "x$(wc -l < .autoresearch/results.tsv) = 1" >> train.py
else
sed -i 's/^LR = .*/&\\nMOMENTUM = 0.5/' train.py
sed -i 's/^print/loss = loss * 0.7 + 0.1 * (MOMENTUM - 0.9) ** 2\\nprint/' train.py
fi
echo "change the structure"
"""


def test_a_run_takes_turns(toy: Callable[..., Toy]) -> None:
    agent = 'use = "hybrid"\n[agent.hybrid]\nstructure = "command"\n[agent.command]\n'
    task = toy(
        {"agent.sh": CODER, "train.py": TRAIN},
        agent=agent + 'argv = ["./agent.sh"]', limits="experiments = 11",
    )  # fmt: skip
    task.call("run")
    decided = task.view().decided[1:]
    assert {each.agent for each in decided} == {"hybrid"}
    structure = next(i for i, each in enumerate(decided) if each.kind is Kind.IMPROVE)
    first = decided[structure]
    assert first.decision is not None
    assert first.decision.status is Status.KEEP
    after = decided[structure + 1 : structure + 1 + EACH_NEW]
    assert {each.kind for each in after} == {Kind.TUNE}
    assert all(each.description.startswith("MOMENTUM") for each in after)
    again = [each for each in decided[structure + 1 :] if each.kind is Kind.IMPROVE]
    assert again
    folder = task.run_folder / "experiments" / str(again[0].number)
    told = (folder / "briefing.md").read_text()
    assert "## What the optimizer of the constants knows" in told
    assert "MOMENTUM = " in told
