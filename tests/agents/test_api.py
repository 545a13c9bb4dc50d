"""The ``api`` agent with a model on loopback: as a person sets it up, and as servers fail."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_ai", reason="the extra api is not installed")

from autoresearch.agents.api import ApiAgent
from autoresearch.errors import AgentError, UserError
from autoresearch.types import (
    AgentChoice,
    AgentFailure,
    Assignment,
    Kind,
    Launched,
    Metric,
    Plan,
    Prices,
    Proposal,
)
from tests.agents.mock_model import (
    INPUT_TOKENS,
    KEY,
    OUTPUT_TOKENS,
    Call,
    Drop,
    Edit,
    Fault,
    MockModel,
    Run,
    Say,
    Silence,
    Stall,
    Turn,
    rate_limited,
)
from tests.conftest import Toy
from tests.invariants import check_invariants

CALL_TOKENS = INPUT_TOKENS + OUTPUT_TOKENS
BETTER = Edit("train.py", "LR = 0.5", "LR = 0.3")
DONE = Say("Fine.\n\n**description:** lower the rate\nhypothesis: it overshoots\nexpected: -0.1")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# Through the whole engine


def using(model: MockModel, more: str = "") -> dict[str, str]:
    return {
        "agent": f'use = "api"\nenv = ["THE_KEY"]\n[agent.api]\nmodel = "local-model:8b"\n'
        f'base_url = "{model.openai_url}"\nidle = "5s"\n{more}',
        "limits": "experiments = 1",
    }


def test_a_real_edit_is_kept(toy: Callable[..., Toy]) -> None:
    with MockModel([Call("read_file", {"path": "train.py"}), BETTER, DONE]) as model:
        task = toy(**using(model))
        task.call("run")
    made = check_invariants(task).experiments[1]
    assert task.statuses() == ["keep", "keep"]
    assert made.description == "lower the rate" and made.hypothesis == "it overshoots"
    assert made.expected == "-0.1" and made.tokens == 3 * CALL_TOKENS and made.cost_usd is None
    # What it was told, and what it read.
    asked = str(model.requests[0].body)
    assert "lower loss" in asked and "You may edit only train.py" in asked
    assert "LR = 0.5" in str(model.requests[1].body)
    log = (task.run_folder / "experiments" / "1" / "agent.log").read_text()
    assert "> read_file" in log and "< LR = 0.5" in log and ": Fine." in log


def test_the_three_files_with_a_local_model(three_files: Toy) -> None:
    """As a person sets it up who has the three files and a model of their own: no key."""
    edit = Edit("train.py", "LEARNING_RATE = 0.002", "LEARNING_RATE = 0.02")
    with MockModel([edit, Say("description: ten times the rate")], key="none") as model:
        three_files.call("init", "--budget", "10s")
        with (three_files.root / "autoresearch.toml").open("a") as contract:
            contract.write(
                '[agent]\nuse = "api"\n'
                f'[agent.api]\nmodel = "qwen3-coder:30b"\nbase_url = "{model.openai_url}"\n'
            )
        three_files.call("run", "--max-experiments", "1")
    assert model.requests[0].body["model"] == "qwen3-coder:30b"
    assert three_files.statuses() == ["keep", "keep"]
    assert three_files.rows()[2][4] == "ten times the rate"


def test_an_edit_outside_is_refused_and_told(toy: Callable[..., Toy]) -> None:
    script: list[Turn] = [
        Edit("autoresearch.toml", "5s", "500s"),
        Edit("../../../outside", "a", "b"),
        Call("read_file", {"path": "/etc/passwd"}),
        BETTER,
        DONE,
    ]
    with MockModel(script) as model:
        task = toy(**using(model))
        task.call("run")
    assert task.statuses() == ["keep", "keep"]
    assert "autoresearch.toml is protected" in str(model.requests[1].body)
    assert "is protected; you may edit train.py" in str(model.requests[2].body)
    assert "not a path within the workspace" in str(model.requests[3].body)
    assert "root:x" not in str(model.requests[3].body)
    check_invariants(task)


def test_a_command_is_run_without_key_or_network(toy: Callable[..., Toy]) -> None:
    reach = (
        "import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('rea' + 'ched')"
    )
    peek = "bash -c 'env; cat /proc/*/environ; cat /proc/*/cmdline'"
    script: list[Turn] = [Run(peek), Run(""), Run("python3 -c 'print(6 * 7)'"), BETTER, DONE]
    with MockModel(script) as model:
        code = reach.format(port=model.openai_url.split(":")[2].split("/")[0])
        model.script = (script[0], Run(f'python3 -c "{code}"'), *script[2:])
        task = toy(files={"train.py": NOSY}, **using(model))
        task.call("run")
    bodies = [str(each.body) for each in model.requests]
    assert "PATH=" in bodies[1] and KEY not in bodies[1]
    assert "reached" not in bodies[2]
    assert "42" in bodies[3]
    assert task.statuses() == ["keep", "keep"]
    assert_nowhere(KEY, task.root)


NOSY = """\
import os
import random

