"""Runs that cannot win are ended early: real processes, a real engine, a real kill."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch.bench import Places
from autoresearch.config import from_snapshot
from autoresearch.curves import track
from autoresearch.hopeless import SPARED, spared
from autoresearch.journal.view import Experiment, Role, RunView
from autoresearch.types import Outcome
from autoresearch.watch import Watch
from tests.conftest import Toy, counting, until
from tests.invariants import Acknowledged, check_invariants, wait_for_no_process

MakeToy = Callable[..., Toy]
# It says how it does along its way, and takes twenty times PACE for it.
TRAIN = """\
import os
import random
import time

LR = 0.5
PACE = 0.0
noise = random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.001)
value = (LR - 0.1) ** 2 + noise
for i in range(1, 21):
    time.sleep(PACE)
    print(f"progress: {i / 20} loss: {value + 0.2 * (1 - i / 20):.5f}")
print("loss:", value)
"""


def constants(lr: float, pace: float = 0.0) -> str:
    return f"sed -i 's/^LR = .*/LR = {lr}/; s/^PACE = .*/PACE = {pace}/' train.py"


# Two gains and what is needed to know the field, then slow ones: hopeless, hopeless, and good.
KNOWN = [constants(lr) for lr in (0.3, 0.2, 0.35, 0.4)]
SLOW = [constants(0.6, 0.12), constants(0.65, 0.12), constants(0.15, 0.02)]


def was_ended(experiment: Experiment) -> bool:
    return any(each.sample.outcome is Outcome.HOPELESS for each in experiment.taken)


def expect(view: RunView, number: int) -> bool:
    """Whether a hopeless run is to be ended: it is not when its seed is one that is spared."""
    return not spared(view.seed_of(number, 0))


@pytest.fixture
def known(tmp_path: Path) -> Toy:
    """A run that knows its field; what comes next is slow."""
    agent = counting(*KNOWN, *SLOW)
    run = 'command = "python3 train.py"\nbudget = "5s"\nearly_end = true'
    task = Toy(tmp_path / "task", {"agent.sh": agent, "train.py": TRAIN}, {"run": run}).create()
    task.call("run", "--tag", "t", "--max-experiments", str(len(KNOWN)))
    assert task.statuses() == ["keep", "keep", "keep", "discard", "discard"]
    return task


def test_what_cannot_win_is_ended_and_recorded(known: Toy) -> None:
    done = known.call("run", "--tag", "t", "--max-experiments", "7")
    view = check_invariants(known, Acknowledged())
    assert known.statuses()[5:] == ["discard", "discard", "keep"]
    for number in (5, 6):
        experiment = view.experiments[number]
        assert was_ended(experiment) is expect(view, number)
        made = experiment.decision
        assert made is not None
        if not was_ended(experiment):
            continue
        assert len(experiment.taken) == 1
        assert made.value is None and made.low is None and made.gain is None
        assert re.fullmatch(
            r"at [5-9]\d % it was 0\.\d+, the incumbent 0\.\d+ there: ended early", made.reason
        )
        assert made.reason in done.stdout
        sample = experiment.own[0]
        assert sample.value is None and 1.0 < sample.usage.wall_s < 2.2
        assert sample.foretold == pytest.approx((0.35 + 0.05 * number - 0.1) ** 2, abs=0.05)
        row = known.rows()[number + 1]
        assert row[1] == "0.000000" and row[3] == "discard" and len(row) == 5
    taken = [each for experiment in view.decided for each in experiment.taken]
    assert all(
        each.role is Role.SCREEN for each in taken if each.sample.outcome is Outcome.HOPELESS
    )
    good = view.experiments[7]
    assert not was_ended(good)
    # The value comes from what was printed last, never from what was said along the way.
    logs = [known.run_folder / f"experiments/7/samples/{each.k}/run.log" for each in good.taken]
    for log, each in zip(logs, good.taken, strict=True):
        last = log.read_text().splitlines()[-1]
        assert each.sample.value == float(last.removeprefix("loss: "))
        assert len(track(log.read_text(), "loss").at) == 20
    assert not wait_for_no_process(known)


def test_only_screens_are_watched_and_not_those_that_are_spared(known: Toy) -> None:
    contract = from_snapshot(known.view().contract, known.root / "autoresearch.toml")
    places = Places(known.run_folder, known.root, known.root)
    watch = Watch(known.view(), places, contract)
    assert watch.over(Role.SCREEN, 1) is not None
    assert watch.over(Role.SCREEN, SPARED) is None
    for role in (Role.BASELINE, Role.FRESH, Role.INCUMBENT):
        assert watch.over(role, 1) is None
    off = replace(contract, run=replace(contract.run, early_end=False))
    assert Watch(known.view(), places, off).over(Role.SCREEN, 1) is None


def test_it_can_be_turned_off_later(known: Toy) -> None:
    contract = known.root / "autoresearch.toml"
    contract.write_text(contract.read_text().replace("early_end = true\n", ""))
    known.call("run", "--tag", "t", "--max-experiments", "6")
    assert not any(map(was_ended, known.view().decided))
    assert all(each.decision and each.decision.value for each in known.view().decided)


def test_killed_while_it_ends_one_early_a_run_goes_on(known: Toy) -> None:
    seen = Acknowledged()
    log = known.run_folder / "experiments" / "5" / "samples"
    for moment, how in ((0.4, signal.SIGTERM), (0.45, signal.SIGKILL), (0.5, signal.SIGKILL)):
        seen.read(known)
        engine = known.start("run", "--tag", "t", "--max-experiments", "6")

        def there(moment: float = moment) -> bool:
            newest = max(
                log.glob("*/run.log"), default=None, key=lambda path: int(path.parent.name)
            )
            found = track(newest.read_text(), "loss").at if newest else []
            view = known.view()
            return bool(found and found[-1] >= moment) or view.next_number > 5

        until(there)
        engine.send_signal(how)
        engine.wait(20)
        assert not wait_for_no_process(known)
        check_invariants(known, seen, recovered=False)
    known.call("run", "--tag", "t", "--max-experiments", "6")
    view = check_invariants(known, seen)
    assert len(view.decided) == 7 and known.statuses()[5:] == ["discard", "discard"]
    assert was_ended(view.experiments[6]) is expect(view, 6)
