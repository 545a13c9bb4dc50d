"""A model that follows a script, served on loopback as the hosted ones are: no key, no network.

It speaks Anthropic messages, OpenAI responses and chat completions, and Gemini, streamed or not.
A turn of the script says what the model wants ("edit this file"); which tool that takes is decided
from the tools that the request offers, so that one script drives every agent. Standard library
only; requests that offer no tools (a title, a warm-up) are answered and use up no turn.

    with MockModel([Edit("train.py", "LR = 0.5", "LR = 0.3"), Say("Lower the rate")]) as model:
        ... model.url ..., model.requests
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "key-of-the-mock-model"
INPUT_TOKENS, OUTPUT_TOKENS = 100, 10
SHELLS = (
    "Bash", "bash", "exec_command", "shell", "shell_command", "run_shell_command",
    "run_command", "run",
)  # fmt: skip
EDITORS = ("Edit", "edit", "edit_file", "replace", "str_replace")
READERS = ("Read",)
# What agents call the arguments of their tools.
PATHS = ("file_path", "filePath", "path", "file")
OLDS = ("old_string", "oldString", "oldText", "old_text", "old", "search")
NEWS = ("new_string", "newString", "newText", "new_text", "new", "replace")
COMMANDS = ("command", "cmd", "argv")


# The turns of a script.


@dataclass(frozen=True, slots=True)
class Say:
    """Ends the model's turn with a text."""

    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces a text in a file, by whatever tool of the agent can."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Run:
    """Runs a command in the agent's shell."""

    command: str


@dataclass(frozen=True, slots=True)
class Call:
    """Calls a tool by its name."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that is an error; ``kind`` is Anthropic's word for it."""

    status: int
    kind: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stall:
    """Half of an answer, and then nothing more, with the connection open."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Half of an answer, and then the connection is closed."""


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer at all, with the connection open."""


Turn = Say | Edit | Run | Call | Fault | Stall | Drop | Silence


def rate_limited(retry_after_s: int | None = None) -> Fault:
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return Fault(429, "rate_limit_error", "Rate limit reached for requests", headers)


def overloaded() -> Fault:
    return Fault(529, "overloaded_error", "Overloaded")


UNAUTHORIZED = Fault(401, "authentication_error", "invalid x-api-key: incorrect API key provided")


@dataclass(frozen=True, slots=True)
class Request:
    """What an agent asked, and when (a monotonic second)."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    tools: tuple[str, ...]
    at_s: float

    @property
    def text(self) -> str:
        return json.dumps(self.body)


# What the model wants, in the tools that it is offered.

Tools = Mapping[str, Mapping[str, Any]]
Part = tuple[str, dict[str, Any]] | str
"""A tool and its arguments, or a text."""


