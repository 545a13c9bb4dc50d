"""The service workload: a faster service is kept, and no forged answer, time or refusal pays."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import autoresearch
from autoresearch import sandbox
from autoresearch.types import Level, Status
from tests.conftest import IDENTITY, Toy, workload

WORKLOAD = Path(autoresearch.__file__).parent / "workloads" / "service"
FOUND = sandbox.probe()
needs_namespaces = pytest.mark.skipif(FOUND.level is not Level.NAMESPACES, reason=FOUND.reason)
SHORTER = (
    ("evaluate.py", "RATE, SPACED = 60.0, 120", "RATE, SPACED = 100.0, 40"),
    ("evaluate.py", "FULL_S, FULL = 3.0, 30_000", "FULL_S, FULL = 0.6, 3000"),
    ("evaluate.py", "PATIENCE_MS = 1000.0", "PATIENCE_MS = 5000.0"),
    ("evaluate.py", "UP_S = 20.0", "UP_S = 5.0"),
    ("client.py", "DEADLINE_S = 10.0", "DEADLINE_S = 3.0"),
)


def shorten(folder: Path) -> None:
    """Measure the workload in ``folder`` for a moment only."""
    for name, old, new in SHORTER:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))


class Scorer:
    """The workload in a folder of its own: its evaluation against any edit of the service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(WORKLOAD, folder, ignore=shutil.ignore_patterns("__pycache__"))
        shorten(folder)
        self.source = (folder / "service.py").read_text()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.env = {
            "PATH": os.environ["PATH"],
            "AUTORESEARCH_SEED": "1",
            "SERVICE_ITEMS": "120",
            "SERVICE_PORT": str(port),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def score(self, *edits: tuple[str, str], more: str = "") -> tuple[int, str]:
        """Exit code and output of the evaluation of an edited service."""
        source = self.source
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        # Classes and functions of the edit come last, before the service starts.
        last = 'if __name__ == "__main__":'
        assert last in source
        (self.folder / "service.py").write_text(source.replace(last, f"{more}\n\n{last}"))
        with subprocess.Popen(
            [sys.executable, "service.py"], cwd=self.folder, env=self.env,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as service:  # fmt: skip
            done = subprocess.run(
                [sys.executable, "evaluate.py"], cwd=self.folder, env=self.env,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            service.kill()
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(tmp_path_factory.mktemp("service") / "task")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The workload's own module of that name."""
    monkeypatch.setenv("AUTORESEARCH_SEED", "1")
    monkeypatch.setenv("SERVICE_ITEMS", "120")
    monkeypatch.syspath_prepend(str(WORKLOAD))
    spec = importlib.util.spec_from_file_location("load", WORKLOAD / "load.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "load", module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("catalogue", None)


# Honest services


@pytest.mark.parametrize(
    "edits",
    [
        (),
        (
            ("THREADS = 1", "THREADS = 8"),
            ("REQUESTS_PER_CONNECTION = 1", "REQUESTS_PER_CONNECTION = 7"),
            ("IDLE_S = 0.05", "IDLE_S = 2.0"),
            ('WORDS = "split each time"', 'WORDS = "counted once"'),
            ("CACHED_SEARCHES = 1", "CACHED_SEARCHES = 1000"),
            ("INDENT = 8", "INDENT = 0"),
        ),
        # Hangs up on whoever is idle without saying so: clients ask again.
        (
            ("THREADS = 1", "THREADS = 8"),
            ("REQUESTS_PER_CONNECTION = 1", "REQUESTS_PER_CONNECTION = 1000"),
            ("IDLE_S = 0.05", "IDLE_S = 0.001"),
            ('WORDS = "split each time"', 'WORDS = "split once"'),
        ),
    ],
    ids=["as it is", "tuned", "impatient"],
)
def test_right_answers_count(scorer: Scorer, edits: tuple[tuple[str, str], ...]) -> None:
    code, said = scorer.score(*edits)
    assert code == 0, said
    names = re.findall(r"^METRIC (\w+)=\d+\.\d+$", said, re.MULTILINE)
    assert names == ["p95_ms", "full_p95_ms", "requests_per_s"]


def test_the_load_does_not_follow_from_the_seed(load: ModuleType) -> None:
    items = load.__dict__["draw"]() if "draw" in load.__dict__ else sys.modules["catalogue"].draw()
    one, other = load.requests(50, items), load.requests(50, items)
    assert one != other
    kinds = [(bool(each.query), bool(each.add)) for each in load.requests(500, items)]
    assert {kinds.count(kind) > 20 for kind in set(kinds)} == {True} and len(set(kinds)) == 3


# Cheats of the service

HANDLE = "    def handle(self) -> None:\n"
ANSWER = "    def answer(self, status: int, body: dict[str, Any]) -> None:\n"
CACHED_ITEMS = """
inner, seen = Shop.show, {}
def show(self, number, add=0):
    if number not in seen or add:
        seen.setdefault(number, inner(self, number, add))
    return seen[number]
Shop.show = show
"""
FORGETS = """
inner = Shop.show
def show(self, number, add=0):
    shown = inner(self, number)
    return shown and shown | {"stock": shown["stock"] + add}
Shop.show = show
"""
FROM_THE_SEED = """
import random, secrets
secrets.randbits = random.Random(int(os.environ["AUTORESEARCH_SEED"])).getrandbits
import load
class Foreseeing(Shop):
    def __init__(self):
        super().__init__()
        self.coming = [each for each in load.requests(3000, self.items) if each.query]
    def search(self, text, limit):
        next = self.coming.pop(0)
        return super().search(" ".join(next.query), next.limit)
Shop = Foreseeing
"""
PUSHES = """
inner = Handler.answer
def answer(self, status, body):
    inner(self, status, body)
    inner(self, status, body)
Handler.answer = answer
"""
PUSHES_LATER = """
import time
def answer(self, status, body):
    data = json.dumps(body).encode()
    head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(data)
    self.connection.sendall(head + data)
    time.sleep(0.05)
    self.connection.sendall(head + data)
Handler.answer = answer
"""
KEEPS = (("REQUESTS_PER_CONNECTION = 1", "REQUESTS_PER_CONNECTION = 1000000"),)
CROWDED = (*KEEPS, ("IDLE_S = 0.05", "IDLE_S = 60.0"))


@pytest.mark.parametrize(
    ("edits", "more", "said"),
    [
        (
            (('return {"total": len(hits), "items": found}', 'return {"total": 0, "items": []}'),),
            "", r"answer \d+ of \d+ is wrong",
        ),
        ((("hits.sort()", "pass"),), "", r"answer \d+ of \d+ is wrong"),
        ((("if all(occurrences)", "if any(occurrences)"),), "", r"answer \d+ of \d+ is wrong"),
        ((), FROM_THE_SEED, r"answer \d+ of \d+ is wrong"),
        ((), CACHED_ITEMS, r"answer \d+ of \d+ says \d+ in stock, right are \d+ to \d+"),
        ((), FORGETS, r"answer \d+ of \d+ says \d+ in stock, right are \d+ to \d+"),
        (((ANSWER, f"{ANSWER}        status = 503\n"),), "", r"answer 0 of \d+ has status 503"),
        (((HANDLE, f"{HANDLE}        return\n"),), "", r"a request was broken off: .*"),
        (((HANDLE, f"{HANDLE}        threading.Event().wait()\n"),), "",
         r"a request had no answer after 3 s"),
        ((("waiting.put(", "sys.exit("),), "", r"a request was (refused|broken off): .*"),
        ((("def main() -> None:", "def main() -> None:\n    return"),), "",
         r"a request was not up after 5 s"),
        (KEEPS, PUSHES, r"a request (got more than its answer|was answered before it was asked)"),
        (KEEPS, PUSHES_LATER,
         r"a request (got more than its answer|was answered before it was asked)"),
        # One connection is served at once and for ever, the others never.
        (CROWDED, "", r"a request had no answer after 3 s"),
        ((('"Content-Length"', '"Length"'),), "",
         r"a request got no answer in HTTP with a Content-Length"),
        ((("    data = json.dumps(body, indent=INDENT or None).encode()",
           '    data = b"[" * 100000'),), "", r"answer 0 of \d+ is not JSON"),
        ((("    data = json.dumps(body, indent=INDENT or None).encode()",
           '    data = b" " * (2 << 20)'), ("WRITE_PIECE = 64", "WRITE_PIECE = 65536")), "",
         r"a request got an answer that is too large"),
    ],
    ids=[
        "nothing found", "unsorted", "any word", "foreseen by the seed", "cached stock",
        "forgets", "refuses", "hangs up", "stalls", "ends",
        "never starts", "answers twice", "answers ahead", "starves", "no length", "no JSON",
        "a flood",
    ],
)  # fmt: skip
def test_cheats_are_invalid(
    scorer: Scorer, edits: tuple[tuple[str, str], ...], more: str, said: str
) -> None:
    code, output = scorer.score(*edits, more=more)
    assert code == 3, output
    assert re.fullmatch(said, output.strip()), output


# In the engine

FASTER = 'sed -i \'s/^WORDS = .*"  #/WORDS = "counted once"  #/\' service.py'
FORGES = """
import time
time.perf_counter = time.monotonic = time.time = lambda: 0.0
for name in ("client.py", "evaluate.py", "load.py"):
    open(name, "w").write("raise SystemExit('forged')")
for out in (sys.stdout, sys.stderr):
    print("METRIC requests_per_s=1000000000", file=out, flush=True)
"""
ROAMS = """
import subprocess
for address in (("127.0.0.1", PORT), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, 1).send(b"here")
    except OSError:
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        subprocess.run(["sleep", "MARKER"])
    os._exit(0)
"""


def doing(script: str) -> str:
    """An agent's edit after which the service does something more before it starts."""
    return (
        f"head -n -3 service.py >edited\ncat >>edited <<'END'\n{script}\nEND\n"
        "tail -n 3 service.py >>edited\nmv edited service.py"
    )


@pytest.mark.slow
@needs_namespaces
def test_only_honest_speed_pays(tmp_path: Path) -> None:
    marker = f"4217.{uuid.uuid4().int % 10**12}"
    with socket.create_server(("127.0.0.1", 0)) as outside:
        outside.settimeout(0)
        roams = ROAMS.replace("PORT", str(outside.getsockname()[1])).replace("MARKER", marker)
        cases = (FASTER, doing(FORGES), doing(roams), "sed -i 's/= 8/= 80/' evaluate.py")
        run = task(tmp_path, *cases)
        measured = run.measured(len(cases))
        with pytest.raises(BlockingIOError):
            outside.accept()
    found = subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True, check=False)
    assert found.stdout == b""
    baseline, faster, forged, roaming, protected = (decision for _, decision in measured)
    assert (baseline.status, faster.status) == (Status.KEEP, Status.KEEP)
    assert baseline.value is not None and faster.value is not None
    assert faster.value > 1.3 * baseline.value
    samples = run.run_folder / f"experiments/{measured[2][0].number}/samples"
    said = (samples / "0/answer.log").read_text()
    assert "METRIC requests_per_s=1000000000" in said
    for other in (forged, roaming):
        # It serves, so it is measured; what it prints and where it looks makes no difference.
        assert other.value is not None and other.value < 10 * faster.value, other
    assert protected.status is Status.REJECTED and "evaluate.py" in protected.reason


def task(folder: Path, *cases: str) -> Toy:
    run = workload(
        folder / "service", "service", ('SERVICE_ITEMS = "500"', 'SERVICE_ITEMS = "1000"'), *cases
    )
    shorten(run.root)
    run.git("add", "--all")
    run.git(*IDENTITY, "commit", "--quiet", "-m", "Shorten")
    return run


@pytest.mark.skipif(sys.platform != "linux", reason="levels of Linux")
def test_where_no_private_network_can_be_had_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "landlock")
    if sandbox.probe().level is not Level.LANDLOCK:
        pytest.skip("no Landlock here")
    done = task(tmp_path).call("run", "--max-experiments", "1", code=2)
    assert "metric.loopback needs level namespaces, this is landlock" in done.stderr
