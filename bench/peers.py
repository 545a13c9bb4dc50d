"""What an experiment costs here and in OpenEvolve, and what a kill or a bad candidate does to both.

    python bench/peers.py [--quick] [--json] [--cache FOLDER]

OpenEvolve is installed from its published package into an environment of its own, once. Both
programs work on the same one-file task, ask the same model on loopback, which needs no key, and are
given the same candidates, none of which is better than what they begin with. OpenEvolve keeps its
defaults; its evaluator runs a candidate in its own process, as most of its examples do, or in a
process of its own. Here a candidate always has a process of its own, confined.

Cost is processor time over all processes of a program, without the model's, between two of its
questions to the model. Other programs on the machine make little difference to it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PEER = "openevolve==0.4.1"
WINDOW = 50
KILLED_AT, RESUMED = 155, 10
BAD_AT, BAD_RUN = 4, 14
DEADLINE_S = 5
MARK = "BENCH_PEERS"
# What runs a candidate, in both, without whatever this machine's site-packages would load.
PYTHON = str(Path(sys.base_prefix) / "bin" / "python3")

PROGRAM = """\
import os
import sys
import time

VALUE = {value}
# {comment}


def run():
    {body}


if __name__ == "__main__":
    print("score:", run())
"""
START = PROGRAM.format(value=0.0, comment="start", body="return VALUE")
BAD = {
    "loops": "while True:\n        pass",
    "os._exit(0)": "os._exit(0)",
    "sys.exit(0)": "sys.exit(0)",
}
CONTRACT = """\
[task]
editable = ["program.py"]
[run]
command = "{python} -I -S program.py"
readable = ["{prefix}"]
budget = "{deadline}s"
timeout = "{deadline}s"
[metric]
name = "score"
direction = "higher"
[agent]
use = "command"
[agent.command]
argv = ["./ask.sh"]
"""
# One question with all that there is to say, and a whole program as the answer, as OpenEvolve asks.
ASK = """\
#!/bin/sh
exec {python} -I -S - <<'END'
import json, os, socket
messages = [{{"role": "user", "content": open(os.environ["AUTORESEARCH_PROMPT"]).read()}}]
body = json.dumps({{"messages": messages}}).encode()
server = socket.create_connection("{host}".split(":"))
head = f"POST /v1/chat/completions HTTP/1.0\\r\\ncontent-length: {{len(body)}}\\r\\n\\r\\n"
server.sendall(head.encode() + body)
said = b"".join(iter(lambda: server.recv(65536), b"")).partition(b"\\r\\n\\r\\n")[2]
answer = json.loads(said)["choices"][0]["message"]["content"]
open("program.py", "w").write(answer.split("```python\\n")[1].split("```")[0])
print("another value")
END
"""
PEER_CONFIG = {
    "diff_based_evolution": False,
    "llm": {"primary_model": "mock", "api_base": "", "api_key": "none"},
    "evaluator": {
        "timeout": DEADLINE_S,
        "parallel_evaluations": 1,
        "cascade_evaluation": False,
    },
}
# As most of OpenEvolve's examples do, and as its circle packing does.
IN_ITS_PROCESS = """\
import importlib.util


