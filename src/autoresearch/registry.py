"""Agents and executors by name: "name" to "module:maker", loaded on use; entry points add to it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .errors import UserError
from .ports import Agent, Executor
from .types import AgentChoice, Contract

AGENTS = {
    "search": "autoresearch.agents.search:SearchAgent",
    "hybrid": "autoresearch.agents.hybrid:HybridAgent",
    "command": "autoresearch.agents.command:CommandAgent",
    "replay": "autoresearch.agents.replay:ReplayAgent",
    "api": "autoresearch.agents.api:ApiAgent",
    "claude": "autoresearch.agents.cli:claude",
    "codex": "autoresearch.agents.cli:codex",
    "opencode": "autoresearch.agents.cli:opencode",
    "gemini": "autoresearch.agents.cli:gemini",
    "pi": "autoresearch.agents.cli:pi",
}
EXECUTORS = {
    "local": "autoresearch.executors.local:executor",
    "slurm": "autoresearch.executors.slurm:executor",
    "ray": "autoresearch.executors.ray:executor",
}
# An idea in words waits for another one.
WORDLESS = ("search", "replay")
EXTRAS = {"api": "autoresearch[api]"}
ENTRY_POINTS = "autoresearch.agents"
EXECUTOR_ENTRY_POINTS = "autoresearch.executors"


def reads(name: str) -> bool:
    """Whether an agent understands an idea in words; those of others are taken to."""
    return name not in WORDLESS


def agent(choice: AgentChoice, root: Path) -> Agent:
    """Make the agent that a contract asks for; its relative paths resolve at ``root``.

    Raises:
        UserError: no agent has that name, or what it needs is not installed.
    """
    known = AGENTS | {each.name: each.value for each in entry_points(group=ENTRY_POINTS)}
    if choice.use not in known:
        raise UserError(
            f"agent.use = {choice.use!r}: no such agent",
            fix=f"use one of {', '.join(sorted(known))}",
        )
    module, _, name = known[choice.use].partition(":")
    try:
        make: Any = getattr(import_module(module), name)
        made: Agent = make({**choice.options, "root": str(root), "env": list(choice.env)})
    except ImportError as error:
        if choice.use not in EXTRAS:
            raise
        raise UserError(
            f"agent.use = {choice.use!r} needs packages that are not installed ({error.name})",
            fix=f"pip install '{EXTRAS[choice.use]}'",
        ) from None
    return made


def require_credentials(agent: Agent, choice: AgentChoice) -> None:
    """Ask an agent that needs credentials whether it has them.

    Raises:
        UserError: it has none.
    """
    if ready := getattr(agent, "ready", None):
        ready(choice)


def executor(contract: Contract) -> Executor:
    """Make the executor that a contract asks for; its maker is called with the contract.

    Raises:
        UserError: none has that name.
    """
    found = {each.name: each.value for each in entry_points(group=EXECUTOR_ENTRY_POINTS)}
    known, name = EXECUTORS | found, contract.parallel.executor
    if name not in known:
        raise UserError(
            f"parallel.executor = {name!r}: no such executor",
            fix=f"use one of {', '.join(sorted(known))}",
        )
    module, _, maker = known[name].partition(":")
    make: Any = getattr(import_module(module), maker)
    made: Executor = make(contract)
    return made
