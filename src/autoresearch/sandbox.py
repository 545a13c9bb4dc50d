"""What confinement this machine gives, proved by probing, and how to put a process into it.

``namespaces`` is bubblewrap with every namespace, a minimal read-only root and private /tmp, home
and shared memory: measured to stop network, sockets, foreign files, signals and survivors.
``landlock`` (Linux) and ``seatbelt`` (macOS) allow and refuse by path instead: nothing can be shown
at another place than its own. Knows nothing about tasks or metrics; a ``Box`` says what one process
may see.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from . import landlock, seatbelt
from .errors import UserError
from .scratch import fresh
from .types import Json, Level

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
SETTINGS = (
    "alternatives",
    "fonts",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "locale.alias",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki",
    "protocols",
    "resolv.conf",
    "services",
    "ssl",
    "timezone",
)
# Inside of those settings, and never shown where that can be helped.
KEYS = ("/etc/ssl/private", "/etc/pki/tls/private")
SCRATCH_BYTES = 2 << 30  # of each private place in memory: /tmp, /dev/shm, the home
# Where processes cannot be hidden, only our own process and what describes the machine is shown.
PROC = (
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel",
    "/proc/sys/vm",
    "/proc/uptime",
    "/proc/version",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# A user that owns nothing, for what root starts where processes cannot be hidden.
SPARE_UIDS = range(64_000, 64_100)
LEVEL = "AUTORESEARCH_LEVEL"
OPEN = {
    11: "foreign files or processes are readable inside",
    12: "processes outside are visible inside",
    13: "the network is visible inside",
    14: "the system is writable inside",
}


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of this machine shown at the absolute path ``at``.

    One that ``hides`` is an empty file or folder over what another mount would show there.
    """

    source: Path
    at: Path
    writable: bool = False
    hides: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """One process and all it may see: nothing else of the machine is reachable from it.

    Deeper mounts come on top of shallower ones. ``cwd`` and the paths in ``env`` are places as the
    process is shown them; text in ``env`` is passed on as it is. Boxes of one step with
    ``loopback`` share a network of their own, which leads nowhere else.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str | Path]
    log: Path
    mounts: Sequence[Mount] = ()
    network: bool = False
    whole_system: bool = False
    gpus: bool = False
    stdin: Path | None = None
    cpu_s: float | None = None
    loopback: bool = False
    errors: Path | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How processes are confined on this machine: ``level``, and why it is not a higher one.

    ``settings`` is a folder that ``copy_settings`` made: one mount instead of one for each file.
    """

    level: Level
    reason: str = ""
    bwrap: str = "bwrap"
    scratch_bytes: int = SCRATCH_BYTES
    home: Path = field(default_factory=Path.home)
    uid: int | None = None
    settings: Path | None = None

    @property
    def remaps(self) -> bool:
        """Whether a process can be shown things at other places than where they are."""
        return self.level is Level.NAMESPACES

    def place(self, at: Path, mounts: Sequence[Mount]) -> Path:
        """Where a process finds what ``mounts`` show at ``at``."""
        if self.remaps:
            return at
        above = [each for each in _shown(mounts) if at.is_relative_to(each.at) and not each.hides]
        return above[-1].source / at.relative_to(above[-1].at) if above else at

    def process(self, box: Box) -> dict[str, Json]:
        """The box as a process of a runner's job."""
        cwd = self.place(box.cwd, box.mounts)
        env = {
            name: str(self.place(value, box.mounts)) if isinstance(value, Path) else value
            for name, value in box.env.items()
        }
        argv = list(box.argv)
        if not self.remaps:
            argv[0] = _program(argv[0], cwd, env)
        match self.level:
            case Level.NAMESPACES:
                argv = [*self._profile(box), "--", *argv]
                cwd = Path("/")
            case Level.LANDLOCK:
                helper = [sys.executable, "-I", "-S", "-B", landlock.__file__]
                rules = self._rules(box)
                argv = [*helper, json.dumps(rules), *argv]
                # What cannot be opened is not taken for missing: git would stop at its settings.
                env = {"GIT_CONFIG_NOSYSTEM": "1", **env}
                if rules["uid"] is not None:
                    env = {"LOGNAME": "autoresearch", **env}  # it has no other name
            case Level.SEATBELT:
                argv = [*seatbelt.command(self._rules(box)), *argv]
            case Level.NONE:
                pass
        return {
            "argv": list[Json](argv),
            "cwd": str(cwd),
            "env": dict[str, Json](env),
            "log": str(box.log),
            "errors": str(box.errors) if box.errors else None,
            "stdin": str(box.stdin) if box.stdin else None,
            "cpu_s": box.cpu_s,
            # The runner makes that network and starts bubblewrap in it, or does not start it.
            "loopback": box.loopback and self.level is Level.NAMESPACES,
        }

    def trial(self, canary: Path) -> list[str]:
        """A program that exits with 0 where this level holds; ``canary`` is a file outside of it.

        For machines that a job has come to and where nobody could probe before.
        """
        return ["/bin/sh", "-c", _ways_out(canary, remaps=self.remaps)]

    def require_loopback(self, wanted: bool) -> None:
        """Refuse a task whose processes need a network of their own where there is none.

        Rules by path know ports and no addresses: an open port is open to the whole world.

        Raises:
            UserError: this level cannot give it.
        """
        if wanted and self.level in (Level.LANDLOCK, Level.SEATBELT):
            raise UserError(
                f"metric.loopback needs level namespaces, this is {self.level.value}"
                f" ({self.reason})",
                fix=f"{raise_level(self)}; or let answer serve over its pipe, without loopback",
            )

    def _rules(self, box: Box) -> dict[str, Json]:
        """What the box may open, for the levels that go by path: see ``landlock.py``."""
        read = [Path("/")] if box.whole_system else [*map(Path, (*SYSTEM, *PROC)), *_settings()]
        write = [Path("/dev/shm")] if box.whole_system else []
        devices = [Path(name) for name in DEVICES]
        if box.gpus:
            devices += _gpu_devices()
            read.append(Path("/proc/driver"))
        without = [] if box.whole_system else [Path(__file__).parent, *map(Path, KEYS)]
        mounts = _shown(box.mounts)
        for i, mount in enumerate(mounts):
            if mount.hides:
                continue
            (write if mount.writable else read).append(mount.source)
            for other in mounts[i + 1 :]:
                if not other.at.is_relative_to(mount.at):
                    continue
                covered = mount.source / other.at.relative_to(mount.at)
                hidden = other.hides and self.place(other.at, mounts) == covered
                # Nothing of ours is where it was: it would be seen as it is for the person.
                foreign = mount.source == mount.at and other.source != covered
                if hidden or foreign:
                    without.append(covered)
        return {
            "read": _words(read),
            "write": _words(write),
            "without": _words(without),
            "devices": _words(devices),
            "network": box.network,
            "local": box.whole_system,
            "uid": None if box.whole_system else self.uid,
        }

    def _profile(self, box: Box) -> list[str]:
        argv = [self.bwrap, "--unshare-user", "--disable-userns", "--unshare-all"]
        if box.network or box.loopback:
            argv.append("--share-net")
        argv += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        if box.whole_system:
            argv += ["--ro-bind", "/", "/"]
        else:
            # With a network, how names are resolved may change while a run lasts.
            argv += _system_root(None if box.network else self.settings)
        argv += ["--proc", "/proc", "--dev", "/dev"]
        if box.gpus:
            for device in _gpu_devices():
                argv += ["--dev-bind-try", str(device), str(device)]
        for scratch in ("/dev/shm", "/tmp", *_private_home(self.home)):
            argv += ["--size", str(self.scratch_bytes), "--tmpfs", scratch]
        package = Path(__file__).parent
        for mount in _shown(box.mounts):
            bind = "--bind" if mount.writable else "--ro-bind"
            argv += [bind, str(mount.source), str(mount.at)]
        if any(package.is_relative_to(mount.at) for mount in box.mounts):
            argv += ["--tmpfs", str(package), "--remount-ro", str(package)]
        argv += ["--remount-ro", "/dev"]
        if not box.whole_system:
            argv += ["--remount-ro", "/"]
        return [*argv, "--chdir", str(box.cwd)]


