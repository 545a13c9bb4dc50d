"""opencode: ``opencode run`` with a stream of JSON events, for any provider it knows.

It may read everything here and edit the editable files; no shell. A ``base_url`` is taken for an
OpenAI-compatible endpoint. It repeats what is rate limited by itself, for ever and without an
event: the clock on silence ends that. It reports tokens, and a cost where it knows the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...types import AgentFailure
from . import Call, Cli, Event, LoginFile, Said, failure_of, spent, wait_s

ENDED = ("stop", "end_turn", "length", "content-filter")


def argv(call: Call) -> list[str]:
    model = ["--model", _model(call)] if call.model else []
    # Its log, on standard error, is where repeated requests show.
    log = ["--print-logs", "--log-level", "WARN"]
    return ["run", "--format", "json", "--title", "experiment", *log, *model, *call.args,
            call.prompt]  # fmt: skip


def _model(call: Call) -> str:
    return f"endpoint/{call.model}" if call.base_url else call.model


def env(call: Call) -> dict[str, str]:
    home = call.home
    return {
        "OPENCODE_CONFIG_CONTENT": json.dumps(_config(call)),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_STATE_HOME": str(home / ".local/state"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
        "OPENCODE_DISABLE_CLAUDE_CODE": "1",
    }


def _config(call: Call) -> dict[str, object]:
    edit = {"*": "deny"}
    for pattern in call.allowed:
        # Its * crosses folders, and it names files from the top of the repository.
        name = pattern.strip("/").replace("**/", "*").replace("**", "*")
        edit |= dict.fromkeys((name, f"*/{name}", f"{name}/*", f"*/{name}/*"), "allow")
    readers = dict.fromkeys(("read", "glob", "grep", "list"), "allow")
    config: dict[str, object] = {
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,
        "permission": {"*": "deny", **readers, "edit": edit},
    }
    if call.base_url:
        key = call.keys[0] if call.keys else KEYS[0]
        config["small_model"] = _model(call)
        config["provider"] = {
            "endpoint": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "endpoint",
                "options": {"baseURL": call.base_url, "apiKey": f"{{env:{key}}}"},
                "models": {call.model: {}},
            }
        }
    return config


def read(events: Sequence[Event], errors: str) -> Said:
    steps = [e["part"] for e in events if e.get("type") == "step_finish"]
    used = [{**(step.get("tokens") or {}), **_cache(step)} for step in steps]
    tokens = spent(used, ("input", "write"), ("read",), ("output", "reasoning"))
    cost_usd = sum(float(step.get("cost") or 0.0) for step in steps)
    texts = [str(e["part"].get("text", "")) for e in events if e.get("type") == "text"]
    text = texts[-1] if texts else ""
    # Nothing is what it says for a model that it has no price of, too.
    bill = (tokens, cost_usd or None)
    failed = next((e["error"] for e in reversed(events) if e.get("type") == "error"), None)
    if failed is not None:
        data = failed.get("data") or {}
        message = str(data.get("message") or failed.get("name"))
        failure = failure_of(data.get("statusCode"), message)
        retry_s = wait_s(message)
        return Said(False, text, failure, message, None, retry_s, *bill)
    if steps and steps[-1].get("reason") in ENDED:
        denied = tuple(_tool(e["part"]) for e in events if _denied(e))
        return Said(True, text, spent=tokens, cost_usd=cost_usd or None, denied=denied)
    seen = failure_of(None, errors) if errors else AgentFailure.CRASHED
    failure_seen = seen if seen is not AgentFailure.CRASHED else None
    return Said(False, text, failure_seen, errors, None, None, *bill)


def _cache(step: Event) -> Event:
    return (step.get("tokens") or {}).get("cache") or {}


def _denied(event: Event) -> bool:
    state = event["part"].get("state") or {} if event.get("type") == "tool_use" else {}
    return state.get("status") == "error" and "rule which prevents" in str(state.get("error"))


def _tool(part: Event) -> str:
    wanted = part["state"].get("input") or {}
    return f"{part.get('tool')} {wanted.get('filePath') or wanted.get('command') or ''}".strip()


KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY", "OPENCODE_API_KEY",
        "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY", "DEEPSEEK_API_KEY", "XAI_API_KEY",
        "GROQ_API_KEY", "MISTRAL_API_KEY")  # fmt: skip
CLI = Cli(
    name="opencode",
    install="npm install -g opencode-ai",
    keys=KEYS,
    sign_in="run opencode auth login",
    login=(LoginFile(".local/share/opencode", "auth.json"),),
    argv=argv,
    env=env,
    read=read,
    lines_per_turn=3,
    names_model=True,
)
