"""Owns one job's process tree: starts its steps, holds their limits, leaves no survivors.

Standard library only and no import of ours, so that it runs on any machine with Python 3.9 or
later. It is the only thing that starts setup, agents, candidates and evaluations. It does not
know what a metric is; it does not decide anything.

    python -I -S runner.py            serves jobs: one JSON line on stdin, one on stdout, until EOF
    python -I -S runner.py --attempt DIR
                                      runs DIR/job.json on whatever node this is; SIGTERM cancels

An attempt's directory is all that it shares with whoever submitted it: "claim" is made by the first
runner that starts there and keeps every later one from running, "heartbeat" changes as long as it
lives, "cancel" ends it, and "result.json" appears once, whole. A candidate is shown folders in it,
never these files. What depends on the node is found out there: "cores" and "memory_bytes" may be
null, then "cpus" says how many cores were asked for, and the variables of "inherit" are handed on.
Where nothing is shared the directory comes as DIR/attempt.tar, prepared under the path "directory".
"common" names a package of what all jobs of a run share: a tar of that name, in some folder of
PYTHONPATH, that is unpacked into DIR, too. "trees" are then filled with the files of the git bundle
DIR/candidate.bundle, which builds on the common DIR/base.bundle. At the end everything that is to
come back is printed, between two lines of PARCEL and the nonce.

A job:    {"nonce", "result": path, "steps": [step], "cores": [int] | null, "memory_bytes": int,
           "processes": int, "log_bytes": int, "output_bytes": int, "disk_bytes": int}
A step:   {"name", "processes": [process], "deadline_s", "usage_file": path | null,
           "artefacts": path | null, "writable": [path], "idle_s": float | null,
           "lines": int | null}
A process: {"argv": [absolute program, ...], "cwd", "env", "log": path, "stdin": path | null,
            "cpu_s": float | null, "loopback": bool, "errors": path | null}
Processes with "loopback" start in a network of the step's own, with nothing in it but a loopback
device; one that keeps the network it starts in then reaches the others of its step, and no more.
"idle_s" ends a step that printed nothing for so long, "lines" one that printed more of them.
"errors" is where a process's standard error goes, if not to its log; it does not break silence.
Two processes in a step are a scorer and an answerer: joined by two pipes, named to each by
AUTORESEARCH_ASK_FD and AUTORESEARCH_ANSWER_FD; the step ends with the scorer.
The result: {"nonce", "node", "hardware", "account", "steps": [{"name", "outcome", "detail",
             "exit_code", "usage": {"wall_s", "cpu_s", "peak_rss_bytes"}, "answer_cpu_s",
             "contention", "stalled_s"}]}; of an attempt {"nonce", "node", "error"} where we failed.
Steps after a failed one are absent; "hardware" is what decides how fast a job is, in words;
"answer_cpu_s" is the answerer's part of "cpu_s"; "stalled_s" is how long we were stopped (SIGSTOP,
a debugger) and held no limit: the deadline moves by it.
"contention" is null for a step without cores of its own or of less than 1.5 s, else what the
step lost from its first second on, in seconds: {"core_s": time that its cores had, "waited_s": how
long its threads were ready and not running (null where the kernel does not say), "others_s": how
long processes that are not ours ran on those cores, "stolen_s": the step's part of what the host
took from them}.
An outcome is one of: ok failed timeout idle memory processes output lines disk cpu cancelled.

Processor time is the largest of the accounts there are: what the kernel reported for every process
reaped (we are a subreaper, so orphans and namespaces come back to us), the sum over all processes
ever seen while sampling the tree, and what a control group or an inherited clock was charged, where
the machine lets us have one. Only the last sees short children of a parent that ignores SIGCHLD:
nobody reaps those. "account" is "cgroup", "clock" or, without either, "sampling".
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Fields = dict[str, Any]

TICK_S = 0.05
FIRST_TICK_S = 0.01
DISK_TICK_S = 1.0
PULSE_S = 1.0
RECEIVE_S = 300
LINK, SUBMODULE, EXECUTABLE = b"120000", b"160000", b"100755"
PARCEL = "-----autoresearch"
SIGNAL_S = 0.5
QUIET_S, LEAST_S = 1.0, 0.5
STALL_S = 5.0
CHUNK = 1 << 16
DEEPEST = 32
PAGE = resource.getpagesize()
CLOCK_TICK = os.sysconf("SC_CLK_TCK")
PF_KTHREAD = 0x200000
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


class CancelledError(Exception):
    """Whoever gave us the job is gone or wants it ended."""


class Log:
    """A file that keeps the head and the tail of what a process prints, at most ``cap`` bytes."""

    def __init__(self, path: str, cap: int) -> None:
        self.path = path
        self.half = cap // 2
        self.head = open(path, "wb")  # noqa: SIM115
        self.tail = bytearray()
        self.total = 0
        self.lines = 0

    def write(self, data: bytes) -> None:
        self.lines += data.count(b"\n")
        room = max(0, self.half - self.total)
        if room:
            self.head.write(data[:room])
            self.head.flush()  # whoever started the job may read along
        self.total += len(data)
        self.tail += data[room:]
        if len(self.tail) > 2 * self.half:
            del self.tail[: -self.half]

    def close(self) -> None:
        kept = bytes(self.tail[-self.half :])
        lost = self.total - min(self.total, self.half) - len(kept)
        if lost > 0:
            self.head.write(b"\n[... %d bytes left out ...]\n" % lost)
        self.head.write(kept)
        self.head.close()


class Account:
    """The kernel's own account of everything that ever ran below us, however it ended.

    A control group (version 2) where we may make one, else a task clock that children inherit
    (perf_event_open(2)), where that is allowed.
    """

    def __init__(self) -> None:
        self.group = make_group()
        self.clock = open_clock() if self.group is None else None
        self.kind = "cgroup" if self.group else "sampling" if self.clock is None else "clock"

    def used_s(self) -> float:
        """Processor seconds charged so far, but for our own."""
        if self.group:
            with open(f"{self.group}/cpu.stat") as file:
                charged_s = int(file.readline().split()[1]) / 1e6
        elif self.clock is not None:
            charged_s = struct.unpack("Q", os.read(self.clock, 8))[0] / 1e9
        else:
            return 0.0
        return float(charged_s) - time.process_time()

    def close(self) -> None:
        if self.group:
            with contextlib.suppress(OSError):
                enter(os.path.dirname(self.group))
                os.rmdir(self.group)


def enter(group: str) -> None:
    """Move this process to a control group; what it starts from now on is in it, too."""
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write("0")


def make_group() -> str | None:
    """A control group that we are now in, or None where we may not make one."""
    try:
        with open("/proc/self/cgroup") as file:
            inner = next(line[3:].strip() for line in file if line.startswith("0::"))
        with open("/proc/mounts") as file:
            root = next(line.split()[1] for line in file if line.split()[2] == "cgroup2")
        parent = root + inner.rstrip("/")
        for name in os.listdir(parent):
            if name.startswith("autoresearch-") and not os.path.exists(f"/proc/{name[13:]}"):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{parent}/{name}")  # left by a killed runner
        group = f"{parent}/autoresearch-{os.getpid()}"
        os.mkdir(group)
    except (OSError, StopIteration):
        return None
    try:
        os.stat(f"{group}/cpu.stat")
        enter(group)
    except OSError:
        os.rmdir(group)
        return None
    return group


def open_clock() -> int | None:
    """A task clock of this process and its children, or None where that is not allowed."""
    number = PERF_EVENT_OPEN.get(os.uname().machine)
    if sys.platform != "linux" or number is None:
        return None
    software, task_clock, size = 1, 1, 128
    inherit, exclude_kernel, exclude_hypervisor = 1 << 1, 1 << 5, 1 << 6
    flags = inherit | exclude_kernel | exclude_hypervisor
    wanted = struct.pack("IIQQQQQ", software, size, task_clock, 0, 0, 0, flags).ljust(size, b"\0")
    clock = int(libc().syscall(number, wanted, 0, -1, -1, 8))
    return clock if clock >= 0 else None


class Tree:
    """The processes below us, by sampling /proc: how many, how much memory, how much time."""

    def __init__(self) -> None:
        self.ticks: dict[tuple[int, bytes], int] = {}
        self.waits: dict[tuple[int, str], int] = {}
        self.peak_rss_bytes = 0

    def sample(self) -> tuple[int, int]:
        """Return (processes, resident bytes) now, and remember everybody's processor time."""
        count = rss = 0
        for pid in descendants(os.getpid()):
            fields = stat_fields(pid)
            if fields is None:
                continue
            count += 1
            rss += int(fields[21]) * PAGE
            self.ticks[pid, fields[19]] = int(fields[11]) + int(fields[12])
            self.waits.update(waits(pid))
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss)
        return count, rss

    def cpu_s(self) -> float:
        return sum(self.ticks.values()) / CLOCK_TICK

    def waited_s(self) -> float | None:
        """How long all threads ever seen were ready to run and had no core."""
        return sum(self.waits.values()) / 1e9 if self.waits else None


