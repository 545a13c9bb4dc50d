"""Codex: ``codex exec`` with a stream of JSON events.

It has one tool that matters, a shell, and no rule for single files: what it does to others, the
engine refuses. Its own sandbox needs user namespaces, which ours takes away; where we have none, it
is kept. It reports tokens and no cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from . import Call, Cli, Event, LoginFile, Said, Spent, failure_of, wait_s

OPENAI = "https://api.openai.com/v1"


def argv(call: Call) -> list[str]:
    settings: dict[str, object] = {"analytics.enabled": False, "project_doc_max_bytes": 0}
    if call.model:
        settings["model"] = call.model
    if call.keys or call.base_url:
        settings |= {"model_provider": "endpoint", **_endpoint(call)}
    own = ["-s", "workspace-write"]
    sandbox = ["--dangerously-bypass-approvals-and-sandbox"] if call.confined else own
    return [
        "exec", "--json", "--ephemeral", "--ignore-user-config", "--ignore-rules",
        "--skip-git-repo-check", *sandbox,
        *(word for key, value in settings.items() for word in ("-c", f"{key}={json.dumps(value)}")),
        *call.args, call.prompt,
    ]  # fmt: skip


def _endpoint(call: Call) -> dict[str, object]:
    """Where the model is: its own provider would retry for half a minute before it says a word."""
    key = call.keys[0] if call.keys else KEYS[0]
    endpoint = {
        "name": "endpoint", "base_url": call.base_url or OPENAI, "env_key": key,
        "wire_api": "responses", "request_max_retries": 0, "stream_max_retries": 2,
        # Silence is ours to end.
        "stream_idle_timeout_ms": 3_600_000,
    }  # fmt: skip
    return {f"model_providers.endpoint.{name}": value for name, value in endpoint.items()}


def read(events: Sequence[Event], errors: str) -> Said:
    texts = [
        item.get("text", "")
        for event in events
        if event.get("type") == "item.completed"
        and (item := event["item"]).get("type") == "agent_message"
    ]
    ended = next(
        (e for e in reversed(events) if e.get("type") in ("turn.completed", "turn.failed")), None
    )
    text = texts[-1] if texts else ""
    if ended is None:
        said = [str(e.get("message", "")) for e in events if e.get("type") == "error"]
        return Said(text=text, message=said[-1] if said else errors)
    if ended["type"] == "turn.completed":
        usage = ended.get("usage") or {}
        read, cached = (
            int(usage.get(name) or 0) for name in ("input_tokens", "cached_input_tokens")
        )
        return Said(
            done=True, text=text, spent=Spent(read, int(usage.get("output_tokens") or 0), cached)
        )
    message = str((ended.get("error") or {}).get("message", ""))
    return Said(
        text=text, message=message, failure=failure_of(None, message), retry_after_s=wait_s(message)
    )


KEYS = ("OPENAI_API_KEY", "CODEX_API_KEY")
CLI = Cli(
    name="codex",
    install="npm install -g @openai/codex",
    keys=KEYS,
    sign_in="run codex login",
    login=(LoginFile(".codex", "auth.json", "CODEX_HOME"),),
    argv=argv,
    env=lambda call: {"CODEX_HOME": str(call.home / ".codex")},
    # It wants the folder to be there.
    files=lambda _: {".codex/.keep": ""},
    read=read,
    lines_per_turn=2,
)
