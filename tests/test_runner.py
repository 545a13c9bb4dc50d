"""The runner against real processes that misbehave."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch import sandbox
from autoresearch.attempt import RUNNER, Attempt, pack, unpack
from autoresearch.errors import ExecutorError
from autoresearch.runner import PARCEL, descendants
from autoresearch.sandbox import Box
from autoresearch.types import Level
from tests.conftest import until

CONFINED = sandbox.probe()
PLAIN = sandbox.Sandbox(Level.NONE)
needs_namespaces = pytest.mark.skipif(
    CONFINED.level is not Level.NAMESPACES, reason=CONFINED.reason
)


class Server:
    """A runner serving jobs, as the local executor keeps one."""

    def __init__(self, runner: Path = RUNNER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(runner)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def send(self, job: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        self.send(job)
        return self.answer()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def marker() -> str:
    """A time to sleep that no other process of this machine sleeps."""
    return f"4217.{uuid.uuid4().int % 10**12}"


@pytest.fixture(params=["namespaces", "landlock", "none"])
def box_of(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes processes of a job from shell scripts, at every level that this machine has."""
    monkeypatch.setenv("AUTORESEARCH_LEVEL", request.param)
    how = sandbox.probe()
    if how.level.value != request.param:
        pytest.skip(how.reason)
    private = tmp_path / "private"
    private.mkdir()

    def make(script: str, **more: Any) -> Any:
        mounts = [*more.pop("mounts", ())]
        if not how.remaps:
            mounts.append(sandbox.Mount(private, Path("/tmp"), writable=True))
        env: dict[str, str | Path] = {"PATH": "/usr/bin:/bin", "TMPDIR": Path("/tmp")}
        box = Box(["/bin/sh", "-c", script], Path("/"), env, tmp_path / "log", mounts, **more)
        return how.process(box)

    return make


def job(*processes: Any, deadline_s: float = 10, **more: Any) -> dict[str, Any]:
    step = {"name": "command", "processes": list(processes), "deadline_s": deadline_s}
    step |= {key: more.pop(key) for key in ("artefacts", "usage_file", "writable") if key in more}
    limits = {
        "memory_bytes": 1 << 30, "processes": 64, "log_bytes": 1 << 16,
        "output_bytes": 1 << 22, "disk_bytes": 1 << 30,
    }  # fmt: skip
    return {"nonce": "n", "result": None, "steps": [step], "cores": None, **limits, **more}


def alive(marker: str) -> list[str]:
    done = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True, check=False)
    return done.stdout.split()


def test_reports_exit_output_and_usage(server: Server, box_of: Any, tmp_path: Path) -> None:
    result = server.run(job(box_of("echo out; echo err >&2; exit 3")))
    (step,) = result["steps"]
    assert (step["outcome"], step["exit_code"], step["detail"]) == ("failed", 3, "exit code 3")
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert result["nonce"] == "n"


def test_deadline_kills_whoever_ignores_signals(server: Server, marker: str, box_of: Any) -> None:
    script = f"trap '' TERM INT HUP; (setsid sleep {marker} &); sleep {marker}; sleep {marker}"
    began = time.monotonic()
    (step,) = server.run(job(box_of(script), deadline_s=0.5))["steps"]
    assert step["outcome"] == "timeout"
    assert time.monotonic() - began < 5
    assert not alive(f"sleep {marker}")


def test_a_stop_while_we_look_around_is_no_time_of_the_candidate(tmp_path: Path) -> None:
    """Stopped there, and not where we wait for output, the runner once saw a deadline pass."""
    once, looks = tmp_path / "once", "    def over_limit(self)"
    once.touch()
    runner = tmp_path / "runner.py"
    said, asks = RUNNER.read_text(), "if broken := self."
    assert looks in said and asks in said
    stop = (
        f"    def stop_once(self):\n        if os.path.exists({str(once)!r}):\n"
        f"            os.remove({str(once)!r})\n"
        "            os.kill(os.getpid(), signal.SIGSTOP)\n\n"
    )
    said = said.replace(asks, "if broken := self.stop_once() or self.")
    runner.write_text(said.replace(looks, stop + looks))
    server = Server(runner)
    try:
        process = PLAIN.process(Box(["sleep", "2"], tmp_path, {"PATH": "/bin"}, tmp_path / "log"))
        server.send(job(process, deadline_s=4))
        until(lambda: _state(server.process.pid) == "T")
        time.sleep(6)
        os.kill(server.process.pid, signal.SIGCONT)
        (step,) = server.answer()["steps"]
    finally:
        server.process.kill()
        server.process.wait()
    assert step["outcome"] == "ok" and step["stalled_s"] > 5


