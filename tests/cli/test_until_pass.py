"""``autoresearch run --until-pass`` end to end, with the real pytest."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from autoresearch import config
from autoresearch.journal.view import Role
from autoresearch.run import tags
from tests.cli.test_run import measuring_a_candidate
from tests.conftest import IDENTITY, Toy, counting, until

MakeToy = Callable[..., Toy]

CALC = """\
def add(a, b):
    return a - b


def mul(a, b):
    return a + b


def neg(a):
    return a
"""
TESTS = """\
import calc


def test_add():
    assert calc.add(1, 2) == 3


def test_mul():
    assert calc.mul(2, 3) == 6


def test_neg():
    assert calc.neg(1) == -1


def test_zero():
    assert calc.add(0, 0) == 0
"""
ADD = "sed -i 's/a - b/a + b/' calc/__init__.py"
MUL = "sed -i '/mul/,/return/s/a + b/a * b/' calc/__init__.py"
NEG = "sed -i '/neg/,/return/s/return a/return -a/' calc/__init__.py"
RETURN = "sed -i 's/return a.*/{}/' calc/__init__.py"
PLAIN = 'env = { PYTEST_DISABLE_PLUGIN_AUTOLOAD = "1" }'


def project(toy: MakeToy, agent: str, **sections: str) -> Toy:
    """A small package, three of whose four tests fail."""
    files = {"agent.sh": agent, "calc/__init__.py": CALC, "tests/test_calc.py": TESTS,
             "tests/test_other.py": "def test_other(): pass\n", "pyproject.toml": ""}  # fmt: skip
    return toy(files, **{
        "task": 'editable = ["calc/", "*.md"]', "run": PLAIN, "metric": "",
        "guard": 'command = "python3 -m pytest -q -p no:cacheprovider"', **sections,
    })  # fmt: skip


def script(toy: MakeToy, agent: str, check: str, **sections: str) -> Toy:
    """A test of its own kind: ``check.py`` prints what it likes."""
    files = {"agent.sh": agent, "check.py": check}
    return toy(files, **{
        "task": 'editable = ["train.py"]', "run": "", "metric": "",
        "guard": 'command = "python3 check.py"', **sections,
    })  # fmt: skip


def put(text: str) -> str:
    """Shell that puts text before the package's code."""
    return f"{{ cat <<'END'\n{text}\nEND\ncat calc/__init__.py; }} >new && mv new calc/__init__.py"


def values(task: Toy) -> list[float | None]:
    return [each.decision.value for each in task.view().decided if each.decision]


def test_one_failing_test_after_the_other_until_all_pass(toy: MakeToy) -> None:
    task = project(toy, counting(ADD, MUL, NEG))
    head = task.git("rev-parse", "HEAD")
    said = task.call("run", "--until-pass").stdout
    assert "ended: passed: python3 -m pytest" in said
    assert "self-reported" in said
    assert values(task) == [3, 2, 1, 0]
    assert task.statuses() == ["keep"] * 4
    view = task.view()
    # Two identical fresh samples confirm progress, two passes in a row the end.
    assert [len(view.experiments[n].values(Role.FRESH)) for n in (1, 2, 3)] == [2, 2, 1]
    assert task.rows()[0] == ["commit", "failing", "memory_gb", "status", "description"]
    assert task.git("show", f"{view.branch}:calc/__init__.py").count("return a ") == 2
    assert task.git("rev-parse", "HEAD") == head
    briefing = (task.run_folder / "experiments/2/briefing.md").read_text()
    assert "Best so far: failing 2, by experiment 1" in briefing
    assert "assert 5 == 6" in briefing and "FAILED tests/test_calc.py::test_neg" in briefing
    assert "a - b" not in briefing and "FAILED tests/test_calc.py::test_add" not in briefing
    assert json.loads(task.call("status", "--json").stdout)["state"] == "done"
    # It is done; from another HEAD there may be more to do.
    assert "passed" in task.call("run", "--until-pass").stdout
    assert len(tags(task.root)) == 1
    task.git("merge", "--quiet", view.branch)
    assert "passed" in task.call("run").stdout
    assert len(tags(task.root)) == 2
    assert values(task) == [0]


