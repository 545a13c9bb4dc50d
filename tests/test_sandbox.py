"""What confined code can reach: tried from the inside."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
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
def test_copied_settings_are_those_of_the_system(tmp_path: Path) -> None:
    sandbox.copy_settings(tmp_path / "etc")
    look = "cd /etc && find . -type f -exec cksum {} + | sort -k3; touch /etc/passwd /etc/new"
    found = []
    for settings, network in ((None, False), (tmp_path / "etc", False), (tmp_path / "etc", True)):
        box = Box(["/bin/sh", "-c", look], Path("/"), {"PATH": "/usr/bin:/bin"}, tmp_path / "log",
                  network=network)  # fmt: skip
        argv = [str(word) for word in replace(FOUND, settings=settings).process(box)["argv"]]  # type: ignore[union-attr]
        assert (str(tmp_path / "etc") in argv) == (settings is not None and not network)
        found.append(subprocess.run(argv, capture_output=True, text=True, check=False))
    assert found[0].stdout == found[1].stdout == found[2].stdout and "passwd" in found[0].stdout
    assert all(each.stderr.count("Read-only file system") == 2 for each in found)


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


@needs_namespaces
def test_a_place_is_where_it_is_shown(tmp_path: Path) -> None:
    tree, data = tmp_path / "tree", tmp_path / "data"
    mounts = [
        Mount(data, Path("/task/data")), Mount(tree, Path("/task"), writable=True),
        Mount(tmp_path, Path("/task/data/val"), hides=True),
    ]  # fmt: skip
    places = {"/task/train.py": tree / "train.py", "/task/data/val": data / "val",
              "/task": tree, "/usr": Path("/usr"), "/tasks": Path("/tasks")}  # fmt: skip
    by_path = Sandbox(Level.LANDLOCK)
    for at, found in places.items():
        assert by_path.place(Path(at), mounts) == found
        assert FOUND.place(Path(at), mounts) == Path(at)


def test_unconfined_is_refused_without_consent() -> None:
    weak = Sandbox(Level.NONE, "bubblewrap (bwrap) is not installed")
    with pytest.raises(UserError, match="not installed") as refused:
        sandbox.require(weak, unconfined=False)
    assert "--unconfined" in refused.value.fix
    assert sandbox.require(weak, unconfined=True).level is Level.NONE


def test_probe_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = sandbox.probe()
    assert found.level in (Level.LANDLOCK, Level.NONE)
    assert found.reason.startswith("bubblewrap (bwrap) is not installed")
    assert sandbox.raise_level(found) == "install bubblewrap (apt install bubblewrap)"


def test_a_bubblewrap_that_does_not_confine_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = sandbox.probe()
    assert found.level in (Level.LANDLOCK, Level.NONE)
    assert "readable inside" in found.reason


@pytest.mark.parametrize("level", list(Level))
def test_the_level_can_only_be_lowered(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", level.value)
    found = sandbox.probe()
    order = list(Level)
    assert order.index(found.level) >= order.index(level)
    assert order.index(found.level) >= order.index(FOUND.level)
    if level is Level.NONE:
        assert sandbox.raise_level(found) == "unset AUTORESEARCH_LEVEL"


def test_a_level_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "high")
    with pytest.raises(UserError, match="AUTORESEARCH_LEVEL='high'") as refused:
        sandbox.probe()
    assert "namespaces, landlock, seatbelt, none" in refused.value.fix


def test_every_level_but_the_highest_says_what_it_lacks() -> None:
    for level in Level:
        lacks = sandbox.not_guaranteed(Sandbox(level))
        assert bool(lacks) == (level is not Level.NAMESPACES)
        assert bool(sandbox.raise_level(Sandbox(level))) == bool(lacks)
    modes = "modes and times of other files"
    assert modes in str(sandbox.not_guaranteed(Sandbox(Level.LANDLOCK)))
    assert modes not in str(sandbox.not_guaranteed(Sandbox(Level.LANDLOCK, uid=64_000)))


def test_rules_name_what_is_shown_and_what_is_not(tmp_path: Path) -> None:
    """What the levels that go by path allow: the person's own files are not among it."""
    home, run = tmp_path / "home", tmp_path / "home/task/.autoresearch/t"
    tree, data = run / "scratch/tree", run / "setup/data"
    mounts = [
        Mount(home, home),  # readable = ["~"], say
        Mount(tree, home / "task", writable=True),
        Mount(data, home / "task/data"),
        Mount(run / "empty", home / "task/data/val", hides=True),
        Mount(run / "empty", home / "task/.autoresearch", hides=True),
    ]
    box = Box(["true"], home / "task", {"WHERE": home / "task/data", "TEXT": "/a:/b"},
              tmp_path / "log", mounts)  # fmt: skip
    rules = Sandbox(Level.LANDLOCK)._rules(box)
    assert rules["write"] == [str(tree)]
    assert {str(home), str(data), "/usr"} <= set(rules["read"])  # type: ignore[arg-type]
    assert {str(home / "task"), str(home / "task/.autoresearch"), str(data / "val")} <= set(
        rules["without"]  # type: ignore[arg-type]
    )
    process = Sandbox(Level.NONE).process(box)
    assert process["cwd"] == str(tree)
    assert process["env"] == {"WHERE": str(data), "TEXT": "/a:/b"}


