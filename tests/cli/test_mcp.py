"""``autoresearch mcp``: a real server on real pipes, driven by the SDK's own client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch.cli.mcp import AT_ONCE, LOG_LINES
from autoresearch.run import held_by_engine
from tests.conftest import TRAIN, Toy, until

sdk = pytest.importorskip("mcp", reason="the extra mcp is not installed")
stdio = pytest.importorskip("mcp.client.stdio")

MakeToy = Callable[..., Toy]
SLOW = TRAIN + "import time; time.sleep(0.8)\n"


@contextlib.asynccontextmanager
async def client(task: Toy, *argv: str) -> AsyncIterator[Any]:
    words = task.command("mcp", *argv)
    env = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    with (task.root.parent / "server.log").open("w") as log:
        server = stdio.StdioServerParameters(
            command=words[0], args=words[1:], cwd=task.root, env=env
        )
        async with sdk.Client(stdio.stdio_client(server, errlog=log)) as connected:
            yield connected


async def ask(connected: Any, tool: str, **arguments: Any) -> str:
    result = await connected.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return str(result.content[0].text)


async def refused(connected: Any, tool: str, **arguments: Any) -> str:
    result = await connected.call_tool(tool, arguments)
    assert result.is_error, result.content
    text = str(result.content[0].text)
    assert len(text) < 2500 and "Traceback" not in text
    return text


def test_a_session_through_mcp(toy: MakeToy) -> None:
    task = toy(task='editable = ["train.py"]\ngoal = "a lower loss"')
    progress: list[tuple[float, str]] = []

    async def heard(seconds: float, _: float | None, message: str | None) -> None:
        progress.append((seconds, message or ""))

    async def session() -> None:
        async with client(task) as mcp:
            names = [each.name for each in (await mcp.list_tools()).tools]
            assert names == ["state", "history", "log_excerpt", "try_experiment", "propose_idea"]
            state = json.loads(await ask(mcp, "state"))
            assert state["goal"] == "a lower loss" and state["editable"] == ["train.py"]
            assert "no run yet" in state["state"]

            (task.root / "train.py").write_text(TRAIN.replace("0.5", "0.2"))
            result = await mcp.call_tool(
                "try_experiment", {"description": "lower LR", "reset": True},
                progress_callback=heard,
            )  # fmt: skip
            row = json.loads(result.content[0].text)
            assert row["status"] == "keep" and row["experiment"] == 1 and row["gain"] > 0.1

            (task.root / "train.py").write_text("print('\\x1b[2Jwhat now'); raise SystemExit(3)\n")
            row = json.loads(
                await ask(mcp, "try_experiment", description="--json\0\nbroken", reset=True)
            )
            assert row["status"] == "crash"
            assert "what now" in await ask(mcp, "log_excerpt", experiment=2)
            assert "\x1b" not in await ask(mcp, "log_excerpt", experiment=2)
            history = await ask(mcp, "history")
            assert history.startswith("<data ") and "#1 keep 0.0" in history
            assert "#2 crash - json broken" in history.replace("  ", " ")
            assert "#2" not in await ask(mcp, "history", before=2)
            assert "#1" not in await ask(mcp, "history", last=1)
            state = json.loads(await ask(mcp, "state"))
            assert state["incumbent"]["experiment"] == 1 and state["counts"]["crash"] == 1

    asyncio.run(session())
    assert (task.root / "train.py").read_text() == TRAIN.replace("0.5", "0.2")
    assert any("measuring" in said for _, said in progress)
    assert [at for at, _ in progress] == sorted({at for at, _ in progress})
    assert all(each.open for each in task.view().decided[1:])


def test_hostile_arguments_are_refused(toy: MakeToy) -> None:
    task = toy()
    task.call("run", "--max-experiments", "0")

    async def session() -> None:
        async with client(task) as mcp:
            for number in ("../../../etc/passwd", -1, 10**30, 99, True, None, 1.5):
                await refused(mcp, "log_excerpt", experiment=number)
            await refused(mcp, "log_excerpt", experiment=0, lines=LOG_LINES + 1)
            await refused(mcp, "history", last=10**9)
            await refused(mcp, "try_experiment", description="x" * 100_000)
            await refused(mcp, "try_experiment", description="")
            await refused(mcp, "propose_idea", text="x" * 100_000)
            await refused(mcp, "propose_idea", text="x", priority=10**9)
            # What is not a parameter has no effect.
            said = await ask(mcp, "history", last=1, folder="/", tag="../x", path="/etc/passwd")
            assert "#0" in said

    asyncio.run(session())
    assert task.statuses() == ["keep"]


def test_an_idea_is_queued(toy: MakeToy) -> None:
    task = toy()
    task.call("run", "--max-experiments", "0")

    async def session() -> None:
        async with client(task) as mcp:
            await ask(mcp, "propose_idea", text="a \x1b[1mwider\x1b[0m layer", priority=2)

    asyncio.run(session())
    assert "a wider layer" in task.call("idea", "list").stdout
    task.call("run", "--max-experiments", "0")
    (idea,) = task.view().ideas.queue
    assert (idea.text, idea.priority, idea.by) == ("a wider layer", 2, "session")


def test_a_client_that_gives_up_early_finds_the_experiment_decided(toy: MakeToy) -> None:
    task = toy()
    task.call("run", "--max-experiments", "0")
    (task.root / "train.py").write_text(SLOW.replace("0.5", "0.2").replace("0.8", "2"))

    async def session() -> None:
        async with client(task) as mcp:
            with pytest.raises(sdk.MCPError):
                await mcp.call_tool(
                    "try_experiment", {"description": "lower", "reset": True},
                    read_timeout_seconds=2,
                )  # fmt: skip
            row = json.loads(await ask(mcp, "try_experiment", description="lower", reset=True))
            # Decided just before, it is answered from there.
            assert row["experiment"] == 1 or "exact repeat of #1" in row["reason"]

    asyncio.run(session())
    assert task.statuses()[:2] == ["keep", "keep"]


def test_too_many_at_once_are_refused_and_nothing_outlives_the_server(toy: MakeToy) -> None:
    task = toy()
    task.call("run", "--max-experiments", "0")
    (task.root / "train.py").write_text(SLOW.replace("0.8", "9"))

    async def session() -> None:
        async with client(task) as mcp:
            calls = [
                asyncio.create_task(mcp.call_tool("try_experiment", {"description": f"{i}"}))
                for i in range(AT_ONCE)
            ]
            await asyncio.sleep(4)
            assert "on their way" in await refused(mcp, "try_experiment", description="more")
            for each in calls:
                each.cancel()

    asyncio.run(session())
    until(lambda: not held_by_engine(task.run_folder), 10)
    time.sleep(0.5)
    left = subprocess.run(
        ["pgrep", "-f", str(task.root)], capture_output=True, text=True, check=False
    )
    assert left.stdout == ""


def test_without_the_extra_it_says_what_to_install(toy: MakeToy, tmp_path: Path) -> None:
    task = toy()
    (tmp_path / "mcp.py").write_text("raise ImportError('no module named mcp')\n")
    done = subprocess.run(
        task.command("mcp"), cwd=task.root, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH')}"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'autoresearch[mcp]'" in done.stderr and "Traceback" not in done.stderr


def test_help_needs_no_extra() -> None:
    code = "import sys; sys.modules['mcp'] = None; from autoresearch.cli import main; main()"
    for argv in (["--help"], ["mcp", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, check=False)
        assert done.returncode == 0
