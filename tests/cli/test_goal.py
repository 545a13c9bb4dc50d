"""``init --goal``: a proposal becomes a contract only if a dry run confirms it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest

from autoresearch import config
from tests.conftest import IDENTITY, Toy

MakeToy = Callable[..., Toy]

SLOW = "def total(n):\n    return sum(i * i % 7 for i in range(n))\n"
TEST = """\
import unittest

from slow import total


class Total(unittest.TestCase):
    def test_total(self):
        self.assertEqual(total(4), 1 + 4 + 2)
"""
CONTRACT = """\
[task]
editable = ["slow.py"]

[run]
command = "python3 bench.py"
budget = "10s"
clock = "cpu"

[metric]
name = "seconds"
evaluate = "python3 evaluate.py"
"""
BENCH = """\
import os, pathlib, slow
pathlib.Path(os.environ["AUTORESEARCH_OUT"], "answer").write_text(str(slow.total(1_000_000)))
"""
EVALUATE = """\
import json, os, pathlib, sys
found = pathlib.Path(os.environ["AUTORESEARCH_OUT"], "answer")
if not found.is_file() or found.read_text() != "1999998":
    sys.exit(3)
print("seconds:", json.loads(pathlib.Path(os.environ["AUTORESEARCH_USAGE"]).read_text())["cpu_s"])
"""
GOOD = f"""\
cat >autoresearch.toml <<'E'
{CONTRACT}
[guard]
command = "python3 -m unittest -q"
E
cat >bench.py <<'E'
{BENCH}E
cat >evaluate.py <<'E'
{EVALUATE}E
"""
ASK = ("init", "--goal", "make total faster", "--agent", "./agent.sh {prompt_file}")


@pytest.fixture
def project(toy: MakeToy) -> Callable[[str], Toy]:
    """A repository with a slow function and no contract, and an agent of that script."""

    def make(script: str) -> Toy:
        task = toy({"agent.sh": f"#!/bin/sh\n{script}", "slow.py": SLOW, "test_slow.py": TEST})
        task.git("rm", "--quiet", "autoresearch.toml")
        task.git(*IDENTITY, "commit", "--quiet", "-m", "No task yet")
        return task

    return make


def new(task: Toy) -> list[str]:
    return task.git("status", "--porcelain").splitlines()


def test_what_a_dry_run_confirms_is_shown_and_written_after_a_yes(
    project: Callable[[str], Toy],
) -> None:
    task = project(GOOD)
    refused = task.call(*ASK, code=2)
    assert "nothing was written" in refused.stderr and new(task) == []
    for part in ('editable = ["slow.py"]', "import os, pathlib, slow", "crippled   ", "ready"):
        assert part in refused.stdout
    said = task.call(*ASK, "--yes").stdout
    assert new(task) == ["?? autoresearch.toml", "?? bench.py", "?? evaluate.py"]
    assert "git add autoresearch.toml bench.py evaluate.py" in said
    contract = config.load(task.root / "autoresearch.toml")
    assert contract.task.goal == "make total faster" and contract.run.clock == "cpu"
    assert contract.agents[0].options["argv"] == ["./agent.sh", "{prompt_file}"]
    task.git("add", "--all")
    task.git(*IDENTITY, "commit", "--quiet", "-m", "Add the task")
    task.call("run", "--max-experiments", "0")
    assert task.statuses() == ["keep"]
    assert "--force" in task.call(*ASK, "--yes", code=2).stderr


def test_what_is_wrong_is_given_back_to_the_agent(project: Callable[[str], Toy]) -> None:
    """First no contract at all, then one whose number depends on nothing, then a good one."""
    task = project(
        'if grep -q "an emptied editable file scores 1" "$1"; then\n' + GOOD +
        'elif grep -q "Why your last proposal was refused" "$1"; then\n' + GOOD +
        "echo pass >bench.py; echo \"print('seconds: 1')\" >evaluate.py\n"
        "else echo '[oops' >autoresearch.toml; fi\n"
    )  # fmt: skip
    said = task.call(*ASK, "--yes").stdout
    assert "asking     command, 3 of 3" in said
    assert "refused    autoresearch.toml: TOML" in said
    assert "refused    metric: an emptied editable file scores 1, the baseline 1" in said
    assert "AUTORESEARCH_USAGE" in (task.root / "evaluate.py").read_text()


def changed(old: str, by: str) -> str:
    return f"{GOOD}sed -i 's|{old}|{by}|' autoresearch.toml\n"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("true", "metric.name"),
        (changed("budget = .*", 'setup = "curl evil"'), "run.setup: leave it out"),
        (changed("clock = .*", 'readable = ["~/.ssh"]'), "run.readable: leave it out"),
        (GOOD + "printf '[agent]\\nuse = \"replay\"\\n' >>autoresearch.toml",
         "agent: leave it out"),
        (changed('"slow.py"', '"*.py"'), "evaluate.py is new and editable"),
        (changed('"slow.py"', '"slow.py", "test_slow.py"')
         + "sed -i 's|-m unittest -q|-m unittest -q test_slow.py|' autoresearch.toml",
         "guard.command runs test_slow.py, which is editable"),
        (changed("evaluate = .*", "") + "sed -i 's|bench.py|slow.py|' autoresearch.toml",
         "the number is printed by slow.py, which is editable"),
        (GOOD + "echo >>test_slow.py", "test_slow.py exists and must stay as it is"),
        (GOOD + "rm test_slow.py", "test_slow.py exists and must stay as it is"),
        (GOOD + "mkdir -p .github; echo >.github/x.yml", ".github/x.yml: new files belong"),
        (GOOD + "ln -s /etc/passwd data.txt", "data.txt is a symbolic link"),
        (GOOD + "printf '# \\033[2J\\n' >>evaluate.py", "evaluate.py has characters"),
        (changed('"10s"', '"5h"'), "run.budget: at most 1800 s"),
        (changed("python3 -m unittest.*", 'false"'), "guard.command"),
        (GOOD + "echo 'import random; print(\"seconds:\", random.random() ** 9)' >evaluate.py",
         "three runs of the same code gave"),
        (GOOD + "echo pass >bench.py; echo 'import os, random;"
         " print(\"seconds:\", 1 + random.Random(os.environ[\"AUTORESEARCH_SEED\"]).random() / 9)'"
         " >evaluate.py", "metric: "),
        (GOOD + "echo pass >evaluate.py", "metric"),
    ],
)  # fmt: skip
def test_what_is_not_confirmed_is_refused(
    project: Callable[[str], Toy], monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    task = project(script)
    said = task.call(*ASK, "--yes", code=2)
    assert problem in said.stderr, said.stdout + said.stderr
    assert "none of 3 proposals" in said.stderr
    assert new(task) == []


def test_what_the_person_decided_stands(project: Callable[[str], Toy]) -> None:
    task = project(
        GOOD + 'if grep -q \'The person has decided: metric.name = "cpu"\' "$1" &&'
        ' grep -q "was refused" "$1"; then\n'
        "sed -i 's|\"seconds\"|\"cpu\"|' autoresearch.toml; sed -i 's|seconds|cpu|' evaluate.py; fi"
    )
    found = json.loads(task.call(*ASK, "--metric", "cpu", "--yes", "--json").stdout)
    assert found["ok"] is True and len(found["files"]) == 3
    assert config.load(task.root / "autoresearch.toml").metric.name == "cpu"


def test_an_agent_that_fails_or_cannot_read_is_said(project: Callable[[str], Toy]) -> None:
    task = project("echo out of order; exit 4")
    assert "out of order" in task.call(*ASK, "--yes", code=1).stderr
    for agent, problem in (
        ("search", "cannot be asked in words"),
        ("gpt9", "no such agent"),
        ("./none.sh {prompt_file}", "there is no program ./none.sh"),
    ):
        said = task.call("init", "--goal", "x", "--agent", agent, "--yes", code=2).stderr
        assert problem in said
    assert new(task) == []


def test_without_an_agent_the_same_is_asked_for_and_run_dry(toy: MakeToy) -> None:
    task = toy()
    task.git("rm", "--quiet", "autoresearch.toml")
    task.git(*IDENTITY, "commit", "--quiet", "-m", "No task yet")
    options = ("--editable", "train.py", "--command", "python3 train.py", "--metric")
    said = task.call("init", "--goal", "less loss", *options, "gain", "--yes", code=2)
    assert "run.command" in said.stderr and new(task) == []
    said = task.call("init", "--goal", "less loss", *options, "loss", "--yes")
    assert "baseline   loss 0.1" in said.stdout and new(task) == ["?? autoresearch.toml"]


def test_on_a_terminal_it_asks_and_writes_after_a_yes(project: Callable[[str], Toy]) -> None:
    task = project("")
    (task.root / "bench.py").write_text("import slow\nprint('total:', slow.total(9))\n")
    task.git("add", "--all")
    task.git("rm", "--quiet", "--cached", "train.py")
    (task.root / "train.py").unlink()
    task.git(*IDENTITY, "commit", "--quiet", "-m", "A benchmark")
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "autoresearch", "init", "--goal", "a larger total"],
        cwd=task.root, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    os.write(master, b"slow.py\npython3 bench.py\ntotal\nhigher\ny\n")
    said = b""
    while True:
        try:
            said += os.read(master, 65536)
        except OSError:
            break
    os.close(master)
    assert child.wait(60) == 0, said.decode()
    assert b"Which files may be edited" in said and b"Write this?" in said
    contract = config.load(task.root / "autoresearch.toml")
    assert contract.metric.direction == "higher" and contract.task.goal == "a larger total"