print(os.environ)
LR = 0.5
noise = random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.001)
print("loss:", (LR - 0.1) ** 2 + noise)
"""


def assert_nowhere(key: str, root: Path) -> None:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 20
    assert not [path for path in files if key.encode() in path.read_bytes()]


def test_a_wrong_key_ends_the_run_with_what_to_do(
    toy: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-wrong-key-of-mine")
    with MockModel([BETTER]) as model:
        task = toy(**using(model))
        done = task.call("run", code=2)
    assert model.refused == 1
    assert f"{model.openai_url} refuses the key" in done.stderr
    assert "put a valid key into THE_KEY" in done.stderr
    assert_nowhere("sk-wrong-key-of-mine", task.root)


def test_a_rate_limit_is_waited_out(toy: Callable[..., Toy]) -> None:
    # Three in a row are more than the client itself tries.
    with MockModel([*[rate_limited(1)] * 3, BETTER, DONE]) as model:
        task = toy(**using(model))
        task.call("run")
    view = check_invariants(task)
    assert task.statuses() == ["keep", "keep"]
    assert view.agent_failures[AgentFailure.RATE_LIMITED] == 1


def test_a_limit_on_cost_needs_the_prices_of_a_server_of_ones_own(toy: Callable[..., Toy]) -> None:
    with MockModel([BETTER, DONE]) as model:
        task = toy(**(using(model) | {"limits": "cost_usd = 1"}))
        done = task.call("run", code=2)
    assert "limits.cost_usd = 1 cannot be held" in done.stderr and "[agent.prices]" in done.stderr
    prices = "[agent.prices]\ninput = 1000\noutput = 20000"
    with MockModel([BETTER, DONE], endless=True) as model:
        sections = using(model, prices) | {"limits": "cost_usd = 0.5"}
        contract = task.root / "autoresearch.toml"
        again = Toy(task.root.parent / "again", {}, sections).create()
        contract.write_text((again.root / "autoresearch.toml").read_text())
        task.call("run")
    # 100 tokens in and 10 out for each of two calls.
    assert task.experiment(1).cost_usd == pytest.approx(2 * (0.1 + 0.2))
    assert task.view().end_reason == "limit reached: cost_usd 0.5"


def test_who_lacks_the_packages_is_told(toy: Callable[..., Toy], tmp_path: Path) -> None:
    hide = "import sys; sys.modules['pydantic_ai'] = None; from autoresearch import cli; cli.main()"
    with MockModel([]) as model:
        task = toy(**using(model))
    done = subprocess.run(
        [sys.executable, "-c", hide, "run"], cwd=task.root, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'autoresearch[api]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ('use = "api"', 'api needs a model: [agent.api] model = "openai:..."'),
        ('use = "api"\n[agent.api]\nmodel = "gpt-9"', "no such provider"),
        ('use = "api"\n[agent.api]\nmodel = "openai:gpt-9"', 'env = ["OPENAI_API_KEY"]'),
        (
            'use = "api"\nenv = ["NOT_SET"]\n[agent.api]\nmodel = "openai:gpt-9"',
            "export NOT_SET=...",
        ),
        ('use = "api"\n[agent.api]\nmodel = "x"\nbase_url = "localhost:1"', "an address such as"),
        ('use = "api"\n[agent.api]\nmodle = "x"', "did you mean model?"),
    ],
)
def test_a_wrong_contract_is_said_at_once(agent: str, said: str, toy: Callable[..., Toy]) -> None:
    done = toy(agent=agent).call("run", code=2)
    assert said in done.stderr


# Alone, as servers fail


class Alone:
    """The agent with a workspace and no engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.train = self.workspace / "train.py"
        self.train.write_text("LR = 0.5\n")
        (folder / "briefing.md").write_text("Lower the loss.")

    def ask(self, model: MockModel | str, **more: Any) -> Proposal:
        address = model if isinstance(model, str) else model.openai_url
        kind = more.pop("kind", "openai")
        if kind != "openai" and isinstance(model, MockModel):
            address = model.url
        choice = AgentChoice(
            "api", timeout_s=more.pop("timeout_s", 60.0), prices=more.pop("prices", None)
        )
        limits = {k: more.pop(k) for k in ("tokens_left", "cost_left_usd") if k in more}
        options = {"model": f"{kind}:m", "base_url": address, "env": ["THE_KEY"], "idle": 2.0}
        agent = ApiAgent(options | more)

        async def run(argv: Sequence[str], seconds: float) -> Launched:
            raise AssertionError

        assignment = Assignment(
            1, self.workspace, ("train.py",), Plan("", Kind.IMPROVE), 1, Metric("loss"), {}, [],
            self.folder / "briefing.md", self.folder, choice=choice, run=run, **limits,
        )  # fmt: skip
        return asyncio.run(agent.propose(assignment))

    def fails(self, model: MockModel | str, **more: Any) -> AgentError:
        with pytest.raises(AgentError) as caught:
            self.ask(model, **more)
        return caught.value