def waits(pid: int) -> dict[tuple[int, str], int]:
    """Nanoseconds that each thread of a process has waited for a core, where the kernel says."""
    found = {}
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                found[pid, thread] = int(file.read().split()[1])
    return found


def core_times(cores: Sequence[int]) -> tuple[float, float]:
    """Seconds that these cores have run processes, and that the host has taken from them."""
    ran = stolen = 0
    names = {f"cpu{core}" for core in cores}
    with open("/proc/stat") as file:
        for line in file:
            words = line.split()
            if words and words[0] in names:
                ran += sum(int(word) for word in words[1:4])
                stolen += int(words[8])
    return ran / CLOCK_TICK, stolen / CLOCK_TICK


def foreign_s() -> float:
    """Processor seconds of all processes but ours and those below us, with what they reaped.

    What a process used passes to whoever waits for it. Children that nobody waits for are missed,
    so nobody can hide there as one of the others. Nor does the kernel's own work count: it may be
    on behalf of the job.
    """
    own = {os.getpid(), *descendants(os.getpid())}
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in own:
            fields = stat_fields(int(name))
            if fields and not int(fields[6]) & PF_KTHREAD:
                total += sum(int(field) for field in fields[11:15])
    return total / CLOCK_TICK


def stat_fields(pid: int) -> list[bytes] | None:
    """Fields of /proc/PID/stat after the command name, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    queue = children(pid)
    while queue:
        child = queue.pop()
        found.append(child)
        queue += children(child)
    return found


def cpu_below(pid: int) -> float:
    """Processor seconds of the processes below and including ``pid``, those reaped included."""
    total = 0
    for each in [pid, *descendants(pid)]:
        fields = stat_fields(each)
        if fields:
            total += sum(int(field) for field in fields[11:15])
    return total / CLOCK_TICK


def control_processes(option: int, value: int) -> None:
    """Linux's prctl; a no-op where the system has no such thing."""
    if sys.platform == "linux":
        libc().prctl(option, value, 0, 0, 0)


