"""Agents and executors by name: "name" to "module:maker", loaded on use; entry points add to it."""

from __future__ import annotations

from collections.abc import Mapping
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


def reads(name: str) -> bool:
    """Whether an agent understands an idea in words; those of others are taken to."""
    return name not in WORDLESS


def agent(choice: AgentChoice, root: Path) -> Agent:
    """Make the agent that a contract asks for; its relative paths resolve at ``root``.

    Raises:
        UserError: no agent has that name, or what it needs is not installed.
    """
    place = _place(choice.use, AGENTS, "agent", "agent.use")
    try:
        made: Agent = _load(place)({**choice.options, "root": str(root), "env": list(choice.env)})
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
    place = _place(contract.parallel.executor, EXECUTORS, "executor", "parallel.executor")
    made: Executor = _load(place)(contract)
    return made


def _place(name: str, ours: Mapping[str, str], what: str, key: str) -> str:
    """Where a maker is; looking through all that is installed takes longer than to start a run."""
    if name in ours:
        return ours[name]
    theirs = {each.name: each.value for each in entry_points(group=f"autoresearch.{what}s")}
    known = {**theirs, **ours}
    if name not in known:
        raise UserError(
            f"{key} = {name!r}: no such {what}", fix=f"use one of {', '.join(sorted(known))}"
        )
    return known[name]


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