HOSTILE = {
    "edits the test": "sed -i 's/== 3/== -1/' tests/test_calc.py; " + MUL,
    "deletes the test": "rm tests/test_calc.py; " + MUL,
    "configures the runner": "echo '[tool.pytest.ini_options]\naddopts = \"-k 0\"' >pyproject.toml",
    "brings a conftest": "echo 'collect_ignore_glob = [\"*\"]' >calc/conftest.py",
    "ends early": put("import os; os._exit(0)"),
    "prints a summary and ends": put(
        "print('5 passed in 0.01s', flush=True); import os; os._exit(0)"
    ),
    "leaves pytest": put("import pytest; pytest.exit('fine', returncode=0)"),
    "skips where it is imported": put("import pytest; pytest.skip('', allow_module_level=True)"),
    "skips where it is called": RETURN.format("import pytest; pytest.skip()"),
    "expects to fail": RETURN.format("import pytest; pytest.xfail()"),
    "prints another summary at exit": put(
        "import atexit, os\n"
        "atexit.register(lambda: (print('5 passed in 0.01s', flush=True), os._exit(0)))"
    ),
    "rewrites a test while another is read": put(
        "open('tests/test_other.py', 'w').write('def test_other(): pass\\n' * 2)"
    ),
    "breaks the import": put("import nowhere"),
}
ENDS = {
    "edits the test": "rejected", "deletes the test": "rejected",
    "configures the runner": "rejected", "brings a conftest": "rejected",
    "ends early": "crash", "prints a summary and ends": "crash",
    "rewrites a test while another is read": "crash",
}  # fmt: skip


def test_an_edited_skipped_deleted_or_forged_test_is_no_pass(toy: MakeToy) -> None:
    task = project(toy, counting(*HOSTILE.values()), keep='confirm = "auto"')
    task.call("run", "--max-experiments", str(len(HOSTILE)), code=3)
    for name, experiment in zip(HOSTILE, task.view().decided[1:], strict=True):
        assert experiment.decision is not None
        said = f"{name}: {experiment.decision}"
        assert experiment.decision.status.value == ENDS.get(name, "discard"), said
        assert experiment.decision.value is None or experiment.decision.value >= 3, said
    assert "ended early" in task.view().decided[5].decision.reason  # type: ignore[union-attr]
    assert "1 could not be loaded" in task.view().decided[-1].decision.reason  # type: ignore[union-attr]


def test_code_that_patches_its_runner_is_believed_and_marked(toy: MakeToy) -> None:
    patch = "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None"
    task = project(toy, counting(put(patch)))
    assert "self-reported" in task.call("run").stdout
    assert values(task) == [3, 0]


def test_what_cannot_be_imported_yet_is_the_first_step(toy: MakeToy) -> None:
    agent = counting(
        "echo 'def area(a, b): return a' >calc/shapes.py",
        "sed -i 's/return a/return a * b/' calc/shapes.py",
    )
    task = project(toy, agent)
    task.git("checkout", "--quiet", "-b", "wish")
    tests = "from calc.shapes import area\ndef test_area(): assert area(2, 3) == 6\n"
    (task.root / "tests" / "test_calc.py").write_text(tests)
    said = task.call("run", code=2).stderr
    assert "uncommitted changes of protected files: tests/test_calc.py" in said
    task.git(*IDENTITY, "commit", "--quiet", "--all", "-m", "Wish for more")
    task.call("run")
    assert values(task) == [1000, 1, 0]
    assert "1 could not be loaded" in task.call("show", "0").stdout


def test_limits_requests_and_an_agent_without_ideas_are_no_pass(toy: MakeToy) -> None:
    check = "import time\ntime.sleep(1)\nraise SystemExit(1)\n"
    task = script(toy, counting(*(f"echo 'X = {i}' >>train.py" for i in range(9))), check)
    said = task.call("run", "--max-experiments", "1", code=3).stdout
    assert "ended: limit reached: experiments 1" in said
    engine = task.start("run")
    until(task.saw(lambda view: measuring_a_candidate(view) and view.unfinished))
    task.call("stop")
    assert engine.wait(20) == 3
    (task.root / "patches").mkdir()
    said = task.call("run", "--agent", "replay", code=3).stdout
    assert "ended: the agent has nothing more to propose" in said
    assert set(values(task)) == {1}


