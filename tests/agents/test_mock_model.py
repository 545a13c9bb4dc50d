"""The mock model itself: each protocol, whole and streamed, and its faults."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.agents.mock_model import (
    INPUT_TOKENS,
    KEY,
    Call,
    Drop,
    Edit,
    MockModel,
    Run,
    Say,
    Stall,
    rate_limited,
)

TEXT = {"type": "string"}
EDITOR = {"name": "edit", "properties": {"path": TEXT, "search": TEXT, "replace": TEXT}}
SHELL = {"name": "exec_command", "properties": {"cmd": TEXT}}
WANTED = {"path": "train.py", "search": "a", "replace": "b"}


def offer(path: str, tool: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One tool as each protocol spells it."""
    name, schema = tool["name"], {"type": "object", "properties": tool["properties"]}
    if "messages" in path:
        return [{"name": name, "input_schema": schema}]
    if "responses" in path:
        return [{"type": "function", "name": name, "parameters": schema}]
    if "chat" in path:
        return [{"type": "function", "function": {"name": name, "parameters": schema}}]
    return [{"functionDeclarations": [{"name": name, "parametersJsonSchema": schema}]}]


def ask(
    model: MockModel, path: str, body: Mapping[str, Any], key: str = KEY
) -> tuple[int, Mapping[str, str], bytes]:
    connection = http.client.HTTPConnection(model.url.removeprefix("http://"), timeout=10)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read()


@pytest.mark.parametrize(
    "path",
    ["/v1/messages", "/v1/responses", "/v1/chat/completions", "/v1beta/models/m:generateContent"],
)
def test_a_script_is_followed_with_the_tools_offered(path: str) -> None:
    tools = offer(path, EDITOR)
    with MockModel([Edit("train.py", "a", "b"), Say("Done it")]) as model:
        assert ask(model, path, {"model": "m"})[2].count(b"A title") == 1
        status, _, first = ask(model, path, {"model": "m", "tools": tools})
        second = ask(model, path, {"model": "m", "tools": tools})[2]
        streamed = path.replace(":generate", ":streamGenerate")
        stream = ask(model, streamed, {"model": "m", "tools": tools, "stream": True})[2]
    assert status == 200
    said = first.replace(b"\\", b"").decode()
    assert '"edit"' in said and all(f'"{k}": "{v}"' in said for k, v in WANTED.items())
    assert str(INPUT_TOKENS) in said
    assert b"Done it" in second
    frames = [line for line in stream.decode().splitlines() if line.startswith("data: {")]
    assert len(frames) > 1 and all(json.loads(frame[6:]) for frame in frames)
    assert [each.tools for each in model.requests] == [("edit",)] * 3


def test_an_edit_without_an_editor_goes_through_the_shell() -> None:
    tools = offer("/v1/responses", SHELL)
    with MockModel([Edit("train.py", "a", "b"), Run("echo hi")]) as model:
        first = ask(model, "/v1/responses", {"tools": tools})[2]
        second = ask(model, "/v1/responses", {"tools": tools})[2]
    call = json.loads(first)["output"][0]
    assert call["name"] == "exec_command"
    assert json.loads(call["arguments"])["cmd"].endswith("train.py a b")
    assert json.loads(json.loads(second)["output"][0]["arguments"]) == {"cmd": "echo hi"}


def test_a_tool_of_a_namespace_is_called_in_it() -> None:
    space = {"type": "namespace", "name": "engine", "tools": offer("/v1/responses", SHELL)}
    with MockModel([Call("engine.exec_command", {"cmd": "true"})]) as model:
        said = json.loads(ask(model, "/v1/responses", {"tools": [space]})[2])["output"][0]
    assert model.requests[0].tools == ("engine.exec_command",)
    assert (said["namespace"], said["name"]) == ("engine", "exec_command")


def test_faults() -> None:
    body = {"tools": offer("/v1/messages", EDITOR), "stream": True}
    with MockModel([rate_limited(7), Drop(), Stall()]) as model:
        assert ask(model, "/v1/messages", body, key="wrong")[0] == 401
        status, headers, said = ask(model, "/v1/messages", body)
        assert (status, headers["retry-after"]) == (429, "7")
        assert json.loads(said)["error"]["type"] == "rate_limit_error"
        half = ask(model, "/v1/messages", body)[2]
        assert b"message_start" in half and b"message_stop" not in half
        with pytest.raises(TimeoutError):
            connection = http.client.HTTPConnection(model.url.removeprefix("http://"), timeout=1)
            headers = {"x-api-key": KEY}
            connection.request("POST", "/v1/messages", json.dumps(body), headers)
            connection.getresponse().read()
        assert ask(model, "/v1/messages", {"tools": offer("/v1/messages", EDITOR)})[0] == 200
    assert model.refused == 1 and len(model.requests) == 4