def _state(pid: int) -> str:
    """One letter, as in ps: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


IGNORES = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN if sys.argv[1] == "ignore" else signal.SIG_DFL)
for _ in range(40):
    read, write = os.pipe()
    if os.fork() == 0:
        sum(range(700_000))
        os._exit(0)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    if sys.argv[1] != "ignore":
        os.wait()
"""


@pytest.mark.parametrize("account", ["cgroup", "clock"])
def test_children_that_nobody_waits_for_are_charged(tmp_path: Path, account: str) -> None:
    runner = tmp_path / "runner.py"
    group = "make_group()" if account == "cgroup" else "None"
    runner.write_text(
        RUNNER.read_text().replace("self.group = make_group()", f"self.group = {group}")
    )
    server = Server(runner)
    used = {}
    for how in ("wait", "ignore"):
        argv = [sys.executable, "-c", IGNORES, how]
        done = server.run(job(PLAIN.process(Box(argv, Path("/"), {}, tmp_path / "log"))))
        if done["account"] != account:
            pytest.skip(f"this machine has no {account} for us")
        assert done["steps"][0]["outcome"] == "ok", (tmp_path / "log").read_text()
        used[how] = done["steps"][0]["usage"]["cpu_s"]
    assert used["wait"] > 0.1
    assert used["ignore"] > 0.5 * used["wait"]
    server.process.communicate()


def test_daemons_do_not_outlive_a_good_exit(server: Server, marker: str, box_of: Any) -> None:
    script = f"(setsid sh -c 'exec sleep {marker}' >/dev/null 2>&1 &); sleep 0.1; exit 0"
    (step,) = server.run(job(box_of(script)))["steps"]
    assert step["outcome"] == "ok"
    assert not alive(f"sleep {marker}")


def test_processor_time_of_orphans_counts(server: Server, box_of: Any) -> None:
    burn = "i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done"
    orphan = f"p=$(mktemp -u); mkfifo $p; (setsid sh -c '{burn}; echo >$0' $p &); read x <$p; rm $p"
    (own,), (step,) = (server.run(job(box_of(each)))["steps"] for each in (burn, orphan))
    assert own["usage"]["cpu_s"] > 0.1
    assert step["usage"]["cpu_s"] > 0.5 * own["usage"]["cpu_s"]
    assert step["usage"]["wall_s"] >= 0.5 * step["usage"]["cpu_s"]


def test_memory_of_the_whole_tree_is_capped(server: Server, box_of: Any) -> None:
    hog = "python3 -c 'import time; x = bytearray(150 << 20); time.sleep(9)'"
    result = server.run(job(box_of(f"{hog} & {hog} & wait"), memory_bytes=200 << 20))
    assert result["steps"][0]["outcome"] == "memory"


def test_fork_bomb_is_stopped(server: Server, box_of: Any) -> None:
    script = "f() { while :; do sleep 30 & done; }; f"
    # So many that a busy machine, which looks late, does not find the memory limit first.
    result = server.run(job(box_of(script), processes=40, memory_bytes=16 << 30))
    assert result["steps"][0]["outcome"] == "processes"
    assert "allowed are 40" in result["steps"][0]["detail"]


def test_a_log_keeps_head_and_tail(server: Server, box_of: Any, tmp_path: Path) -> None:
    (step,) = server.run(job(box_of("echo first; seq 100000; echo last")))["steps"]
    assert step["outcome"] == "ok"
    text = (tmp_path / "log").read_text()
    assert text.startswith("first\n1\n2\n")
    assert text.endswith("100000\nlast\n")
    assert "bytes left out" in text
    assert len(text) < (1 << 16) + 100


def test_output_flood_is_stopped(server: Server, box_of: Any) -> None:
    (step,) = server.run(job(box_of("yes")))["steps"]
    assert step["outcome"] == "output"


