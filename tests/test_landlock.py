"""What code confined by Landlock can reach: every way out is tried, from the inside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch import landlock, sandbox
from autoresearch.journal.view import RunView
from autoresearch.sandbox import Box, Mount, Sandbox
from autoresearch.types import Level
from tests.conftest import Toy, counting
from tests.test_runner import Server, alive, job, until

MakeToy = Callable[..., Toy]
PYTHON = "/usr/bin/python3"
ORDINARY = 23_456
pytestmark = [
    pytest.mark.skipif(
        landlock.abi() < landlock.NEEDED_ABI,
        reason=f"Landlock version {landlock.abi()}, {landlock.NEEDED_ABI} is needed",
    ),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"no {PYTHON}"),
]

# What every script below begins with: ways are named and tried; only what succeeds is printed.
# None may hurt the machine when confinement is broken: they reach for the stranger alone.
PRELUDE = """
import ctypes, os, signal, socket, struct, subprocess, sys
folder, victim = {folder!r}, {victim}
work, data, secret, hidden = (folder + name for name in ("/work", "/data", "/secret", "/data/val"))
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), str(number))
def attempt(**ways):
    for name, way in ways.items():
        try:
            way()
        except OSError:
            continue
        print(name, flush=True)
"""
FILES = """
attempt(
    read=lambda: open(secret),
    read_hidden=lambda: open(hidden),
    read_through_a_link=lambda: (os.symlink(secret, work + "/link"), open(work + "/link")),
    list_home=lambda: os.listdir(folder),
    read_home=lambda: open(folder + "/home/.key"),
    write=lambda: open(secret, "a"),
    truncate=lambda: os.truncate(secret, 0),
    write_data=lambda: open(data + "/train", "a"),
    make_beside=lambda: open(folder + "/new", "w"),
    make_in_data=lambda: open(data + "/new", "w"),
    folder_beside=lambda: os.mkdir(folder + "/folder"),
    link_out=lambda: os.link(secret, work + "/hard"),
    link_data_out=lambda: os.link(data + "/train", work + "/hard2"),
    link_in=lambda: (open(work + "/own", "w").close(), os.link(work + "/own", folder + "/in")),
    rename_out=lambda: os.rename(secret, work + "/moved"),
    rename_data=lambda: os.rename(data + "/train", work + "/moved2"),
    replace=lambda: (open(work + "/fake", "w").close(), os.rename(work + "/fake", secret)),
    remove_data=lambda: os.unlink(hidden),
    remove=lambda: os.unlink(secret),
    write_tmp=lambda: os.close(os.open("/tmp", os.O_TMPFILE | os.O_WRONLY)),
    shared_memory=lambda: os.close(os.open("/dev/shm", os.O_TMPFILE | os.O_WRONLY)),
    kernel_settings=lambda: open("/proc/sys/kernel/core_pattern", "w"),
    disk=lambda: os.mknod(work + "/disk", 0o60600, os.makedev(8, 0)),
    swap_work=lambda: os.rename(work, folder + "/other"),
)
"""
PROCESSES = """
ATTACH = 16
def memory():
    read, local = ctypes.create_string_buffer(8), ctypes.c_size_t
    vector = struct.pack("QQ", ctypes.addressof(read), 8)
    call(310 if os.uname().machine == "x86_64" else 270, victim, vector, 1, vector, 1, 0)
