"""Confines one program with Landlock and seccomp, then becomes it: what works without namespaces.

Standard library only and no import of ours: it runs between the runner and the program.

    python -I -S -B landlock.py RULES PROGRAM [ARG ...]

RULES is JSON: {"read": [path], "write": [path], "without": [path], "devices": [path],
"network": bool, "local": bool, "uid": int | null}. Nothing else can be opened; ``without`` takes
paths out of ``read``. No signal to anything outside, no capability, no socket: ``network`` allows
those of the internet, ``local`` those to other programs of this machine.
With ``uid`` (for root) the program runs as that user, and the writable places become its own.
What this cannot do is in docs/trust.md. Anything that fails here ends with exit code 126.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any, NoReturn

NEEDED_ABI = 6  # The first one whose signals stay inside: Linux 6.12.

# linux/landlock.h; the calls have the same numbers on all machines.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
HANDLED_FILES = (1 << 16) - 1
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
WRITE = HANDLED_FILES & ~(MAKE_CHAR | MAKE_SOCK | MAKE_BLOCK | IOCTL_DEV)
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
HANDLED_TCP = 0b11  # bind and connect
SCOPES = 0b11  # abstract sockets and signals

# prctl(2), capabilities(7), seccomp(2)
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 22, 24, 28
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 38, 47, 2
CAPABILITY_VERSION = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, NO_SETUID_FIXUP = 1, 2, 0b1100
FILTER_MODE, ALLOW, KILL, FAIL = 2, 0x7FFF0000, 0x80000000, 0x00050000
EPERM, EACCES, ENOSYS, ENOTSUP = 1, 13, 38, 95
LOAD, AND, EQUAL, ANY_OF, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x45, 0x35, 0x06
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, STREAM, SEQPACKET = 1, 2, 10, 16, 1, 5
NEW_NAMESPACES = 0x7E020080
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

# Calls by name: (x86_64, aarch64), from the kernel's unistd.h.
REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
}  # fmt: skip
# Shows names in folders that cannot be opened; agents, which have a network, may need it.
WATCH = (254, 27)
# Extended attributes hold access lists, which Landlock does not know.
UNSUPPORTED = {
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466),
}  # fmt: skip
# Calls that reach other processes of the same user, unless the first argument is 0: oneself.
OF_ONESELF = {
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
}  # fmt: skip
# The same, where the first argument says what the second is: 0 and 0 are oneself.
OF_THIS_PROCESS = {"setpriority": (141, 140), "ioprio_set": (251, 30)}
SOCKET, SOCKETPAIR, IOCTL = (41, 198), (53, 199), (16, 29)
CLONE, CLONE3 = (56, 220), (435, 435)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class UnconfinedError(Exception):
    """Something that must hold could not be set up."""


def libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: Any) -> int:
    """A system call; raises OSError."""
    result = int(libc().syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def control(option: int, *values: int) -> int:
    """Linux's prctl; raises OSError."""
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    result = int(libc().prctl(option, *words))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def abi() -> int:
    """The version of Landlock that this kernel offers, 0 without."""
    if sys.platform != "linux":
        return 0
    try:
        return call(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    except OSError:
        return 0


def parts(path: str, without: Collection[str]) -> Iterator[str]:
    """``path``, or as much of what is in it as leaves out every path of ``without``."""
    if path in without:
        return
    if os.path.islink(path) or not any(each.startswith(f"{path}{os.sep}") for each in without):
        yield path
        return
    for name in sorted(os.listdir(path)):
        yield from parts(os.path.join(path, name), without)


def restrict(rules: dict[str, Any]) -> None:
    """Allow this process and all its children the files of ``rules`` and no others, for ever."""
    tcp = 0 if rules["network"] else HANDLED_TCP
    wanted = struct.pack("QQQ", HANDLED_FILES, tcp, SCOPES)
    ruleset = call(CREATE_RULESET, wanted, ctypes.c_size_t(len(wanted)), 0)
    without = set(rules["without"])
    for path in rules["read"]:
        for part in parts(path, without):
            allow(ruleset, part, READ)
    for path in rules["write"]:
        allow(ruleset, path, WRITE)
    for path in rules["devices"]:
        allow(ruleset, path, DEVICE)
    call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def allow(ruleset: int, path: str, rights: int) -> None:
    """Add a rule; what is not there needs none."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(f"/proc/self/fd/{place}"):
            rights &= OF_FILES
        call(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def give_up_rights(uid: int | None, owned: list[str]) -> None:
    """Keep no capability; with ``uid``, become that user, who may read whatever root may.

    The right to read is bounded by the Landlock rules; what a foreign uid cannot do is change
    modes, owners and times of root's files, or reach root's processes.
    """
    kept = 0
    if uid is not None:
        # Capabilities outlast the change of user, and access(2) asks them, too.
        control(PR_SET_SECUREBITS, NO_SETUID_FIXUP)
        kept = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH
        kept &= effective_capabilities()
        for path in owned:
            give(path, uid)
    for capability in range(64):
        if not kept >> capability & 1:
            try:
                control(PR_CAPBSET_DROP, capability)
            except OSError:
                break  # beyond the last one, or not ours to drop: then no_new_privs keeps it off
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    data = struct.pack("IIIIII", kept, kept, kept, 0, 0, 0)
    if libc().capset(header, data) < 0:
        raise UnconfinedError("capset failed")
    for capability in range(64):
        if kept >> capability & 1:
            control(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def effective_capabilities() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def give(path: str, uid: int) -> None:
    """Make a file, or a folder with all that is in it, the user's; follows no link."""
    os.lchown(path, uid, uid)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.lchown(os.path.join(folder, name), uid, uid)


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def fail(error: int) -> bytes:
    return instruction(RETURN, FAIL | error)


def argument(index: int) -> bytes:
    """Load the lower half of an argument: all there is of an int."""
    return instruction(LOAD, 16 + 8 * index)


def when(number: int, *body: bytes) -> list[bytes]:
    """For one call do ``body``, which ends in a verdict on every way through it."""
    return [instruction(EQUAL, number, 0, len(body)), *body]


def syscall_filter(machine: str, *, network: bool, local: bool) -> bytes:
    """The seccomp program: refuses what Landlock has no word for.

    Raises:
        UnconfinedError: no numbers are known for this kind of machine.
    """
    if machine not in MACHINES:
        raise UnconfinedError(f"system calls of {machine} are not known")
    column, architecture = MACHINES[machine]
    allowed, refused = instruction(RETURN, ALLOW), fail(EPERM)
    program = [
        instruction(LOAD, 4),
        instruction(EQUAL, architecture, 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, 0),
    ]
    if machine == "x86_64":  # the x32 calls have numbers of their own
        program += [instruction(AT_LEAST, 1 << 30, 0, 1), fail(ENOSYS)]
    for numbers in (*REFUSED.values(), *(() if network else (WATCH,))):
        program += when(numbers[column], refused)
    for numbers in UNSUPPORTED.values():
        program += when(numbers[column], fail(ENOTSUP))
    for numbers in OF_ONESELF.values():
        program += when(numbers[column], argument(0), instruction(EQUAL, 0, 0, 1), allowed, refused)
    for numbers in OF_THIS_PROCESS.values():
        program += when(
            numbers[column],
            argument(0), instruction(EQUAL, 0, 0, 3),
            argument(1), instruction(EQUAL, 0, 0, 1), allowed, refused,
        )  # fmt: skip
    program += when(
        IOCTL[column],
        argument(1), instruction(EQUAL, TIOCSTI, 2, 0), instruction(EQUAL, TIOCLINUX, 1, 0),
        allowed, refused,
    )  # fmt: skip
    program += when(
        CLONE[column], argument(0), instruction(ANY_OF, NEW_NAMESPACES, 1, 0), allowed, refused
    )
    # Its flags are in memory, where a filter cannot look; libraries fall back to clone.
    program += when(CLONE3[column], fail(ENOSYS))
    families = [AF_INET, AF_INET6, AF_NETLINK] if network else []
    families += [AF_UNIX] if local else []
    checks = [instruction(EQUAL, family, len(families) - i, 0) for i, family in enumerate(families)]
    program += when(SOCKET[column], argument(0), *checks, fail(EACCES), allowed)
    # A pair of datagram sockets could be joined to another address later.
    program += when(
        SOCKETPAIR[column],
        argument(0), instruction(EQUAL, AF_UNIX, 1, 0), fail(EACCES),
        argument(1), instruction(AND, 0xF),
        instruction(EQUAL, STREAM, 2, 0), instruction(EQUAL, SEQPACKET, 1, 0),
        fail(EACCES), allowed,
    )  # fmt: skip
    return b"".join([*program, allowed])


def filter_calls(program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    header = ctypes.create_string_buffer(described, len(described))
    control(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(header))


def confine(rules: dict[str, Any]) -> None:
    """Put this process under ``rules``; there is no way back.

    Raises:
        UnconfinedError, OSError: something does not hold here.
    """
    if (found := abi()) < NEEDED_ABI:
        raise UnconfinedError(f"Landlock version {found} of the kernel, {NEEDED_ABI} is needed")
    runner = os.getppid()
    control(PR_SET_NO_NEW_PRIVS, 1)
    give_up_rights(rules["uid"], rules["write"])
    # Another uid has cleared it; a runner that ended in between is noticed.
    control(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != runner:
        raise UnconfinedError("the runner has ended")
    restrict(rules)
    filter_calls(syscall_filter(os.uname().machine, network=rules["network"], local=rules["local"]))


def main() -> NoReturn:
    rules, program, *arguments = sys.argv[1:]
    try:
        confine(json.loads(rules))
    except (UnconfinedError, OSError, ValueError, KeyError) as error:
        os.write(2, f"cannot confine {program}: {error}\n".encode())
        os._exit(126)
    try:
        os.execve(program, [program, *arguments], os.environ)
    except OSError as error:
        os.write(2, f"cannot start {program}: {error.strerror}\n".encode())
    os._exit(127)


if __name__ == "__main__":
    main()
