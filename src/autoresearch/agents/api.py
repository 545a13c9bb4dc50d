"""Any hosted or local model as an agent, through pydantic-ai (extra ``api``).

The conversation runs in the engine's process, as a task that a clock can cancel: what the model
asks for is done by ``hands``, and commands run confined, with neither the key nor a network. What
the model's server answers is bounded before it is read. Nothing is kept between iterations.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
from pydantic_ai import Agent, Tool, exceptions
from pydantic_ai.messages import ModelRequest, ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RunUsage, UsageLimits

from ..errors import AgentError, AutoresearchError, UserError
from ..text import block, clean
from ..types import AgentFailure, Assignment, Json, Prices, Proposal
from . import answer
from .hands import Hands


@dataclass(frozen=True, slots=True)
class Service:
    """A kind of server: how pydantic-ai speaks with it, where it is, the usual name of its key.

    Nothing is read from variables that the contract does not name, hence the address.
    """

    model: str
    provider: str
    base_url: str
    key: str


SERVICES = {
    "openai": Service(
        "OpenAIChatModel", "OpenAIProvider", "https://api.openai.com/v1", "OPENAI_API_KEY"
    ),
    "anthropic": Service(
        "AnthropicModel", "AnthropicProvider", "https://api.anthropic.com", "ANTHROPIC_API_KEY"
    ),
    "google": Service(
        "GoogleModel", "GoogleProvider", "https://generativelanguage.googleapis.com",
        "GOOGLE_API_KEY",
    ),
}  # fmt: skip
NO_KEY = "none"
TURNS = 40
IDLE_S = 300.0
CALLS_PER_TURN = 10
TRIES = 2
LONGEST_RETRY_S = 60.0
TOOL_TRIES = 5
ANSWER_BYTES = 16 << 20
LOG_BYTES = 1 << 20
INSTRUCTIONS = """\
You improve a program by one change at a time, alone: nobody can answer a question. Your tools list,
read and edit the files of a workspace and run short commands in it. Paths are relative to the
workspace; its folder .autoresearch holds past experiments, to read. You may edit only {editable}.
Read before you edit; make one small, complete change.
"""


class ApiAgent:
    """``[agent.api]``: ``model`` and ``base_url``; the first name of ``agent.env`` is its key."""

    def __init__(self, options: Mapping[str, Json]) -> None:
        model, base_url = str(options["model"]), options.get("base_url")
        kind, _, name = model.partition(":")
        if kind not in SERVICES and base_url is not None:
            kind, name = "openai", model  # what local servers speak
        if kind not in SERVICES or not name:
            raise UserError(
                f"agent.api.model = {model!r}: no such provider",
                fix=f"write {', '.join(f'{each}:MODEL' for each in SERVICES)}, or give the"
                " base_url of a server that speaks OpenAI's chat completions",
            )
        service = SERVICES[kind]
        self._kind, self._name = kind, name
        self._own_server = base_url is not None
        self._base_url = str(base_url or service.base_url)
        self._turns = _int(options.get("turns"), TURNS)
        self._idle_s = _float(options.get("idle"), IDLE_S)
        self._reply_tokens = options.get("max_tokens")
        self._key_name, self._key = _key(options.get("env"), service.key, required=base_url is None)
        # Reading the certificates takes longer than all else that a request costs us.
        self._tls = httpx2.create_ssl_context()
        self._make_model: Any = getattr(import_module(f"pydantic_ai.models.{kind}"), service.model)
        self._make_provider: Any = getattr(
            import_module(f"pydantic_ai.providers.{kind}"), service.provider
        )

    async def propose(self, assignment: Assignment) -> Proposal:
        """Talk with the model until it says that the change is made.

        Raises:
            AgentError: it failed; typed, with what it cost all the same.
            UserError: there is no such model.
        """
        usage = RunUsage()
        prices = assignment.choice.prices
        try:
            async with asyncio.timeout(assignment.choice.timeout_s):
                said = await self._talk(assignment, usage)
        except AgentError as error:
            error.tokens, error.cost_usd = _tokens(usage), self._cost_usd(usage, prices)
            raise
        except AutoresearchError:
            raise
        except Exception as error:
            # The boundary to a library that is fed hostile replies: whatever it stumbles over is
            # a failure of the agent, and the run goes on.
            failed = self._failure(error)
            failed.tokens, failed.cost_usd = _tokens(usage), self._cost_usd(usage, prices)
            raise failed from error
        return answer.proposal(said, tokens=_tokens(usage), cost_usd=self._cost_usd(usage, prices))

    async def _talk(self, assignment: Assignment, usage: RunUsage) -> str:
        """The whole conversation; returns the model's last words."""
        hands = Hands(assignment.workspace, assignment.editable, assignment.run, assignment.memory)
        tools = [
            Tool(each, takes_ctx=False, sequential=True)
            for each in (hands.list_files, hands.read_file, hands.edit_file, hands.run_command)
        ]
        settings = ModelSettings(
            timeout=self._idle_s,
            # The clients wait out short rate limits themselves, so that the work so far is kept.
            request_timeout=self._idle_s + TRIES * LONGEST_RETRY_S,
            max_retries=TRIES,
        )
        if self._reply_tokens is not None:
            settings["max_tokens"] = _int(self._reply_tokens, 0)
        agent = Agent(
            output_type=str,
            instructions=INSTRUCTIONS.format(editable=", ".join(assignment.editable[:50])),
            tools=tools,
            retries=TOOL_TRIES,
        )
        limits = UsageLimits(
            request_limit=self._turns, tool_calls_limit=CALLS_PER_TURN * self._turns
        )
        briefing = assignment.briefing.read_text(encoding="utf-8")
        log = _Log(assignment.directory / "agent.log", self._key)
        async with httpx2.AsyncClient(
            verify=self._tls,
            timeout=self._idle_s,
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [_bound]},
        ) as client:
            talk = agent.iter(
                briefing + answer.ASK.format(metric=assignment.metric.name),
                model=self._model(client),
                model_settings=settings,
                usage_limits=limits,
                usage=usage,
            )
            with warnings.catch_warnings(action="ignore"):
                async with talk as run:
                    async for node in run:
                        if Agent.is_model_request_node(node):
                            log.asked(node.request)
                            self._require_allowance(assignment, usage)
                        elif Agent.is_call_tools_node(node):
                            log.answered(node.model_response)
        assert run.result is not None
        return run.result.output

    def _model(self, client: Any) -> Model:
        provider = self._make_provider(
            api_key=self._key, base_url=self._base_url, http_client=client
        )
        made: Model = self._make_model(self._name, provider=provider)
        return made

    # What it costs

    def _cost_usd(self, usage: RunUsage, prices: Prices | None) -> float | None:
        """In dollars, by the contract's prices, else by those that pydantic-ai brings along.

        Its own are for the providers' own servers: what answers elsewhere may cost anything.
        """
        if usage.unmeasured_requests:
            return None
        if not usage.total_tokens:
            return 0.0
        if prices is not None:
            return prices.cost_usd(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
        if self._own_server or usage.cost is None:
            return None
        return float(usage.cost)

    def _require_allowance(self, assignment: Assignment, usage: RunUsage) -> None:
        """Before each request: see that the run's limits leave something for it.

        Raises:
            AgentError: they do not.
        """
        cost_usd = self._cost_usd(usage, assignment.choice.prices)
        for name, left, used in (
            ("tokens", assignment.tokens_left, usage.total_tokens),
            ("cost_usd", assignment.cost_left_usd, cost_usd),
        ):
            if left is not None and used is not None and used >= left:
                raise AgentError(
                    f"it used {used:g} of the {left:g} that limits.{name} left",
                    failure=AgentFailure.LIMIT,
                )

    # How it fails

    def _failure(self, error: Exception) -> AgentError:
        """What a failed conversation means for the engine.

        Raises:
            UserError: only a person can put it right.
        """
        message = clean(_without(self._key, _said(error)), 300) or type(error).__name__
        where = f"{self._name} at {self._base_url}"
        fix = ""
        match error:
            case exceptions.ModelAuthenticationError():
                failure = AgentFailure.AUTH
                message = f"{self._base_url} refuses the key: {message}"
                fix = f"put a valid key into {self._key_name}; autoresearch run continues"
                if not self._key_name:
                    fix = 'name the variable that holds your key: [agent] env = ["..."]'
            case exceptions.ModelNotFoundError():
                raise UserError(
                    f"there is no {where}: {message}", fix="check agent.api.model and base_url"
                ) from None
            case exceptions.ModelQuotaExceededError():
                failure = AgentFailure.USAGE_LIMIT
            case exceptions.ModelRateLimitError() | exceptions.ModelUnavailableError():
                failure = AgentFailure.RATE_LIMITED
            case exceptions.UsageLimitExceeded():
                failure = AgentFailure.LIMIT
                message = f"it did not finish within {self._turns} turns"
            case (
                exceptions.ModelContextWindowExceededError() | exceptions.OutputTokenLimitExceeded()
            ):
                failure = AgentFailure.LIMIT
            case exceptions.ContentFilterError():
                failure = AgentFailure.DENIED
            case exceptions.ModelTimeoutError() | exceptions.ModelRequestTimeout():
                failure = AgentFailure.TIMEOUT
                message = f"{where} did not answer within {self._idle_s:g} s"
            case TimeoutError():
                failure = AgentFailure.TIMEOUT
                message = "it did not finish within agent.timeout"
            case exceptions.ModelConnectionError():
                failure = AgentFailure.CRASHED
                message = f"cannot reach {where}: {message}"
            case _:
                failure = AgentFailure.CRASHED
        retry_after_s = getattr(error, "retry_after", None)
        return AgentError(message, fix=fix, failure=failure, retry_after_s=retry_after_s)


class _Log:
    """The conversation in a file for people: bounded, printable and without the key."""

    def __init__(self, path: Path, key: str) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._key = key
        self._left = LOG_BYTES

    def asked(self, request: ModelRequest) -> None:
        for part in request.parts:
            if part.part_kind in ("tool-return", "retry-prompt"):
                self._write("<", str(getattr(part, "content", "")))

    def answered(self, response: ModelResponse) -> None:
        for part in response.parts:
            if part.part_kind == "tool-call":
                self._write(">", f"{part.tool_name} {part.args}")
            elif part.part_kind == "text":
                self._write(":", part.content)

    def _write(self, sign: str, text: str) -> None:
        lines = block(_without(self._key, text[: self._left])).splitlines() or [""]
        said = "".join(f"{sign} {line}\n" for line in lines)[: self._left]
        self._left -= len(said)
        self._file.write(said)
        self._file.flush()


class _Bounded(httpx2.AsyncByteStream):
    """An answer's bytes, up to a limit."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = ANSWER_BYTES
        async for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise AgentError(f"the model's server answered with more than {ANSWER_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: Any) -> None:
    """Bound what is read of an answer, which must not grow when it is unpacked."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise AgentError("the model's server packed its answer, though asked not to")
    response.stream = _Bounded(response.stream)


def _key(names: object, usual: str, *, required: bool) -> tuple[str, str]:
    """The name of the variable with the key, and the key.

    Raises:
        UserError: there is none.
    """
    name = str(names[0]) if isinstance(names, list) and names else ""
    if not name:
        if required:
            raise UserError(
                "agent.env names no variable with the key",
                fix=f'[agent] env = ["{usual}"], and export {usual}=...',
            )
        return "", NO_KEY
    if not (key := os.environ.get(name, "").strip()):
        raise UserError(
            f"agent.env = [{name!r}]: that variable is not set", fix=f"export {name}=..."
        )
    return name, key


def _tokens(usage: RunUsage) -> int | None:
    return None if usage.unmeasured_requests else usage.total_tokens


def _said(error: Exception) -> str:
    """What the server said, where its answer is an error with a message; else all there is."""
    body = getattr(error, "body", None)
    found = body.get("error", body) if isinstance(body, Mapping) else None
    if isinstance(found, Mapping) and isinstance(found.get("message"), str):
        return f"{getattr(error, 'status_code', '')} {found['message']}".strip()
    return str(error)


def _without(key: str, text: str) -> str:
    return text if key == NO_KEY else text.replace(key, "***")


def _int(value: Json, default: int) -> int:
    return value if isinstance(value, int) else default


def _float(value: Json, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default
