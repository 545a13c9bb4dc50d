"""One long session: an agent in the person's own directory that loops with ``try --reset``."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.conftest import TRAIN, Toy, until

MakeToy = Callable[..., Toy]
SLOW = TRAIN + "import time; time.sleep(1)\n"


def edit(task: Toy, value: str) -> str:
    text = TRAIN.replace("0.5", value)
    (task.root / "train.py").write_text(text)
    return text


def test_an_agent_reads_one_line(toy: MakeToy) -> None:
    task = toy()
    edit(task, "0.2")
    done = task.call("try", "-m", "lower", "--reset")
    assert done.stderr == "" and done.stdout.count("\n") == 1
    edit(task, "0.9")
    done = task.call("try", "-m", "higher", "--reset")
    assert done.stderr == "" and done.stdout.startswith("discard  loss ")
    log = (task.run_folder / "engine.log").read_text()
    assert "measuring #2: higher" in log
    said = task.call("try", "-m", "again", "--progress").stderr
    assert "times in UTC" in said and "ended: tried" in said


def test_a_crash_says_where_more_is(toy: MakeToy) -> None:
    task = toy()
    (task.root / "train.py").write_text("raise SystemExit('so long')\n")
    done = task.call("try", "-m", "broken")
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert done.stdout.startswith("crash  ")
    assert "autoresearch show 1" in done.stdout
    assert "so long" in task.call("show", "1").stdout


def test_reset_sets_the_editable_files_to_the_incumbent_whatever_was_decided(toy: MakeToy) -> None:
    task = toy({"src/old.py": "old = 1\n", "notes.txt": "mine\n"},
               task='editable = ["train.py", "src/*.py"]')  # fmt: skip
    head, index = task.git("rev-parse", "HEAD"), (task.root / ".git/index").read_bytes()
    kept = edit(task, "0.2")
    (task.root / "src/old.py").unlink()
    (task.root / "src/new.py").write_text("new = 1\n")
    (task.root / "notes.txt").write_text("edited\n")
    found = json.loads(task.call("try", "-m", "better", "--reset", "--json").stdout)
    assert found["status"] == "keep" and found["reset"] == [] and found["not_reset"] == {}
    assert not (task.root / "src/old.py").exists()
    assert "src/old.py" not in task.git("ls-tree", "-r", "--name-only", task.view().branch)

    edit(task, "0.9")
    (task.root / "src/old.py").write_text("back = 1\n")
    (task.root / "src/new.py").unlink()  # not tracked, so nobody can tell that it is missed
    (task.root / "src/more.py").write_text("more = 1\n")
    (task.root / "train.py").chmod(0o640)
    found = json.loads(task.call("try", "-m", "worse", "--reset", "--json").stdout)
    assert found["status"] == "discard"
    assert found["reset"] == ["src/more.py", "src/new.py", "src/old.py", "train.py"]
    assert (task.root / "train.py").read_text() == kept
    assert (task.root / "train.py").stat().st_mode & 0o777 == 0o640
    assert (task.root / "src/new.py").read_text() == "new = 1\n"
    assert not (task.root / "src/old.py").exists() and not (task.root / "src/more.py").exists()
    assert (task.root / "notes.txt").read_text() == "edited\n"
    assert task.git("rev-parse", "HEAD") == head
    assert (task.root / ".git/index").read_bytes() == index


def test_what_was_edited_meanwhile_is_not_overwritten(toy: MakeToy) -> None:
    task = toy({"src/a.py": "a = 1\n"}, task='editable = ["train.py", "src/*.py"]')
    (task.root / "train.py").write_text(SLOW.replace("0.5", "0.9"))
    (task.root / "src/a.py").write_text("a = 2\n")
    going = task.start("try", "-m", "worse", "--reset", "--progress")
    until(lambda: "measuring #1" in task.said.read_text())
    (task.root / "train.py").write_text("my next idea\n")
    (task.root / "src/b.py").write_text("b = 1\n")
    assert going.wait(60) == 0
    assert (task.root / "train.py").read_text() == "my next idea\n"
    assert (task.root / "src/a.py").read_text() == "a = 1\n"
    assert (task.root / "src/b.py").read_text() == "b = 1\n"
    said = task.said.read_text()
    assert "note: train.py was not reset: changed since it was sealed" in said
    assert "note: src/b.py was not reset: changed since it was sealed" in said


def test_reset_does_not_follow_a_link(toy: MakeToy, tmp_path: Path) -> None:
    task = toy({"src/a.py": "a = 1\n"}, task='editable = ["train.py", "src/*.py"]')
    edit(task, "0.9")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.py").write_text("a = 1\nprecious\n")
    (task.root / "src/a.py").unlink()
    (task.root / "src").rmdir()
    (task.root / "src").symlink_to(outside)
    done = task.call("try", "-m", "linked", "--reset")
    assert "note: src/a.py was not reset: behind a symbolic link" in done.stderr
    assert (outside / "a.py").read_text() == "a = 1\nprecious\n"
    assert (task.root / "train.py").read_text() == TRAIN


def test_reset_and_a_patch_do_not_go_together(toy: MakeToy) -> None:
    task = toy({"my.patch": ""})
    assert "leave out one" in task.call("try", "-m", "x", "my.patch", "--reset", code=2).stderr


def test_killed_it_goes_on_when_the_same_files_are_tried_again(toy: MakeToy) -> None:
    task = toy()
    task.call("run", "--max-experiments", "0")
    (task.root / "train.py").write_text(SLOW.replace("0.5", "0.2"))
    going = task.start("try", "-m", "lower", "--progress")
    until(lambda: "measuring #1" in task.said.read_text())
    os.killpg(going.pid, signal.SIGKILL)
    going.wait(10)
    assert task.call("try", "-m", "lower").stdout.startswith("keep  loss ")
    assert task.statuses() == ["keep", "keep"]


def test_two_sessions_take_turns(toy: MakeToy) -> None:
    """The second waits for the first, which ends when its own is decided; then it goes on."""
    task = toy()
    task.call("run", "--max-experiments", "0")
    (task.root / "train.py").write_text(SLOW.replace("0.5", "0.8"))
    first = task.start("try", "-m", "first", "--progress")
    until(lambda: "measuring #1" in task.said.read_text())
    edit(task, "0.2")
    assert task.call("try", "-m", "second").stdout.startswith("keep  loss ")
    assert first.wait(60) == 0
    assert [each.description for each in task.view().decided[1:]] == ["first", "second"]
