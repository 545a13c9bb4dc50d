"""What holds for every coding agent: what it is told to do first, and how its words are read."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch import config
from autoresearch.agents import answer, cli
from autoresearch.agents.clis import failure_of, wait_s
from autoresearch.errors import UserError
from autoresearch.types import (
    AgentFailure,
    Assignment,
    Inside,
    Kind,
    Launched,
    Metric,
    Plan,
)
from tests.agents.mock_model import KEY, Edit, MockModel, Say
from tests.conftest import Toy

MakeToy = Callable[..., Toy]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of ``PATH``, before all others, for programs of the test."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_missing_program_says_how_to_install_it(
    toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    task = toy(agent='use = "pi"')
    said = task.call("run", code=2).stderr
    assert "pi is not installed" in said and "npm install -g" in said
    found = json.loads(task.call("check", "--agent", "pi", "--json", code=2).stdout)
    assert not found["ok"] and found["problems"][0]["fix"].startswith("npm install")


def test_no_key_and_no_login(
    toy: MakeToy, programs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(programs, "claude", "echo 1.2.3")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    task = toy(agent='use = "claude"')
    said = task.call("check", "--agent", "claude", code=2).stdout
    assert "(1.2.3)" in said and "claude has neither a key nor a login" in said
    assert 'fix: export ANTHROPIC_API_KEY and name it: [agent] env = ["ANTHROPIC_API_KEY"]' in said
    assert "neither a key nor a login" in task.call("run", code=2).stderr
    assert task.view().samples_taken == 0, "it is said before anything is measured"
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    said = task.call("run", code=2).stderr
    assert "ANTHROPIC_API_KEY is set, and [agent] env does not name it" in said
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    config = task.root / "autoresearch.toml"
    config.write_text(config.read_text().replace('"claude"', '"claude"\nlogin = "mine"'))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "config"))
    assert "there is no ~/.claude/.credentials.json" in task.call(
        "check", "--agent", "claude", code=2
    ).stdout  # fmt: skip
    config.write_text(config.read_text().replace("login", 'env = ["ANTHROPIC_API_KEY"]\n#login'))
    said = task.call("check", "--agent", "claude", code=2).stdout
    assert "ANTHROPIC_API_KEY is named in [agent] env, and is not set" in said


def test_a_login_of_ones_own_is_copied_and_not_left_behind(
    toy: MakeToy, programs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The agent has a home with the login, and nothing of the person's environment."""
    own = tmp_path / "config"
    own.mkdir()
    (own / ".credentials.json").write_text("the-login")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(own))
    monkeypatch.setenv("OTHER_SECRET", "no")
    result = '{"type":"result","is_error":false,"result":"done","usage":{},"modelUsage":{}}'
    program(programs, "claude", (
        'grep -q the-login "$CLAUDE_CONFIG_DIR/.credentials.json" || exit 3\n'
        'test -z "$OTHER_SECRET" || exit 4\n'
        f"sed -i 's/^LR = .*/LR = 0.3/' train.py; ls -A \"$HOME\"; echo '{result}'"
    ))  # fmt: skip
    task = toy(agent='use = "claude"\nlogin = "mine"', limits="experiments = 1")
    task.call("run")
    assert task.statuses() == ["keep", "keep"]
    assert (task.run_folder / "experiments/1/agent.log").read_text().startswith(".claude\n")
    left = [path for path in task.run_folder.rglob("*") if path.name == ".credentials.json"]
    assert left == [] and (own / ".credentials.json").read_text() == "the-login"


def test_tokens_cost_what_the_contract_says_where_the_agent_does_not(
    toy: MakeToy, programs: Path
) -> None:
    usage = '{"input_tokens":3000000,"cached_input_tokens":1000000,"output_tokens":1000000}'
    program(programs, "codex", (
        "echo x=1 >>train.py\n"
        """echo '{"type":"item.completed","item":{"type":"agent_message","text":"more"}}'\n"""
        f"""echo '{{"type":"turn.completed","usage":{usage}}}'"""
    ))  # fmt: skip
    endpoint = '[agent.codex]\nmodel = "m"\nbase_url = "http://127.0.0.1:9"'
    prices = "[agent.prices]\ninput = 2\noutput = 10\ncached = 0.5"
    task = toy(agent=f'use = "codex"\n{endpoint}\n{prices}', limits="experiments = 1")
    task.call("run")
    assert (task.experiment(1).tokens, task.experiment(1).cost_usd) == (4_000_000, 14.5)


def test_an_agent_of_the_command_line_has_its_table_of_the_file(
    toy: MakeToy, programs: Path
) -> None:
    result = '{"type":"result","is_error":false,"result":"done","usage":{},"modelUsage":{}}'
    program(programs, "claude", f"echo x=1 >>train.py; echo '{result}' $ANTHROPIC_BASE_URL >&2;"
            f" echo '{result}'")  # fmt: skip
    options = '[agent.claude]\nbase_url = "http://127.0.0.1:9"'
    task = toy(agent=f'use = "search"\n{options}')
    task.call("run", "--agent", "claude", "--max-experiments", "1")
    log = (task.run_folder / "experiments" / "1" / "agent.err").read_text()
    assert task.experiment(1).agent == "claude" and "http://127.0.0.1:9" in log


