"""``autoresearch check --agent NAME``: is it installed, may it ask its model, can it edit a file?

The last is found out by letting it: one experiment on a task of one line, in a folder of its own,
through the same engine as a night's.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import config, git, registry
from ..agents.cli import CliAgent
from ..agents.command import CommandAgent
from ..engine import Engine
from ..errors import AgentError, UserError
from ..journal import Event
from ..journal.view import RunView
from ..run import FOLDER
from ..sandbox import Sandbox
from ..types import AgentChoice, Json
from .run import Begin, hold

VERSION_S = 60.0
LONGEST_S = 180.0
NOTES = "notes.txt"
TASK = f"""
[task]
editable = ["{NOTES}"]
goal = "Add one line with any word to {NOTES}, and nothing else: this only tests the connection"
[run]
command = "awk 'END {{ print \\"lines: \\" NR }}' {NOTES}"
budget = "10s"
[metric]
name = "lines"
direction = "higher"
[limits]
experiments = 1
"""


@dataclass(slots=True)
class Findings:
    """What was found out about an agent; ``edits`` is None where it was not asked."""

    agent: str
    program: str | None = None
    version: str | None = None
    credentials: str | None = None
    edits: bool | None = None
    seconds: float | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    problem: str = ""
    fix: str = ""
    notes: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Json]:
        problems: list[Json] = []
        if self.problem:
            problems.append({"file": config.NAME, "key": "agent", "value": self.problem,
                             "fix": self.fix})  # fmt: skip
        return {
            "version": 1, "ok": not self.problem, "agent": self.agent, "program": self.program,
            "program_version": self.version, "credentials": self.credentials, "edits": self.edits,
            "seconds": self.seconds, "tokens": self.tokens, "cost_usd": self.cost_usd,
            "problems": problems, "notes": list[Json](self.notes),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        found = [f"agent      {self.agent}"]
        if self.program:
            found.append(f"installed  {self.program}" + f" ({self.version})" * bool(self.version))
        if self.credentials:
            found.append(f"login      {self.credentials}")
        if self.edits:
            cost = "" if self.cost_usd is None else f", ${self.cost_usd:.4f}"
            tokens = "" if self.tokens is None else f", {self.tokens:,} tokens"
            found.append(f"edits      yes, in {self.seconds:.1f} s{tokens}{cost}")
        found += [f"note       {note}" for note in self.notes]
        if self.problem:
            found += [f"problem    {self.problem}", f"           fix: {self.fix}", "not ready"]
        else:
            found.append(f"ready: autoresearch run --agent {self.agent}")
        return found


def examine(choice: AgentChoice, root: Path, box: Sandbox, *, ask: bool) -> Findings:
    """Find out whether an agent can work; with ``ask`` its model is asked to edit a file."""
    found = Findings(choice.use)
    try:
        agent = registry.agent(choice, root)
        if isinstance(agent, CliAgent):
            found.program = str(agent.program)
            found.version = _version(agent.program)
            found.credentials = _credentials(agent, choice)
        elif registry.reads(choice.use):
            found.credentials = ", ".join(choice.env) or None
        if isinstance(agent, CommandAgent):
            found.notes.append("it was not started: only your task can tell whether it works")
        elif not registry.reads(choice.use):
            found.notes.append("it needs no login, and no program but this one")
        elif ask:
            _let_it_edit(found, choice, box)
        else:
            found.notes.append("its model was not asked")
    except (AgentError, UserError) as error:
        found.problem, found.fix = error.message, error.fix
    return found


def _version(program: Path) -> str | None:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_S,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return said[0] if said and done.returncode == 0 else None


def _credentials(agent: CliAgent, choice: AgentChoice) -> str:
    """Where its credentials come from.

    Raises:
        AgentError: there are none.
    """
    if choice.login == "mine":
        return f"a copy of {', '.join(f'~/{name}' for name in agent.login())}"
    keys = agent.keys(choice)
    return ", ".join(keys) or ", ".join(choice.env) or "none, for an endpoint of your own"


def _let_it_edit(found: Findings, choice: AgentChoice, box: Sandbox) -> None:
    """Run one experiment of a tiny task.

    Raises:
        AgentError: it gave no proposal.
    """
    with tempfile.TemporaryDirectory(prefix="autoresearch-agent-") as folder:
        root = Path(folder)
        (root / NOTES).write_text("one\n")
        (root / config.NAME).write_text(TASK)
        git.disposable_repository(root, FOLDER)
        contract = config.load(root / config.NAME)
        timeout_s = min(choice.timeout_s, LONGEST_S)
        contract = replace(contract, agents=(replace(choice, timeout_s=timeout_s),))
        with hold(contract, Begin()) as held:
            engine = Engine(held, contract, box)
            failed: list[Event] = []
            asked_at: list[float] = []

            def listen(event: Event, _: RunView) -> None:
                if event.kind == "opened" and event.experiment == 1:
                    asked_at.append(time.monotonic())
                if event.kind == "proposed" and event.experiment == 1:
                    found.seconds = time.monotonic() - asked_at[0]
                if event.kind == "agent_failed":
                    failed.append(event)
                    engine.request_stop("check")

            held.listeners.append(listen)
            asyncio.run(engine.loop())
            first = held.view.experiments.get(1)
        if failed:
            body = failed[0].body
            raise AgentError(str(body["message"]), fix=_by_hand(choice))
        assert first is not None and first.decision is not None
        found.tokens, found.cost_usd = first.tokens, first.cost_usd
        found.edits = bool(first.commit)
        if not found.edits:
            raise AgentError(
                f"{choice.use} answered, and edited nothing: {first.decision.reason}",
                fix="try another model",
            )


def _by_hand(choice: AgentChoice) -> str:
    """What to do about an agent that failed, for whatever reason."""
    served = choice.use == "api" or choice.options.get("base_url")
    if served:
        return f"see that the server of [agent.{choice.use}] base_url and model answers"
    return f"try it by hand: {choice.use}"