def offered(body: Mapping[str, Any]) -> Tools:
    """The tools of a request by name, each with the properties of its arguments.

    One of a namespace, as OpenAI's responses have it, is ``namespace.name``.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for tool in body.get("tools") or ():
        for entry in tool.get("functionDeclarations") or tool.get("tools") or [tool]:
            each = entry.get("function") or entry
            schema = (
                each.get("input_schema") or each.get("parameters")
                or each.get("parametersJsonSchema") or each.get("parameters_json_schema") or {}
            )  # fmt: skip
            if name := each.get("name"):
                space = f"{tool['name']}." if entry is not tool and "name" in tool else ""
                found[f"{space}{name}"] = schema.get("properties") or {}
    return found


def parts(turn: Turn, tools: Tools) -> list[Part]:
    """What the model answers in a turn."""
    match turn:
        case Say(text):
            return [text]
        case Call(tool, arguments):
            return [(tool, dict(arguments))]
        case Run(command):
            return [_shell(command, tools)]
        case Edit(path, old, new):
            return _edit(path, old, new, tools)
        case _:
            # Long enough to be cut in the middle.
            return ["A long thought about the learning rate. " * 20]


def _edit(path: str, old: str, new: str, tools: Tools) -> list[Part]:
    editor = next((name for name in EDITORS if name in tools), None)
    if editor is None:
        # Its effect is that of an editor, and it fails where the text is not there.
        script = (
            "import pathlib, sys; path, old, new = sys.argv[1:];"
            " text = pathlib.Path(path).read_text(); assert old in text;"
            " pathlib.Path(path).write_text(text.replace(old, new))"
        )
        return [_shell(shlex.join(["python3", "-c", script, path, old, new]), tools)]
    wanted: dict[str, Any] = {}
    for names, value in ((PATHS, path), (OLDS, old), (NEWS, new)):
        wanted |= {name: value for name in names if name in tools[editor]}
    if "edits" in tools[editor]:
        wanted["edits"] = [{"oldText": old, "newText": new}]
    if "instruction" in tools[editor]:
        wanted["instruction"] = "edit"
    found: list[Part] = [(editor, wanted)]
    # An editor may insist that the file was read before.
    reading: list[Part] = [(name, {"file_path": path}) for name in READERS if name in tools]
    return reading + found


def _shell(command: str, tools: Tools) -> Part:
    shell = next((name for name in SHELLS if name in tools), SHELLS[0])
    properties = tools.get(shell, {})
    name = next((each for each in COMMANDS if each in properties), COMMANDS[0])
    several = properties.get(name, {}).get("type") == "array"
    arguments: dict[str, Any] = {name: ["bash", "-lc", command] if several else command}
    if "description" in properties:
        arguments["description"] = "what the script says"
    return shell, arguments


# The protocols: how an answer is written, whole and as a stream of (event, data).

Events = Iterator[tuple[str | None, dict[str, Any]]]


def anthropic(said: Sequence[Part], model: str, number: int) -> tuple[dict[str, Any], Events]:
    content: list[dict[str, Any]] = []
    for i, part in enumerate(said):
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            identity = f"toolu_{number}_{i}"
            content.append({"type": "tool_use", "id": identity, "name": part[0], "input": part[1]})
    calls = any(each["type"] == "tool_use" for each in content)
    reason = "tool_use" if calls else "end_turn"
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS,
             "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}  # fmt: skip
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": model,
               "content": content, "stop_reason": reason, "stop_sequence": None,
               "usage": usage}  # fmt: skip

    def events() -> Events:
        start = {**message, "content": [], "stop_reason": None}
        yield "message_start", {"type": "message_start", "message": start}
        for i, block in enumerate(content):
            if block["type"] == "text":
                empty, pieces = {**block, "text": ""}, _halves(block["text"])
                deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
            else:
                empty, pieces = {**block, "input": {}}, _halves(json.dumps(block["input"]))
                deltas = [{"type": "input_json_delta", "partial_json": p} for p in pieces]
            yield (
                "content_block_start",
                {"type": "content_block_start", "index": i, "content_block": empty},
            )
            for delta in deltas:
                yield (
                    "content_block_delta",
                    {"type": "content_block_delta", "index": i, "delta": delta},
                )
            yield "content_block_stop", {"type": "content_block_stop", "index": i}
        ended = {"stop_reason": reason, "stop_sequence": None}
        yield "message_delta", {"type": "message_delta", "delta": ended, "usage": usage}
        yield "message_stop", {"type": "message_stop"}

    return message, events()


def responses(said: Sequence[Part], model: str, number: int) -> tuple[dict[str, Any], Events]:
    output: list[dict[str, Any]] = []
    for i, part in enumerate(said):
        if isinstance(part, str):
            text = {"type": "output_text", "text": part, "annotations": []}
            output.append({"type": "message", "id": f"msg_{number}_{i}", "role": "assistant",
                           "status": "completed", "content": [text]})  # fmt: skip
        else:
            space, _, name = part[0].rpartition(".")
            output.append({"type": "function_call", "id": f"fc_{number}_{i}",
                           "call_id": f"call_{number}_{i}", "name": name,
                           **({"namespace": space} if space else {}),
                           "arguments": json.dumps(part[1]), "status": "completed"})  # fmt: skip
    usage = {"input_tokens": INPUT_TOKENS, "input_tokens_details": {"cached_tokens": 0},
             "output_tokens": OUTPUT_TOKENS, "output_tokens_details": {"reasoning_tokens": 0},
             "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}  # fmt: skip
    whole = {"id": f"resp_{number}", "object": "response", "created_at": 0, "model": model,
             "status": "completed", "output": output, "usage": usage, "tools": [],
             "tool_choice": "auto", "parallel_tool_calls": False}  # fmt: skip

    def events() -> Events:
        def event(kind: str, **fields: Any) -> tuple[str, dict[str, Any]]:
            return kind, {"type": kind, **fields}

        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        yield event("response.created", response=begun)
        for i, item in enumerate(output):
            empty = {**item, "status": "in_progress"}
            empty |= {"content": []} if item["type"] == "message" else {"arguments": ""}
            yield event("response.output_item.added", output_index=i, item=empty)
            where = {"item_id": item["id"], "output_index": i}
            if item["type"] == "message":
                content = item["content"][0]
                where["content_index"] = 0
                yield event("response.content_part.added", **where, part={**content, "text": ""})
                for piece in _halves(content["text"]):
                    yield event("response.output_text.delta", **where, delta=piece)
                yield event("response.output_text.done", **where, text=content["text"])
                yield event("response.content_part.done", **where, part=content)
            else:
                for piece in _halves(item["arguments"]):
                    yield event("response.function_call_arguments.delta", **where, delta=piece)
                yield event(
                    "response.function_call_arguments.done", **where, arguments=item["arguments"]
                )
            yield event("response.output_item.done", output_index=i, item=item)
        yield event("response.completed", response=whole)

    return whole, events()


def chat(said: Sequence[Part], model: str, number: int) -> tuple[dict[str, Any], Events]:
    text = "".join(part for part in said if isinstance(part, str))
    calls: list[dict[str, Any]] = [
        {"id": f"call_{number}_{i}", "type": "function",
         "function": {"name": part[0], "arguments": json.dumps(part[1])}}
        for i, part in enumerate(said) if not isinstance(part, str)
    ]  # fmt: skip
    reason = "tool_calls" if calls else "stop"
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS,
             "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}  # fmt: skip
    base = {"id": f"chatcmpl-{number}", "created": 0, "model": model}
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": reason}
    whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}

    def events() -> Events:
        def chunk(delta: dict[str, Any], reason: str | None = None) -> tuple[None, dict[str, Any]]:
            choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
            return None, {**base, "object": "chat.completion.chunk", "choices": choices}

        yield chunk({"role": "assistant", "content": ""})
        for piece in _halves(text):
            yield chunk({"content": piece})
        for i, call in enumerate(calls):
            begun = {**call["function"], "arguments": ""}
            yield chunk({"tool_calls": [{**call, "index": i, "function": begun}]})
            for piece in _halves(call["function"]["arguments"]):
                yield chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
        yield chunk({}, reason)
        yield None, {**base, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    return whole, events()


def gemini(said: Sequence[Part], model: str, number: int) -> tuple[dict[str, Any], Events]:
    content = [
        {"text": part} if isinstance(part, str)
        else {"functionCall": {"name": part[0], "args": part[1], "id": f"call_{number}_{i}"}}
        for i, part in enumerate(said)
    ]  # fmt: skip
    usage = {"promptTokenCount": INPUT_TOKENS, "candidatesTokenCount": OUTPUT_TOKENS,
             "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS}  # fmt: skip

    def answer(parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
        candidate = {"index": 0, "content": {"role": "model", "parts": parts}}
        if reason:
            candidate["finishReason"] = reason
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model}

    def events() -> Events:
        for each in content:
            yield None, answer([each], None)
        yield None, answer([{"text": ""}], "STOP")

    return answer(content, "STOP"), events()


PROTOCOLS = (
    (re.compile(r"/messages$"), anthropic),
    (re.compile(r"/responses$"), responses),
    (re.compile(r"/chat/completions$"), chat),
    (re.compile(r":(stream)?[gG]enerateContent$"), gemini),
)


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


class MockModel:
    """The server, for as long as it is entered; ``requests`` are those that offered tools.

    After the script's last turn the model says that it is done, or, where it is ``endless``,
    repeats that turn.
    """

    def __init__(self, script: Sequence[Turn], *, key: str = KEY, endless: bool = False) -> None:
        self.script = tuple(script)
        self.key = key
        self.endless = endless
        self.requests: list[Request] = []
        self.refused = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> MockModel:
        model = self

        class Bound(Handler):
            mock = model

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Without a path: what Anthropic's and Gemini's clients call the base."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """What OpenAI's clients call the base."""
        return f"{self.url}/v1"

    def next_turn(self, request: Request) -> tuple[int, Turn]:
        """The turn that answers a request, and its number."""
        with self._lock:
            if not request.tools:
                return len(self.requests), Say("A title")
            self.requests.append(request)
            number = len(self.requests)
        if number <= len(self.script):
            return number, self.script[number - 1]
        return number, self.script[-1] if self.endless else Say("Done.")

    def refuse(self) -> None:
        with self._lock:
            self.refused += 1

    def hold(self, connection: socket.socket) -> None:
        """Keep a connection open without a word until the other side or the server closes it."""
        connection.settimeout(0.1)
        while not self._closing.is_set():
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return


