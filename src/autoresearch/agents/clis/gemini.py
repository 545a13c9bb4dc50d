"""Gemini CLI: ``gemini -p`` with a stream of JSON events.

Its policy allows reading, and editing where the file's name fits an editable pattern; all else is
denied. It reports tokens and no cost. It reads a GEMINI.md of the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ...types import AgentFailure
from . import Call, Cli, Event, LoginFile, Said, Spent, failure_of, wait_s

READERS = ("read_file", "read_many_files", "list_directory", "glob", "grep_search")
EDITORS = ("replace", "write_file")
# Its exit status for too many turns comes without an event.
TOO_LONG = re.compile(r"maximum session turns|max session turns", re.I)


def argv(call: Call) -> list[str]:
    model = ["-m", call.model] if call.model else []
    policy = str(call.home / ".gemini/editable.toml")
    return ["-p", call.prompt, "--output-format", "stream-json", "--policy", policy, *model,
            *call.args]  # fmt: skip


def env(call: Call) -> dict[str, str]:
    gateway = {"GOOGLE_GEMINI_BASE_URL": call.base_url} if call.base_url else {}
    return gateway | {
        "GEMINI_CLI_HOME": str(call.home),
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_TELEMETRY_ENABLED": "false",
        "GEMINI_CLI_NO_RELAUNCH": "true",
    }


def files(call: Call) -> dict[str, str]:
    auth = "oauth-personal" if call.login else "gemini-api-key"
    settings = {
        # Without it an endpoint of one's own is refused.
        "security": {"auth": {"selectedType": auth}},
        "general": {"maxAttempts": 1, "enableAutoUpdate": False},
        "model": {"maxSessionTurns": call.max_turns},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        # What it is shown of past experiments, git ignores.
        "context": {"fileFiltering": {"respectGitIgnore": False}},
    }
    rules = [_rule(("*",), "deny", 100), _rule(READERS, "allow", 200)]
    rules += [_rule(EDITORS, "allow", 200, pattern) for pattern in call.allowed]
    return {
        ".gemini/settings.json": json.dumps(settings),
        ".gemini/editable.toml": "\n".join(rules),
    }


def _rule(tools: Sequence[str], decision: str, priority: int, pattern: str = "") -> str:
    rule = {"toolName": list(tools) if len(tools) > 1 else tools[0], "decision": decision,
            "priority": priority}  # fmt: skip
    if pattern:
        # Of the arguments as JSON: a path that ends like this. It takes no nested repetitions.
        name = re.escape(pattern.strip("/")).replace(r"\*", "*")
        name = re.sub(r"\*+/?", '[^"]*', name).replace(r"\?", "[^/]")
        rule["argsPattern"] = f'[/"]{name}["/]'
    return "[[rule]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in rule.items())


def read(events: Sequence[Event], errors: str) -> Said:
    result = next((e for e in reversed(events) if e.get("type") == "result"), None)
    text = ""
    for event in events:
        if event.get("type") == "tool_use":
            text = ""
        elif event.get("type") == "message" and event.get("role") == "assistant":
            text += str(event.get("content", ""))
    if result is None:
        failure = AgentFailure.LIMIT if TOO_LONG.search(errors) else None
        return Said(text=text, message=errors, failure=failure)
    tokens = _spent(result.get("stats") or {})
    looped = next((e for e in events if e.get("type") == "error" and "Loop" in str(e)), None)
    if result.get("status") != "success" or looped is not None:
        message = str((looped or result.get("error") or {}).get("message", ""))
        status = re.search(r'"code":\s*(\d{3})', message)
        failure = failure_of(int(status[1]) if status else None, message)
        if looped is not None or TOO_LONG.search(message):
            failure = AgentFailure.LIMIT
        elif re.search(r"\brate limit", message, re.I):
            failure = AgentFailure.RATE_LIMITED  # it mentions a quota in any case
        return Said(text=text, message=message, failure=failure, retry_after_s=wait_s(message),
                    spent=tokens)  # fmt: skip
    return Said(done=True, text=text, spent=tokens, denied=_denied(events))


def _spent(stats: Event) -> Spent | None:
    """What thoughts took is part of its total only."""
    total, read, cached = (
        int(stats.get(name) or 0) for name in ("total_tokens", "input_tokens", "cached")
    )
    return Spent(read, total - read, cached) if total else None


def _denied(events: Sequence[Event]) -> tuple[str, ...]:
    calls = {e.get("tool_id"): e for e in events if e.get("type") == "tool_use"}
    found = []
    for event in events:
        if (event.get("error") or {}).get("type") == "policy_violation":
            call = calls.get(event.get("tool_id")) or {}
            wanted = call.get("parameters") or {}
            found.append(f"{call.get('tool_name')} {wanted.get('file_path') or ''}".strip())
    return tuple(found)


CLI = Cli(
    name="gemini",
    install="npm install -g @google/gemini-cli",
    keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    sign_in="run gemini once and log in",
    login=(LoginFile(".gemini", "oauth_creds.json"), LoginFile(".gemini", "google_accounts.json")),
    argv=argv,
    env=env,
    files=files,
    read=read,
)