@functools.cache
def libc() -> Any:
    import ctypes  # costs as much as the interpreter's own start

    return ctypes.CDLL(None, use_errno=True)


def disk_used(paths: Iterable[str]) -> int:
    """Bytes allocated below ``paths``; never follows links."""
    total, queue = 0, list(paths)
    while queue:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return sys.maxsize  # nothing honest is that deep, and what is below counts, too
    return total


def only_data(directory: str) -> None:
    """Remove everything from a directory of artefacts that is not a plain file of one name.

    Folders below ``DEEPEST`` levels are set aside next to it: no reader expects them.
    """
    queue, aside = [(directory, 0)], 0
    while queue:
        folder, depth = queue.pop()
        os.chmod(folder, 0o700)
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if depth < DEEPEST:
                    queue.append((entry.path, depth + 1))
                    continue
                aside += 1
                os.chmod(entry.path, 0o700)
                os.rename(entry.path, f"{directory}.aside-{aside}")
            elif not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                os.unlink(entry.path)


def make_network() -> tuple[int, int]:
    """A network with nothing but a loopback device, as descriptors of (user, network) namespace.

    It lasts as long as a descriptor or a process in it. It belongs to a user namespace in which
    its members have no rights once they have entered one below, as bubblewrap does.

    Raises:
        OSError: this machine does not allow it.
    """
    read, write = os.pipe()
    hold_read, hold_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hold_write)
        try:
            unshare_network()
            os.write(write, b"made")
            os.read(hold_read, 1)
        except BaseException as error:
            os.write(write, f"no private network: {error}".encode())
        os._exit(0)
    os.close(write)
    os.close(hold_read)
    try:
        said = os.read(read, CHUNK).decode()
        if said != "made":
            raise OSError(said or "no private network")
        names = [f"/proc/{pid}/ns/{kind}" for kind in ("user", "net")]
        user, net = (os.open(name, os.O_RDONLY) for name in names)
        return user, net
    finally:
        os.close(read)
        os.close(hold_write)
        os.waitpid(pid, 0)