def _shown(mounts: Sequence[Mount]) -> list[Mount]:
    """Mounts from the shallowest to the deepest; of two at one place the later one."""
    last = {mount.at: mount for mount in mounts}
    return sorted(last.values(), key=lambda each: len(each.at.parts))


def _words(paths: Sequence[Path]) -> list[Json]:
    return [str(path) for path in dict.fromkeys(paths)]


def _program(name: str, cwd: Path, env: Mapping[str, str]) -> str:
    found = shutil.which(name, path=env.get("PATH")) if "/" not in name else None
    return found or str(cwd / name)


def _gpu_devices() -> list[Path]:
    """Device files of GPUs: those of this machine, and those that a node it is sent to may have."""
    here = Path("/dev").glob("nvidia*")
    there = [*range(16), "ctl", "-uvm", "-uvm-tools", "-modeset"]
    return sorted({*here, *(Path(f"/dev/nvidia{name}") for name in there)})


def _ways_out(*files: Path, remaps: bool) -> str:
    """A shell script that exits with a key of ``OPEN`` where something is, or 0.

    With what a shell can do by itself: a run starts sooner without six other programs.
    """
    readable = "".join(
        f"{{ true <{shlex.quote(str(each))}; }} 2>/dev/null && exit 11; " for each in files
    )
    hidden = (
        "set -- /proc/[0-9]*; test $# -lt 9 || exit 12;"
        " rows=0; while read -r line; do rows=$((rows + 1)); done </proc/net/dev;"
        " test $rows -le 3 || exit 13; "
    )
    return (
        f"{readable}{hidden if remaps else ''}"
        "{ true >/usr/.autoresearch-probe; } 2>/dev/null && exit 14; exit 0"
    )


