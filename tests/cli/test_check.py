"""``autoresearch check``, help, and the exit codes of mistakes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

from autoresearch.cli import COMMANDS
from tests.conftest import TRAIN, Toy

MakeToy = Callable[..., Toy]


def test_a_sound_task_is_ready(toy: MakeToy) -> None:
    task = toy(guard='command = "true"')
    said = task.call("check").stdout
    assert "level      " in said
    assert "baseline   loss 0.1" in said
    assert "noise      " in said and "experiments a night" in said
    assert "self-reported" in said
    assert said.splitlines()[-1] == "ready: autoresearch run"
    assert task.git("status", "--porcelain") == ""
    found = json.loads(task.call("check", "--json").stdout)
    assert found["ok"] is True and found["problems"] == []
    assert 0 < found["noise"] < 0.01 and found["smallest_gain"] > found["noise"]


def test_the_audit_of_a_task_is_not_a_run_of_it(toy: MakeToy) -> None:
    task = toy()
    task.call("check")
    assert "no run of" in task.call("status", code=2).stderr
    task.call("run", "--max-experiments", "0")
    assert task.statuses() == ["keep"] and task.run_folder.name != "check"
    task.call("check")
    assert task.statuses() == ["keep"]


def test_a_metric_that_ignores_the_candidate_is_found_out(toy: MakeToy) -> None:
    slow = "import time; time.sleep(1.5); print('loss: 1')\n"
    task = toy({"evaluate.py": slow},
               metric='name = "loss"\nevaluate = "python3 evaluate.py"')  # fmt: skip
    said = task.call("check", code=2).stdout
    speed = re.search(r"^speed +(\S+) s a sample", said, re.MULTILINE)
    assert speed is not None and float(speed[1]) >= 1.5, "the evaluation takes its time, too"
    assert "an emptied editable file scores 1, the baseline 1" in said
    assert "none: different seeds give the same value" in said
    assert said.splitlines()[-1] == "not ready"


def test_what_does_not_run_is_named(toy: MakeToy) -> None:
    task = toy({"train.py": "import nothing_like_it\n"})
    said = task.call("check", code=2).stdout
    assert "run.command: exit code 1: ModuleNotFoundError" in said
    task.root.joinpath("autoresearch.toml").write_text("[task]\n")
    assert "task.editable: is required" in task.call("check", code=2).stderr
    found = json.loads(task.call("check", "--json", code=2).stdout)
    assert found["ok"] is False
    assert {problem["key"] for problem in found["problems"]} >= {"task.editable", "run", "metric"}
    assert all(problem["fix"] for problem in found["problems"])


def test_a_failing_guard_is_named(toy: MakeToy) -> None:
    task = toy({"train.py": TRAIN}, guard='command = "false"')
    assert "guard failed: false: exit code 1" in task.call("check", code=2).stdout


def test_help_names_every_command(toy: MakeToy) -> None:
    task = toy()
    said = task.call("--help").stdout
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in said and text in said
        # Not forked from what has imported all commands: each imports what it needs.
        done = subprocess.run(
            task.command(name, "--help"), cwd=task.root, capture_output=True, text=True, check=True
        )
        assert "Usage: " in done.stdout
    assert task.call("--version").stdout.startswith("autoresearch ")
    assert "No such command" in task.call("rnu", code=2).stderr


def test_a_run_begins_after_a_check(toy: MakeToy) -> None:
    task = toy(limits="experiments = 0")
    task.call("check")
    assert "no run" in task.call("status", code=2).stderr
    task.call("run")
    assert task.run_folder.name != "check"