def unshare_network() -> None:
    """Leave the machine's network for an empty one, as the only user of a namespace of our own."""
    import fcntl
    import socket

    uid, gid = os.geteuid(), os.getegid()
    kernel(libc().unshare(CLONE_NEWUSER | CLONE_NEWNET))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def kernel(result: int) -> None:
    """Raise what a call into the C library failed with."""
    if result < 0:
        import ctypes

        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def start(
    process: Fields,
    job: Fields,
    out: int,
    errors: int,
    pipes: Sequence[tuple[int, int]] = (),
    network: Sequence[int] = (),
) -> int:
    """Fork and execute one process in a session of its own.

    ``pipes`` are (fd there, fd here); ``network`` are the namespaces to enter.
    """
    stdin = os.open(process.get("stdin") or os.devnull, os.O_RDONLY)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(stdin)
        return pid
    try:
        # First of all: whoever changes namespaces may lose what is armed.
        for namespace in network:
            kernel(libc().setns(namespace, 0))
        # Armed before anything else runs: bubblewrap arms its own only later.
        control_processes(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(stdin, 0)
        os.dup2(out, 1)
        os.dup2(errors, 2)
        for there, here in pipes:
            if there == here:
                os.set_inheritable(here, True)
            else:
                os.dup2(here, there)
        if job.get("cores") and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, job["cores"])
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_FSIZE, job["disk_bytes"])
        if process.get("cpu_s"):
            limit(resource.RLIMIT_CPU, int(process["cpu_s"]) + 1)
        os.chdir(process["cwd"])
        os.execve(process["argv"][0], process["argv"], process["env"])
    except BaseException as error:
        os.write(2, f"cannot start {process['argv'][0]}: {error}\n".encode())
    os._exit(127)


def limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