@pytest.fixture
def alone(tmp_path: Path) -> Alone:
    return Alone(tmp_path)


@pytest.mark.parametrize("kind", ["openai", "anthropic", "google"])
def test_every_protocol(kind: str, alone: Alone) -> None:
    reason = f"the extra api is not whole: no {kind}"
    pytest.importorskip(f"pydantic_ai.models.{kind}", reason=reason, exc_type=ImportError)
    with MockModel([BETTER, DONE]) as model:
        said = alone.ask(model, kind=kind, prices=Prices(1.0, 2.0))
    assert alone.train.read_text() == "LR = 0.3\n"
    assert said.description == "lower the rate"
    assert said.tokens == 2 * CALL_TOKENS
    assert said.cost_usd == pytest.approx(2 * (INPUT_TOKENS + 2 * OUTPUT_TOKENS) / 1e6)


def test_a_server_that_stalls_ends_by_its_clock(alone: Alone) -> None:
    for turn in (Silence(), Stall()):
        began = time.monotonic()
        with MockModel([BETTER, turn], endless=True) as model:
            failed = alone.fails(model, idle=1.0)
        assert failed.failure is AgentFailure.TIMEOUT and "did not answer" in failed.message
        assert failed.tokens == CALL_TOKENS
        assert time.monotonic() - began < 20
        alone.train.write_text("LR = 0.5\n")


def test_the_whole_conversation_has_a_clock_too(alone: Alone) -> None:
    with MockModel([Silence()]) as model:
        failed = alone.fails(model, idle=600.0, timeout_s=1.0)
    assert failed.failure is AgentFailure.TIMEOUT and "agent.timeout" in failed.message


@pytest.mark.parametrize("turn", [Drop(), Stall(), Silence(), rate_limited(1)])
def test_what_happens_once_is_asked_for_again(turn: Turn, alone: Alone) -> None:
    with MockModel([turn, BETTER, DONE]) as model:
        assert alone.ask(model).description == "lower the rate"


def test_endless_tool_calls_end(alone: Alone) -> None:
    with MockModel([Call("list_files", {})], endless=True) as model:
        failed = alone.fails(model, turns=7)
    assert failed.failure is AgentFailure.LIMIT and "within 7 turns" in failed.message
    assert failed.tokens == 7 * CALL_TOKENS and len(model.requests) == 7


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        ({"tokens_left": 2 * CALL_TOKENS}, "limits.tokens left"),
        ({"cost_left_usd": 2e-4, "prices": Prices(1.0, 0.0)}, "limits.cost_usd left"),
    ],
)
def test_it_stops_where_the_run_has_nothing_left(
    left: dict[str, Any], reason: str, alone: Alone
) -> None:
    with MockModel([Call("list_files", {})], endless=True) as model:
        failed = alone.fails(model, **left)
    assert failed.failure is AgentFailure.LIMIT and reason in failed.message
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (rate_limited(1), AgentFailure.RATE_LIMITED),
        (Fault(429, "insufficient_quota", "You exceeded your current quota"),
         AgentFailure.USAGE_LIMIT),
        (Fault(503, "server_error", "busy"), AgentFailure.RATE_LIMITED),
        (Fault(500, "server_error", "broken"), AgentFailure.CRASHED),
        (Fault(400, "invalid_request_error", f"bad {KEY}"), AgentFailure.CRASHED),
    ],
)  # fmt: skip
def test_failures_are_told_apart(fault: Fault, failure: AgentFailure, alone: Alone) -> None:
    with MockModel([fault], endless=True) as model:
        failed = alone.fails(model)
    assert failed.failure is failure
    assert KEY not in failed.message
    assert failed.tokens == 0 and failed.cost_usd == 0.0
    if fault.headers:
        assert failed.retry_after_s == 1


def test_a_model_that_is_not_there_ends_the_run(alone: Alone) -> None:
    with (
        MockModel([Fault(404, "model_not_found", "no such model")]) as model,
        pytest.raises(UserError, match="there is no m at"),
    ):
        alone.ask(model)


def test_a_server_that_is_not_there_is_waited_for(alone: Alone) -> None:
    failed = alone.fails("http://127.0.0.1:9/v1")
    assert failed.failure is AgentFailure.CRASHED
    assert "cannot reach m at http://127.0.0.1:9/v1" in failed.message


def test_arguments_that_make_no_sense_are_answered(alone: Alone) -> None:
    script = [
        Call("read_file", {"path": ["train.py"], "first_line": "x"}),
        Call("no_such_tool", {}),
        BETTER,
        DONE,
    ]
    with MockModel(script) as model:
        assert alone.ask(model).description == "lower the rate"


def test_a_flood_of_text_is_not_read(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch.agents.api.ANSWER_BYTES", 1 << 16)
    with MockModel([Say("x" * (1 << 17))]) as model:
        failed = alone.fails(model)
    assert "more than 65536 bytes" in failed.message
