"""Real coding agents that a person started in a terminal hold the wheel through ours.

A model that follows a script is on the other end; see ``docs/session.md``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agents.clis.install import installed
from tests.agents.mock_model import KEY, Call, Edit, MockModel, Run, Say
from tests.conftest import Toy

MakeToy = Callable[..., Toy]
LOWER = Edit("train.py", "LR = 0.5", "LR = 0.3")
LONGEST_S = 600
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "GEMINI_TELEMETRY_ENABLED": "false", "GEMINI_CLI_TRUST_WORKSPACE": "true",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _long(endurance: bool) -> None:
    if not endurance:
        pytest.skip("only with --endurance")


@pytest.fixture
def person(tmp_path: Path) -> dict[str, str]:
    """The environment of a person who has nothing but the keys."""
    home = tmp_path / "home"
    home.mkdir()
    keys = dict.fromkeys(("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"), KEY)
    return {**os.environ, **keys, **QUIET, "HOME": str(home)}


def session(task: Toy, name: str, argv: list[str], env: dict[str, str]) -> str:
    """One session of a coding agent in the task's directory; what it printed."""
    done = subprocess.run(
        [installed(name) / name, *argv], cwd=task.root, env={**env, "PWD": str(task.root)},
        capture_output=True, text=True, timeout=LONGEST_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_claude_follows_its_skill_with_try(toy: MakeToy, person: dict[str, str]) -> None:
    """It is shown the skill, edits, has the edit measured, and reads one line."""
    task = toy()
    task.call("init", "--agent", "claude", "--yes")
    measure = shlex.join(task.command("try", "--reset", "-m", "lower LR"))
    with MockModel([LOWER, Run(measure), Say("Kept.")]) as model:
        env = {**person, "ANTHROPIC_BASE_URL": model.url}
        session(task, "claude", [
            "-p", "Improve the number with autoresearch", "--model", "mock-1",
            "--allowedTools", "Edit", "Read", "Bash",
        ], env)  # fmt: skip
        assert "autoresearch.toml by a loop of measured experiments" in model.requests[0].text
        assert "keep  loss 0.0" in model.requests[2].text
    assert task.statuses() == ["keep", "keep"]
    assert task.experiment(1).description == "lower LR" and task.experiment(1).open
    assert "LR = 0.3" in (task.root / "train.py").read_text()


def claude(task: Toy, model: MockModel) -> tuple[list[str], dict[str, str]]:
    argv = ["-p", "Improve the number", "--model", "mock-1", "--mcp-config", ".mcp.json",
            "--allowedTools", "Edit", "Read", "mcp__autoresearch"]  # fmt: skip
    return argv, {"ANTHROPIC_BASE_URL": model.url}


def opencode(task: Toy, model: MockModel) -> tuple[list[str], dict[str, str]]:
    provider = {"npm": "@ai-sdk/openai-compatible", "models": {"m1": {}},
                "options": {"baseURL": model.openai_url, "apiKey": KEY}}  # fmt: skip
    config = {"model": "mock/m1", "small_model": "mock/m1", "provider": {"mock": provider}}
    argv = ["run", "--format", "json", "Improve the number"]
    return argv, {"OPENCODE_CONFIG_CONTENT": json.dumps(config)}


def gemini(task: Toy, model: MockModel) -> tuple[list[str], dict[str, str]]:
    path = task.root / ".gemini" / "settings.json"
    settings = json.loads(path.read_text())
    settings["security"] = {"auth": {"selectedType": "gemini-api-key"}}
    path.write_text(json.dumps(settings))
    argv = ["-p", "Improve the number", "-m", "gemini-2.5-pro", "--yolo"]
    return argv, {"GOOGLE_GEMINI_BASE_URL": model.url}


def codex(task: Toy, model: MockModel) -> tuple[list[str], dict[str, str]]:
    endpoint = {"name": "mock", "base_url": model.openai_url, "env_key": "OPENAI_API_KEY",
                "wire_api": "responses"}  # fmt: skip
    settings = {f"model_providers.mock.{key}": value for key, value in endpoint.items()}
    settings |= {"model": "mock-1", "model_provider": "mock"}
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    argv = ["exec", "--trust", "--dangerously-bypass-approvals-and-sandbox"]
    return [*argv, *(x for word in words for x in ("-c", word)), "Improve the number"], {}


@pytest.mark.parametrize(
    ("start", "prefix"),
    [(claude, "mcp__autoresearch__"), (opencode, "autoresearch_"), (gemini, "mcp_autoresearch_"),
     (codex, "mcp__autoresearch.")],
)  # fmt: skip
def test_a_session_through_mcp(
    toy: MakeToy, person: dict[str, str], start: Callable[..., object], prefix: str
) -> None:
    """It starts the server that init installed, sees its tools, and has its edit measured."""
    pytest.importorskip("mcp")
    task, name = toy(), start.__name__
    task.call("init", "--agent", name, "--yes")
    tools = [f"{prefix}state", f"{prefix}try_experiment"]
    # Claude looks the tools of servers up first.
    search = [Call("ToolSearch", {"query": f"select:{','.join(tools)}"})] * (name == "claude")
    script = [
        *search, Call(f"{prefix}state", {}), LOWER,
        Call(f"{prefix}try_experiment", {"description": "lower LR"}), Say("Kept."),
    ]  # fmt: skip
    with MockModel(script) as model:
        argv, env = start(task, model)
        session(task, name, argv, {**person, **env})
        print(
            [str(m)[:1500] for r in model.requests for m in r.body.get("input", [])[-1:]],
            [r.tools for r in model.requests],
        )
        assert set(tools) <= set(model.requests[-1].tools)
        assert re.search(r"status\W+keep", model.requests[-1].text)
    assert task.statuses() == ["keep", "keep"]