import resource
attempt(
    signal=lambda: os.kill(victim, 0),
    continued=lambda: os.kill(victim, signal.SIGCONT),
    signal_by_descriptor=lambda: signal.pidfd_send_signal(os.pidfd_open(victim), signal.SIGCONT),
    environment=lambda: open(f"/proc/{victim}/environ", "rb").read(),
    arguments=lambda: open(f"/proc/{victim}/cmdline", "rb").read(),
    files=lambda: os.listdir(f"/proc/{victim}/fd"),
    processes=lambda: os.listdir("/proc"),
    memory_file=lambda: open(f"/proc/{victim}/mem", "rb"),
    memory=memory,
    trace=lambda: call(101 if os.uname().machine == "x86_64" else 117, ATTACH, victim, 0, 0),
    limits=lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (1, 1)),
    priority=lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
    priority_of_its_group=lambda: os.setpriority(os.PRIO_PGRP, victim, 19),
    cores=lambda: os.sched_setaffinity(victim, {0}),
    scheduler=lambda: os.sched_setscheduler(victim, os.SCHED_BATCH, os.sched_param(0)),
)
"""
SOCKETS = """
families = {name: value for name, value in vars(socket).items() if name.startswith("AF_")}
def connect(family, kind, address):
    socket.socket(family, kind).connect(address)
def meet_again():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"x", folder + "/datagrams")
for name, family in families.items():
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        attempt(**{f"{name}_{kind}": lambda: socket.socket(family, kind)})
attempt(
    tcp=lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
    by_path=lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, folder + "/socket"),
    by_name=lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + folder),
    listen=lambda: socket.create_server(("127.0.0.1", 0)),
    meet_again=meet_again,
)
"""
# Named by (x86_64, aarch64) numbers; the arguments are such that they work, or fail otherwise.
CALLS = """
column = ("x86_64", "aarch64").index(os.uname().machine)
ways = dict(
    keyctl=((250, 219), 0, -3, 0), add_key=((248, 217), b"user", b"x", b"y", 1, -3),
    shmget=((29, 194), 0, 4096, 0o1600), semget=((64, 190), 0, 1, 0o1600),
    msgget=((68, 186), 0, 0o1600), mq_open=((240, 180), b"autoresearch", 0o100, 0o600, None),
    io_uring_setup=((425, 425), 1, ctypes.create_string_buffer(120)),
    userfaultfd=((323, 282), 1), bpf=((321, 280), 0, ctypes.create_string_buffer(120), 120),
    perf_event_open=((298, 241), struct.pack("IIQQQQQ", 1, 112, 1, 0, 0, 0, 96).ljust(112, b"\\0"),
                     0, -1, -1, 0),
    unshare=((272, 97), 0x10000000), inotify=((254, 27), libc.inotify_init(), b"/", 0xFFF),
    clone=((56, 220), 0x10000000 | 17, 0, 0, 0, 0), clone3=((435, 435), None, 0),
    setxattr=((188, 5), work.encode(), b"user.x", b"y", 1, 0),
)
for name, (numbers, *arguments) in ways.items():
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(numbers[column], *arguments)
    if name == "clone" and result == 0:
        os._exit(0)
    error = ctypes.get_errno()
    wanted = dict(clone3=38, setxattr=95).get(name, 1)
    print(name, "refused" if result < 0 and error == wanted else f"gave {result}, error {error}")
