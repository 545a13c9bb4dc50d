"""A toy task in a real git repository, driven through the real command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings

from autoresearch.cli.demo import prepare as copy_workload
from autoresearch.errors import StoreError
from autoresearch.journal import Journal
from autoresearch.journal.view import Experiment, RunView
from autoresearch.run import FOLDER, tags
from autoresearch.types import Decision, Status
from tests.started import Running, Server

# Starts in less time than with what random adds to it.
TRAIN = """\
import os
from _random import Random

LR = 0.5
noise = (Random(int(os.environ["AUTORESEARCH_SEED"])).random() - 0.5) / 289
print("loss:", (LR - 0.1) ** 2 + noise)
"""
THREE_FILES = Path(__file__).parent / "fixtures" / "three_files"
IDENTITY = ["-c", "user.name=Person", "-c", "user.email=person@example.org"]


# How long an example takes is the machine's affair; `bench/` measures.
settings.register_profile("autoresearch", deadline=None)
settings.load_profile("autoresearch")


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something to happen."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.02)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--endurance", action="store_true", help="run the long forms of heavy checks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each worker begins with its share of those that take long, so that all end together."""
    workers: int = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    count, items[:] = len(items), []
    for worker in range(workers):
        share = slow[worker::workers]
        items += share
        # What is left of this worker's part, as pytest-xdist cuts a list that can be stolen from.
        more = (count - len(items) + len(share)) // (workers - worker) - len(share)
        items += others[:more]
        del others[:more]


def pytest_unconfigure() -> None:
    if _server is not None:
        _server.close()


