"""Any program as an agent: started in the workspace, confined, its edits are the proposal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import AgentError, UserError
from ..text import clean
from ..types import Assignment, Json, Proposal
from .answer import DESCRIPTION_LENGTH, proposal

PROPOSAL_BYTES = 64 << 10
PROMPT, WORKSPACE, PROPOSAL = "{prompt_file}", "{workspace}", "{proposal_file}"


class CommandAgent:
    """``[agent.command]``: ``argv`` with placeholders; ``prompt`` is file, stdin or arg."""

    def __init__(self, options: Mapping[str, Json]) -> None:
        argv = options.get("argv")
        if not isinstance(argv, list) or not argv or not all(isinstance(a, str) for a in argv):
            raise UserError(
                f"agent.command.argv = {argv!r}: must be a list of words",
                fix='[agent.command] argv = ["./my-agent.sh", "{prompt_file}"]',
            )
        self._argv = [str(word) for word in argv]
        program = Path(str(options.get("root", "")), self._argv[0])
        if "/" in self._argv[0] and not program.is_file():
            raise UserError(
                f"agent.command.argv = {self._argv[0]!r}: there is no {program}",
                fix="name a program that exists, relative to autoresearch.toml",
            )
        self._prompt = options.get("prompt", "file")
        if self._prompt not in ("file", "stdin", "arg"):
            raise UserError(
                f"agent.command.prompt = {self._prompt!r}: no such way to pass the prompt",
                fix='use "file", "stdin" or "arg"',
            )

    async def propose(self, assignment: Assignment) -> Proposal:
        """Run the program once in the workspace.

        Raises:
            AgentError: it exited with an error, or ran out of time.
        """
        inside = assignment.inside
        assert assignment.launch is not None and inside is not None
        words = {
            PROMPT: str(inside.briefing),
            WORKSPACE: str(inside.workspace),
            PROPOSAL: str(inside.proposal),
        }
        argv = [_fill(word, words) for word in self._argv]
        if self._prompt == "arg":
            argv.append(assignment.briefing.read_text(encoding="utf-8"))
        env = {
            "AUTORESEARCH_PROMPT": words[PROMPT],
            "AUTORESEARCH_WORKSPACE": words[WORKSPACE],
            "AUTORESEARCH_PROPOSAL": words[PROPOSAL],
        }
        stdin = assignment.briefing if self._prompt == "stdin" else None
        ended = await assignment.launch(argv, env, stdin)
        last = _last_line(ended.log)
        if ended.outcome != "ok":
            raise AgentError(
                f"{self._argv[0]} failed ({ended.detail}): {last or 'it printed nothing'}",
                fix=f"read {ended.log}",
            )
        said = read_proposal(assignment.proposal)
        tokens, cost_usd = _number(said, "tokens", int), _number(said, "cost_usd", float)
        return proposal(last, said, tokens=tokens, cost_usd=cost_usd)


def _fill(word: str, words: Mapping[str, str]) -> str:
    for placeholder, value in words.items():
        word = word.replace(placeholder, value)
    return word


def read_proposal(path: Path) -> dict[str, Any]:
    """The proposal file if the agent wrote one; a broken one is an agent failure."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size == 0:
        return {}
    if path.stat().st_size > PROPOSAL_BYTES:
        raise AgentError(f"the proposal file has {path.stat().st_size} bytes", fix="be brief")
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AgentError(f"the proposal file is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise AgentError("the proposal file is not a JSON object")
    return said


def _number(said: Mapping[str, Any], key: str, kind: type[int] | type[float]) -> Any:
    value = said.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        shown = clean(repr(value), 40)
        raise AgentError(f"the proposal's {key} = {shown} is not a sensible number")
    return kind(value)


def _last_line(log: Path) -> str:
    for line in reversed(log.read_bytes().decode("utf-8", errors="replace").splitlines()):
        if text := clean(line, DESCRIPTION_LENGTH):
            return text
    return ""
