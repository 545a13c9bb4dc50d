"""The real coding agents against a model that follows a script, through the real engine.

Each agent lives one eventful night: whatever it meets, the run goes on by itself, and the journal
says what happened. Waits are for a machine that is many times slower than most: they end as soon as
what is waited for is there, but for those of ``idle``, which a stalled stream takes to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoresearch import config
from autoresearch.journal import Journal
from tests.agents.clis.install import installed
from tests.agents.mock_model import (
    INPUT_TOKENS,
    KEY,
    OUTPUT_TOKENS,
    Call,
    Drop,
    Edit,
    MockModel,
    Run,
    Say,
    Stall,
    Turn,
    rate_limited,
)
from tests.cli.test_goal import BENCH, CONTRACT, EVALUATE, SLOW
from tests.conftest import IDENTITY, Toy, until
from tests.started import Running

MakeToy = Callable[..., Toy]
LOWER = Edit("train.py", "LR = 0.5", "LR = 0.3")
LOWER_STILL = Edit("train.py", "LR = 0.3", "LR = 0.2")
FORBIDDEN = Edit("prepare.py", "X = 1", "X = 2")
SAID = "Done.\n\ndescription: lower LR to {}\nhypothesis: it overshoots\nexpected: less loss"
# Lets opencode have a shell beside what its configuration allows.
SHELL_TOO = "OPENCODE_PERMISSION"
SHELL_OF_GEMINI = """\
[[rule]]
toolName = "run_shell_command"
decision = "allow"
allowRedirection = true
priority = 300
"""
NIGHT_S = 1500
TURN = INPUT_TOKENS + OUTPUT_TOKENS


@dataclass(frozen=True)
class Cli:
    """How a CLI is told where the mock is, and what the night's failures are with it.

    ``failures`` come from a rate limit, a stall and a refused file, in this order, where the CLI
    does not get over them itself; one that cannot refuse leaves it to the engine, and one that
    ``waits`` as long as a rate limit asks for goes on by itself.
    """

    name: str
    key: str
    failures: tuple[str, ...]
    base: str = "{openai}"
    refuses: bool = True
    waits: bool = False
    with_a_shell: str = ""
    deadline: str = "20s"
    idle: str = "30s"
    in_ci: bool = True


CLIS = {
    each.name: each
    for each in (
        Cli(
            "claude",
            "ANTHROPIC_API_KEY",
            ("rate limited", "timeout", "denied"),
            base="{url}",
            with_a_shell='args = ["--tools", "Bash", "--allowedTools", "Bash"]',
        ),
        Cli(
            "codex",
            "OPENAI_API_KEY",
            ("rate limited", "timeout"),
            refuses=False,
        ),
        Cli(
            "opencode",
            "OPENAI_API_KEY",
            ("timeout", "denied"),
            waits=True,
            deadline="40s",
            idle="60s",
        ),
        # It takes up a stalled stream again.
        Cli(
            "gemini",
            "GEMINI_API_KEY",
            ("rate limited", "denied"),
            base="{url}",
            with_a_shell='args = ["--policy", "shell.toml"]',
            idle="90s",
            in_ci=False,
        ),
        # It ends where its stream drops.
        Cli(
            "pi",
            "OPENAI_API_KEY",
            ("crashed", "rate limited", "timeout"),
            refuses=False,
            with_a_shell='args = ["--tools", "bash"]',
            in_ci=False,
        ),
    )
}


@pytest.fixture(params=CLIS)
def cli(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, endurance: bool) -> Cli:
    found = CLIS[request.param]
    if not (found.in_ci or endurance):
        pytest.skip("only with --endurance")
    monkeypatch.setenv("PATH", str(installed(found.name)), prepend=os.pathsep)
    monkeypatch.setenv(found.key, KEY)
    return found


@dataclass
class Night:
    """A task whose agent is a CLI at the mock model."""

    task: Toy
    cli: Cli

    def events(self, kind: str) -> list[dict[str, object]]:
        journal = Journal(self.task.run_folder / "journal.db", read_only=True)
        return [event.body for event in journal.events() if event.kind == kind]

    def failures(self) -> list[str]:
        return [str(body["failure"]) for body in self.events("agent_failed")]

    def log(self, number: int) -> str:
        folder = self.task.run_folder / "experiments" / str(number)
        return "\n".join(path.read_text() for path in sorted(folder.glob("agent.*")))


def night(
    toy: MakeToy, cli: Cli, model: MockModel, experiments: int, settings: str = "",
    timeout: str = "10m",
) -> Night:  # fmt: skip
    base = cli.base.format(url=model.url, openai=model.openai_url)
    agent = (
        f'use = "{cli.name}"\nenv = ["{cli.key}", "{SHELL_TOO}"]\ntimeout = "{timeout}"\n'
        f'[agent.{cli.name}]\nmodel = "mock-1"\nbase_url = "{base}"\n{settings}'
    )
    limits = f"experiments = {experiments}"
    keep = 'confirm = "never"'
    files = {"prepare.py": "X = 1\n", "shell.toml": SHELL_OF_GEMINI}
    return Night(toy(files, agent=agent, limits=limits, keep=keep), cli)


@pytest.mark.slow
def test_a_night_with_everything_in_it(toy: MakeToy, cli: Cli) -> None:
    """Two edits are kept, although streams drop and stall, files are refused and limits reached."""
    limited: list[Turn] = [rate_limited(1)] * (3 if cli.name == "codex" else 1)
    script: Sequence[Turn] = (
        [Drop(), LOWER, Say(SAID.format(0.3))]
        + limited * (not cli.waits)
        + [Stall()]
        + [FORBIDDEN, Say("I changed it.")]
        + limited * cli.waits
        + [LOWER_STILL, Say(SAID.format(0.2))]
    )
    idle = f'idle = "{cli.idle}"'
    with MockModel(script) as model:
        here = night(toy, cli, model, 2 if cli.refuses else 3, idle)
        with engine(here.task) as running:
            assert running.wait(NIGHT_S) == 0, here.task.said.read_text()
    kept = [each for each in here.task.view().decided[1:] if each.description.startswith("lower")]
    assert here.failures() == list(cli.failures), here.log(1)
    assert [each.description for each in kept] == ["lower LR to 0.3", "lower LR to 0.2"]
    assert here.task.statuses()[:2] == ["keep", "keep"] and here.task.statuses()[-1] == "keep"
    assert (kept[0].hypothesis, kept[0].expected) == ("it overshoots", "less loss")
    assert kept[0].tokens is not None and 2 * TURN <= kept[0].tokens <= 3 * TURN
    if not cli.refuses:
        refused = here.task.view().decided[2].decision
        assert refused is not None and "changed prepare.py, which is protected" in refused.reason
    assert here.task.git("show", f"{here.task.view().branch}:prepare.py") == "X = 1"


def test_a_wrong_key_ends_the_run_with_what_to_do(
    toy: MakeToy, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.key, "wrong")
    with MockModel([LOWER]) as model:
        here = night(toy, cli, model, 1)
        said = here.task.call("run", code=2).stderr
        assert 1 <= model.refused <= 6
    assert f"{cli.name}: auth" in said and f"export {cli.key}" in said and 'login = "mine"' in said
    assert here.failures() == ["auth"]


@pytest.mark.slow
def test_a_deadline_ends_the_agent_and_all_that_it_started(
    toy: MakeToy, cli: Cli, monkeypatch: pytest.MonkeyPatch, endurance: bool
) -> None:
    if cli.name == "opencode" and not endurance:
        pytest.skip("only with --endurance: it takes a minute to begin, and ends like the others")
    monkeypatch.setenv(SHELL_TOO, '{"bash": "allow"}')
    marker = f"{uuid.uuid4()}"
    child = f"python3 -c 'import time; time.sleep(999)' {marker}"
    family = f"{child} & setsid {child} & (setsid nohup {child} >/dev/null &); {child}"
    with MockModel([Run(family)], endless=True) as model:
        here = night(toy, cli, model, 1, cli.with_a_shell, timeout=cli.deadline)
        with engine(here.task) as running:
            until(lambda: len(alive(marker)) >= 4, 300)
            here.task.call("stop")  # the deadline comes first
            running.wait(300)
        assert alive(marker) == []
    assert set(here.failures()) == {"timeout"}


def test_a_loop_of_calls_is_ended(toy: MakeToy, cli: Cli) -> None:
    with MockModel([Run("true")], endless=True) as model:
        here = night(toy, cli, model, 1, "max_turns = 6")
        with engine(here.task):
            until(here.task.saw(lambda view: sum(view.agent_failures.values())), 300)
        assert 6 <= len(model.requests) < 300
    assert here.failures()[0] == "limit"


@pytest.mark.slow
def test_check_tells_whether_an_agent_can_work(
    toy: MakeToy, cli: Cli, monkeypatch: pytest.MonkeyPatch, endurance: bool
) -> None:
    if cli.name == "opencode" and not endurance:
        pytest.skip("only with --endurance: it starts three times, for ten processor seconds each")
    with MockModel([Edit("notes.txt", "one", "one\ntwo"), Say("Added a line.")]) as model:
        task = night(toy, cli, model, 1).task
        said = task.call("check", "--agent", cli.name, "--json").stdout
        found = json.loads(said)
        assert found["ok"] and found["edits"] and found["tokens"] == 2 * TURN, found
        assert found["credentials"] == cli.key and found["program"] and found["program_version"]
        asked = len(model.requests)
        assert "its model was not asked" in task.call(
            "check", "--agent", cli.name, "--no-ask"
        ).stdout  # fmt: skip
        assert len(model.requests) == asked
        monkeypatch.setenv(cli.key, "wrong")
        wrong = task.call("check", "--agent", cli.name, code=2).stdout
    assert f"{cli.name}: auth" in wrong and f"fix: export {cli.key}" in wrong
    assert task.git("status", "--porcelain") == ""


def test_a_goal_becomes_a_contract_through_claude(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes files of a copy of the repository, and a dry run confirms what they say."""
    monkeypatch.setenv("PATH", str(installed("claude")), prepend=os.pathsep)
    task = Toy(tmp_path / "task")
    task.root.mkdir()
    (task.root / "slow.py").write_text(SLOW)
    task.git("init", "--quiet", "--initial-branch", "main")
    task.git("add", "--all")
    task.git(*IDENTITY, "commit", "--quiet", "-m", "Start")

    def write(name: str, content: str) -> list[Turn]:
        path = str(task.root / name)
        reading = Call("Read", {"file_path": path})  # it overwrites nothing that it has not read
        return [reading, Call("Write", {"file_path": path, "content": content})]

    files = {"autoresearch.toml": CONTRACT, "bench.py": BENCH, "evaluate.py": EVALUATE}
    script = [turn for name, content in files.items() for turn in write(name, content)]
    with MockModel([*script, Say("Written.")]) as model:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", model.url)
        env = ("--env", "ANTHROPIC_API_KEY", "--env", "ANTHROPIC_BASE_URL")
        task.call("init", "--goal", "make it faster", "--agent", "claude", *env, "--yes")
        assert "A person wants this: make it faster" in model.requests[0].text
    contract = config.load(task.root / "autoresearch.toml")
    choice = contract.agents[0]
    assert (contract.task.goal, contract.task.editable) == ("make it faster", ("slow.py",))
    assert (choice.use, choice.env) == ("claude", ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"))
    assert (task.root / "bench.py").read_text() == BENCH
    assert "max_turns" not in (task.root / "autoresearch.toml").read_text()


@contextlib.contextmanager
def engine(task: Toy) -> Iterator[Running]:
    """A run in the background, which is ended whatever happens."""
    running = task.start("run")
    try:
        yield running
    finally:
        running.terminate()
        running.wait(60)


def alive(marker: str) -> list[str]:
    done = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True, check=False)
    return done.stdout.split()