class Step:
    """One step while it runs: its processes, their logs, and what they have used."""

    def __init__(self, step: Fields, job: Fields, account: Account) -> None:
        self.step = step
        self.job = job
        self.account = account
        self.charged_before_s = account.used_s()
        self.began = time.monotonic()
        self.wall_s = 0.0
        self.stalled_s = 0.0
        self.logs: list[Log] = []
        self.readers: dict[int, Log] = {}
        self.started: list[int] = []
        self.exits: dict[int, int] = {}
        self.cpu_s = 0.0
        self.scorer_cpu_s = 0.0
        self.answer_cpu_s = 0.0
        self.largest_rss_bytes = 0
        self.contention: Fields | None = None
        self.tree = Tree()
        self.pinned = bool(job.get("cores")) and sys.platform == "linux"
        self.rivals: Rivals | None = None

    def launch(self) -> None:
        """Start the process, or scorer and answerer with the two pipes between them."""
        pipes: list[tuple[Sequence[tuple[int, int]], Sequence[int]]] = [((), ())]
        held: Sequence[int] = ()
        network: Sequence[int] = ()
        if any(process.get("loopback") for process in self.step["processes"]):
            network = make_network()
        if len(self.step["processes"]) == 2:
            ask_read, ask_write = os.pipe()
            answer_read, answer_write = os.pipe()
            held = (ask_read, ask_write, answer_read, answer_write)
            pipes = [
                (((ask_write, ask_write), (answer_read, answer_read)), (ask_write, answer_read)),
                (((0, ask_read), (1, answer_write)), (0, 1)),
            ]
        try:
            for process, (descriptors, names) in zip(self.step["processes"], pipes):
                if names:
                    process["env"]["AUTORESEARCH_ASK_FD"] = str(names[0])
                    process["env"]["AUTORESEARCH_ANSWER_FD"] = str(names[1])
                out = self.open_log(process["log"])
                errors = self.open_log(process["errors"]) if process.get("errors") else out
                entered = network if process.get("loopback") else ()
                started = start(process, self.job, out, errors, descriptors, entered)
                self.started.append(started)
                for fd in {out, errors}:
                    os.close(fd)
        finally:
            for fd in (*held, *network):
                os.close(fd)

    def open_log(self, path: str) -> int:
        """Make a log and return the end of a pipe that leads to it."""
        read, write = os.pipe()
        self.logs.append(Log(path, self.job["log_bytes"]))
        self.readers[read] = self.logs[-1]
        return write

    def watch(self, leash: int | None, attempt: Attempt | None) -> tuple[str, str]:
        """Read output and hold limits until the first process ends; (outcome, detail)."""
        deadline = self.began + self.step["deadline_s"]
        tick, next_sample, next_disk = FIRST_TICK_S, 0.0, self.began + DISK_TICK_S
        idle_s, heard, looked = self.step.get("idle_s"), self.began, self.began
        while True:
            waiting = [*self.readers, *([leash] if leash is not None else [])]
            ready, _, _ = select.select(waiting, [], [], min(tick, max(0.0, deadline - looked)))
            now = time.monotonic()
            if (unseen_s := now - looked) > STALL_S:
                self.stalled_s += unseen_s
                deadline += unseen_s
                heard += unseen_s
            looked = now
            if leash in ready:
                raise CancelledError
            if attempt is not None:
                attempt.pulse()
            for fd in ready:
                if self.readers[fd] is self.logs[0]:
                    heard = now
                if not copy(fd, self.readers[fd]):
                    os.close(fd)
                    del self.readers[fd]
            self.reap()
            if self.started[0] in self.exits:
                code = self.exits[self.started[0]]
                if attempt is not None and attempt.was_told_to_end(code):
                    raise CancelledError
                return ("ok", "") if code == 0 else ("failed", describe_exit(code))
            if now >= deadline:
                return "timeout", f"still running after {self.step['deadline_s']:g} s"
            if idle_s and now >= heard + idle_s:
                return "idle", f"printed nothing for {idle_s:g} s"
            if self.rivals is None and self.pinned and now >= self.began + QUIET_S:
                self.rivals = Rivals(self)
            if now >= next_sample:
                tick = min(tick * 1.3, TICK_S)
                next_sample = now + tick
                if broken := self.over_limit():
                    return broken
            if now >= next_disk:
                next_disk = now + DISK_TICK_S
                if disk_used(self.step.get("writable", ())) > self.job["disk_bytes"]:
                    return (
                        "disk",
                        f"wrote more than {self.job['disk_bytes'] >> 20} MiB, or too deep",
                    )
                looked = time.monotonic()  # what it wrote can take us long, and wins it no time

    def over_limit(self) -> tuple[str, str] | None:
        """The limit that the tree breaks now as (outcome, detail), or None."""
        job = self.job
        count, rss = self.tree.sample()
        if rss > job["memory_bytes"]:
            return "memory", f"used {rss / 2**30:.2f} GiB of {job['memory_bytes'] / 2**30:.2f}"
        if count > job["processes"]:
            return "processes", f"{count} processes, allowed are {job['processes']}"
        if any(log.total > job["output_bytes"] for log in self.logs):
            return "output", f"printed more than {job['output_bytes'] >> 20} MiB"
        lines = self.step.get("lines")
        if lines and any(log.lines > lines for log in self.logs):
            return "lines", f"printed more than {lines} lines"
        for process in self.step["processes"][1:]:
            self.sample_answer()
            if process.get("cpu_s") and self.answer_cpu_s > process["cpu_s"]:
                return "cpu", f"used more than {process['cpu_s']:g} s of processor time"
        return None

    def charged_s(self) -> float:
        """What the kernel's account was charged since the step began."""
        return self.account.used_s() - self.charged_before_s

    def sample_answer(self) -> None:
        """Remember what the answerer, if there is one, has used so far."""
        for scorer, answerer in zip(self.started, self.started[1:]):
            self.scorer_cpu_s = max(self.scorer_cpu_s, cpu_below(scorer))
            rest_s = self.charged_s() - self.scorer_cpu_s
            self.answer_cpu_s = max(self.answer_cpu_s, cpu_below(answerer), rest_s)

    def reap(self) -> bool:
        """Collect every child that has ended, and what it used; False when none is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.exits[pid] = os.waitstatus_to_exitcode(status)
            used_s = usage.ru_utime + usage.ru_stime
            self.cpu_s += used_s
            if pid in self.started[:1]:
                self.scorer_cpu_s = max(self.scorer_cpu_s, used_s)
            if pid in self.started[1:]:
                self.answer_cpu_s = max(self.answer_cpu_s, used_s)
            scale = 1 if sys.platform == "darwin" else 1024
            self.largest_rss_bytes = max(self.largest_rss_bytes, usage.ru_maxrss * scale)

    def end(self) -> None:
        """SIGKILL everything below us until nothing is left, then close the logs."""
        give_up = time.monotonic() + 10
        clean = True
        self.tree.sample()
        self.sample_answer()
        while clean and self.reap():
            # On systems without /proc the sessions we started are all that we can name.
            for pid in descendants(os.getpid()) or [p for p in self.started if p not in self.exits]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    if sys.platform != "linux":
                        os.killpg(pid, signal.SIGKILL)
            clean = time.monotonic() < give_up
            time.sleep(0.002)
        self.wall_s = time.monotonic() - self.began
        self.contention = self.rivals.contention() if self.rivals else None
        drain(self.readers)
        for log in self.logs:
            log.close()
        if not clean:
            raise RuntimeError(f"a process of step {self.step['name']} survived SIGKILL")

    def used_s(self) -> float:
        """Processor seconds of the whole tree so far: the largest of the accounts."""
        return max(self.cpu_s, self.tree.cpu_s(), self.charged_s())

    def usage(self) -> Fields:
        return {
            "wall_s": round(self.wall_s, 4),
            "cpu_s": round(self.used_s(), 4),
            "peak_rss_bytes": max(self.tree.peak_rss_bytes, self.largest_rss_bytes),
        }


class Rivals:
    """What else wants the cores of a step, from the moment this is made to the step's end.

    Nothing that the step itself does makes ``others_s`` grow: it is at most what these cores ran
    beyond our own account, and at most what processes that are not ours have used.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.began = time.monotonic()
        self.before = self.look()

    def look(self) -> tuple[float, float, float, float, float]:
        step = self.step
        ran_s, stolen_s = core_times(step.job["cores"])
        own_s = step.used_s() + time.process_time()
        return ran_s, stolen_s, own_s, foreign_s(), step.tree.waited_s() or 0.0

    def contention(self) -> Fields | None:
        """The step's entry of the result; None where it tells nothing."""
        wall_s = time.monotonic() - self.began
        if wall_s < LEAST_S:
            return None
        ran_s, stolen_s, own_s, foreign_s, waited_s = (
            after - before for after, before in zip(self.look(), self.before)
        )
        known = self.step.tree.waited_s() is not None
        core_s = wall_s * len(self.step.job["cores"])
        if own_s > 1.05 * core_s:
            stolen_s = 0.0  # it ran elsewhere, too, and may have used up what the host allows us
        elif ran_s > own_s:
            stolen_s *= max(0.0, own_s / ran_s)  # the host takes from whoever runs
        return {
            "core_s": round(core_s, 3),
            "waited_s": round(waited_s, 3) if known else None,
            "others_s": round(max(0.0, min(ran_s - own_s, foreign_s)), 3),
            "stolen_s": round(stolen_s, 3),
        }


