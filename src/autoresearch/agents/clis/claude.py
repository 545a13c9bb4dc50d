"""Claude Code: ``claude -p`` with a stream of JSON events.

Only reading and editing tools are offered, and only the editable files may be edited: neither a
shell nor the network is a tool here. The person's settings, hooks and MCP servers are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...types import AgentFailure
from . import Call, Cli, Event, LoginFile, Said, failure_of, spent

TOOLS = ("Read", "Edit", "Write", "Glob", "Grep")
ERRORS = {
    "rate_limit": AgentFailure.RATE_LIMITED,
    "overloaded": AgentFailure.RATE_LIMITED,
    "authentication_failed": AgentFailure.AUTH,
    "billing_error": AgentFailure.USAGE_LIMIT,
}


def argv(call: Call) -> list[str]:
    # A rule for Edit covers every tool that writes; // begins an absolute path.
    rules = [f"Edit({pattern})" for pattern in call.allowed]
    readable = [f"Read(/{call.proposal.parent.parent}/**)", "Read(./**)", "Glob", "Grep"]
    model = ["--model", call.model] if call.model else []
    return [
        "-p", call.prompt, "--output-format", "stream-json", "--verbose",
        "--tools", ",".join(TOOLS),
        "--allowedTools", *readable, f"Edit(/{call.proposal})", *rules,
        "--permission-mode", "dontAsk",
        "--setting-sources", "", "--strict-mcp-config", "--disable-slash-commands",
        "--no-session-persistence", "--max-turns", str(call.max_turns), *model, *call.args,
    ]  # fmt: skip


def env(call: Call) -> dict[str, str]:
    gateway = {"ANTHROPIC_BASE_URL": call.base_url} if call.base_url else {}
    return gateway | {
        "CLAUDE_CONFIG_DIR": str(call.home / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_AUTOUPDATER": "1",
        # We wait ourselves, where people can see it. A dropped stream it still takes up again.
        "CLAUDE_CODE_MAX_RETRIES": "0",
    }


def read(events: Sequence[Event], errors: str) -> Said:
    result = next((e for e in reversed(events) if e.get("type") == "result"), None)
    limit = next(
        (
            info
            for e in reversed(events)
            if (info := e.get("rate_limit_info") or {}).get("status") == "rejected"
        ),
        None,
    )
    if result is None:
        return Said(message=errors)
    text = str(result.get("result") or "; ".join(map(str, result.get("errors") or ())))
    said = Said(
        text=text,
        message=text,
        spent=spent(
            [result.get("usage") or {}],
            ("input_tokens", "cache_creation_input_tokens"),
            ("cache_read_input_tokens",),
            ("output_tokens",),
        ),
        cost_usd=_cost_usd(result),
        denied=tuple(_denied(each) for each in result.get("permission_denials") or ()),
    )
    if not result.get("is_error"):
        return replace(said, done=True)
    if str(result.get("subtype", "")).startswith("error_max"):
        return replace(said, failure=AgentFailure.LIMIT)
    if limit is not None:
        return replace(said, failure=AgentFailure.USAGE_LIMIT, retry_at=limit.get("resetsAt"))
    known = next((ERRORS[e["error"]] for e in events if e.get("error") in ERRORS), None)
    failure = known or failure_of(result.get("api_error_status"), text)
    return replace(said, failure=failure)


def _cost_usd(result: Event) -> float | None:
    """What it cost; None for a model whose price the CLI only guesses."""
    models = (result.get("modelUsage") or {}).values()
    guessed = any(model.get("costBasis") == "unknown" for model in models)
    return None if guessed else result.get("total_cost_usd")


def _denied(denial: Event) -> str:
    tool, wanted = denial.get("tool_name", "a tool"), denial.get("tool_input") or {}
    return f"{tool} {wanted.get('file_path') or wanted.get('command') or ''}".strip()


CLI = Cli(
    name="claude",
    install="npm install -g @anthropic-ai/claude-code",
    keys=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    sign_in="run claude once and log in",
    login=(LoginFile(".claude", ".credentials.json", "CLAUDE_CONFIG_DIR"),),
    argv=argv,
    env=env,
    read=read,
)
