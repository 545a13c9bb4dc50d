"""``autoresearch init`` in the layouts that people have."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch import config
from tests.conftest import Toy

MakeToy = Callable[..., Toy]


def test_a_file_that_is_not_there_is_refused(toy: MakeToy) -> None:
    task = toy()
    (task.root / "autoresearch.toml").unlink()
    options = ("--command", "python3 train.py", "--metric", "loss")
    done = task.call("init", "--editable", "trian.py", *options, code=2)
    assert "--editable trian.py: there is no such file" in done.stderr
    task.call("init", "--editable", "src/*.py", *options)


def test_the_three_file_repository_works_without_touching_a_file(three_files: Toy) -> None:
    before = three_files.git("status", "--porcelain")
    said = three_files.call("init").stdout
    assert "next: autoresearch check" in said
    contract = config.load(three_files.root / "autoresearch.toml")
    assert contract.run.command == ("uv", "run", "train.py")
    assert contract.run.setup == ("uv", "run", "prepare.py")
    assert contract.run.budget_s == 1
    assert (contract.metric.name, contract.metric.direction) == ("val_bpb", "lower")
    assert contract.metric.self_reported
    assert contract.task.instructions == "program.md"
    # A busy machine starts Python more slowly than this trains.
    contract.path.write_text(contract.path.read_text().replace('"1s"', '"10s"'))
    done = three_files.call("run", "--max-experiments", "2")
    assert "self-reported" in done.stdout
    view = three_files.view()
    assert len(view.decided) == 3
    assert view.decided[0].memory_gb == 2.0
    assert view.decided[0].decision is not None and view.decided[0].decision.value is not None
    assert view.decided[0].decision.value > 1
    assert three_files.git("status", "--porcelain").replace("?? autoresearch.toml", "") == before


def test_data_that_was_prepared_before_is_used(three_files: Toy) -> None:
    subprocess.run(["uv", "run", "--offline", "prepare.py"], cwd=three_files.root, check=True)
    said = three_files.call("init", "--budget", "10s").stdout
    assert "data prepared before is used" in said
    contract = config.load(three_files.root / "autoresearch.toml")
    assert contract.run.setup is None
    assert contract.run.readable == ("~/.cache/autoresearch-standin",)
    three_files.call("run", "--max-experiments", "0")
    assert three_files.statuses() == ["keep"]


def test_a_project_with_tests_gets_a_guard(tmp_path: Path) -> None:
    task = Toy(tmp_path / "p", {"test_it.py": "", "slow.py": ""}, {"task": "", "run": ""}).create()
    options = ("--editable", "slow.py", "--command", "python3 bench.py", "--metric", "seconds")
    found = json.loads(task.call("init", "--force", "--json", *options).stdout)
    assert found["guard"].endswith("-m pytest -q")
    contract = config.load(task.root / "autoresearch.toml")
    assert contract.guards[0].command[-2:] == ("pytest", "-q")
    assert contract.task.editable == ("slow.py",)


@pytest.mark.parametrize(("line", "budget"), [
    ("TIME_BUDGET = 300", 300), ("TRAIN_SECONDS = 1.5", 1.5), ("TIME_BUDGET = 5 * 60  # s", 300),
])  # fmt: skip
def test_a_budget_in_the_code_is_kept(tmp_path: Path, line: str, budget: float) -> None:
    train = f'{line}\nprint(f"loss: {{1}}")\n'
    task = Toy(tmp_path / "p", {"train.py": train}, {}).create()
    task.call("init", "--force")
    assert config.load(task.root / "autoresearch.toml").run.budget_s == budget


def test_what_cannot_be_found_is_named(tmp_path: Path) -> None:
    task = Toy(tmp_path / "p", {}, {}).create()
    for name in ("train.py", "autoresearch.toml"):
        task.git("rm", "--quiet", name)
    done = task.call("init", code=2)
    assert "--editable, --command, --metric not found" in done.stderr
    assert "autoresearch init --editable ..." in done.stderr


def test_an_existing_contract_is_not_replaced(toy: Callable[..., Toy]) -> None:
    task = toy()
    text = (task.root / "autoresearch.toml").read_text()
    assert "--force" in task.call("init", code=2).stderr
    assert (task.root / "autoresearch.toml").read_text() == text


def test_outside_of_git_it_says_so(tmp_path: Path) -> None:
    task = Toy(tmp_path)
    assert "git init" in task.call("init", code=2).stderr
