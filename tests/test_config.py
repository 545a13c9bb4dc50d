"""The contract: every mistake is named, with its fix; every key is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import config
from autoresearch.config import SECTIONS, ContractError
from autoresearch.errors import UserError

HERE = Path("/task/autoresearch.toml")
MINIMAL = """
[task]
editable = ["train.py"]
[run]
command = "python train.py"
[metric]
name = "val_bpb"
"""
DOCS = Path(__file__).parents[1] / "docs" / "contract.md"


def problems(text: str) -> list[str]:
    with pytest.raises(ContractError) as caught:
        config.parse(text, HERE)
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert old in MINIMAL
    return MINIMAL.replace(old, new)


def test_defaults() -> None:
    contract = config.parse(MINIMAL, HERE)
    assert contract.task.goal == "lower val_bpb"
    assert contract.run.command == ("python", "train.py")
    assert (contract.run.budget_s, contract.run.timeout_s, contract.run.clock) == (300, 600, "wall")
    assert contract.metric.self_reported
    assert (contract.keep.confirm, contract.keep.confidence) == ("auto", 0.99)
    assert contract.agents[0].use == "search"
    assert contract.limits.experiments is None


def test_the_timeout_follows_budget_and_clock() -> None:
    text = changed('"python train.py"', '"x"\nbudget = "10s"\nclock = "cpu"')
    assert config.parse(text, HERE).run.timeout_s == 40


def test_program_md_is_found(tmp_path: Path) -> None:
    (tmp_path / "program.md").touch()
    assert config.parse(MINIMAL, tmp_path / "autoresearch.toml").task.instructions == "program.md"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = = 1", "autoresearch.toml: TOML: Invalid value (at line 1, column 5); mend that line"),
        ("", "autoresearch.toml: task: is required; add [task] with editable"),
        (
            changed("editable", "editabel"),
            "autoresearch.toml: task.editabel = ['train.py']: unknown key; did you mean editable?",
        ),
        (MINIMAL + "[foo]\na = 1\n", "autoresearch.toml: foo: unknown key; known are task, run"),
        (
            changed('"python train.py"', '"x"\nbudget = "5 minuts"'),
            'run.budget = "5 minuts": not a duration; write "90s", "5m", "1h30m" or seconds',
        ),
        (changed('"python train.py"', '"x"\nbudget = 0'), "a duration must be more than zero"),
        (changed('"python train.py"', '"x"\nbudget = true'), "run.budget = True: not a duration"),
        (
            changed('"python train.py"', '"x"\ntimeout = "1s"'),
            "timeout = 1 s is shorter than budget = 300 s",
        ),
        (changed('"python train.py"', '"x"\nmemory = "lots"'), "not a size; write"),
        (changed('"python train.py"', '"x"\ncpus = 0'), "run.cpus = 0: must be greater than"),
        (changed("python train.py", "cd x && python y"), "'&&' needs a shell"),
        (changed("python train.py", "python x > log"), "'>' needs a shell"),
        (changed("python train.py", "python $HOME/x"), "'$H' needs a shell"),
        (changed("python train.py", "python 'x"), "cannot be split into words"),
        (changed("python train.py", " "), "is empty"),
        (changed('"train.py"', '"../x"'), "must stay in the contract's directory"),
        (changed('["train.py"]', "[]"), "task.editable = []: name the files that may be edited"),
        (changed('["train.py"]', '"train.py"'), 'task.editable = "train.py": must be a list'),
        (
            changed('"val_bpb"', '"x"\ndirection = "down"'),
            "metric.direction = \"down\": must be 'lower' or 'higher'",
        ),
        (changed('"val_bpb"', '"x"\npattern = "("'), "not a regular expression"),
        (changed('"val_bpb"', '"x"\npattern = "a"'), "with exactly one group"),
        (changed('"val_bpb"', '"x"\ntarget = nan'), "must be a finite number"),
        (changed('"val_bpb"', '"x"\nanswer = "x"'), "answer needs evaluate"),
        (changed('["train.py"]', '["a"]\nhidden = ["v"]'), "need metric.evaluate"),
        (MINIMAL + "[keep]\nconfirm = 0\n", 'keep.confirm = 0: must be "auto", "never", or a'),
        (MINIMAL + "[keep]\nconfidence = 2\n", "keep.confidence = 2: must be less than 1"),
        (MINIMAL + "[agent]\ntimeut = 1\n", "did you mean timeout?"),
        (MINIMAL + "[search.space]\nLR = { low = 2, high = 1 }\n", "low = 2 must be below high"),
        (MINIMAL + "[search.space]\nLR = { low = 0, high = 1, log = true }\n", "above zero"),
        (MINIMAL + "[search.space]\nLR = { }\n", "needs low and high, or choices"),
        (MINIMAL + "[limits]\nexperiments = -1\n", "limits.experiments = -1: must be greater"),
        (MINIMAL + "[parallel]\nworkers = 0\n", "parallel.workers = 0: must be greater than"),
        (MINIMAL + "[parallel]\nfrontier = 0\n", "parallel.frontier = 0: must be greater than"),
        (MINIMAL + "[parallel]\nworker = 1\n", "did you mean workers?"),
        (MINIMAL + '[parallel.slurm]\nargs = ["--time=5"]\n', "--time is set by us"),
        (MINIMAL + '[parallel.slurm]\nargs = ["gpu"]\n', "one option of sbatch"),
        (MINIMAL + '[parallel.slurm]\nqueue = "gpu"\n', "unknown key; known are python"),
        (MINIMAL + "[parallel.slurm]\nmax_in_flight = 0\n", "max_in_flight = 0: must be greater"),
        (MINIMAL + '[parallel.ray]\naddress = "head:8265"\n', "must be the address of Ray's"),
        (MINIMAL + "[guard]\ncommand = 3\n", "guard.command = 3: a command is one string"),
    ],
)
def test_mistakes_are_named_with_their_fix(text: str, said: str) -> None:
    found = problems(text)
    assert any(said in problem for problem in found), found
    assert all(problem.startswith("autoresearch.toml: ") for problem in found)


def test_all_problems_come_at_once() -> None:
    assert len(problems("[task]\n[run]\nbudget = 0\n[metric]\ndirection = 1\n")) >= 5


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config.load(tmp_path / "autoresearch.toml")
    assert caught.value.fix == "autoresearch init writes one"


FULL = """
[task]
editable = ["a", "b/**"]
goal = "g"
instructions = "i.md"
data = ["d/"]
hidden = ["d/v"]
sealed = ["d/t"]
protected = ["b/x"]
[run]
command = "c"
setup = "s"
memory = "2GiB"
cpus = 2
env = { A = "1" }
readable = ["/opt"]
[metric]
name = "m"
direction = "higher"
evaluate = "e"
answer = "a"
answer_cpu = "9s"
loopback = true
min_gain = 0.5
target = 3
[[guard]]
command = "g1"
[[guard]]
command = "g2"
expect = '(\\d+) passed'
[keep]
confirm = 3
simplicity = 0.1
[agent]
use = "command"
env = ["K"]
[agent.command]
argv = ["x", "{prompt_file}"]
[search.space]
LR = { low = 1, high = 2 }
O = { choices = ["a", 2, true] }
[limits]
experiments = 5
hours = 8
"""


TEST = """
[task]
editable = ["src/"]
[guard]
command = "pytest -q"
timeout = "2m"
"""


def test_without_a_metric_the_guard_is_what_runs() -> None:
    contract = config.parse(TEST, HERE)
    assert contract.suite is not None and contract.suite.runner == "pytest"
    assert contract.run.command == ("pytest", "-q")
    assert (contract.run.budget_s, contract.run.timeout_s) == (120, 120)
    assert (contract.metric.name, contract.metric.target, contract.guards) == ("failing", 0, ())
    assert contract.task.goal == "Make `pytest -q` pass"
    assert "conftest.py" in contract.task.protected
    body = json.loads(json.dumps(config.snapshot(contract)))
    assert config.from_snapshot(body, HERE) == contract


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEST + '[run]\ncommand = "x"\n', "run: command has no use without [metric]"),
        (TEST + '[run]\nbudget = "5m"\n', "run: budget has no use without [metric]"),
        (TEST + "[run]\ncpus = 0\n", "run.cpus = 0: must be greater than"),
        (TEST.replace("-q", "-qx"), "stops at the first failure"),
        (TEST.replace("pytest -q", "cargo test"), "add --no-fail-fast"),
        (TEST.replace("[guard]", '[[guard]]\ncommand = "x"\n[[guard]]'), "must be one guard"),
        (TEST.replace("src/", "tests/"), "tests has the name of a test"),
        (TEST.replace("src/", "conftest.py"), "conftest.py has the name of a test"),
        (TEST.replace("[guard]", 'hidden = ["v"]\n[guard]'), "need metric.evaluate"),
        (MINIMAL + "[guard]\ncommand = 'x'\nexpect_failing = '(1)'\n", "no use beside [metric]"),
        (changed('["train.py"]', '["a.py"]\nprotected = ["*.py"]'), "both editable and protected"),
        (MINIMAL[: MINIMAL.index("[metric]")], "or a [guard] alone to run until its test passes"),
    ],
)
def test_a_test_to_pass_has_mistakes_of_its_own(text: str, said: str) -> None:
    found = problems(text)
    assert any(said in problem for problem in found), found


def test_protected_files_can_be_named() -> None:
    text = TEST.replace("[guard]", 'protected = ["spec/"]\n[guard]').replace("src/", "tests/")
    assert config.parse(text, HERE).task.protected == ("spec/",)


@pytest.mark.parametrize(
    ("old", "new", "frozen"),
    [
        ("pytest -q", "pytest", ["task.goal", "guard.command"]),
        ('"2m"', '"3m"', ["guard.timeout"]),
        ("[guard]", "[guard]\nexpect = '(1)'", ["guard.expect"]),
        ("[guard]", "protected = []\n[guard]", ["task.protected"]),
    ],
)
def test_what_a_resumed_run_keeps_of_its_test(old: str, new: str, frozen: list[str]) -> None:
    before, after = config.parse(TEST, HERE), config.parse(TEST.replace(old, new), HERE)
    assert config.frozen_changes(before, after) == frozen


def test_a_snapshot_is_the_whole_contract() -> None:
    contract = config.parse(FULL, HERE)
    body = json.loads(json.dumps(config.snapshot(contract)))
    assert config.from_snapshot(body, HERE) == contract


@pytest.mark.parametrize(
    ("old", "new", "frozen"),
    [
        ('command = "c"', 'command = "other"', ["run.command"]),
        ('memory = "2GiB"', 'memory = "3GiB"', ["run.memory"]),
        ("min_gain = 0.5", "min_gain = 0.6", ["metric.min_gain"]),
        ('command = "g1"', 'command = "g3"', ["guard"]),
        ("loopback = true", "loopback = false", ["metric.loopback"]),
        ("confirm = 3", "confirm = 4", ["keep.confirm"]),
        ("experiments = 5", "experiments = 6", []),
        ('use = "command"', 'use = "search"', []),
        ("low = 1", "low = 0.5", []),
        ("target = 3", "target = 4", []),
        ('instructions = "i.md"', 'instructions = "j.md"', []),
    ],
)
def test_what_a_resumed_run_may_change(old: str, new: str, frozen: list[str]) -> None:
    assert old in FULL
    before, after = config.parse(FULL, HERE), config.parse(FULL.replace(old, new), HERE)
    assert config.frozen_changes(before, after) == frozen


@given(st.text())
def test_any_text_is_a_contract_or_a_clear_error(text: str) -> None:
    try:
        config.parse(text, HERE)
    except ContractError as error:
        assert error.problems


def test_every_key_is_documented() -> None:
    text = DOCS.read_text()
    for name, model in SECTIONS.items():
        for key in model.model_fields:
            if not name and key not in ("guard", "agent"):
                assert f"[{key}" in text, key
            elif name not in ("", "search"):
                assert f"`{key}`" in text, f"{name}.{key}"
    known = {key for model in SECTIONS.values() for key in model.model_fields}
    for row in re.findall(r"^\| ((?:`\w+`(?:, )?)+)", text, re.M):
        for key in re.findall(r"`(\w+)`", row):
            assert key in known, key


def test_documented_defaults_are_the_real_ones() -> None:
    text = DOCS.read_text()
    for section, body in re.findall(r"^## `\[(\w+)\]`.*?\n(.*?)(?=^## )", text, re.M | re.S):
        model = SECTIONS[section]
        for key, default in re.findall(r"^\| `(\w+)`[ *]* \| `([^`]+)` \|", body, re.M):
            if key in ("goal", "instructions"):
                continue
            real = model.model_fields[key].default
            said = json.loads(default.replace("'", '"'))
            if isinstance(said, str) and isinstance(real, float):
                said = config.duration(said)
            assert said == real, f"{section}.{key}"