def _private_home(home: Path) -> tuple[str, ...]:
    return (str(home),) if home != Path("/") and home.is_dir() else ()


def copy_settings(folder: Path) -> None:
    """Copy what is shown of /etc, but for what lies in folders of its own, into a new folder.

    Raises:
        OSError: there is no room.
    """
    draft = fresh(folder.with_name(f"{folder.name}.new"))
    for path in _settings():
        if path.is_dir():
            (draft / path.name).mkdir()
        else:
            shutil.copyfile(path, draft / path.name)
    draft.rename(folder)


@cache
def _system_root(settings: Path | None) -> tuple[str, ...]:
    argv: list[str] = []
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            argv += ["--ro-bind", name, name]
    if settings is not None:
        argv += ["--ro-bind", str(settings), "/etc"]
    for path in _settings():
        if settings is None or path.is_dir():
            argv += ["--ro-bind", str(path.resolve()), str(path)]
    return tuple(argv)


def _settings() -> list[Path]:
    return [path for name in SETTINGS if (path := Path("/etc") / name).exists()]


def toolchain(path: str, home: Path) -> list[Path]:
    """Directories outside the system that the programs on ``path`` live in and need.

    A directory of ``PATH``, the prefix of each Python found there, and the base interpreter that
    its virtual environment names. Never the home directory itself, nor the root.
    """
    roots: list[Path] = []
    for entry in path.split(os.pathsep):
        folder = Path(entry)
        if not folder.is_absolute() or not folder.is_dir():
            continue
        roots.append(folder.parent if folder.name in ("shims", "condabin") else folder)
        for name in ("python3", "python", "uv"):
            program = folder / name
            if program.is_file():
                roots += _prefixes(program)
    needed = [r for r in dict.fromkeys(roots) if not _in_system(r) and r not in (home, Path("/"))]
    return [r for r in needed if not any(r != o and r.is_relative_to(o) for o in needed)]


def _prefixes(program: Path) -> list[Path]:
    """Where an interpreter keeps its libraries: its own prefix, and that of its base."""
    prefix = program.parent.parent
    found = [prefix] if (prefix / "pyvenv.cfg").is_file() else []
    # Each link on the way counts: a virtual environment of a versioned alias needs the alias too.
    for _ in range(8):
        if not program.is_symlink():
            break
        program = program.parent / program.readlink()
        if program.parent.name == "bin":
            found.append(Path(os.path.normpath(program.parent.parent)))
    real = program.resolve()
    return [*found, real.parent.parent] if real.parent.name == "bin" else found


def _in_system(path: Path) -> bool:
    return any(path.is_relative_to(name) for name in SYSTEM)


def probe(home: Path | None = None) -> Sandbox:
    """Find the strongest level that really holds here, by trying to break out of it.

    The variable AUTORESEARCH_LEVEL names the strongest one to try: it can lower the level only.

    Raises:
        UserError: AUTORESEARCH_LEVEL is not the name of a level.
    """
    home = home or Path.home()
    strongest, order = _strongest_wanted(), list(Level)
    levels = {
        "linux": ((Level.NAMESPACES, _namespaces), (Level.LANDLOCK, _landlock)),
        "darwin": ((Level.SEATBELT, _seatbelt),),
    }
    reasons = [] if sys.platform in levels else [f"no way to confine on {sys.platform} is known"]
    for level, attempt in levels.get(sys.platform, ()):
        if order.index(level) < order.index(strongest):
            reasons.append(f"{LEVEL}={strongest.value} asks for no more")
            continue
        found, why = attempt(home)
        if not why:
            return replace(found, reason="; ".join(dict.fromkeys(reasons)))
        reasons.append(why)
    return Sandbox(Level.NONE, "; ".join(dict.fromkeys(reasons)), home=home)