def test_a_briefing_that_is_too_long_for_an_argument(programs: Path, tmp_path: Path) -> None:
    program(programs, "claude", "true")
    brief = tmp_path / "briefing.md"
    brief.write_text("x" * 120_000)

    async def launch(*_: object) -> Launched:
        raise AssertionError("it was started")

    assignment = Assignment(
        number=1, workspace=tmp_path, editable=(), plan=Plan("", Kind.IMPROVE), seed=0,
        metric=Metric("loss"), space={}, history=(), briefing=brief, directory=tmp_path,
        launch=launch, inside=Inside(*[tmp_path] * 5),
        choice=config.agent("claude", ("ANTHROPIC_API_KEY",), "mine"),
    )  # fmt: skip
    agent = cli.claude(assignment.choice.options)
    with pytest.raises(UserError, match="can be told 120000 bytes") as caught:
        asyncio.run(agent.propose(assignment))
    assert "briefing_tokens" in caught.value.fix


def test_check_asks_a_model_without_a_program(
    toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pydantic_ai")
    monkeypatch.setenv("KEY", KEY)
    with MockModel([Edit("notes.txt", "one", "one\ntwo"), Say("Added a line.")]) as model:
        options = f'[agent.api]\nmodel = "m"\nbase_url = "{model.openai_url}"'
        task = toy(agent=f'use = "api"\nenv = ["KEY"]\n{options}')
        found = json.loads(task.call("check", "--agent", "api", "--json").stdout)
    assert found["ok"] and found["edits"] and found["credentials"] == "KEY", found


def test_silence_after_the_last_word_is_no_failure(toy: MakeToy, programs: Path) -> None:
    result = '{"type":"result","is_error":false,"result":"done","usage":{},"modelUsage":{}}'
    program(programs, "claude", f"echo x=1 >>train.py; echo '{result}'; sleep 60")
    options = '\n[agent.claude]\nidle = "1s"\nbase_url = "http://127.0.0.1:9"'
    task = toy(agent=f'use = "claude"{options}', limits="experiments = 1")
    task.call("run")
    assert task.experiment(1).commit


@pytest.mark.parametrize(
    "fields",
    [
        '"usage":{"input_tokens":-5}',
        '"usage":{"input_tokens":Infinity}',
        '"usage":{},"total_cost_usd":NaN',
        '"usage":[1]',
    ],
)
def test_forged_events_are_no_success(toy: MakeToy, programs: Path, fields: str) -> None:
    event = f'{{"type":"result","is_error":false,"result":"done",{fields}}}'
    program(programs, "claude", f"echo x=1 >>train.py; echo '{event}'")
    task = toy(agent='use = "claude"\n[agent.claude]\nbase_url = "http://127.0.0.1:9"')
    said = task.call("check", "--agent", "claude", code=2).stdout
    assert "claude: crashed" in said and "make no sense" in said


def test_last_words_are_read_in_linear_time() -> None:
    blank = "\n" * 1_000_000
    found = answer.proposal(f"{blank}**Description:** a{blank}\n> expected: -1", tokens=1,
                            cost_usd=None)  # fmt: skip
    assert (found.description, found.expected) == ("", "-1")


def test_success_needs_a_word_an_exit_and_no_refusal(toy: MakeToy, programs: Path) -> None:
    """Without a last event there is no proposal, whatever was edited and however it exits."""
    program(programs, "claude", "echo x=1 >>train.py; echo starting")
    task = toy(agent='use = "claude"\n[agent.claude]\nbase_url = "http://127.0.0.1:9"')
    said = task.call("check", "--agent", "claude", code=2).stdout
    assert "claude: crashed: exit code 0" in said


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("[agent.claude]\nmodle = 'x'", 'agent.claude.modle = "x": unknown key; did you mean'),
        ("[agent.codex]\nbase_url = 'x'", 'agent.codex.base_url = "x": must be an address such as'),
        ("[agent.pi]\nmax_turns = 0", "agent.pi.max_turns = 0: must be greater than or equal to 1"),
        ("[agent.gemini]\nidle = 'soon'", 'agent.gemini.idle = "soon": not a duration'),
    ],
)
def test_mistakes_in_an_agents_table_are_named(toy: MakeToy, agent: str, said: str) -> None:
    task = toy(agent=f'use = "claude"\n{agent}')
    assert said in task.call("check", code=2).stderr


def test_an_endpoint_needs_the_name_of_its_model(toy: MakeToy, programs: Path) -> None:
    program(programs, "opencode", "true")
    task = toy(agent='use = "opencode"\n[agent.opencode]\nbase_url = "http://127.0.0.1:9"')
    assert "agent.opencode.model is missing" in task.call("run", code=2).stderr


@pytest.mark.parametrize(
    ("status", "text", "failure"),
    [
        (401, "no", AgentFailure.AUTH),
        (429, "slow down", AgentFailure.RATE_LIMITED),
        (429, "you exceeded your current quota", AgentFailure.USAGE_LIMIT),
        (529, "", AgentFailure.RATE_LIMITED),
        (500, "your api key is fine", AgentFailure.CRASHED),
        (None, "You've hit your usage limit.", AgentFailure.USAGE_LIMIT),
        (None, "last status: 429 Too Many Requests", AgentFailure.RATE_LIMITED),
        (None, "unexpected status 401 Unauthorized", AgentFailure.AUTH),
        (None, "Not logged in", AgentFailure.AUTH),
        (None, "segmentation fault", AgentFailure.CRASHED),
    ],
)
def test_kinds_of_failure(status: int | None, text: str, failure: AgentFailure) -> None:
    assert failure_of(status, text) is failure


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Try again in 2 hours 5 minutes.", 7500),
        ("rate limit, please retry in 1.5s", 1.5),
        ("Your quota will reset after 5h; resets in 3m 10s", 190),
        ("Try again later", None),
        ("3 files changed in 2 seconds", None),
    ],
)
def test_how_long_an_error_asks_to_wait(text: str, seconds: float | None) -> None:
    assert wait_s(text) == seconds
