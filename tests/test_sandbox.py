"""What confined code can reach: tried from the inside."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch import sandbox
from autoresearch.errors import UserError
from autoresearch.sandbox import Box, Mount, Sandbox, toolchain
from autoresearch.types import Level

FOUND = sandbox.probe()
needs_namespaces = pytest.mark.skipif(FOUND.level is not Level.NAMESPACES, reason=FOUND.reason)


@pytest.fixture
def inside(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a Python script confined."""

    def run(script: str, **more: object) -> subprocess.CompletedProcess[str]:
        path = "/usr/bin:/bin"
        box = Box(["python3", "-c", script], Path("/"), {"PATH": path}, tmp_path / "log", **more)  # type: ignore[arg-type]
        argv = [str(word) for word in FOUND.process(box)["argv"]]  # type: ignore[union-attr]
        return subprocess.run(
            argv, env={"PATH": path}, capture_output=True, text=True, timeout=30, check=False
        )

    return run


@needs_namespaces
def test_foreign_files_do_not_exist(inside: Callable[..., object], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    done = inside(f"open({str(secret)!r})")
    assert "FileNotFoundError" in done.stderr  # type: ignore[attr-defined]
    done = inside(f"import os; print(os.listdir({str(FOUND.home)!r}))")
    assert done.stdout == "[]\n"  # type: ignore[attr-defined]


@needs_namespaces
def test_nothing_is_writable_but_what_is_given(
    inside: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = inside(
        "import os\n"
        "for folder in ('/', '/usr', '/etc', '/dev', '/out'):\n"
        "    try:\n"
        "        open(folder + '/written', 'w').close(); print(folder)\n"
        "    except OSError: pass\n",
        mounts=[Mount(out, Path("/out"), writable=True)],
    )
    assert done.stdout == "/out\n", done.stderr
    assert (out / "written").exists()


@needs_namespaces
def test_no_network_and_no_sockets(
    inside: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    name = f"\0autoresearch-test-{os.getpid()}"
    abstract.bind(name)
    abstract.listen()
    port = server.getsockname()[1]
    done = inside(
        "import socket\n"
        f"for family, address in ((2, ('127.0.0.1', {port})), (1, {name!r})):\n"
        "    try: socket.socket(family).connect(address); print('open')\n"
        "    except OSError: print('closed')\n"
    )
    server.close()
    abstract.close()
    assert done.stdout == "closed\nclosed\n", done.stderr


@needs_namespaces
def test_other_processes_are_out_of_reach(
    inside: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = inside(
        "import os\n"
        "print(sum(name.isdigit() for name in os.listdir('/proc')))\n"
        f"try: os.kill({os.getpid()}, 0); print('reached')\n"
        "except OSError: print('gone')\n"
    )
    count, reached = done.stdout.split()
    assert int(count) <= 3
    assert reached == "gone"


@needs_namespaces
def test_no_nested_user_namespaces(
    inside: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = inside("import subprocess; print(subprocess.call(['unshare', '-Ur', 'true']))")
    assert done.stdout.strip() != "0"


@needs_namespaces
def test_the_environment_holds_no_secret(
    inside: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    done = inside(
        "import glob\nfor name in glob.glob('/proc/*/environ'): print(open(name, 'rb').read())\n"
    )
    assert "sk-secret" not in done.stdout


@needs_namespaces
def test_a_deeper_mount_hides(
    inside: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train").write_text("train")
    (data / "val").write_text("hidden")
    empty = tmp_path / "empty"
    empty.touch()
    mounts = [Mount(empty, Path("/data/val")), Mount(data, Path("/data"))]
    done = inside("print(open('/data/train').read(), open('/data/val').read())", mounts=mounts)
    assert done.stdout == "train \n", done.stderr


def test_unconfined_is_refused_without_consent() -> None:
    weak = Sandbox(Level.NONE, "bubblewrap (bwrap) is not installed")
    with pytest.raises(UserError, match="not installed") as refused:
        sandbox.require(weak, unconfined=False)
    assert "--unconfined" in refused.value.fix
    assert sandbox.require(weak, unconfined=True).level is Level.NONE


def test_probe_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert sandbox.probe().reason == "bubblewrap (bwrap) is not installed"


def test_a_bubblewrap_that_does_not_confine_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = sandbox.probe()
    assert found.level is Level.NONE
    assert "readable inside" in found.reason


def test_toolchain_never_shows_the_home_itself(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    base = home / ".pythons" / "3.11"
    (base / "bin").mkdir(parents=True)
    (base / "bin" / "python3.11").touch()
    venv = home / "project" / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python3").symlink_to(base / "bin" / "python3.11")
    found = toolchain(f"{venv / 'bin'}:{home}:/usr/bin:relative", home)
    assert found == [venv, base]


@needs_namespaces
def test_sandboxes_of_a_killed_engine_are_swept(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    box = Box(["sleep", "600"], Path("/"), {"PATH": "/usr/bin"}, tmp_path / "log",
              [Mount(scratch, Path("/out"))])  # fmt: skip
    argv = [str(word) for word in FOUND.process(box)["argv"]]  # type: ignore[union-attr]
    orphan = subprocess.Popen(argv, env={"PATH": "/usr/bin"})
    time.sleep(0.3)
    assert sandbox.sweep(tmp_path / "scr") == 0
    assert sandbox.sweep(tmp_path) >= 1
    assert orphan.wait(5) != 0