class Handler(BaseHTTPRequestHandler):
    """One connection to the model."""

    mock: MockModel
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._send(200, {})

    def do_GET(self) -> None:
        self._send(404, {"error": {"message": "not here"}})

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        body = self._body()
        write = next((write for at, write in PROTOCOLS if at.search(path)), None)
        if write is None:
            self._send(404, {"error": {"message": f"no {path} here"}})
            return
        if not self._has_key():
            self.mock.refuse()
            self._fault(UNAUTHORIZED)
            return
        tools = offered(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(path, headers, body, tuple(tools), time.monotonic())
        number, turn = self.mock.next_turn(request)
        if isinstance(turn, Fault):
            self._fault(turn)
            return
        if isinstance(turn, Silence):
            self.mock.hold(self.connection)
            self.close_connection = True
            return
        named = re.search(r"models/([^:/]+):", path)
        name = str(body.get("model") or (named[1] if named else "mock"))
        whole, events = write(parts(turn, tools), name, number)
        if body.get("stream") or "stream" in path:
            self._stream(turn, events, done=write is chat)
        else:
            self._answer(turn, whole)

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("content-length") or 0)
        try:
            found = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _has_key(self) -> bool:
        said = [self.headers.get(name) or "" for name in ("x-api-key", "x-goog-api-key")]
        said.append((self.headers.get("authorization") or "").removeprefix("Bearer "))
        return self.mock.key in said

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fault(self, fault: Fault) -> None:
        """An error in all dialects at once: each client reads the fields that it knows."""
        error = {"type": fault.kind, "code": fault.kind, "message": fault.message}
        if "enerateContent" in self.path:
            words = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}
            error |= {"code": fault.status, "status": words.get(fault.status, "INTERNAL")}
        self._send(fault.status, {"type": "error", "error": error}, fault.headers)

    def _answer(self, turn: Turn, whole: dict[str, Any]) -> None:
        if not isinstance(turn, Stall | Drop):
            self._send(200, whole)
            return
        data = json.dumps(whole).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self._leave(turn)

    def _stream(self, turn: Turn, events: Events, *, done: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        frames = list(events)
        cut = isinstance(turn, Stall | Drop)
        for event, data in frames[: len(frames) // 2] if cut else frames:
            name = f"event: {event}\n" if event else ""
            self.wfile.write(f"{name}data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()
        if cut:
            self._leave(turn)
        elif done:
            self.wfile.write(b"data: [DONE]\n\n")

    def _leave(self, turn: Turn) -> None:
        """Go silent, or away, in the middle of an answer."""
        self.wfile.flush()
        self.close_connection = True
        if isinstance(turn, Stall):
            self.mock.hold(self.connection)