class Attempt:
    """The directory of one attempt: claimed once, alive as long as we are, ended by a result."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.leash, self._term = os.pipe()
        self.beats = 0
        self.next_pulse = 0.0
        signal.signal(signal.SIGTERM, lambda *_: os.write(self._term, b"x"))

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def claim(self) -> bool:
        """Whether we are the first to start here; whoever comes later must not run the job."""
        try:
            claim = os.open(self.path("claim"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return False
        os.write(claim, f"{node()} {os.getpid()}\n".encode())
        os.fsync(claim)
        os.close(claim)
        return True

    def pulse(self) -> None:
        """Now and then show that we live, and see whether somebody wants the job to end.

        Raises:
            CancelledError: somebody does, or has removed the directory.
        """
        now = time.monotonic()
        if now < self.next_pulse:
            return
        self.next_pulse = now + PULSE_S
        self.beats += 1
        with contextlib.suppress(OSError), open(self.path("heartbeat"), "w") as file:
            file.write(f"{self.beats}\n")
        if os.path.exists(self.path("cancel")) or not os.path.exists(self.path("job.json")):
            raise CancelledError

    def was_told_to_end(self, code: int) -> bool:
        """Whether a process ended because a scheduler sent SIGTERM to it as well as to us."""
        by_term = code in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return bool(select.select([self.leash], [], [], SIGNAL_S if by_term else 0)[0])

    def finish(self, result: Fields) -> None:
        """Make the result appear, whole; the first one stays."""
        draft = self.path(f"result.{os.getpid()}.new")
        with open(draft, "w") as file:
            json.dump(result, file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, self.path("result.json"))
        os.unlink(draft)


def run_attempt(folder: str, account: Account) -> int:
    """Run the job of an attempt's directory, unless somebody did before."""
    attempt = Attempt(folder)
    if not attempt.claim():
        print(f"{folder} was claimed before; nothing was run")
        return 0
    sent = os.path.exists(attempt.path("attempt.tar"))
    if sent:
        unpack(attempt.path("attempt.tar"), folder)
    with open(attempt.path("job.json")) as file:
        text = file.read()
    job = json.loads(text)
    if sent:
        job = json.loads(text.replace(json.dumps(job["directory"])[1:-1], json.dumps(folder)[1:-1]))
    try:
        if sent:
            receive(job, folder)
        fit(job)
        attempt.pulse()
        result = run_job(job, account, attempt.leash, attempt)
    except CancelledError:
        result = {"nonce": job["nonce"], "node": node(), "error": "cancelled before it began"}
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        result = {"nonce": job["nonce"], "node": node(), "error": said}
    attempt.finish(result)
    if sent:
        print_parcel(attempt, job)
    return 0


