"""``init --agent``: what a coding agent's own session needs, in the files that it reads.

A person's content stays: a text file gets one marked section, which is replaced in place, a JSON
file one entry.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from ..text import block

BEGIN, END = "<!-- autoresearch: begin -->", "<!-- autoresearch: end -->"
TOML_BEGIN, TOML_END = "# autoresearch: begin", "# autoresearch: end"
SKILL = """\
---
name: autoresearch
description: Improve the number of this repository's autoresearch.toml by a loop of measured\
 experiments. Use when asked to research, optimise or improve it, or to run autoresearch.
---

"""
TITLE = "# autoresearch: a loop of measured experiments\n\n"
TOOL_TIMEOUT_S = 6 * 3600


def _command(argv: list[str]) -> dict[str, Any]:
    return {"command": argv[0], "args": argv[1:]}


@dataclass(frozen=True, slots=True)
class Client:
    """Where a coding agent looks for instructions, and for the entry of an MCP server."""

    text: str
    head: str = ""
    settings: str = ""
    place: str = ""
    entry: Callable[[list[str]], Mapping[str, Any]] = _command


CLIENTS = {
    "claude": Client(
        ".claude/skills/autoresearch/SKILL.md", SKILL, ".mcp.json", "mcpServers", _command
    ),
    # Read by codex in a project that the person trusts.
    "codex": Client(
        "AGENTS.md", "", ".codex/config.toml", "mcp_servers",
        lambda argv: {**_command(argv), "required": True, "tool_timeout_sec": TOOL_TIMEOUT_S},
    ),
    "opencode": Client(
        "AGENTS.md", "", "opencode.json", "mcp",
        lambda argv: {"type": "local", "command": argv, "timeout": TOOL_TIMEOUT_S * 1000},
    ),
    "gemini": Client(
        "GEMINI.md", "", ".gemini/settings.json", "mcpServers",
        lambda argv: {**_command(argv), "timeout": TOOL_TIMEOUT_S * 1000},
    ),
    "pi": Client("AGENTS.md"),
}  # fmt: skip


def install(root: Path, agent: str, *, yes: bool) -> list[str]:
    """Show what an agent's session needs in ``root`` and write it; the files that were written.

    Raises:
        UserError: nobody can be asked, or the agent is not one that we know.
    """
    if agent not in CLIENTS:
        raise UserError(
            f"--agent {agent}: no instructions are known for it",
            fix=f"one of {', '.join(CLIENTS)}; or add --goal, and it proposes the contract",
        )
    client, notes = CLIENTS[agent], list[str]()
    wanted = [(client.text, _with_section(_read(root, client.text), client.head))]
    entry = client.entry(_server())
    if client.settings and find_spec("mcp") is None:
        notes.append("for the MCP tools: pip install 'autoresearch[mcp]', then the same again")
    elif client.settings:
        text = _read(root, client.settings)
        add = _with_table if client.settings.endswith(".toml") else _with_entry
        try:
            wanted.append((client.settings, add(text, client.place, entry)))
        except ValueError as problem:
            shown = json.dumps({client.place: {"autoresearch": entry}})
            notes.append(f"{client.settings} is left ({problem}); add by hand: {shown}")
    changes = [(name, text) for name, text in wanted if text != _read(root, name)]
    for name, text in changes:
        click.echo(_shown(name, _read(root, name), text))
    for note in notes:
        click.echo(f"note: {note}")
    if not changes:
        click.echo(f"the instructions for {agent} are in place")
        return []
    if agreed(yes):
        for name, text in changes:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
            click.echo(f"wrote {name}")
        return [name for name, _ in changes]
    click.echo("nothing was written")
    return []


def agreed(yes: bool) -> bool:
    """Whether the person wants what was shown to be written.

    Raises:
        UserError: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError("nothing was written: nobody to ask", fix="--yes writes what is shown")
    return click.confirm("Write this?", default=True)


def _server() -> list[str]:
    """How a client starts our MCP server."""
    found = shutil.which("autoresearch") is not None
    return [*(["autoresearch"] if found else [sys.executable, "-m", "autoresearch"]), "mcp"]


def _read(root: Path, name: str) -> str:
    """The text of a file, empty where there is none.

    Raises:
        UserError: it is not ours to write.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} leads out of {root}", fix="make it a file of its own")
    try:
        return path.read_bytes().decode() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="mend it or move it away") from None


def _with_section(text: str, head: str) -> str:
    """The instructions with our section in its place."""
    body = files(__package__).joinpath("session.md").read_text(encoding="utf-8")
    return _marked(text or head, f"{BEGIN}\n{TITLE}{body}{END}", BEGIN, END)


def _with_table(text: str, place: str, entry: Mapping[str, Any]) -> str:
    """The TOML settings with a table of our server.

    Raises:
        ValueError: it cannot be added to them.
    """
    lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
    table = "\n".join([TOML_BEGIN, f"[{place}.autoresearch]", *lines, TOML_END])
    found = _marked(text, table, TOML_BEGIN, TOML_END)
    tomllib.loads(found)
    return found


def _marked(text: str, section: str, begin: str, end: str) -> str:
    """The text with a marked section in its place, at the end where it has none."""
    before, found, rest = text.partition(begin)
    if found and end in rest:
        return f"{before}{section}{rest.partition(end)[2]}"
    return f"{text.rstrip()}\n\n{section}\n" if text.strip() else f"{section}\n"


def _with_entry(text: str, place: str, entry: Mapping[str, Any]) -> str:
    """The JSON settings with the entry of our server; the same text where it is there already.

    Raises:
        ValueError: they are not a JSON object that we could add to.
    """
    found = json.loads(text) if text.strip() else {}
    servers = found.setdefault(place, {}) if isinstance(found, dict) else None
    if not isinstance(servers, dict):
        raise ValueError(f"{place} is not an object")
    if servers.get("autoresearch") == entry:
        return text
    servers["autoresearch"] = entry
    indent = re.search(r"^([ \t]+)\S", text, re.M)
    return json.dumps(found, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"


def _shown(name: str, old: str, new: str) -> str:
    """A new file as it is, a changed one as a difference."""
    if not old:
        return f"{name} (new):\n\n{block(new)}"
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="")
    return block("\n".join(lines)) + "\n"