def test_the_profile_for_macos_names_every_rule(tmp_path: Path) -> None:
    """Its text; that macOS does with it what it says has not been tested."""
    (tmp_path / "tree").mkdir()
    odd = tmp_path / 'a "quoted" \\ name'
    mounts = [
        Mount(tmp_path / "tree", Path("/task"), writable=True),
        Mount(odd, Path("/data")),
        Mount(tmp_path / "empty", Path("/data/val"), hides=True),
    ]
    box = Box(["/usr/bin/true", "x"], Path("/task"), {}, tmp_path / "log", mounts)
    program, flag, profile, *argv = Sandbox(Level.SEATBELT).process(box)["argv"]  # type: ignore[misc]
    assert (program, flag, argv) == ("/usr/bin/sandbox-exec", "-p", ["/usr/bin/true", "x"])
    rules = str(profile).splitlines()
    assert rules[:2] == ["(version 1)", "(deny default)"]
    assert "network" not in str(profile) and "socket" not in str(profile)
    real = os.path.realpath(tmp_path)
    (writes,) = [r for r in rules if r.startswith("(allow file-read* file-write*") and real in r]
    assert writes == f'(allow file-read* file-write* (subpath "{real}/tree"))'
    (denied,) = [i for i, rule in enumerate(rules) if rule.startswith("(deny file-read*")]
    assert 'name/val")' in rules[denied]
    (shown,) = [i for i, rule in enumerate(rules) if f'{real}/a \\"quoted\\" \\\\ name"' in rule
                and rule.startswith("(allow")]  # fmt: skip
    assert shown < denied
    assert str(profile).count("(") == str(profile).count(")")
    online = Sandbox(Level.SEATBELT).process(replace(box, network=True))["argv"]
    assert "(allow network-outbound" in str(online)


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
    assert sandbox.sweep([tmp_path / "scr"]) == 0
    assert sandbox.sweep([tmp_path]) >= 1
    assert orphan.wait(5) != 0


@pytest.mark.parametrize("level", [Level.LANDLOCK, Level.SEATBELT])
def test_rules_by_path_give_no_network_of_ones_own(level: Level) -> None:
    weak = Sandbox(level, "bubblewrap (bwrap) is not installed")
    weak.require_loopback(False)
    with pytest.raises(UserError, match=r"metric\.loopback needs level namespaces, this is"):
        weak.require_loopback(True)
    box = Box(["/bin/true"], Path("/"), {}, Path("/dev/null"), loopback=True)
    assert weak.process(box)["loopback"] is False