def evaluate(path):
    spec = importlib.util.spec_from_file_location("program", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return {{"combined_score": float(program.run())}}
"""
IN_ANOTHER = """\
import subprocess


def evaluate(path):
    done = subprocess.run(
        ["{python}", "-I", "-S", path],
        capture_output=True, text=True, check=True, timeout={deadline},
    )
    return {{"combined_score": float(done.stdout.rpartition("score:")[2])}}
"""


def candidate(number: int) -> str:
    """The program that the model answers the ``number``-th experiment with; none is an improvement.

    Their lengths differ, as OpenEvolve keeps what differs.
    """
    rng = random.Random(number)
    comment = "".join(rng.choices("abcdefgh ", k=rng.randrange(400)))
    return PROGRAM.format(
        value=round(rng.uniform(-1, -0.01), 9), comment=comment, body="return VALUE"
    )


class Model:
    """A model on loopback that knows its answers; ``asked`` is told each experiment's number.

    ``bad`` replaces the body of one candidate.
    """

    def __init__(
        self, asked: Callable[[int], None] = lambda number: None, bad: str | None = None
    ) -> None:
        self._asked = asked
        self._bad = bad
        self._lock = threading.Lock()
        self.count = 0

    def __enter__(self) -> Model:
        model = self

        class Bound(Handler):
            answers = model

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self) -> str:
        """What it says to the next experiment."""
        with self._lock:
            self.count += 1
            number = self.count
            self._asked(number)
        program = candidate(number)
        if self._bad is not None and number == BAD_AT:
            program = program.replace("return VALUE", self._bad)
        return f"```python\n{program}```"


class Handler(BaseHTTPRequestHandler):
    """One connection to the model, which speaks OpenAI's chat completions."""

    answers: Model
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": self.answers.answer()}
        data = json.dumps({
            "id": "mock", "object": "chat.completion", "created": 0, "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }).encode()  # fmt: skip
        with contextlib.suppress(OSError):  # whoever asked was killed
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


# Processes, as Linux shows them.


def tree_cpu_s(root: int) -> float:
    """Processor seconds of a process, of all below it, and of what those have reaped."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()
        own = sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")
        return own + sum(tree_cpu_s(child) for child in _children(root))
    return 0.0


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*"):
        yield from map(int, (task / "children").read_text().split())


def marked(mark: str) -> list[int]:
    """The processes that inherited an environment with this mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


@dataclass
class Program:
    """A program under test, in a folder of its own: how it is started, and what it has to show."""

    folder: Path
    python: str
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def prepare(self, url: str) -> None:
        """Write the task; again, where only the model's address is another."""
        raise NotImplementedError

    def command(self, experiments: int, *, resume: bool = False) -> list[str]:
        """What runs so many experiments, or goes on for that many."""
        raise NotImplementedError

    def results(self) -> list[str]:
        """The results of experiments that it has told of, in their order."""
        raise NotImplementedError

    def known(self) -> list[str]:
        """The results that can be looked up in what it has on disk."""
        raise NotImplementedError

    def resumed_at(self, told: int) -> int:
        """The number of the first experiment that it reported after the first ``told``."""
        raise NotImplementedError

    def start(self, experiments: int, *, resume: bool = False) -> subprocess.Popen[bytes]:
        proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
        passed = {name: value for name, value in os.environ.items() if name not in proxies}
        with (self.folder / "said.log").open("ab") as said:
            return subprocess.Popen(
                self.command(experiments, resume=resume), cwd=self.folder,
                env=passed | {MARK: self.mark}, stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return (self.folder / "said.log").read_text(errors="replace")

    def clean(self) -> int:
        """End what is left of it; says how many processes that were."""
        left = marked(self.mark)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)


class Ours(Program):
    """This program, with an agent that asks once and gets a program."""

    STEP = re.compile(r"#([1-9]\d*) (?:keep|discard|crash|timeout)")

    def prepare(self, url: str) -> None:
        contract = CONTRACT.format(python=PYTHON, prefix=sys.base_prefix, deadline=DEADLINE_S)
        (self.folder / "autoresearch.toml").write_text(contract)
        ask = self.folder / "ask.sh"
        ask.write_text(ASK.format(python=PYTHON, host=url.split("/")[2]))
        ask.chmod(0o755)
        if not (self.folder / ".git").exists():
            (self.folder / "program.py").write_text(START)
            (self.folder / ".gitignore").write_text("said.log\n")
            for argv in (
                ["init", "--quiet"],
                ["add", "."],
                ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "--quiet", "-m", "Start"],
            ):
                subprocess.run(["git", *argv], cwd=self.folder, check=True)

    def command(self, experiments: int, *, resume: bool = False) -> list[str]:
        total = experiments + (len(self.results()) if resume else 0)
        run = [self.python, "-m", "autoresearch", "run", "--max-experiments", str(total)]
        return run if resume else [*run, "--tag", "peers"]

    def results(self) -> list[str]:
        path = self.folder / ".autoresearch" / "peers" / "results.tsv"
        rows = path.read_text().splitlines() if path.exists() else []
        return [row.split("\t")[1] for row in rows[2:]]  # after the header and the baseline

    def known(self) -> list[str]:
        return self.results()

    def resumed_at(self, told: int) -> int:
        return int(self.STEP.findall(self.said())[told])


class Peer(Program):
    """OpenEvolve by its own command line; ``evaluator`` is the text of its evaluation file."""

    evaluator = IN_ITS_PROCESS
    RESULT = re.compile(r"Metrics: combined_score=(\S+)")
    STEP = re.compile(r"Iteration (\d+): Program")

    def prepare(self, url: str) -> None:
        (self.folder / "program.py").write_text(START)
        text = self.evaluator.format(python=PYTHON, deadline=DEADLINE_S)
        (self.folder / "evaluator.py").write_text(text)
        config = json.loads(json.dumps(PEER_CONFIG))
        config["llm"]["api_base"] = url
        (self.folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML

    def command(self, experiments: int, *, resume: bool = False) -> list[str]:
        program = str(Path(self.python).with_name("openevolve-run"))
        run = [program, "program.py", "evaluator.py", "--config", "config.yaml",
               "--output", "out", "--iterations", str(experiments)]  # fmt: skip
        last = self.checkpoint() if resume else None
        return run if last is None else [*run, "--checkpoint", str(last)]

    def checkpoint(self) -> Path | None:
        """The last checkpoint, if there is one."""
        found = (self.folder / "out" / "checkpoints").glob("checkpoint_*")
        return max(found, key=lambda path: int(path.name.rpartition("_")[2]), default=None)

    def results(self) -> list[str]:
        return self.RESULT.findall(self.said())

    def known(self) -> list[str]:
        last = self.checkpoint()
        if last is None:
            return []
        programs = [json.loads(path.read_text()) for path in (last / "programs").glob("*.json")]
        return [f"{each['metrics']['combined_score']:.4f}" for each in programs]

    def resumed_at(self, told: int) -> int:
        return int(self.STEP.findall(self.said())[told])


class PeerApart(Peer):
    """OpenEvolve with candidates in processes of their own."""

    evaluator = IN_ANOTHER


KINDS: dict[str, type[Program]] = {
    "autoresearch": Ours,
    "OpenEvolve, in its process": Peer,
    "OpenEvolve, a process each": PeerApart,
}


# What is measured.


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of an experiment: of the processor, at the start and the end of a run and over all
    of it with its start; and by a clock.
    """

    first_s: float
    last_s: float
    whole_s: float
    wall_s: float
    experiments: int


def cost(program: Program, experiments: int) -> Cost:
    """Run so many experiments and see what they cost."""
    marks: dict[int, float] = {}
    started = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def asked(number: int) -> None:
        if number in wanted:
            started.wait()
            marks[number] = tree_cpu_s(running[0].pid)

    # The first question comes before what is made only once; the last ones have none after them.
    wanted = {2, 2 + WINDOW, experiments - WINDOW, experiments}
    with Model(asked) as model:
        program.prepare(model.url)
        began = time.monotonic()
        running.append(program.start(experiments))
        started.set()
        _, code, usage = os.wait4(running[0].pid, 0)
        wall_s = time.monotonic() - began
    running[0].returncode = os.waitstatus_to_exitcode(code)
    done = len(program.results())
    if done < experiments or running[0].returncode:
        raise RuntimeError(f"{done} of {experiments} results:\n{program.said()[-3000:]}")
    return Cost(
        (marks[2 + WINDOW] - marks[2]) / WINDOW,
        (marks[experiments] - marks[experiments - WINDOW]) / WINDOW,
        (usage.ru_utime + usage.ru_stime) / experiments, wall_s / experiments, experiments,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kill:
    """What a kill in the middle of a run leaves.

    ``told`` results were reported before it. The run goes on with an experiment that lies
    ``redone`` before the next one; ``known`` results can still be looked up then. ``orphans`` are
    processes that lived on for seconds.
    """

    told: int
    redone: int
    known: int
    orphans: int
    code: int


def kill(program: Program) -> Kill:
    """Kill a program when it asks for an experiment; then let it go on."""
    running: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def asked(number: int) -> None:
        if number == KILLED_AT:
            started.wait()
            running[0].kill()

    with Model(asked) as model:
        program.prepare(model.url)
        running.append(program.start(10 * KILLED_AT))
        started.set()
        running[0].wait()
        told = program.results()
        time.sleep(3.0)
        orphans = program.clean()
        code = program.start(RESUMED, resume=True).wait(600)
    known = program.known()
    again = len(told) + 1 - program.resumed_at(len(told))
    return Kill(len(told), again, sum(each in known for each in told), orphans, code)


@dataclass(frozen=True, slots=True)
class Bad:
    """What one bad candidate does to a run: how many of the others after it got their result."""

    after: int
    of: int
    code: int | None
    wall_s: float


def bad(program: Program, body: str) -> Bad:
    """Run a few experiments, one of them with a bad candidate."""
    with Model(bad=body) as model:
        program.prepare(model.url)
        began = time.monotonic()
        process = program.start(BAD_RUN)
        try:
            code: int | None = process.wait(300)
        except subprocess.TimeoutExpired:
            code = None
            process.kill()
            process.wait()
        wall_s = time.monotonic() - began
    good = {f"{_value(candidate(n)):.4f}" for n in range(BAD_AT + 1, BAD_RUN + 1)}
    got = {f"{float(each):.4f}" for each in program.results()}
    return Bad(len(good & got), len(good), code, wall_s)


def _value(program: str) -> float:
    return float(program.partition("VALUE = ")[2].split()[0])


def installed(cache: Path) -> str:
    """The interpreter of an environment that has the peer; made where there is none."""
    folder = cache / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing {PEER} into {folder} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER],
            check=True,
        )
        (folder / "complete").touch()
    return str(python)


@contextlib.contextmanager
def fresh(kind: type[Program], peer: str) -> Iterator[Program]:
    """A program in a new folder; nothing is left of either."""
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-peers-"))
    program = kind(folder, sys.executable if issubclass(kind, Ours) else peer)
    try:
        yield program
    finally:
        program.clean()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 experiments, not 1,000")
    parser.add_argument("--json", action="store_true")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoresearch-bench"
    parser.add_argument("--cache", type=Path, default=usual, help="where the peer is installed")
    options = parser.parse_args()
    peer = installed(options.cache)
    experiments = 200 if options.quick else 1000
    found: dict[str, dict[str, Any]] = {}
    for name, kind in KINDS.items():
        print(f"{name} ...", file=sys.stderr)
        with fresh(kind, peer) as program:
            here: dict[str, Any] = {"cost": asdict(cost(program, experiments))}
        with fresh(kind, peer) as program:
            here["kill"] = asdict(kill(program))
        for what, body in BAD.items():
            with fresh(kind, peer) as program:
                here[what] = asdict(bad(program, body))
        found[name] = here
    print(json.dumps({"peer": PEER, **found}) if options.json else table(found))
    return 0


def table(found: dict[str, dict[str, Any]]) -> str:
    """All figures in columns, and those that cost something as ratios to ours as well."""
    ours = found[next(iter(KINDS))]["cost"]
    lines: list[tuple[str, ...]] = [("", *KINDS)]

    def add(title: str, cell: Callable[[dict[str, Any]], str]) -> None:
        lines.append((title, *(cell(found[name]) for name in KINDS)))

    def add_cost(title: str, key: str) -> None:
        add(f"{title}, ms", lambda each: f"{1000 * each['cost'][key]:.1f}")
        add("  ours / theirs", lambda each: f"{ours[key] / each['cost'][key]:.2f}")

    def add_bad(what: str) -> None:
        add(f"{what}: good ones scored after it", lambda each: _said(each[what]))

    add_cost(f"an experiment, first {WINDOW}", "first_s")
    add_cost(f"an experiment, last {WINDOW} of {ours['experiments']}", "last_s")
    add_cost("all of it and the start, by experiment", "whole_s")
    add("last / first", lambda each: f"{each['cost']['last_s'] / each['cost']['first_s']:.2f}")
    add("killed: results reported before", lambda each: str(each["kill"]["told"]))
    add("  carried out once more", lambda each: str(each["kill"]["redone"]))
    add("  still on disk", lambda each: str(each["kill"]["known"]))
    add("  processes that lived on", lambda each: str(each["kill"]["orphans"]))
    for what in BAD:
        add_bad(what)
    wide = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(each.ljust(n) if i == 0 else each.rjust(n)
                  for i, (each, n) in enumerate(zip(row, wide, strict=True))).rstrip()
        for row in lines
    )  # fmt: skip


def _said(found: dict[str, Any]) -> str:
    code = "never ends" if found["code"] is None else f"exit {found['code']}"
    return f"{found['after']} of {found['of']}, {code}"


if __name__ == "__main__":
    sys.exit(main())
