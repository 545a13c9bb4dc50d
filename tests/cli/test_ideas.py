"""``autoresearch idea``: what people queue is taken in order, tried, and answered with evidence."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from autoresearch.failpoint import VARIABLE
from autoresearch.inbox import drop
from autoresearch.journal.ideas import LOST, TEXT_LENGTH, Ideas, State, asked
from autoresearch.types import AgentFailure, Status
from tests.conftest import TRAIN, Toy, lr_patch, run, until

MakeToy = Callable[..., Toy]

# Does what the idea says; its own idea is a rate that is a little worse each time.
AGENT = """\
#!/bin/sh
idea=$(sed -n 's/^Try this idea: //p' "$AUTORESEARCH_PROMPT")
case "$idea" in
"") sed -i "s/^LR = .*/LR = 0.9$(date +%N | cut -c1-6)/" train.py; idea=own ;;
crash*) echo "raise SystemExit('boom $(date +%N)')" >train.py ;;
careful*)
    if grep -q '^## The idea to try, before' "$AUTORESEARCH_PROMPT"
    then sed -i 's/^LR = .*/LR = 0.2/' train.py
    else echo "raise SystemExit('boom')" >train.py
    fi ;;
fail*) echo "too hard" >&2; exit 3 ;;
*) sed -i "s/^LR = .*/LR = ${idea##* }/" train.py ;;
esac
echo "$idea"
"""


def ideas(task: Toy) -> list[dict[str, Any]]:
    """What ``idea list --json`` says."""
    found = json.loads(task.call("idea", "list", "--json").stdout)
    assert found["version"] == 1
    listed: list[dict[str, Any]] = found["ideas"]
    return listed


def briefing(task: Toy, number: int) -> str:
    return (task.run_folder / "experiments" / str(number) / "briefing.md").read_text()


def test_ideas_are_taken_by_priority_and_answered_with_evidence(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT, "program.md": "Be bold.\n"})
    task.call("run", "--tag", "t", "--max-experiments", "0")
    said = task.call("idea", "add", "a rate of 0.8").stdout
    assert said == "idea 1: open, taken next once autoresearch run continues\n"
    task.call("idea", "add", "--note", "never touch the seed")
    task.call("idea", "add", "a rate of 0.3", "--priority", "5")
    task.call("idea", "add", "a rate of 0.7", "--priority", "-1")
    assert [each["added"] for each in ideas(task)] == [None] * 4
    assert "ideas        3 open, 1 note; autoresearch idea list" in task.call("status").stdout
    task.call("run", "--max-experiments", "2")
    first, note, urgent, later = ideas(task)
    assert (first["state"], urgent["state"], later["state"]) == ("refuted", "confirmed", "open")
    assert [each["experiment"] for each in urgent["experiments"]] == [1]
    assert [each["experiment"] for each in first["experiments"]] == [2]
    kept = task.view().kept[1]
    assert urgent["experiments"][0]["value"] == kept.decision.value  # type: ignore[union-attr]
    assert kept.idea == 3 and kept.hypothesis == "a rate of 0.3" and not kept.open
    listed = task.call("idea", "list").stdout
    assert "#1 keep 0.0" in listed and "(was 0.1" in listed and "#2 discard 0.4" in listed
    assert "never touch the seed" in briefing(task, 1) and note["state"] == "open"
    assert "- a rate of 0.7" in briefing(task, 2) and "- a rate of 0.8" not in briefing(task, 2)
    assert "idea        3: a rate of 0.3" in task.call("show", "1").stdout
    assert json.loads(task.call("show", "1", "--json").stdout)["idea"] == 3
    assert json.loads(task.call("status", "--json").stdout)["ideas"] == {
        "open": 1, "taken": 0, "confirmed": 1, "refuted": 1, "failed": 0, "dropped": 0,
    }  # fmt: skip

    # What is dropped has no turn and is told no more; program.md is told as it is now.
    task.call("idea", "drop", "2")
    task.call("idea", "drop", "4")
    (task.root / "program.md").write_text("Be careful instead.\n")
    assert "nothing to drop" in task.call("idea", "drop", "3", code=2).stderr
    assert "choose one from 1 to 4" in task.call("idea", "drop", "9", code=2).stderr
    task.call("run", "--max-experiments", "3")
    assert task.experiment(3).description == "own" and task.experiment(3).idea is None
    assert "never touch" not in briefing(task, 3)
    assert "Be bold." in briefing(task, 2) and "Be careful instead." in briefing(task, 3)
    assert [each["state"] for each in ideas(task)][1::2] == ["dropped", "dropped"]


def test_what_says_nothing_is_tried_once_more_and_told_why(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT})
    task.call("run", "--tag", "t", "--max-experiments", "0")
    for text in ("careful now", "crash it", "fail at it"):
        task.call("idea", "add", text)
    task.call("run", "--max-experiments", "6")
    careful, crash, fail = ideas(task)
    assert careful["state"] == "confirmed"
    assert [each["status"] for each in careful["experiments"]] == ["crash", "keep"]
    assert "- #1 crash - careful now" in briefing(task, 2) and "boom" in briefing(task, 2)
    assert crash["state"] == "failed"
    assert [each["status"] for each in crash["experiments"]] == ["crash", "crash"]
    # Between its two attempts the agent showed with another experiment that it works.
    assert fail["state"] == "failed" and fail["experiments"] == []
    assert "the agent failed (crashed)" in fail["reason"] and "too hard" in fail["reason"]
    assert [each.description for each in task.view().decided[5:]] == ["own", "own"]
    assert task.view().agent_failures[AgentFailure.CRASHED] == 2
    assert "too hard" in task.call("idea", "list").stdout


def test_an_outage_of_the_agent_costs_no_idea() -> None:
    known = Ideas()
    for number in (1, 2):
        known.add(asked({"ticket": f"{number}", "text": "x"}, known) or {}, "now")
    for expected in (1, 2, None, None, None):
        idea = known.next(reads=True)
        assert (idea.number if idea else None) == expected
        known.opened(1, expected)
        known.agent_failed(1, AgentFailure.CRASHED, "network down")
    assert [(each.state, each.tries) for each in known.all] == [(State.OPEN, 1)] * 2
    known.agent_answered()
    assert known.next(reads=True) is known.all[0]
    known.opened(1, 1)
    known.agent_failed(1, AgentFailure.RATE_LIMITED, "wait")
    assert known.all[0].state is State.TAKEN and known.next(reads=True, again=1) is known.all[0]
    # Of an experiment that is another worker's it is not to be had.
    assert known.next(reads=True, again=2) is known.all[1]
    known.decided(1, Status.KEEP, again=False)
    assert known.all[0].state is State.CONFIRMED and known.all[0].reason == ""


def test_a_void_experiment_queues_its_idea_once_more() -> None:
    known = Ideas()
    known.add(asked({"ticket": "1", "text": "x"}, known) or {}, "now")
    known.opened(1, 1)
    known.decided(1, Status.VOID, again=False)
    assert known.all[0].state is State.OPEN and known.all[0].tries == 0
    known.opened(2, 1)
    known.decided(2, Status.VOID, again=True)
    assert known.all[0].state is State.OPEN and known.all[0].tries == 1
    known.opened(3, 1)
    known.opened(3, None)  # killed before there was a candidate; somebody's try came first
    assert known.all[0].state is State.OPEN and known.all[0].experiments == [1, 2]
    known.opened(4, 1)
    known.decided(4, Status.TIMEOUT, again=False)
    assert known.all[0].state is State.FAILED
    known.drop(1)
    assert known.all[0].state is State.FAILED


def test_code_is_tried_as_it_is_where_no_agent_reads_words(toy: MakeToy) -> None:
    other = "--- a/more.py\n+++ b/more.py\n@@ -1 +1 @@\n-1\n+2\n"
    files = {"my.patch": lr_patch("0.2"), "more.patch": other, "more.py": "1\n"}
    task = toy(files, agent='use = "search"')
    task.call("run", "--tag", "t", "--max-experiments", "0")
    words = task.call("idea", "add", "a wider layer").stdout
    assert "the search agent of this run cannot read words" in words and "--patch" in words
    noted = task.call("idea", "add", "be brief", "--note").stdout
    assert "the search agent of this run does not" in noted
    patch = task.call("idea", "add", "a lower rate", "--patch", "my.patch").stdout
    assert patch == "idea 3: open, taken next once autoresearch run continues\n"
    task.call("idea", "add", "what may not be edited", "--patch", "more.patch")
    stale = task.call("idea", "add", "twice", "--patch", "train.py", code=2).stderr
    assert "train.py does not apply to the best so far" in stale
    task.call("run", "--max-experiments", "3")
    found = ideas(task)
    assert [each["state"] for each in found] == ["open", "open", "confirmed", "failed"]
    assert found[3]["experiments"][0]["reason"] == "changed more.py, which is protected"
    assert "waits: search cannot read words" in task.call("idea", "list").stdout
    row = task.experiment(1)
    assert row.open and row.agent == "patch" and row.description == "a lower rate"
    assert task.experiment(3).agent == "search" and task.experiment(3).idea is None
    again = task.call("idea", "add", "again", "--patch", "my.patch", code=2).stderr
    assert "fix: write it as a change of autoresearch/t" in again


def test_a_running_engine_takes_ideas_at_once(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT, "train.py": TRAIN + "import time; time.sleep(0.3)\n"})
    engine = task.start("run", "--tag", "t")
    until(task.saw(lambda view: len(view.decided) > 1), 120)
    assert task.call("idea", "add", "a rate of 0.3").stdout == "idea 1: open, taken next\n"
    assert ideas(task)[0]["added"] is not None
    until(lambda: task.view().ideas.all[0].state is State.CONFIRMED, 120)
    assert "idea: a rate of 0.3" in task.said.read_text()
    task.call("stop")
    assert engine.wait(60) == 0
    assert not list((task.run_folder / "inbox").iterdir())


def test_killed_when_it_was_journaled_an_idea_is_known_once(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT})
    task.call("run", "--tag", "t", "--max-experiments", "0")
    task.call("idea", "add", "a rate of 0.3")
    argv = task.command("run", "--max-experiments", "2")
    killed = run(argv, task.root, {**os.environ, VARIABLE: "journal.idea"})
    assert killed.returncode == -signal.SIGKILL
    assert len(list((task.run_folder / "inbox").iterdir())) == 1
    assert len(ideas(task)) == 1
    task.call("run", "--max-experiments", "2")
    assert [len(each["experiments"]) for each in ideas(task)] == [1]


def test_words_are_cleaned_and_what_cannot_be_done_is_said(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT, "empty.patch": ""})
    assert "autoresearch run starts one" in task.call("idea", "add", "x", code=2).stderr
    assert "no run" in task.call("idea", "list", code=2).stderr
    task.call("run", "--tag", "t", "--max-experiments", "0")
    assert "no ideas yet" in task.call("idea", "list").stdout
    assert "has no words" in task.call("idea", "add", " \x07", code=2).stderr
    wrong = task.call("idea", "add", "x", "--worker", "1", code=2).stderr
    assert "--worker 1: this run has 1, counted from 0" in wrong
    assert "leave out --note" in task.call("idea", "add", "x", "--note", "--priority", "1",
                                           code=2).stderr  # fmt: skip
    assert (
        "empty.patch has 0 bytes"
        in task.call("idea", "add", "x", "--patch", "empty.patch", code=2).stderr
    )
    said = task.call("idea", "add", "\x1b[2J=one\ntwo\u202e " + "long" * 400)
    assert f"cut at {TEXT_LENGTH} characters" in said.stderr
    text = ideas(task)[0]["text"]
    assert text.startswith("=one two long") and len(text) == TEXT_LENGTH and "\x1b" not in text
    for number in range(10):
        task.call("idea", "add", "--note", f"note {number}")
    assert "10 notes already" in task.call("idea", "add", "--note", "more", code=2).stderr


@pytest.mark.parametrize("request_", [
    {"text": "no ticket"}, {"ticket": "1"}, {"ticket": "1", "text": ["x"]},
    {"ticket": "1", "text": "\x00"}, {"ticket": 1, "text": "x"},
    {"ticket": "1", "text": "x", "patch": "not base64"}, {"ticket": "1", "text": "x", "patch": 5},
    {"ticket": "1", "text": "x", "patch": "bm9uZQ==", "note": True},
    {"ticket": "1", "text": "an agent steers others", "note": True, "by": "claude"},
])  # fmt: skip
def test_a_broken_request_is_no_idea(request_: dict[str, Any]) -> None:
    assert asked(request_, Ideas()) is None


def test_odd_numbers_and_lost_patches_are_survived() -> None:
    known = Ideas()
    body = asked({"ticket": "1", "text": "x", "priority": 1e9, "worker": True, "by": "a\nb"}, known)
    assert body is not None and body["priority"] == 0 and body["worker"] is None
    assert body["by"] == "a b"
    body = asked({"ticket": "1", "text": "x", "priority": 10**9, "patch": "bm9uZQ=="}, known)
    assert body is not None and body["priority"] == 1000 and body["code"] is True
    # The second copy of the journal holds no patches.
    lost = known.add({k: v for k, v in body.items() if k != "patch"}, "now")
    assert lost.state is State.FAILED and lost.reason == LOST
    assert known.next(reads=True) is None
    known.drop(True)
    known.drop(0)
    assert known.get(1) is lost and known.get(0) is None and known.get(2) is None


def test_what_nobody_understands_is_removed_and_harms_nobody(toy: MakeToy) -> None:
    task = toy({"agent.sh": AGENT})
    task.call("run", "--tag", "t", "--max-experiments", "0")
    inbox = task.run_folder / "inbox"
    for number, text in enumerate(("[]", "{", '{"kind": 5}', '{"kind": "idea"}', "[" * 100_000)):
        (inbox / f"{number}.json").write_text(text)
    drop(task.run_folder, {"kind": "idea_drop", "idea": "one"})
    drop(task.run_folder, {"kind": "idea_drop", "idea": 7})
    task.call("run", "--max-experiments", "1")
    assert not list(inbox.iterdir()) and task.view().ideas.all == []