"""


class Jail:
    """Folders shown and not shown, a stranger's process, and scripts run confined between them."""

    def __init__(self, folder: Path, who: str) -> None:
        self.folder = folder
        self.who = who
        for name in ("work", "data", "home", "private"):
            (folder / name).mkdir()
        for name in ("secret", "data/train", "data/val", "home/.key"):
            (folder / name).write_text(name)
        self.sandbox = Sandbox(Level.LANDLOCK, uid=64_000 if who == "spare" else None)
        self.helper = shutil.copy(landlock.__file__, folder)
        if who == "ordinary" and os.geteuid() == 0:
            folder.chmod(0o755)
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, ORDINARY, ORDINARY)
        self.stranger = subprocess.Popen(
            [*self.as_user, "/usr/bin/env", "KEY=sk-stranger", "sleep", "100"],
            start_new_session=True,
        )
        self.mounts = [
            Mount(folder / "work", folder / "work", writable=True),
            Mount(folder / "private", Path("/tmp"), writable=True),
            Mount(folder / "data", folder / "data"),
            Mount(folder / "empty", folder / "data/val", hides=True),
        ]

    @property
    def as_user(self) -> list[str]:
        if self.who != "ordinary" or os.geteuid() != 0:
            return []
        user = ["--reuid", str(ORDINARY), "--regid", str(ORDINARY), "--clear-groups"]
        return ["setpriv", *user]

    def prelude(self) -> str:
        return PRELUDE.format(folder=str(self.folder), victim=self.stranger.pid)

    def process(self, script: str, **more: Any) -> dict[str, Any]:
        """A script as a process of a job."""
        env: dict[str, str | Path] = {"PATH": "/usr/bin:/bin", "TMPDIR": Path("/tmp")}
        argv = [PYTHON, "-c", self.prelude() + script]
        box = Box(argv, self.folder / "work", env, self.folder / "log", self.mounts, **more)
        process: dict[str, Any] = self.sandbox.process(box)
        # This interpreter may live where another user cannot reach it.
        ours = {sys.executable: PYTHON, landlock.__file__: self.helper}
        argv = [ours.get(word, word) for word in process["argv"]]
        if self.as_user:
            argv = [str(shutil.which("setpriv")), *self.as_user[1:], *argv]
        return process | {"argv": argv}

    def run(self, script: str, **more: Any) -> subprocess.CompletedProcess[str]:
        process = self.process(script, **more)
        return subprocess.run(
            process["argv"], env=process["env"], cwd=process["cwd"], capture_output=True,
            text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        self.stranger.kill()
        self.stranger.wait()
        shutil.rmtree(self.folder)


@pytest.fixture(params=["ordinary", "root", "spare"])
def jail(request: pytest.FixtureRequest) -> Iterator[Jail]:
    """As an ordinary user; as root, who gives up all rights; as root, who becomes a spare user."""
    if request.param != "ordinary" and os.geteuid() != 0:
        pytest.skip("only root can be confined as root")
    if request.param == "ordinary" and os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed, to become an ordinary user with")
    made = Jail(Path(tempfile.mkdtemp(prefix="autoresearch-jail-")), request.param)
    yield made
    made.close()


def test_only_what_is_shown_can_be_opened(jail: Jail) -> None:
    done = jail.run(FILES + "print(open(data + '/train').read(), *sorted(os.listdir(work)))")
    assert (done.stdout, done.stderr) == ("data/train fake link own\n", "")
    assert {path.name for path in jail.folder.iterdir()} == {
        "work", "data", "home", "private", "secret", "landlock.py",
    }  # fmt: skip
    assert (jail.folder / "secret").read_text() == "secret"
    assert (jail.folder / "data/train").read_text() == "data/train"


def test_work_and_a_private_tmp_are_writable(jail: Jail) -> None:
    done = jail.run(
        "import shutil, tempfile\n"
        "open('here', 'w').write('x'); os.chmod('here', 0o755); os.mkdir('sub')\n"
        "os.rename('here', 'sub/there'); shutil.rmtree('sub')\n"
        "with tempfile.TemporaryFile() as file: file.write(b'x')\n"
        "print(tempfile.gettempdir() == folder + '/private', os.access('.', os.R_OK | os.W_OK))\n"
        "print(subprocess.run(['sh', '-c', 'echo inner >/dev/stdout'], capture_output=True).stdout)"
    )
    assert done.stdout == "True True\nb'inner\\n'\n", done.stderr


def test_threads_children_and_pipes_work(jail: Jail) -> None:
    done = jail.run(
        "import asyncio, multiprocessing, threading\n"
        "def double(pipe): pipe.send(2 * pipe.recv())\n"
        "here, there = multiprocessing.Pipe()\n"
        "child = multiprocessing.get_context('fork').Process(target=double, args=(there,))\n"
        "child.start(); here.send(21); print(here.recv()); child.join()\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "async def main(): await asyncio.sleep(0.01); print('loop')\n"
        "asyncio.run(main())\n"
        "sleeper = subprocess.Popen(['sleep', '50']); sleeper.kill(); print(sleeper.wait())\n"
        "print(all(len(open(f'/proc/{name}').read()) for name in ('self/status', 'cpuinfo')))"
    )
    assert done.stdout == "42\nthread\nloop\n-9\nTrue\n", done.stderr


def test_other_processes_are_out_of_reach(jail: Jail) -> None:
    done = jail.run(PROCESSES)
    assert (done.stdout, done.stderr) == ("", "")
    assert jail.stranger.poll() is None


def test_no_socket_of_any_family(jail: Jail) -> None:
    with listening(jail.folder) as port:
        done = jail.run(f"port = {port}" + SOCKETS + "print(len(socket.socketpair()))")
    assert done.stdout == "2\n", done.stderr


def test_with_network_there_is_tcp_and_nothing_local(jail: Jail) -> None:
    with listening(jail.folder) as port:
        done = jail.run(f"port = {port}" + SOCKETS, network=True)
    named = done.stdout.split()
    assert "tcp" in named, done.stderr
    assert not {"by_path", "by_name", "meet_again"} & set(named)
    assert {name.rpartition("_")[0] for name in named if name.startswith("AF_")} <= {
        "AF_INET", "AF_INET6", "AF_NETLINK", "AF_ROUTE",
    }  # fmt: skip


def test_setup_reads_the_machine_and_writes_its_own_places_only(jail: Jail) -> None:
    """The person's own preparation is trusted: with network, local sockets, shared memory."""
    with listening(jail.folder) as port:
        script = f"port = {port}" + SOCKETS + FILES
        named = set(jail.run(script, network=True, whole_system=True).stdout.split())
    assert {"tcp", "by_path", "read", "shared_memory"} <= named
    changing = {"write", "truncate", "write_data", "make_beside", "remove", "replace", "link_in"}
    assert not named & {*changing, "by_name", "AF_PACKET_3", "write_tmp", "swap_work", "disk"}


def test_calls_that_go_around_files_are_refused(jail: Jail) -> None:
    done = jail.run(CALLS)
    lines = done.stdout.splitlines()
    assert len(lines) >= 15, done.stderr
    assert [line for line in lines if not line.endswith(" refused")] == []


def test_nothing_can_be_typed_into_the_terminal(jail: Jail) -> None:
    done = jail.run(
        "import fcntl\n"
        "for request in (0x5412, 0x541C):\n"
        "    try: fcntl.ioctl(0, request, b'x')\n"
        "    except PermissionError: print('refused')\n"
    )
    assert done.stdout == "refused\nrefused\n", done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the older calls are those of x86")
def test_calls_of_the_other_kind_end_the_process(jail: Jail) -> None:
    done = jail.run(
        "import mmap\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))\n"  # mov eax, 20; int 0x80; ret
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()\n"
        "print('alive')"
    )
    assert done.returncode == -signal.SIGSYS and done.stdout == ""
    x32 = jail.run("call(0x40000000 + 39)")
    assert "OSError: [Errno 38]" in x32.stderr


def test_no_capability_is_left_but_reading_for_a_spare_user(jail: Jail) -> None:
    done = jail.run(
        "print(*[line.split()[1] for line in open('/proc/self/status')\n"
        "        if line.startswith(('CapPrm', 'CapEff', 'CapAmb', 'NoNewPrivs'))])\n"
        "attempt(become_root=lambda: os.setuid(0), chroot=lambda: os.chroot('.'),\n"
        "        mode=lambda: os.chmod(secret, 0o777), owner=lambda: os.chown(secret, 0, 0),\n"
        "        time=lambda: os.utime(secret, (1, 1)))\n"
        "print(os.getuid())"
    )
    held, *open_ways, uid = done.stdout.splitlines()
    kept = 0b110 if jail.who == "spare" else 0
    assert [int(word, 16) for word in held.split()] == [kept, kept, kept, 1]
    if jail.who == "spare":
        assert (open_ways, uid) == ([], "64000")
    else:
        # Modes and times of one's own files: Landlock has no word for them (docs/trust.md).
        assert set(open_ways) <= {"become_root", "mode", "owner", "time"}
        assert ("become_root" in open_ways) == (uid == "0")


def test_files_of_a_spare_user_are_its_own(jail: Jail) -> None:
    if jail.who != "spare":
        pytest.skip("the others work with their own files anyway")
    (jail.folder / "work/script").write_text("old")
    outside = jail.folder / "secret"
    (jail.folder / "work/link").symlink_to(outside)
    done = jail.run("os.chmod('script', 0o755); print(os.stat('script').st_uid)")
    assert done.stdout == "64000\n", done.stderr
    assert outside.stat().st_uid == 0


def test_it_fails_closed(jail: Jail) -> None:
    process = jail.process("print('ran')")
    old = jail.folder / "old.py"
    old.write_text(Path(landlock.__file__).read_text().replace("NEEDED_ABI = 6", "NEEDED_ABI = 99"))
    old.chmod(0o644)
    rules = next(word for word in process["argv"] if word.startswith("{"))
    for swap in (
        {jail.helper: str(old)},
        {rules: "{}"},
        {rules: rules.replace('"/dev/null"', '"/dev/null/none"')},
    ):
        argv = [swap.get(word, word) for word in process["argv"]]
        done = subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)
        assert (done.returncode, done.stdout) == (126, ""), done
        assert "cannot confine" in done.stderr