def test_disk_is_capped(server: Server, box_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    mount = sandbox.Mount(folder, folder, writable=True)
    script = f"i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero >{folder}/$i; done"
    work = job(box_of(script, mounts=[mount]), disk_bytes=20 << 20, writable=[str(folder)])
    assert server.run(work)["steps"][0]["outcome"] == "disk"


def test_answerer_has_its_own_processor_limit(server: Server, tmp_path: Path) -> None:
    scorer = PLAIN.process(Box(["/bin/sleep", "30"], Path("/"), {}, tmp_path / "a"))
    burn = ["/bin/sh", "-c", "while :; do :; done"]
    answerer = PLAIN.process(Box(burn, Path("/"), {}, tmp_path / "b", cpu_s=0.3))
    (step,) = server.run(job(scorer, answerer))["steps"]
    assert step["outcome"] == "cpu"


def test_scorer_and_answerer_are_joined(server: Server, box_of: Any, tmp_path: Path) -> None:
    scorer = box_of(
        "echo question >&$AUTORESEARCH_ASK_FD;"
        ' read answer <&$AUTORESEARCH_ANSWER_FD; echo "$answer"'
    )
    answerer = box_of('read question; echo "you asked: $question"')
    answerer["log"] = str(tmp_path / "answer.log")
    (step,) = server.run(job(scorer, answerer))["steps"]
    assert step["outcome"] == "ok"
    assert (tmp_path / "log").read_text() == "you asked: question\n"


def test_only_plain_files_are_artefacts(server: Server, box_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    mount = sandbox.Mount(folder, folder, writable=True)
    script = (
        f"cd {folder}; echo good >model; ln -s /etc/passwd link; mkfifo pipe;"
        " echo twice >a; ln a b; mkdir sub; ln -s /etc sub/up; echo fine >sub/part"
    )
    server.run(job(box_of(script, mounts=[mount]), artefacts=str(folder)))
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    # Of two names of one file the second becomes the only one, and is plain again.
    assert found in (["model", "sub/part"], ["a", "model", "sub/part"], ["b", "model", "sub/part"])
    assert not [path for path in folder.rglob("*") if path.is_symlink()]


def test_closing_the_pipe_ends_everything(server: Server, marker: str, box_of: Any) -> None:
    server.send(job(box_of(f"(setsid sleep {marker} &); sleep {marker}")))
    until(lambda: bool(alive(f"sleep {marker}")))
    assert server.process.stdin is not None
    server.process.stdin.close()
    server.process.wait(10)
    assert not alive(f"sleep {marker}")


def test_killing_the_runner_ends_the_confined(server: Server, marker: str, tmp_path: Path) -> None:
    if CONFINED.level is not Level.NAMESPACES:
        pytest.skip(CONFINED.reason)
    argv = ["/bin/sh", "-c", f"(setsid sleep {marker} &); sleep {marker}"]
    process = CONFINED.process(Box(argv, Path("/"), {"PATH": "/usr/bin:/bin"}, tmp_path / "log"))
    server.send(job(process))
    # Before the sandbox has armed its own end there is an instant that only a sweep covers.
    until(lambda: bool(alive(f"^sleep {marker}")))
    server.process.kill()
    until(lambda: not alive(f"sleep {marker}"))


def test_cancel_then_serve_on(server: Server, marker: str, box_of: Any) -> None:
    server.send(job(box_of(f"sleep {marker}")))
    until(lambda: alive(f"sleep {marker}"))
    assert server.process.stdin is not None
    server.process.stdin.write("\n")
    server.process.stdin.flush()
    assert server.answer()["steps"][0]["outcome"] == "cancelled"
    assert server.run(job(box_of("true")))["steps"][0]["outcome"] == "ok"


def test_cancelled_before_it_began(server: Server, box_of: Any) -> None:
    assert server.process.stdin is not None
    server.process.stdin.write(json.dumps(job(box_of("sleep 60"), deadline_s=60)) + "\n\n")
    server.process.stdin.flush()
    began = time.monotonic()
    assert "cancelled" in str(server.answer())
    assert time.monotonic() - began < 30
    assert server.run(job(box_of("true")))["steps"][0]["outcome"] == "ok"


SERVES = """
import socket, sys
server = socket.create_server(("127.0.0.1", 8765))
sys.stdout.buffer.write(b"up"); sys.stdout.flush()
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
"""
ASKS = """
import os, socket
os.read(int(os.environ["AUTORESEARCH_ANSWER_FD"]), 3)
print(socket.create_connection(("127.0.0.1", 8765), 5).recv(9).decode())
print([name for _, name in socket.if_nameindex()])
"""
ESCAPES = """
import fcntl, os, socket, struct, sys
name = sys.argv[2].replace('@', chr(0))
def attempt(what, way):
    try:
        way()
        print(what, "open", file=sys.stderr)
    except OSError:
        pass
def send():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
def down():
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0))
port = int(sys.argv[1])
attempt("the machine's loopback", lambda: socket.create_connection(("127.0.0.1", port), 2))
attempt("the internet", lambda: socket.create_connection(("192.0.2.1", 80), 2))
attempt("datagrams", send)
attempt("a socket without a file", lambda: socket.socket(socket.AF_UNIX).connect(name))
attempt("raw sockets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("the device", down)
print("tried", file=sys.stderr)
os.write(1, b"up")
"""


def joined(folder: Path, asks: str, serves: str, *words: str) -> dict[str, Any]:
    def process(name: str, script: str, *argv: str) -> Any:
        box = Box(
            ["/usr/bin/python3", "-c", script, *argv], Path("/"), {"PATH": "/usr/bin:/bin"},
            folder / name, loopback=True,
        )  # fmt: skip
        return CONFINED.process(box)

    return job(process("scorer.log", asks), process("answer.log", serves, *words))


@needs_namespaces
def test_scorer_and_answerer_can_share_a_loopback_of_their_own(
    server: Server, tmp_path: Path
) -> None:
    for _ in range(2):  # the port is free again
        (step,) = server.run(joined(tmp_path, ASKS, SERVES))["steps"]
        assert step["outcome"] == "ok", (tmp_path / "answer.log").read_text()
        assert (tmp_path / "scorer.log").read_text() == "hello\n['lo']\n"


@needs_namespaces
def test_a_shared_loopback_leads_nowhere_else(server: Server, tmp_path: Path) -> None:
    waits = "import os; os.read(int(os.environ['AUTORESEARCH_ANSWER_FD']), 3)"
    name = f"@autoresearch-{uuid.uuid4()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as outside,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(name.replace("@", "\0"))
        abstract.listen()
        port = str(outside.getsockname()[1])
        (step,) = server.run(joined(tmp_path, waits, ESCAPES, port, name))["steps"]
    assert step["outcome"] == "ok"
    assert (tmp_path / "answer.log").read_text() == "tried\n"


@needs_namespaces
def test_without_a_network_of_its_own_nothing_starts(tmp_path: Path) -> None:
    broken = tmp_path / "runner.py"
    broken.write_text(RUNNER.read_text().replace("CLONE_NEWUSER | CLONE_NEWNET", "-1"))
    server = Server(broken)
    assert "private network" in server.run(joined(tmp_path, ASKS, SERVES)).get("error", "")
    assert not (tmp_path / "scorer.log").exists()
    server.process.kill()
    server.process.wait()


def test_a_step_that_falls_silent_ends_and_one_that_speaks_goes_on(
    server: Server, box_of: Any, tmp_path: Path
) -> None:
    silent = job(box_of("echo hello; sleep 30"))
    silent["steps"][0]["idle_s"] = 0.5
    step = server.run(silent)["steps"][0]
    assert (step["outcome"], step["detail"]) == ("idle", "printed nothing for 0.5 s")
    assert (tmp_path / "log").read_text() == "hello\n"
    talks = job(box_of("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done"))
    talks["steps"][0]["idle_s"] = 3.0
    assert server.run(talks)["steps"][0]["outcome"] == "ok"


def test_a_step_that_prints_line_after_line_ends(server: Server, box_of: Any) -> None:
    endless = job(box_of("while :; do echo call; sleep 0.01; done"))
    endless["steps"][0]["lines"] = 20
    step = server.run(endless)["steps"][0]
    assert (step["outcome"], step["detail"]) == ("lines", "printed more than 20 lines")


def test_standard_error_can_have_a_file_of_its_own(
    server: Server, box_of: Any, tmp_path: Path
) -> None:
    both = "echo out; echo err >&2"
    assert server.run(job(box_of(both, errors=tmp_path / "err")))["steps"][0]["outcome"] == "ok"
    assert (tmp_path / "log").read_text() == "out\n"
    assert (tmp_path / "err").read_text() == "err\n"
    server.run(job(box_of(both)))
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def attempt(folder: Path, script: str) -> subprocess.Popen[bytes]:
    """Start a runner on a node, as a scheduler does; level ``none``, all of it in ``folder``."""
    if not folder.exists():
        folder.mkdir()
        argv = ["/bin/sh", "-c", script]
        process = PLAIN.process(Box(argv, folder, {"PATH": "/usr/bin:/bin"}, folder / "log"))
        wanted = job(process, cpus=1, inherit=["DEVICES"], memory_bytes=None)
        (folder / "job.json").write_text(json.dumps(wanted))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(RUNNER), "--attempt", str(folder)],
        env={"DEVICES": "3", "SECRET": "s"}, stdout=subprocess.PIPE,
    )  # fmt: skip


