"""``autoresearch mcp``: the session of ``try`` for any client of the Model Context Protocol.

What a client sends is hostile: no argument names a place, all are bounded, and a request is carried
out by ``autoresearch try`` in a process of its own. What it gets back is bounded and, where others
wrote it, cleaned and fenced as data.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .. import config
from ..errors import UserError
from ..inbox import drop
from ..run import FOLDER
from ..text import cell, clean, excerpt, fence
from ..types import Contract, Json
from . import task, words
from .views import candidate_log, read, read_recent, status_json

AT_ONCE = 4
HEARTBEAT_S = 10.0
LISTEN_S = 0.5
END_S = 1.5
LINE_BYTES = 1 << 20
ROWS = 50
LOG_LINES, LOG_WIDTH = 200, 300
TEXT_LENGTH = 1000
ROW_KEYS = ("experiment", "status", "value", "was", "gain", "confidence", "reason", "not_reset")


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--tag", help="Name of the run (default: the latest, else a new one).")
@click.option("--unconfined", is_flag=True, help="Run edited code with your own rights.")
def mcp(folder: Path, tag: str | None, unconfined: bool) -> None:
    """Serve a session to an MCP client on stdin and stdout.

    Tools: state, history, log_excerpt, try_experiment, propose_idea. Clients start it themselves;
    `autoresearch init --agent` tells them how. Needs the extra: pip install 'autoresearch[mcp]'.
    """
    root = task.contract_path(folder).parent
    config.load(root / config.NAME)
    try:
        from .mcp_server import serve  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"the MCP server needs the mcp package ({error})",
            fix="pip install 'autoresearch[mcp]'",
        ) from None
    serve(Session(root, tag, unconfined))


@dataclass(slots=True)
class Going:
    """One ``autoresearch try`` on its way: the last thing that it said, and how it ended."""

    process: Process
    line: str = "starting"
    answer: str = ""
    problem: str = ""


class Session:
    """The task as tools see it, and the experiments that were asked for."""

    def __init__(self, root: Path, tag: str | None, unconfined: bool) -> None:
        self.root = root
        self.tag = tag
        self._unconfined = unconfined
        self._going: dict[asyncio.Task[None], Going] = {}

    def state(self) -> dict[str, Json]:
        """The task and where its run stands."""
        contract = self._contract()
        said: dict[str, Json] = {
            "goal": clean(contract.task.goal, TEXT_LENGTH),
            "metric": contract.metric.name,
            "direction": contract.metric.direction,
            "editable": list[Json](contract.task.editable[:ROWS]),
            "directory": str(self.root),
        }
        if not self.tag and task.latest_tag(self.root) is None:
            return said | {"state": "no run yet: try_experiment begins one"}
        contract, view, run, calibration = read_recent(self.root, self.tag)
        found = status_json(contract, view, run, calibration)
        keys = ("tag", "state", "reason", "phase", "incumbent", "baseline", "counts", "limits",
                "branch")  # fmt: skip
        return said | {key: found[key] for key in keys}

    def history(self, last: int, before: int | None) -> str:
        """The last experiments before a number, oldest first."""
        contract, view, _ = read(self.root, self.tag)
        rows = [each for each in view.decided if before is None or each.number < before][-last:]
        lines = [f"# status {contract.metric.name} (change) what was tried: why"]
        for each in rows:
            assert each.decision is not None
            change = words.change(contract, each)
            lines.append(
                f"#{each.number} {each.decision.status.value} {words.number(each.decision.value)}"
                f"{f' ({change})' if change else ''}  {words.description(each, 120)}"
                f"{words.why(each)}{words.fallen(view, each)}"
            )
        return fence("\n".join(lines))

    def log_excerpt(self, experiment: int, lines: int) -> str:
        """The last lines that a candidate printed."""
        _, view, run = read(self.root, self.tag)
        found = view.experiments.get(experiment)
        if found is None:
            raise UserError(f"there is no experiment {experiment}", fix="see history")
        said = excerpt(candidate_log(found, run), lines, LOG_WIDTH)
        return fence(said or "(it printed nothing)")

    def propose_idea(self, text: str, priority: int) -> str:
        """Leave an idea for whoever runs the experiments."""
        self._contract()
        tag = task.existing_tag(self.root, self.tag)
        request: dict[str, Json] = {
            "kind": "idea", "ticket": secrets.token_hex(8), "text": clean(text, TEXT_LENGTH),
            "priority": priority, "by": "session",
        }  # fmt: skip
        drop(self.root / FOLDER / tag, request)
        return f"queued for run {tag}"

    async def try_experiment(
        self, description: str, to_best: bool, tell: Callable[[float, str], Any]
    ) -> dict[str, Json]:
        """Have the editable files measured and decided; ``tell`` hears what is being done.

        Cancelled, it goes on by itself: a client that gives up early finds it decided, or waits on
        when it asks again.
        """
        if len(self._going) >= AT_ONCE:
            raise UserError(
                f"{AT_ONCE} experiments are on their way", fix="wait until one is decided"
            )
        watch, going = await self._start(description, to_best)
        began, told, heard = time.monotonic(), "", 0.0
        while not watch.done():
            now = time.monotonic() - began
            if going.line != told or now - heard > HEARTBEAT_S:
                told, heard = going.line, now
                await tell(now, told)
            await asyncio.wait({watch}, timeout=LISTEN_S)
        if going.process.returncode != 0:
            raise UserError(going.problem or "the experiment was interrupted", fix="try again")
        row = json.loads(going.answer)
        return {key: _short(row[key]) for key in ROW_KEYS if row[key] not in (None, {})}

    async def _start(self, description: str, to_best: bool) -> tuple[asyncio.Task[None], Going]:
        argv = [sys.executable, "-m", "autoresearch", "try", f"--message={cell(description)}",
                f"--dir={self.root}", "--progress", "--json"]  # fmt: skip
        argv += [f"--tag={self.tag}"] if self.tag else []
        argv += ["--reset"] if to_best else []
        argv += ["--unconfined"] if self._unconfined else []
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, limit=LINE_BYTES
        )
        going = Going(process)
        watch = asyncio.create_task(_listen(going))
        self._going[watch] = going
        watch.add_done_callback(lambda ended: self._going.pop(ended, None))
        return watch, going

    async def close(self) -> None:
        """End what is on its way: the sample in flight is void, and nothing else is lost."""
        for going in self._going.values():
            with contextlib.suppress(ProcessLookupError):
                going.process.send_signal(signal.SIGTERM)
        if self._going:
            await asyncio.wait(list(self._going), timeout=END_S)

    def _contract(self) -> Contract:
        return config.load(self.root / config.NAME)


def _short(value: Json) -> Json:
    return float(f"{value:.6g}") if isinstance(value, float) else value


async def _listen(going: Going) -> None:
    """Read what an experiment says until it ends."""
    process = going.process
    assert process.stdout is not None and process.stderr is not None
    answer = asyncio.create_task(process.stdout.read())
    async for said in process.stderr:
        if line := clean(said.decode(errors="replace"), 200):
            going.line = line
    going.answer = (await answer).decode(errors="replace")
    await process.wait()
    if process.returncode != 0:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = json.loads(going.answer)["error"]
            going.problem = clean(f"{error['message']}; {error['fix']}", TEXT_LENGTH)
        going.problem = going.problem or going.line