def _strongest_wanted() -> Level:
    wanted = os.environ.get(LEVEL) or Level.NAMESPACES.value
    if wanted not in [level.value for level in Level]:
        raise UserError(
            f"{LEVEL}={wanted!r}: no such level",
            fix=f"one of {', '.join(level.value for level in Level)}, or leave it unset",
        )
    return Level(wanted)


# Each attempt returns a sandbox and why it does not hold, empty when it does.


def _namespaces(home: Path) -> tuple[Sandbox, str]:
    bwrap = shutil.which("bwrap")
    sandbox = Sandbox(Level.NAMESPACES, bwrap=bwrap or "bwrap", home=home)
    if bwrap is None:
        return sandbox, "bubblewrap (bwrap) is not installed"
    with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
        canary = Path(folder) / "canary"
        canary.write_text("secret")
        attack = _ways_out(canary, Path(f"/proc/{os.getpid()}/environ"), remaps=True)
        result = _attack(sandbox, ["/bin/sh", "-c", attack])
    fallback = _last_words(result) if result.returncode else ""
    said = OPEN.get(result.returncode, fallback)
    return sandbox, f"bubblewrap does not confine here: {said}" if said else ""


def _landlock(home: Path) -> tuple[Sandbox, str]:
    version = landlock.abi()
    sandbox = Sandbox(Level.LANDLOCK, home=home)
    if version < landlock.NEEDED_ABI:
        had = f"has Landlock version {version}" if version else "has no Landlock"
        return sandbox, (
            f"this kernel {had}, and version {landlock.NEEDED_ABI} is needed (Linux 6.12)"
        )
    if os.geteuid() == 0 and (uid := _spare_uid()) is not None:
        other = replace(sandbox, uid=uid)
        # A container may have no second user; then root stays, without any capability.
        if not _break_out(other):
            return other, ""
    why = _break_out(sandbox)
    return sandbox, f"Landlock does not confine here: {why}" if why else ""


def _seatbelt(home: Path) -> tuple[Sandbox, str]:
    sandbox = Sandbox(Level.SEATBELT, home=home)
    if not Path(seatbelt.PROGRAM).exists():
        return sandbox, f"there is no {seatbelt.PROGRAM}"
    why = _break_out(sandbox)
    return sandbox, f"sandbox-exec does not confine here: {why}" if why else ""


def _spare_uid() -> int | None:
    import pwd  # noqa: PLC0415

    for uid in SPARE_UIDS:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    return None


# Tried at the levels that go by path: every way out that must be closed there.
BREAK_OUT = """
import os, resource, socket, sys
canary, engine, port, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
ways = {
    "foreign files are readable": lambda: open(canary),
    "foreign files are writable": lambda: open(canary, "a"),
    "files can be made elsewhere": lambda: open(canary + ".new", "w"),
    "foreign files can be removed": lambda: os.unlink(canary),
    "folders elsewhere can be listed": lambda: os.listdir(os.path.dirname(canary)),
    "the engine's secrets are readable": lambda: open(f"/proc/{engine}/environ"),
    "the engine can be killed": lambda: os.kill(engine, 0),
    "the network is open": lambda: socket.create_connection(("127.0.0.1", port), 1),
    "sockets of other programs are open": lambda: socket.socket(socket.AF_UNIX).connect(name),
}
if sys.platform == "linux":
    ways["sockets without a file are open"] = (
        lambda: socket.socket(socket.AF_UNIX).connect("\\0" + name)
    )
    ways["the engine's limits can be changed"] = (
        lambda: resource.prlimit(engine, resource.RLIMIT_NOFILE)
    )
for what, way in ways.items():
    try:
        way()
    except OSError:
        continue
    print(what)
    sys.exit(1)
print("held")
"""


