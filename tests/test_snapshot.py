"""A snapshot tells what the whole journal tells, from wherever it was taken; or it is not used."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch import git, snapshot
from autoresearch.calibration import Calibration
from autoresearch.inbox import drop
from autoresearch.journal import Event, Journal
from autoresearch.journal.view import RunView, counts, sample_body
from autoresearch.run import FOLDER
from autoresearch.snapshot import LEFT_OUT, NAME, Snapshots, recent
from autoresearch.testing.clock import FakeClock
from autoresearch.types import Assignment, Metric, Proposal
from tests.conftest import Toy
from tests.faults.test_model import World, live

METRIC = Metric("loss")


class Expecting(World):
    """A world whose agent says what it expects."""

    def edit(self, assignment: Assignment) -> Proposal:
        return replace(super().edit(assignment), expected=f"-0.{assignment.number}")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """A simulated run in which much goes wrong, with snapshots every seventh experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "EVERY", 7)
        patch.setattr("autoresearch.run.EVERY", 7)
        patch.setattr(snapshot, "RECENT", 5)
        world = Expecting(random.Random(3), FakeClock())
        patch.setattr("autoresearch.run.secrets.randbits", world.rng.getrandbits)
        made = Toy(
            tmp_path_factory.mktemp("run") / "task",
            {"train.py": "LR = 0.5\n"}, {"guard": 'command = "true"'},
        ).create()  # fmt: skip
        git.exclude(made.root, f"{FOLDER}/")
        live(made, world, 2, 10**9)
        for i in range(4):
            drop(made.run_folder, {"kind": "idea", "ticket": f"{i}", "text": f"idea {i}",
                                   "patch": "bm9uZQ==" if i % 2 else None})  # fmt: skip
        drop(made.run_folder, {"kind": "idea", "ticket": "n", "text": "a note", "note": True})
        drop(made.run_folder, {"kind": "ticket", "ticket": "t", "message": "mine",
                               "files": {}, "patch": None})  # fmt: skip
        live(made, world, 40, 10**9)
        yield made


def without_patches(view: RunView) -> list[Any]:
    return [replace(each, patch=None) for each in view.ideas.all]


def assert_same(short: RunView, found: Calibration, full: RunView) -> None:
    """What is read from a snapshot is the full view but for what it has forgotten."""
    assert short.decisions == full.decisions and short.next_number == full.next_number
    left_out = (*LEFT_OUT, "ideas")
    for name, value in vars(full).items():
        if name not in left_out:
            assert getattr(short, name) == value, name
    assert len(short.decided) >= min(5, full.decisions)
    assert short.decided == full.decided[short.forgotten :]
    assert all(full.experiments[number] == each for number, each in short.experiments.items())
    assert {each.number for each in full.kept} <= short.experiments.keys()
    assert short.unfinished == full.unfinished
    for one in (*short.kept, *short.decided):
        assert short.experiments[one.number] is one
    assert without_patches(short) == without_patches(full)
    assert short.ideas._tried.keys() == full.ideas._tried.keys()
    assert all(short.ideas.get(each.number) is each for each in short.ideas._tried.values())
    for each in short.decided:
        found.add(each, METRIC)
    assert found == Calibration.of(full.decided, METRIC)


def test_the_run_left_one_and_it_tells_the_same(task: Toy) -> None:
    assert (task.run_folder / NAME).exists()
    short, found = recent(task.run_folder)
    assert short.forgotten > 20
    assert found.measured and short.ideas.all
    assert_same(short, found, task.view())


def verify(journal: Journal, view: RunView) -> None:
    """Journal a verification as ``verify.py`` does."""
    best = view.kept[-1]
    journal.append(
        "verify_started", milestone=True, each=False, sealed=False, budget_s=5.0, samples=1,
        experiment=best.number, kept=1, commits={"incumbent": best.commit},
    )  # fmt: skip
    journal.append("verify_attempt", arm="incumbent", k=0)
    sample = sample_body(best.taken[0].sample)
    journal.append("verify_sample", arm="incumbent", k=0, gpus=0, **sample)
    journal.append("verified", steps=[{"experiment": best.number, "verdict": "survives"}])


def test_it_tells_the_same_wherever_it_is_taken(task: Toy, tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes((task.run_folder / "journal.db").read_bytes())
    journal = Journal(tmp_path / "journal.db")
    verify(journal, task.view())
    events = list(journal.events())
    writer, view = Snapshots(tmp_path, METRIC), RunView()
    full = RunView(events)
    assert full.verified
    turns = [each.turn for each in full.decided if counts(each)]
    assert len(set(turns)) == len(turns) < full.decisions - 1
    for event in events:
        view.apply(event)
        if event.seq % 5 == 1 or event.kind.startswith("verif"):
            writer.write(view, str(journal.digest_of(event.seq)))
            assert json.loads((tmp_path / NAME).read_text())["seq"] == event.seq
            assert_same(*recent(tmp_path), full)
    journal.close()


def output(task: Toy, *argv: str) -> str:
    """What a command prints; simulated programs print tracebacks."""
    done = subprocess.run(
        task.command(*argv), cwd=task.root, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("key", ["status", "log"])
def test_commands_say_the_same_without_it(task: Toy, key: str) -> None:
    argv = {"status": ["status", "--json"], "log": ["log", "--limit", "5", "--json"]}[key]
    path = task.run_folder / NAME
    kept = path.read_bytes()
    said = output(task, *argv)
    path.unlink()
    assert output(task, *argv) == said
    path.write_bytes(kept)


@pytest.mark.parametrize(
    ("what", "value"),
    [("digest", "0" * 16), ("shape", "another"), ("seq", 10**9), ("decided", [{"of": "os"}]),
     ("calibration", {"experiment": -1}), ("state", {"tag": {"of": "x", "fields": {}}})],
)  # fmt: skip
def test_one_that_does_not_fit_is_not_used(
    task: Toy, tmp_path: Path, what: str, value: object
) -> None:
    body = json.loads((task.run_folder / NAME).read_text())
    (tmp_path / "journal.db").write_bytes((task.run_folder / "journal.db").read_bytes())
    for text in (json.dumps(body | {what: value}), "[]", "", "{" * 100_000):
        (tmp_path / NAME).write_text(text)
        view, found = recent(tmp_path)
        assert view.forgotten == 0 and found == Calibration()
        assert view.decided == task.view().decided


def test_a_disk_that_refuses_is_no_matter(tmp_path: Path) -> None:
    view = RunView([Event(1, "2026-01-01T00:00:00Z", "engine_started", None, {"level": "none"})])
    Snapshots(tmp_path / "gone", METRIC).write(view, "")
