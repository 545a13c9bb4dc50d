"""Jobs on a real Ray head, through its Jobs REST interface; only with ``--endurance``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from autoresearch.attempt import pack_common
from autoresearch.errors import UnansweredError, UserError
from autoresearch.executors.queue import QueueExecutor, State
from autoresearch.executors.ray import Ray
from autoresearch.failpoint import VARIABLE
from autoresearch.ports import Executor
from autoresearch.runner import descendants
from autoresearch.testing.executor_contract import ExecutorContract
from autoresearch.types import Level, Outcome
from tests.conftest import Toy
from tests.executors.cluster import MissingError
from tests.executors.ray_head import Head, head
from tests.executors.world import World
from tests.faults.story import story
from tests.invariants import check_invariants


@pytest.fixture(scope="session")
def _head(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Head]:
    if not request.config.getoption("--endurance"):
        pytest.skip("a real Ray is installed and started with --endurance only")
    try:
        # Its sockets have long names below that folder.
        with head(Path(tmp_path_factory.mktemp("r"))) as made:
            yield made
    except MissingError as error:
        pytest.skip(str(error))


class TestRay(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, _head: Head) -> None:
        self.head = _head

    def make(self) -> Executor:
        scheduler = Ray(self.head.address, None, "python3", {"entrypoint_num_cpus": 1})
        return QueueExecutor(scheduler, max_in_flight=4, poll_s=0.5, lost_s=3.0)

    def lose(self, job: dict[str, Any]) -> Callable[[], None]:
        """What becomes of a job whose node is gone: nothing of it is left, and no result."""
        words = f"runner.py\0--attempt\0{job['directory']}\0".encode()
        found = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.head.processes()}
        runner = next(pid for pid, said in found.items() if words in said)
        for pid in [runner, *descendants(runner)]:
            os.kill(pid, signal.SIGKILL)
        return lambda: None

    def test_a_name_is_taken_once(self) -> None:
        job = self.job("echo started >>starts")
        self.run(job)
        scheduler = Ray(self.head.address, None, "python3", {})
        body = {"submission_id": f"autoresearch-{job['nonce']}", "entrypoint": "true"}
        with pytest.raises((UnansweredError, UserError), match="already exists"):
            asyncio.run(scheduler._call("POST", "/api/jobs/", body))


class TestRaySends(TestRay):
    """The same where the nodes see nothing of this machine but what is sent to them."""

    def make(self) -> Executor:
        wanted = {"entrypoint_num_cpus": 1}
        scheduler = Ray(self.head.address, None, "python3", wanted, shared=False)
        return QueueExecutor(scheduler, max_in_flight=4, poll_s=0.5, lost_s=3.0, shared=False)

    def lose(self, job: dict[str, Any]) -> Callable[[], None]:
        claim = next(self.head.root.glob(f"*/runtime_resources/*/*{job['nonce']}*/claim"))
        runner = int(claim.read_text().split()[1])
        for pid in [runner, *descendants(runner)]:
            os.kill(pid, signal.SIGKILL)
        return lambda: None

    def test_what_jobs_share_is_sent_once(self) -> None:
        (self.folder / "data").write_text("for all\n")
        package = pack_common({"data": self.folder / "data"}, self.folder)
        for _ in range(2):
            job = self.job("") | {"common": str(package)}
            (step,) = job["steps"]
            step["processes"][0]["argv"][2] = f"cat {job['directory']}/data"
            self.run(job)
            assert self.log(job) == "for all\n"
        assert uploads(self.head).count(package.name) == 1

    def test_a_package_that_is_too_large_is_an_input_error(self) -> None:
        scheduler = Ray(self.head.address, None, "python3", {}, shared=False)
        (self.folder / "large.zip").write_bytes(bytes(101 << 20))
        with pytest.raises(UserError, match="Ray takes no package as large"):
            asyncio.run(scheduler._offer(self.folder / "large.zip"))


def uploads(head: Head) -> list[str]:
    """The packages that were sent to a head and may be for several jobs, by its own log."""
    said = (head.root / "session_latest" / "logs" / "dashboard_JobHead.log").read_text()
    return re.findall(r"Uploading package gcs://(autoresearch-\w{32}\.zip)", said)


def test_a_whole_task_is_sent(tmp_path: Path, _head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(uploads(_head))
    task = story(tmp_path / "task")
    options = f'address = "{_head.address}"\npoll = "0.5s"\nshared = false\n'
    contract = task.root / "autoresearch.toml"
    with contract.open("a") as file:
        file.write(f'[parallel]\nexecutor = "ray"\n[parallel.ray]\n{options}')
    task.git("commit", "--quiet", "--all", "-m", "On Ray")
    monkeypatch.setenv(VARIABLE, "sample.taken:6")
    task.call("run", "--tag", "t", "--max-experiments", "1", code=-signal.SIGKILL)
    monkeypatch.delenv(VARIABLE)
    task.call("run", "--tag", "t", "--max-experiments", "1")
    view = check_invariants(task)
    assert task.statuses() == ["keep", "keep"] and view.experiments[1].guards_passed
    samples = [each.sample for each in view.experiments[1].taken]
    assert {(each.outcome, each.level) for each in samples} == {(Outcome.OK, Level.NAMESPACES)}
    log = task.run_folder / "experiments" / "1" / "samples" / "0" / "run.log"
    assert log.read_text() == "trained\n"
    assert len(uploads(_head)) == before + 1, "what all jobs share was sent anew"


@pytest.mark.parametrize("level", ["landlock", "none"])
def test_what_cannot_be_sent_is_an_input_error(
    level: str, toy: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", level)
    task = toy(parallel='executor = "ray"\n[parallel.ray]\nshared = false')
    done = task.call("run", "--unconfined", code=2)
    assert "parallel.ray.shared = false needs level namespaces" in done.stderr


def test_a_killed_engine_finds_its_job_on_ray_again(
    tmp_path: Path, _head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "none")
    options = f'[parallel.ray]\naddress = "{_head.address}"\npoll = "0.5s"\nlost = "3s"\n'
    world = World(tmp_path, f'executor = "ray"\n{options}')
    engine = world.begin()
    engine.kill()
    engine.wait()
    world.finish()
    view = check_invariants(world.task)
    assert world.task.statuses() == ["keep", "keep"]
    assert {each.sample.outcome for each in view.experiments[1].taken} == {Outcome.OK}
    assert len(set(world.starts())) == len(world.starts()), "a sample was taken twice"


# How we understand what a head says; these need no Ray


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, tuple[int, str]], list[str]]]:
    """A server, what it answers by path, and the tokens it was shown."""
    table: dict[str, tuple[int, str]] = {}
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            code, body = table[self.path]
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", table, tokens
    server.shutdown()
    server.server_close()


def states(address: str, token: str | None = None) -> dict[str, Any]:
    return asyncio.run(Ray(address, token, "python3", {}).states(["a"]))


@pytest.mark.parametrize(
    ("status", "state"),
    [("PENDING", State.QUEUED), ("RUNNING", State.RUNNING), ("STOPPED", State.ENDED),
     ("FAILED", State.ENDED), ("SUCCEEDED", State.ENDED)],
)  # fmt: skip
def test_states_of_a_job(status: str, state: State, answers: Any) -> None:
    address, table, _ = answers
    table["/api/jobs/a"] = (200, json.dumps({"status": status, "message": "why\n so"}))
    seen = states(address)["a"]
    assert (seen.state, seen.detail) == (state, f"{status}: why so")


def test_a_job_that_is_not_known(answers: Any) -> None:
    address, table, _ = answers
    table["/api/jobs/a"] = (404, "no such job")
    assert states(address) == {}


@pytest.mark.parametrize(
    ("code", "body", "error", "said"),
    [(401, "who are you", UserError, "refuses us: 401 who are you"),
     (400, "no such resource", UserError, "no such resource"),
     (500, "trace\nback", UnansweredError, "says: 500 back"),
     (200, "<html>", UserError, "does not answer as Ray does")],
)  # fmt: skip
def test_what_goes_wrong(
    code: int, body: str, error: type[Exception], said: str, answers: Any
) -> None:
    address, table, _ = answers
    table["/api/jobs/a"] = (code, body)
    with pytest.raises(error, match=said):
        states(address)


def test_a_head_that_is_not_there_is_not_a_lost_job() -> None:
    with pytest.raises(UnansweredError, match="does not answer"):
        states("http://127.0.0.1:9")


def test_the_token_comes_from_the_variable_that_is_named(
    answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, table, tokens = answers
    table["/api/jobs/a"] = (404, "")
    with pytest.raises(UserError, match="that variable is not set"):
        states(address, "RAY_KEY")
    monkeypatch.setenv("RAY_KEY", "secret")
    states(address, "RAY_KEY")
    assert tokens == ["Bearer secret"]