@pytest.fixture
def endurance(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--endurance"))


def device_memory_mb() -> float:
    """Device memory in use on all NVIDIA GPUs together, as the driver tells it.

    Raises:
        OSError: no driver is installed.
        subprocess.CalledProcessError: it sees no GPU.
    """
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return sum(float(line) for line in done.stdout.split())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        try:
            device_memory_mb()
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs an NVIDIA GPU: nvidia-smi shows none")


@pytest.fixture(scope="session", autouse=True)
def _spread_over_the_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Directories of tests lie apart, where the file system takes that hint.

    Before ext4 without a journal makes a file, it looks at all that were removed nearby in the last
    minutes, and tests remove thousands.
    """
    with contextlib.suppress(OSError):
        argv = ["chattr", "+T", str(tmp_path_factory.getbasetemp())]
        subprocess.run(argv, capture_output=True, check=False)


COMMAND = (sys.executable, "-m", "autoresearch")
CALL_S = 300.0
os.environ["GIT_TEMPLATE_DIR"] = ""  # no examples of hooks in every repository
PLAIN = dict(os.environ)  # before any test changed it
_server: Server | None = None
_serving = threading.Lock()


def run(
    argv: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = CALL_S,
    *,
    fork: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing on standard input; ours as a fork where that is the same."""
    environment = os.environ if environment is None else environment
    with _serving_fork(argv, environment if fork else None) as server:
        if server is not None:
            return server.run(argv[3:], cwd, environment, timeout_s)
    return subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s,
        errors="surrogateescape", check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@contextlib.contextmanager
def _serving_fork(
    argv: Sequence[str], environment: Mapping[str, str] | None
) -> Iterator[Server | None]:
    """The server that forks our command line, where a fork is the same, for one thread only."""
    global _server  # noqa: PLW0603 (it ends with this process)
    can = environment is not None and tuple(argv[:3]) == COMMAND and sys.platform == "linux"
    if environment is None or not can or not _serving.acquire(blocking=False):
        yield None
        return
    try:
        _server = _server or Server(PLAIN)
        yield _server if _server.serves(environment) else None
    finally:
        _serving.release()


@dataclass
class Toy:
    """A task whose loss is (LR - 0.1)^2 plus seeded noise; knobs are files and TOML sections."""

    root: Path
    files: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)

    def create(self) -> Toy:
        self.root.mkdir(parents=True, exist_ok=True)
        sections = {
            "task": 'editable = ["train.py"]',
            "run": 'command = "python3 -S train.py"\nbudget = "5s"',
            "metric": 'name = "loss"',
            "agent": 'use = "command"\n[agent.command]\nargv = ["./agent.sh"]',
        } | self.sections
        contract = "".join(f"[{name}]\n{body}\n\n" for name, body in sections.items() if body)
        files = {
            "train.py": TRAIN,
            "agent.sh": "#!/bin/sh\n",
            "autoresearch.toml": contract,
        } | self.files
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            if name.endswith(".sh"):
                path.chmod(0o755)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("add", "--all")
        self.git(*IDENTITY, "commit", "--quiet", "-m", "Start")
        return self

    def git(self, *argv: str) -> str:
        done = subprocess.run(
            ["git", *argv], cwd=self.root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def command(self, *argv: str) -> list[str]:
        return [*COMMAND, *argv]

    def call(self, *argv: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line in the task's directory and check its exit code."""
        done = run(self.command(*argv), self.root)
        said = f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in said, said
        if code is not None:
            assert done.returncode == code, said
        return done

    @property
    def said(self) -> Path:
        """What commands in the background have printed."""
        return self.root.parent / "said.log"

    def start(self, *argv: str) -> Running:
        """Start the command line in the background."""
        command = self.command(*argv)
        with self.said.open("ab") as said, _serving_fork(command, os.environ) as server:
            if server is not None:
                return server.start(argv, self.root, os.environ, said.fileno())
            return subprocess.Popen(
                command, cwd=self.root, stdin=subprocess.DEVNULL,
                stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    def saw(self, condition: Callable[[RunView], object]) -> Callable[[], object]:
        """Whether the run has begun and its view fulfils a condition; to wait for."""

        def check() -> object:
            return self._begun() and condition(self.view())

        return check

    def _begun(self) -> bool:
        try:
            return bool(tags(self.root)) and bool(self.view().started)
        except StoreError:
            return False

    @property
    def run_folder(self) -> Path:
        return self.root / FOLDER / tags(self.root)[-1]

    def view(self) -> RunView:
        return RunView(Journal(self.run_folder / "journal.db", read_only=True).events())

    def experiment(self, number: int) -> Experiment:
        return self.view().experiments[number]

    def measured(self, count: int) -> list[tuple[Experiment, Decision]]:
        """Run until the baseline and ``count`` experiments were measured; these, as decided.

        What other tests take its cores from is void, and measured once more: it does not count.
        """
        target, done = count, list[tuple[Experiment, Decision]]()
        while len(done) <= count and target < 2 * count + 4:
            self.call("run", "--max-experiments", str(target))
            done = [
                (each, decision)
                for each in self.view().decided
                if (decision := each.decision) and decision.status is not Status.VOID
            ]
            target += count + 1 - len(done)
        return done

    def statuses(self) -> list[str]:
        return [each.decision.status.value for each in self.view().decided if each.decision]

    def rows(self) -> list[list[str]]:
        text = (self.run_folder / "results.tsv").read_text()
        return [line.split("\t") for line in text.splitlines()]


def workload(root: Path, name: str, smaller: tuple[str, str], *edits: str) -> Toy:
    """A reference workload with ``smaller`` replaced in its contract, and an agent's edits."""
    task = Toy(root)
    copy_workload(name, root)
    contract = root / "autoresearch.toml"
    text = contract.read_text()
    assert smaller[0] in text
    agent = '[agent]\nuse = "command"\n[agent.command]\nargv = ["./agent.sh"]\n'
    contract.write_text(f"{text.replace(*smaller)}\n{agent}")
    (root / "agent.sh").write_text(counting(*edits))
    (root / "agent.sh").chmod(0o755)
    task.git("add", "--all")
    task.git(*IDENTITY, "commit", "--quiet", "-m", "Try")
    return task


def counting(*edits: str) -> str:
    """An agent whose edits are tried one after the other, by how much is in results so far.

    What is void is measured once more, so it does not count.
    """
    cases = "".join(f"{i}) {edit}\n;;\n" for i, edit in enumerate(edits))
    return (
        "#!/bin/sh\n"
        'n=$(sed -n "/## Tried last/,\\$p" "$AUTORESEARCH_PROMPT" \\\n'
        '| grep "^- #[1-9]" | grep -vc "^- #[0-9]* void ")\n'
        f'case "$n" in\n{cases}esac\n'
    )


def lr_patch(value: str, old: str = "0.5") -> str:
    """A patch of the toy's learning rate."""
    return (
        "--- a/train.py\n+++ b/train.py\n@@ -3,3 +3,3 @@\n \n"
        f"-LR = {old}\n+LR = {value}\n noise = (Random("
        'int(os.environ["AUTORESEARCH_SEED"])).random() - 0.5) / 289\n'
    )


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., Toy]:
    """Make a toy task: ``toy(files={...}, metric='name = "loss"')``."""

    def make(files: dict[str, str] | None = None, **sections: str) -> Toy:
        return Toy(tmp_path / "task", files or {}, sections).create()

    return make


@pytest.fixture
def three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The original layout, run through ``uv run``, in a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    task = Toy(home / "standin")
    shutil.copytree(THREE_FILES, task.root, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["uv", "lock", "--quiet", "--offline"], cwd=task.root, check=True)
    subprocess.run(["uv", "sync", "--quiet", "--offline"], cwd=task.root, check=True)
    (task.root / ".gitignore").write_text(".venv/\n")
    task.git("init", "--quiet", "--initial-branch", "main")
    task.git("add", "--all")
    task.git(*IDENTITY, "commit", "--quiet", "-m", "Start")
    return task


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_environment(monkeypatch)


def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests find ``python3`` of this environment, and no color."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