def receive(job: Fields, folder: str) -> None:
    """Take what did not come with this job alone, and write the candidate's trees.

    Raises:
        TimeoutError: after RECEIVE_S, whatever makes it so slow.
    """

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"what was sent could not be unpacked in {RECEIVE_S} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(RECEIVE_S)
    try:
        if job.get("common"):
            name = os.path.splitext(os.path.basename(job["common"]))[0] + ".tar"
            places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            found = [path for each in places if os.path.exists(path := os.path.join(each, name))]
            if not found:
                raise FileNotFoundError(f"{name} is in no folder of PYTHONPATH")
            unpack(found[0], folder)
        if job.get("trees"):
            write_trees(list(map(os.fsencode, job["trees"])), folder, job["disk_bytes"])
    finally:
        signal.alarm(0)


def write_trees(trees: list[bytes], folder: str, most_bytes: int) -> None:
    """Write the files of the candidate's bundle into each of these folders, byte for byte.

    Plainly, as a checkout would do what the candidate's .gitattributes say; folders first and links
    last, so that nothing is written through a link.
    """
    import shutil
    import tempfile

    if shutil.which("git") is None:
        raise RuntimeError("git is missing here, and the candidate comes as a git bundle")
    with tempfile.TemporaryDirectory(dir=folder) as store:
        git(store, "init", "--quiet", "--bare", "--template=")
        for name in ("base.bundle", "candidate.bundle"):
            commit = git(store, "bundle", "unbundle", os.path.join(folder, name)).split()[0]
            git(store, "update-ref", "refs/heads/files", commit)  # the next one builds on it
        entries = []
        for line in git(store, "ls-tree", "-r", "-l", "-z", commit).split(b"\0")[:-1]:
            head, _, path = line.partition(b"\t")
            mode, _, oid, length = head.split()
            if {b"", b".", b".."} & set(path.split(b"/")):
                raise ValueError(f"a file of the candidate is called {path!r}")
            for tree in trees:
                place = os.path.join(tree, path)
                os.makedirs(place if mode == SUBMODULE else os.path.dirname(place), exist_ok=True)
            if mode != SUBMODULE:
                entries.append((mode == LINK, mode, path, oid, int(length)))
        if sum(size for *_, size in entries) * (len(trees) + 1) > most_bytes:
            raise ValueError(f"the candidate's files need more than {most_bytes} bytes")
        entries.sort()
        names = b"".join(oid + b"\n" for _, _, _, oid, _ in entries)
        with open(os.path.join(store, "contents"), "w+b") as contents:
            git(store, "cat-file", "--batch", stdin=names, stdout=contents)
            contents.seek(0)
            for _, mode, path, _, size in entries:
                contents.readline()
                data = contents.read(size)
                contents.read(1)
                for tree in trees:
                    write(os.path.join(tree, path), mode, data)


def git(store: str, *argv: str | bytes, stdin: bytes = b"", stdout: Any = None) -> bytes:
    """Run a git command that reads no configuration; returns what it prints."""
    import subprocess

    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_DIR": store,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_DEFAULT_HASH": "sha1",
    }
    done = subprocess.run(
        ["git", *argv], cwd=store, env=env, input=stdin, stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"git {argv[0]!s} ended with {done.returncode}: {said}")
    return done.stdout or b""


def write(path: bytes, mode: bytes, data: bytes) -> None:
    """Make a new file or link of a tree."""
    if mode == LINK:
        os.symlink(data, path)
        return
    with open(path, "xb") as file:
        file.write(data)
    if mode == EXECUTABLE:
        os.chmod(path, 0o755)


def unpack(archive: str, folder: str) -> None:
    """Unpack what was sent to us."""
    import tarfile

    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "fully_trusted_filter"):
            tar.extraction_filter = tarfile.fully_trusted_filter  # it is ours
        tar.extractall(folder)


def print_parcel(attempt: Attempt, job: Fields) -> None:
    """Print the result and all logs as one text, for whoever can read nothing but what we print."""
    import base64
    import zlib

    logs = [process["log"] for step in job["steps"] for process in step["processes"]]
    files = {}
    for path in [attempt.path("result.json"), *filter(os.path.exists, logs)]:
        with open(path, "rb") as file:
            name = os.path.relpath(path, attempt.folder)
            files[name] = base64.b64encode(file.read()).decode()
    text = base64.encodebytes(zlib.compress(json.dumps(files).encode())).decode()
    print(f"{PARCEL} {job['nonce']}\n{text}{PARCEL} end", flush=True)


def fit(job: Fields) -> None:
    """Fill in what depends on the node that the job has come to."""
    if job["cores"] is None and hasattr(os, "sched_getaffinity"):
        # All cores of a machine are nobody's own, where more of them were asked for than exist.
        ours = sorted(os.sched_getaffinity(0))
        if len(ours) <= job["cpus"] or len(ours) < (os.cpu_count() or 1):
            job["cores"] = ours
    if job["memory_bytes"] is None:
        job["memory_bytes"] = granted_bytes() * 9 // 10
    inherited = {name: os.environ[name] for name in job["inherit"] if name in os.environ}
    for step in job["steps"]:
        for process in step["processes"]:
            process["env"] = {**inherited, **process["env"]}