def _break_out(sandbox: Sandbox) -> str:
    """What a hostile program can do in this sandbox, or why it does not even run; else empty."""
    python = Path(sys.executable)
    prefixes = [prefix for prefix in _prefixes(python) if not _in_system(prefix)]
    with (
        tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        canary, name = Path(folder) / "canary", f"{folder}/socket"
        canary.write_text("secret")
        named.bind(name)
        named.listen()
        if sys.platform == "linux":
            abstract.bind(f"\0{name}")
            abstract.listen()
        words = [str(canary), str(os.getpid()), str(server.getsockname()[1]), name]
        argv = [str(python), "-I", "-S", "-c", BREAK_OUT, *words]
        result = _attack(sandbox, argv, [Mount(prefix, prefix) for prefix in prefixes])
    return "" if (result.returncode, result.stdout) == (0, b"held\n") else _last_words(result)


def _attack(
    sandbox: Sandbox, argv: Sequence[str], mounts: Sequence[Mount] = ()
) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": "/usr/bin:/bin"}
    process = sandbox.process(Box(argv, Path("/"), env, Path("/dev/null"), mounts))
    return subprocess.run(
        [str(word) for word in process["argv"]],  # type: ignore[union-attr]
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )


def _last_words(result: subprocess.CompletedProcess[bytes]) -> str:
    said = (result.stdout + result.stderr).decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"exit {result.returncode}"


def sweep(runs: Sequence[Path], spared: Sequence[Path] = ()) -> int:
    """Kill processes that a killed engine left behind: those that were shown a file of its run.

    But not those that were shown a file below ``spared``: they are meant to outlive it.

    They die with the engine and its runner, but for the instant before they have armed that, and
    for daemons at the levels that cannot hide processes. Only for the holder of the run's lock.
    Returns how many there were.
    """
    killed = 0
    ours, others = (
        tuple(os.fsencode(f"{folder}{os.sep}") for folder in folders) for folders in (runs, spared)
    )
    temporary = [b"\0TMPDIR=" + each for each in ours]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(word.startswith(others) for word in words):
                continue
            left = words[0].endswith(b"bwrap") and any(word.startswith(ours) for word in words)
            if not left:
                environ = b"\0" + (folder / "environ").read_bytes()
                left = any(each in environ for each in temporary)
            if left:
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
        except OSError:
            continue
    return killed


OTHERS_MODES = "modes and times of other files can be changed, as far as you may"
LACKS: Mapping[Level, tuple[str, ...]] = {
    Level.NAMESPACES: (),
    Level.LANDLOCK: (
        "names, sizes and times of other files can be found out, but nothing in them",
        OTHERS_MODES,
        "no shared memory and no sockets inside: multiprocessing pools and queues do not work",
        "paths are the real ones: the task must find its files by relative paths",
        "when engine and runner are killed at once, a process may live until the next start",
    ),
    Level.SEATBELT: (
        "untested: written from documentation, tried on no machine",
        "names and sizes of other files can be found out",
        "processes that leave their session can outlive a step; memory is not capped",
        "paths are the real ones: the task must find its files by relative paths",
    ),
    Level.NONE: (
        "anything: edited code has your rights, can read hidden data and set its own score",
    ),
}


def not_guaranteed(sandbox: Sandbox) -> tuple[str, ...]:
    """What the highest level holds and this one does not, a line each."""
    lacks = LACKS[sandbox.level]
    return lacks if sandbox.uid is None else tuple(x for x in lacks if x != OTHERS_MODES)


def raise_level(sandbox: Sandbox) -> str:
    """How to reach a higher level on this machine; empty at the highest."""
    if sandbox.level is Level.NAMESPACES:
        return ""
    if LEVEL in sandbox.reason:
        return f"unset {LEVEL}"
    if sys.platform != "linux":
        return "run it on Linux with bubblewrap, for instance in a virtual machine"
    if "not installed" in sandbox.reason:
        return "install bubblewrap (apt install bubblewrap)"
    return (
        "let bubblewrap make user namespaces: kernel.unprivileged_userns_clone=1,"
        " kernel.apparmor_restrict_unprivileged_userns=0, or a container that allows them"
    )


def require(sandbox: Sandbox, *, unconfined: bool) -> Sandbox:
    """Refuse to run untrusted code without confinement unless the person accepts it.

    Raises:
        UserError: this machine does not confine and ``unconfined`` was not given.
    """
    if sandbox.level is not Level.NONE:
        return sandbox
    if unconfined:
        return replace(sandbox, reason=sandbox.reason or "asked for with --unconfined")
    raise UserError(
        f"experiments cannot be confined on this machine: {sandbox.reason}",
        fix=f"{raise_level(sandbox)}, or accept that edited code runs with your rights:"
        " --unconfined",
    )