# A daemon that gives up its parent, its session and its death signal, and turns on its keeper.
DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        libc.prctl(1, 0)
        for number in range(1, 32):
            try: signal.signal(number, signal.SIG_IGN)
            except OSError: pass
        while os.getppid() != {runner}: pass
        try: os.kill({runner}, signal.SIGKILL)
        except OSError: pass
        open("armed", "w").close()
        os.execv("/usr/bin/sleep", ["sleep", "{marker}"])
    os._exit(0)
os.wait()
import time; time.sleep({more})
"""


@pytest.mark.parametrize("more_s", [0.5, 60])
def test_no_descendant_outlives_the_step(jail: Jail, more_s: float) -> None:
    server = Server()
    marker = f"4218.{uuid.uuid4().int % 10**12}"
    script = DAEMON.format(runner=server.process.pid, marker=marker, more=more_s)
    try:
        (step,) = server.run(job(jail.process(script), deadline_s=3))["steps"]
    finally:
        server.process.communicate(timeout=15)
    assert step["outcome"] == ("ok" if more_s < 3 else "timeout"), (jail.folder / "log").read_text()
    assert (jail.folder / "work/armed").exists()
    assert server.process.returncode == 0
    assert not alive(f"sleep {marker}")


def test_no_file_of_the_runner_is_left_open(jail: Jail) -> None:
    server = Server()
    server.run(job(jail.process("print(sorted(os.listdir('/proc/self/fd')))")))
    server.process.communicate()
    # Input, output, errors, and the folder that is being listed.
    assert (jail.folder / "log").read_text() == "['0', '1', '2', '3']\n"


def test_the_program_dies_with_its_runner(jail: Jail) -> None:
    server = Server()
    marker = f"4219.{uuid.uuid4().int % 10**12}"
    server.send(job(jail.process(f"os.execv('/usr/bin/sleep', ['sleep', '{marker}'])")))
    until(lambda: bool(alive(f"^sleep {marker}")))
    server.process.kill()
    server.process.communicate()
    until(lambda: not alive(f"^sleep {marker}"))


def test_what_a_killed_engine_and_runner_left_is_swept(jail: Jail) -> None:
    process = jail.process("import time; time.sleep(600)")
    orphan = subprocess.Popen(process["argv"], env=process["env"], cwd=process["cwd"])
    until(lambda: b"landlock" not in Path(f"/proc/{orphan.pid}/cmdline").read_bytes())
    assert sandbox.sweep([jail.folder.with_name("nowhere")]) == 0
    assert sandbox.sweep([jail.folder]) == 1
    assert orphan.wait(5) == -signal.SIGKILL


def test_the_attacks_work_where_nothing_confines(jail: Jail) -> None:
    """The control: scripts that reach nothing inside reach nearly everything without."""
    if jail.who == "spare":
        pytest.skip("another uid alone stops some of them")
    files = plain(jail, FILES)
    assert len(files) >= 21, files
    (jail.folder / "work").mkdir()
    with listening(jail.folder) as port:
        sockets = plain(jail, f"port = {port}" + SOCKETS)
    assert {"tcp", "by_path", "by_name", "listen", "meet_again"} <= sockets
    processes = plain(jail, PROCESSES)
    assert {"signal", "environment", "arguments", "limits", "priority", "cores"} <= processes


def plain(jail: Jail, script: str) -> set[str]:
    argv = [*jail.as_user, PYTHON, "-c", jail.prelude() + script]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, cwd=jail.folder / "work"
    )
    assert "SyntaxError" not in done.stderr and "NameError" not in done.stderr, done.stderr
    return set(done.stdout.split())


class listening:  # noqa: N801
    """Servers on TCP, on sockets with a path and on one with a name only."""

    def __init__(self, folder: Path) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.local = []
        for kind, name in (
            (socket.SOCK_STREAM, f"{folder}/socket"),
            (socket.SOCK_STREAM, f"\0{folder}"),
            (socket.SOCK_DGRAM, f"{folder}/datagrams"),
        ):
            server = socket.socket(socket.AF_UNIX, kind)
            server.bind(name)
            if kind == socket.SOCK_STREAM:
                server.listen()
            if name.startswith("/"):
                Path(name).chmod(0o777)
            self.local.append(server)

    def __enter__(self) -> int:
        port: int = self.tcp.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        for server in (self.tcp, *self.local):
            server.close()


# The whole engine at this level

EVALUATE = """
import json, os, pathlib
out = pathlib.Path(os.environ["AUTORESEARCH_OUT"])
for place in (out, pathlib.Path()):
    try:
        (place / "planted").write_text("x")
    except OSError:
        continue
    raise SystemExit(f"{place} is writable")