def test_a_kill_loses_nothing(toy: MakeToy) -> None:
    agent = counting("sed -i 's/0.5/0.3/' train.py", "sed -i 's/0.3/0.1/' train.py")
    check = (
        "import re, time\ntime.sleep(0.3)\n"
        "left = round(10 * float(re.search(r'LR = (.*)', open('train.py').read())[1])) - 1\n"
        "print(left, 'failed')\nraise SystemExit(left > 0)\n"
    )
    guard = "command = \"python3 check.py\"\nexpect_failing = '(\\d+) failed'"
    task = script(toy, agent, check, guard=guard)
    engine = task.start("run")
    until(task.saw(measuring_a_candidate))
    engine.kill()
    engine.wait()
    assert "ended: passed" in task.call("run", "--until-pass").stdout
    assert values(task) == [4, 2, 0]
    assert [each.number for each in task.view().decided] == [0, 1, 2]


def test_a_flaky_test_is_done_after_two_passes_in_a_row(toy: MakeToy) -> None:
    check = (
        "import os, re\nfixed = 'LR = 0.1' in open('train.py').read()\n"
        "raise SystemExit(not fixed and int(os.environ['AUTORESEARCH_SEED']) % 2)\n"
    )
    task = script(toy, counting("sed -i 's/0.5/0.1/' train.py"), check)
    for i in range(9):
        task.call("run", "--tag", f"t{i}", "--max-experiments", "1", code=None)
        if len(set(task.experiment(0).values(Role.BASELINE))) > 1:
            break
    assert values(task)[1:] == [0]
    assert task.experiment(1).values(Role.FRESH) == (0,)


def test_less_code_is_no_progress_where_the_same_tests_fail(toy: MakeToy) -> None:
    check = "print('3 failed')\nraise SystemExit(1)\n"
    guard = "command = \"python3 check.py\"\nexpect_failing = '(\\d+) failed'"
    task = script(toy, counting("sed -i '/^noise/d' train.py"), check, guard=guard)
    task.call("run", "--max-experiments", "1", code=3)
    assert task.statuses() == ["keep", "discard"]


def test_a_person_can_try(toy: MakeToy) -> None:
    task = project(toy, "#!/bin/sh\n")
    (task.root / "calc" / "__init__.py").write_text(CALC.replace("a - b", "a + b"))
    said = task.call("try", "-m", "add adds").stdout
    assert said.startswith("keep  failing 2 (was 3, -1)")


def test_a_number_and_a_test_cannot_both_be_reached(toy: MakeToy) -> None:
    task = toy()
    assert "has a [metric]" in task.call("run", "--until-pass", code=2).stderr
    task = Toy(
        task.root.with_name("other"), {}, {"metric": "", "run": "", "guard": 'command = "x"'}
    )
    task.create()
    assert "the target is a pass" in task.call("run", "--target", "1", code=2).stderr


def test_init_and_check(toy: MakeToy) -> None:
    task = project(toy, "#!/bin/sh\n")
    contract = task.root / "autoresearch.toml"
    contract.unlink()
    (task.root / "setup.py").touch()
    (task.root / "tool.py").touch()
    task.git("add", "--all")
    said = task.call("init", "--until-pass", "python3 -m pytest -q").stdout
    assert 'editable = ["calc/", "tool.py", "train.py"]' in said
    made = config.load(contract)
    assert made.suite is not None and made.suite.runner == "pytest"
    assert (
        "--metric has no use"
        in task.call("init", "--force", "--until-pass", "x", "--metric", "m", code=2).stderr
    )
    assert (
        "cannot tell which files"
        in task.call("init", "--force", "--until-pass", "make test", code=2).stderr
    )
    said = task.call("init", "--force", "--until-pass", "cargo test", "--editable", "src/*").stdout
    assert "cargo test --no-fail-fast" in said
    contract.write_text(
        '[task]\neditable = ["calc/"]\n[guard]\ncommand = "python3 -m pytest -q"\n[run]\n' + PLAIN
    )
    found = json.loads(task.call("check", "--json").stdout)
    assert (found["ok"], found["baseline"], found["noise"]) == (True, 3, 0)
    assert any("share a process" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("guard", "note"),
    [
        ('command = "python3 check.py"', "guard.expect_failing ="),
        ("command = \"python3 check.py\"\nexpect_failing = '(\\d+) failed'", "guard.expect ="),
    ],
)
def test_check_says_what_an_unknown_runner_leaves_open(toy: MakeToy, guard: str, note: str) -> None:
    check = "import train\nprint('1 failed')\nraise SystemExit(1)\n"
    task = script(toy, "#!/bin/sh\n", check, guard=guard)
    assert note in task.call("check").stdout
