"""pi: ``pi --mode json``, for any provider it knows.

It has no rule for files: what it does to others, the engine refuses. It exits with zero whatever
happened, so only its last event tells. It reports tokens, and a cost where it knows the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from . import Call, Cli, Event, LoginFile, Said, failure_of, spent, wait_s

TOOLS = ("read", "edit", "write", "grep", "find", "ls")
FOLDER = ".pi/agent"


def argv(call: Call) -> list[str]:
    model = ["--model", call.model] if call.model else []
    endpoint = ["--provider", "endpoint"] if call.base_url else []
    return [
        "-p", "--mode", "json", "--tools", ",".join(TOOLS), "--no-session", "--no-extensions",
        "--no-skills", "--no-context-files", *endpoint, *model, *call.args, call.prompt,
    ]  # fmt: skip


def env(call: Call) -> dict[str, str]:
    return {
        "PI_CODING_AGENT_DIR": str(call.home / FOLDER),
        "PI_OFFLINE": "1",
        "PI_TELEMETRY": "0",
        "PI_SKIP_VERSION_CHECK": "1",
    }


def files(call: Call) -> dict[str, str]:
    found = {
        f"{FOLDER}/settings.json": json.dumps(
            {"retry": {"enabled": False, "provider": {"maxRetries": 0}}}
        )
    }
    if call.base_url:
        free = dict.fromkeys(("input", "output", "cacheRead", "cacheWrite"), 0)
        model = {"id": call.model, "name": call.model, "reasoning": False, "input": ["text"],
                 "cost": free, "contextWindow": 128_000, "maxTokens": 16_384}  # fmt: skip
        key = call.keys[0] if call.keys else KEYS[0]
        endpoint = {"baseUrl": call.base_url, "api": "openai-completions", "apiKey": key,
                    "models": [model]}  # fmt: skip
        found[f"{FOLDER}/models.json"] = json.dumps({"providers": {"endpoint": endpoint}})
    return found


def read(events: Sequence[Event], errors: str) -> Said:
    ended = next((e for e in reversed(events) if e.get("type") == "agent_end"), None)
    every = [e["message"] for e in events if e.get("type") == "message_end"]
    if ended is not None:
        every = ended.get("messages") or every
    messages = [message for message in every if message.get("role") == "assistant"]
    used = [message.get("usage") or {} for message in messages]
    tokens = spent(used, ("input", "cacheWrite"), ("cacheRead",), ("output",))
    cost_usd = sum(float((usage.get("cost") or {}).get("total") or 0.0) for usage in used)
    last = messages[-1] if messages else {}
    text = "".join(str(part.get("text", "")) for part in last.get("content") or ())
    if last.get("stopReason") in ("error", "aborted"):
        message = str(last.get("errorMessage", ""))
        status = int(message[:3]) if message[:3].isdecimal() else None
        return Said(
            text=text, failure=failure_of(status, message), message=message,
            retry_after_s=wait_s(message), cost_usd=cost_usd or None, spent=tokens,
        )  # fmt: skip
    done = ended is not None and last.get("stopReason") == "stop"
    return Said(done=done, text=text, message=errors, cost_usd=cost_usd or None, spent=tokens)


KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY",
        "GROQ_API_KEY", "XAI_API_KEY", "MISTRAL_API_KEY")  # fmt: skip
CLI = Cli(
    name="pi",
    install="npm install -g @earendil-works/pi-coding-agent",
    keys=KEYS,
    sign_in="run pi and /login",
    login=(LoginFile(FOLDER, "auth.json", "PI_CODING_AGENT_DIR"),),
    argv=argv,
    env=env,
    files=files,
    read=read,
    # An event for each piece of an answer.
    lines_per_turn=500,
    names_model=True,
)