# Nothing above is the person's: tools look there for their settings.
above = [pathlib.Path.cwd(), *pathlib.Path.cwd().parents]
assert not any((folder / ".git").exists() for folder in above), above
answer = float((out / "answer").read_text())
truth = float(pathlib.Path("data/val").read_text())
os.write(int(os.environ["AUTORESEARCH_ASK_FD"]), b"?")
said = float(os.read(int(os.environ["AUTORESEARCH_ANSWER_FD"]), 99))
assert said == answer, (said, answer)
assert json.loads(pathlib.Path(os.environ["AUTORESEARCH_USAGE"]).read_text())["cpu_s"] > 0
print("loss:", abs(answer - truth))
"""
PREPARE = """
import pathlib
pathlib.Path("data").mkdir()
pathlib.Path("data/train").write_text("3")
pathlib.Path("data/val").write_text("5")
cache = pathlib.Path.home() / ".cache" / "toy"
cache.mkdir(parents=True)
(cache / "tokens").write_text("cached")
"""
CANDIDATE = """
import os, pathlib, sys
out = pathlib.Path(os.environ["AUTORESEARCH_OUT"])
if "--answer" in sys.argv:
    sys.stdin.read(1)
    assert not os.path.exists("data")
    sys.stdout.write((out / "answer").read_text())
    raise SystemExit