def test_an_attempt_is_run_once_and_inherits_what_it_may(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    runners = [attempt(folder, "echo $DEVICES $SECRET; sleep 0.3") for _ in range(3)]
    said = [runner.communicate()[0] for runner in runners]
    assert sum(b"claimed before" in each for each in said) == 2
    result = json.loads((folder / "result.json").read_text())
    assert (result["nonce"], result["steps"][0]["outcome"]) == ("n", "ok")
    assert result["hardware"]
    assert (folder / "log").read_text() == "3\n"
    assert not list(folder.glob("*.new"))


@pytest.mark.parametrize("how", ["file", "signal", "signal to all", "folder removed"])
def test_an_attempt_is_cancelled(how: str, tmp_path: Path, marker: str) -> None:
    folder = tmp_path / "attempt"
    trap = "" if how == "signal to all" else "trap '' TERM; "
    runner = attempt(folder, f"{trap}(setsid sleep {marker} &); touch started; sleep {marker}")
    until((folder / "started").exists)
    match how:
        case "file":
            (folder / "cancel").touch()
        case "signal to all":
            # As Slurm does: the job may be dead before its runner has seen the signal.
            for pid in descendants(runner.pid):
                os.kill(pid, signal.SIGTERM)
            runner.terminate()
        case "signal":
            runner.terminate()
        case _:
            shutil.rmtree(folder, ignore_errors=True)
    runner.wait()
    assert not alive(f"sleep {marker}")
    if how != "folder removed":
        result = json.loads((folder / "result.json").read_text())
        assert [step["outcome"] for step in result["steps"]] == ["cancelled"]


def test_an_attempt_is_sent_to_where_nothing_is_shared(tmp_path: Path) -> None:
    home, node = tmp_path / "höme", tmp_path / "node"
    script = "cat sent/data; readlink sent/link; sent/program; echo out >answer"
    (home / "sent").mkdir(parents=True)
    (home / "sent" / "data").write_text("data\n")
    (home / "sent" / "link").symlink_to("data")
    (home / "sent" / "program").write_text("#!/bin/sh\npwd\n")
    (home / "sent" / "program").chmod(0o755)
    process = PLAIN.process(
        Box(["/bin/sh", "-c", script], home, {"PATH": "/usr/bin:/bin"}, home / "log")
    )
    wanted = job(process, cpus=1, inherit=[], directory=str(home))
    assert Attempt(home, "n").prepare(wanted)
    node.mkdir()
    zipfile.ZipFile(io.BytesIO(pack(home))).extractall(node)
    shutil.rmtree(home)
    printed = attempt(node, "").communicate()[0].decode()
    assert (node / "answer").exists(), printed
    home.mkdir()
    (home / "job.json").write_text(json.dumps(wanted))
    unpack(home, "another", printed)
    assert Attempt(home, "n").result() is None
    unpack(home, "n", f"a line before\n{printed}and after")
    result = Attempt(home, "n").result()
    assert result is not None and result["steps"][0]["outcome"] == "ok"
    assert (home / "log").read_text() == f"data\ndata\n{node}\n"
    assert not (home / "answer").exists(), "more came back than was asked for"


def test_a_parcel_brings_no_file_that_was_not_asked_for(tmp_path: Path) -> None:
    process = PLAIN.process(Box(["/bin/true"], tmp_path, {}, tmp_path / "log"))
    (tmp_path / "job.json").write_text(json.dumps(job(process)))
    files = {"log": "aGk=", "../evil": "aGk=", "job.json": "aGk="}
    text = base64.encodebytes(zlib.compress(json.dumps(files).encode())).decode()
    unpack(tmp_path, "n", f"{PARCEL} n\n{text}{PARCEL} end")
    assert (tmp_path / "log").read_text() == "hi"
    assert not tmp_path.with_name("evil").exists()
    assert json.loads((tmp_path / "job.json").read_text())["nonce"] == "n"
    with pytest.raises(ExecutorError, match="cannot be read"):
        unpack(tmp_path, "n", f"{PARCEL} n\nbad{PARCEL} end")


def test_an_attempt_that_was_cancelled_before_never_begins(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    attempt(folder, "touch started").communicate()
    for name in ("claim", "result.json", "started"):
        (folder / name).unlink()
    (folder / "cancel").touch()
    attempt(folder, "").communicate()
    assert "cancelled" in json.loads((folder / "result.json").read_text())["error"]
    assert not (folder / "started").exists()