def granted_bytes() -> int:
    """The memory of this node, or the part that Slurm gave us: beyond it, it kills us too."""
    total = os.sysconf("SC_PHYS_PAGES") * PAGE
    per_node = int(os.environ.get("SLURM_MEM_PER_NODE") or 0)
    per_core = int(os.environ.get("SLURM_MEM_PER_CPU") or 0)
    granted_mb = per_node or per_core * int(os.environ.get("SLURM_CPUS_ON_NODE") or 1)
    return min(total, granted_mb << 20) if granted_mb else total


def node() -> str:
    """The name of this machine, as its scheduler has it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def hardware() -> str:
    """What decides how fast a job is here: the processor's model, and those of devices."""
    models = [os.uname().machine]
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        line = next(line for line in file if line.startswith("model name"))
        models = [line.partition(":")[2].strip()]
    devices = "/proc/driver/nvidia/gpus"
    for each in sorted(os.listdir(devices)) if os.path.isdir(devices) else ():
        about = f"{devices}/{each}/information"
        with contextlib.suppress(OSError, StopIteration), open(about) as file:
            models.append(next(line for line in file if line.startswith("Model:"))[6:].strip())
    return ", ".join(dict.fromkeys(models))


def run_step(
    step: Fields, job: Fields, account: Account, leash: int | None, attempt: Attempt | None
) -> Fields:
    """Run one step to its end or its limits; returns its entry of the result."""
    running = Step(step, job, account)
    try:
        running.launch()
        outcome, detail = running.watch(leash, attempt)
    except CancelledError:
        outcome, detail = "cancelled", "cancelled"
    finally:
        running.end()
    if step.get("artefacts"):
        only_data(step["artefacts"])
    usage = running.usage()
    if step.get("usage_file"):
        with open(step["usage_file"], "w") as file:
            json.dump(usage, file)
    code = running.exits[running.started[0]] if outcome in ("ok", "failed") else None
    return {
        "name": step["name"],
        "outcome": outcome,
        "detail": detail,
        "exit_code": code,
        "usage": usage,
        "answer_cpu_s": round(running.answer_cpu_s, 4),
        "contention": running.contention,
        "stalled_s": round(running.stalled_s, 4),
    }


def copy(fd: int, log: Log) -> bool:
    """Move what is readable from a pipe to its log; False at the end of the pipe."""
    data = os.read(fd, CHUNK)
    log.write(data)
    return bool(data)


def drain(readers: dict[int, Log]) -> None:
    """Read what is left in the pipes of dead processes."""
    for fd, log in readers.items():
        while select.select([fd], [], [], 0)[0] and copy(fd, log):
            pass
        os.close(fd)


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def run_job(
    job: Fields, account: Account, leash: int | None, attempt: Attempt | None = None
) -> Fields:
    """Run a job's steps in order until one does not end well, and write its result."""
    steps = []
    for step in job["steps"]:
        steps.append(run_step(step, job, account, leash, attempt))
        if steps[-1]["outcome"] != "ok":
            break
    result = {
        "nonce": job["nonce"],
        "node": node(),
        "hardware": hardware(),
        "account": account.kind,
        "steps": steps,
    }
    if job.get("result"):
        # A file of its own, then a rename: nobody ever reads half a result.
        temporary = f"{job['result']}.{os.getpid()}"
        with open(temporary, "w") as file:
            json.dump(result, file)
        os.replace(temporary, job["result"])
    return result


def serve(account: Account) -> None:
    """Run jobs from stdin until it closes; a line while a job runs cancels it."""
    buffer = b""
    while True:
        data = os.read(0, CHUNK)
        if not data:
            return
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            if not line.strip():
                continue
            try:
                if buffer.startswith(b"\n"):
                    # Both came in one read, so the leash no longer shows it.
                    raise CancelledError("cancelled before it began")
                answer = run_job(json.loads(line), account, leash=0)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                os.write(1, json.dumps(answer).encode() + b"\n")
            except BrokenPipeError:
                return  # whoever asked was killed


def main() -> int:
    # Orphans of the tree come back to us, with what they used.
    control_processes(PR_SET_CHILD_SUBREAPER, 1)
    account = Account()
    if len(sys.argv) == 1:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        serve(account)
        account.close()
        return 0
    code = run_attempt(os.path.abspath(sys.argv[2]), account)
    account.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