assert (pathlib.Path.home() / ".cache" / "toy" / "tokens").read_text() == "cached"
assert os.listdir("data") == ["train"], os.listdir("data")
guess = float(open("data/train").read())
(out / "answer").write_text(str(guess))
print("loss: 0.0")
"""
# Finds the run by where its own data is, and looks at all that is there.
THIEF = """
import os, pathlib
run = pathlib.Path(os.path.realpath("data/train")).parents[3]
assert (run / "journal.db").exists()
ruler = pathlib.Path.cwd().parents[2] / "evaluation/evaluate.py"
for path in ("journal.db", "setup/tree/data/val", str(ruler), "engine.lock",
             "store.git/HEAD", "experiments/0/samples/0/run.log", "results.tsv", "inbox",
             "../../agent.sh", "../../.git/HEAD"):
    assert (run / path).exists(), path
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(run / path, flags))
        except OSError:
            continue
        print("opened", path)
"""


def test_a_run_with_all_its_parts(
    toy: MakeToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "landlock")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    agent = counting(
        "sed -i 's/guess = .*/guess = 4.5/' train.py; cat data/train; ls -d .venv data >&2;"
        " git status --short || exit 9",
        f"cat >>train.py <<'END'\n{THIEF}END",
    )
    task = toy(
        {"agent.sh": agent, "evaluate.py": EVALUATE, "prepare.py": PREPARE, "train.py": CANDIDATE},
        task='editable = ["train.py"]\ndata = ["data/"]\nhidden = ["data/val"]',
        run='command = "python3 train.py"\nsetup = "python3 prepare.py"\nbudget = "5s"',
        metric='name = "loss"\nevaluate = "python3 evaluate.py"\n'
        'answer = "python3 train.py --answer"',
        limits="experiments = 2",
    )
    (task.root / ".venv" / "bin").mkdir(parents=True)
    done = task.call("run")
    assert "warning: level landlock (AUTORESEARCH_LEVEL=landlock" in done.stderr
    assert "to raise it: unset AUTORESEARCH_LEVEL" in done.stderr
    view = task.view()
    assert task.statuses()[:2] == ["keep", "keep"], done.stdout
    assert [view.experiments[n].decision.value for n in (0, 1)] == [2.0, 0.5]  # type: ignore[union-attr]
    samples = [each.sample for n in (0, 1, 2) for each in view.experiments[n].taken]
    assert {sample.level for sample in samples} == {Level.LANDLOCK}
    log = task.run_folder / "experiments/2/samples/0/run.log"
    assert log.read_text() == "loss: 0.0\n"
    assert "val" not in (task.run_folder / "experiments/1/agent.log").read_text()
    assert view.experiments[1].dropped == ()
    assert not (task.run_folder / "scratch").exists()
    assert list((tmp_path / "cache" / "autoresearch").iterdir()) == []
    assert not [p for p in (task.run_folder / "setup" / "tree").rglob("*") if p.is_symlink()]


def test_check_names_the_level(toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "landlock")
    task = toy()
    said = task.call("check").stdout
    assert "level      landlock (AUTORESEARCH_LEVEL=landlock asks for no more)\nnot held   " in said
    assert "raise it   unset AUTORESEARCH_LEVEL\n" in said
    found = json.loads(task.call("check", "--json").stdout)
    assert found["level"] == "landlock" and found["raise"] == "unset AUTORESEARCH_LEVEL"
    assert len(found["not_guaranteed"]) >= 4


def test_less_than_required_is_refused(toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "landlock")
    task = toy(limits="experiments = 0")
    refused = task.call("run", "--require", "namespaces", code=2)
    assert "confines at level landlock, required is namespaces" in refused.stderr


def test_an_ordinary_user_runs_it_all(toy: MakeToy) -> None:
    """The engine itself without root, where the rest of these tests has it."""
    if os.geteuid() != 0:
        pytest.skip("the tests above have shown it")
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-ordinary-"))
    task = Toy(folder / "task", {"agent.sh": counting("sed -i 's/0.5/0.2/' train.py")},
               {"limits": "experiments = 1"}).create()  # fmt: skip
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, ORDINARY, ORDINARY, follow_symlinks=False)
    env = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "AUTORESEARCH_LEVEL": "landlock",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    user = ["setpriv", "--reuid", str(ORDINARY), "--regid", str(ORDINARY), "--clear-groups"]
    where = {"cwd": task.root, "env": env, "text": True, "capture_output": True}
    try:
        words = [*user, PYTHON, "-c", "import autoresearch.cli.run, git".replace(", git", "")]
        if subprocess.run(words, check=False, **where).returncode != 0:  # type: ignore[call-overload]
            pytest.skip(f"{PYTHON} cannot import this installation as another user")
        argv = [*user, PYTHON, "-m", "autoresearch", "run"]
        done = subprocess.run(argv, check=False, timeout=120, **where)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr
        view: RunView = task.view()
        assert task.statuses() == ["keep", "keep"]
        assert {each.sample.level for each in view.experiments[1].taken} == {Level.LANDLOCK}
    finally:
        shutil.rmtree(folder)


# What the level rests on


CONTAINER = (
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,"
    "+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play a container's root")
@pytest.mark.parametrize(
    ("container", "uid"),
    [
        (["setpriv", "--inh-caps=-all", f"--bounding-set={CONTAINER}"], "64000"),
        (["setpriv", "--inh-caps=-all", "--bounding-set=-all"], "None"),
        (["unshare", "--user", "--map-root-user"], "None"),
    ],
    ids=["usual", "without capabilities", "of one user"],
)
def test_root_of_a_container_is_confined(
    container: list[str], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "landlock")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    if subprocess.run([*container, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip(f"{container[0]} does not work here")
    ask = "from autoresearch import sandbox; found = sandbox.probe(); print(found.level, found.uid)"
    argv = [*container, sys.executable, "-c", ask]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout == f"landlock {uid}\n", done.stderr


def test_an_old_kernel_confines_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "landlock")
    monkeypatch.setattr(landlock, "abi", lambda: 4)
    found = sandbox.probe()
    assert found.level is Level.NONE
    assert "Landlock version 4, and version 6 is needed (Linux 6.12)" in found.reason


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (('rules["read"]:', '["/"]:'), "foreign files are readable"),
        (('rules["write"]:', '["/"]:'), "foreign files are"),
        (("restrict(rules)", "pass"), "are readable"),
        (("    filter_calls(", "    len("), "sockets of other programs are open"),
    ],
)
def test_a_landlock_that_does_not_confine_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, str], why: str
) -> None:
    helper = tmp_path / "landlock.py"
    text = Path(landlock.__file__).read_text()
    assert broken[0] in text
    helper.write_text(text.replace(*broken))
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "landlock")
    monkeypatch.setattr(landlock, "__file__", str(helper))
    monkeypatch.setattr(sandbox, "SPARE_UIDS", range(0))
    found = sandbox.probe()
    assert found.level is Level.NONE
    assert why in found.reason


def test_parts_leave_out_what_is_hidden(tmp_path: Path) -> None:
    for name in ("a/x", "a/secret/y", "b/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("a")
    found = landlock.parts(str(tmp_path), {f"{tmp_path}/a/secret", f"{tmp_path}/none"})
    assert [str(Path(path).relative_to(tmp_path)) for path in found] == ["a/x", "b", "link"]
    assert list(landlock.parts(str(tmp_path / "b"), set())) == [str(tmp_path / "b")]


@pytest.mark.parametrize("machine", landlock.MACHINES)
@pytest.mark.parametrize("network", [True, False])
def test_every_jump_of_the_filter_lands_in_it(machine: str, network: bool) -> None:
    """For the machine that this is not, at least the program's form is checked."""
    program = landlock.syscall_filter(machine, network=network, local=network)
    count = len(program) // 8
    for i in range(count):
        code, if_true, if_false = (
            int.from_bytes(program[8 * i : 8 * i + 2], "little"),
            *program[8 * i + 2 : 8 * i + 4],
        )
        if code & 7 == 5:
            assert i + 1 + max(if_true, if_false) < count
    assert program[-8:] == landlock.instruction(landlock.RETURN, landlock.ALLOW)
    with pytest.raises(landlock.UnconfinedError, match="riscv64"):
        landlock.syscall_filter("riscv64", network=network, local=network)
