"""What confinement this machine gives, proved by probing, and how to put a process into it.

The profile is bubblewrap with every namespace, a minimal read-only root and private /tmp, home
and shared memory: measured to stop network, sockets, foreign files, signals and survivors.
Knows nothing about tasks or metrics; a ``Box`` says what one process may see.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .errors import UserError
from .types import Json, Level

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
SETTINGS = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "fonts",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
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
TMPFS_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of this machine shown at the absolute path ``at``."""

    source: Path
    at: Path
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """One process and all it may see: nothing else of the machine is reachable from it.

    Deeper mounts come on top of shallower ones, so an empty file or folder can hide what a mount
    above it would show.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    log: Path
    mounts: Sequence[Mount] = ()
    network: bool = False
    whole_system: bool = False
    gpus: bool = False
    stdin: Path | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How processes are confined on this machine: ``level``, and why it is not a higher one."""

    level: Level
    reason: str = ""
    bwrap: str = "bwrap"
    home: Path = field(default_factory=Path.home)

    def process(self, box: Box) -> dict[str, Json]:
        """The box as a process of a runner's job."""
        argv = list(box.argv)
        cwd = box.cwd
        if self.level is Level.NAMESPACES:
            argv = [*self._profile(box), "--", *argv]
            cwd = Path("/")
        else:
            argv[0] = _program(argv[0], box)
        return {
            "argv": list[Json](argv),
            "cwd": str(cwd),
            "env": dict(box.env),
            "log": str(box.log),
            "stdin": str(box.stdin) if box.stdin else None,
            "cpu_s": box.cpu_s,
        }

    def _profile(self, box: Box) -> list[str]:
        argv = [self.bwrap, "--unshare-user", "--disable-userns", "--unshare-all"]
        if box.network:
            argv.append("--share-net")
        argv += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        if box.whole_system:
            argv += ["--ro-bind", "/", "/"]
        else:
            argv += _system_root()
        argv += ["--proc", "/proc", "--dev", "/dev"]
        if box.gpus:
            for device in sorted(Path("/dev").glob("nvidia*")):
                argv += ["--dev-bind", str(device), str(device)]
        for scratch in ("/dev/shm", "/tmp", *_private_home(self.home)):
            argv += ["--size", str(TMPFS_BYTES), "--tmpfs", scratch]
        package = Path(__file__).parent
        for mount in sorted(box.mounts, key=lambda each: len(each.at.parts)):
            bind = "--bind" if mount.writable else "--ro-bind"
            argv += [bind, str(mount.source), str(mount.at)]
        if any(package.is_relative_to(mount.at) for mount in box.mounts):
            argv += ["--tmpfs", str(package), "--remount-ro", str(package)]
        argv += ["--remount-ro", "/dev"]
        if not box.whole_system:
            argv += ["--remount-ro", "/"]
        return [*argv, "--chdir", str(box.cwd)]


def _program(name: str, box: Box) -> str:
    found = shutil.which(name, path=box.env.get("PATH")) if "/" not in name else None
    return found or str(box.cwd / name)


def _private_home(home: Path) -> tuple[str, ...]:
    return (str(home),) if home != Path("/") and home.is_dir() else ()


@cache
def _system_root() -> tuple[str, ...]:
    argv: list[str] = []
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            argv += ["--ro-bind", name, name]
    for name in SETTINGS:
        path = Path("/etc") / name
        if path.exists():
            argv += ["--ro-bind", str(path.resolve()), str(path)]
    return tuple(argv)


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
    """Find the strongest level that really holds here, by trying to break out of it."""
    home = home or Path.home()
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux":
        return Sandbox(Level.NONE, f"{sys.platform} has no Linux namespaces", home=home)
    if bwrap is None:
        return Sandbox(Level.NONE, "bubblewrap (bwrap) is not installed", home=home)
    sandbox = Sandbox(Level.NAMESPACES, bwrap=bwrap, home=home)
    with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
        canary = Path(folder) / "canary"
        canary.write_text("secret")
        attack = (
            f"cat {canary} /proc/{os.getpid()}/environ 2>/dev/null && exit 11;"
            " test $(ls -d /proc/[0-9]* | wc -l) -lt 9 || exit 12;"
            " test $(tail -n +3 /proc/net/dev | wc -l) -le 1 || exit 13;"
            " touch /usr/.autoresearch-probe 2>/dev/null && exit 14; exit 0"
        )
        box = Box(
            ["/bin/sh", "-c", attack], Path("/"), {"PATH": "/usr/bin:/bin"}, Path("/dev/null")
        )
        process = sandbox.process(box)
        result = subprocess.run(
            [str(word) for word in process["argv"]],  # type: ignore[union-attr]
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
    if result.returncode == 0:
        return sandbox
    broken = {
        11: "foreign files or processes are readable inside",
        12: "processes outside are visible inside",
        13: "the network is visible inside",
        14: "the system is writable inside",
    }
    said = result.stderr.decode(errors="replace").strip().splitlines()
    why = broken.get(result.returncode) or (said[-1] if said else f"exit {result.returncode}")
    return Sandbox(Level.NONE, f"bubblewrap does not confine here: {why}", home=home)


def sweep(run: Path) -> int:
    """Kill sandboxes that a killed engine left behind: those that were shown a file of its run.

    They die with the engine, but for the instant before they have armed that. Only for the holder
    of the run's lock. Returns how many there were.
    """
    killed = 0
    ours = os.fsencode(f"{run}{os.sep}")
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
            if words[0].endswith(b"bwrap") and any(word.startswith(ours) for word in words):
                os.kill(int(entry.parent.name), signal.SIGKILL)
                killed += 1
        except (OSError, IndexError):
            continue
    return killed


def require(sandbox: Sandbox, *, unconfined: bool) -> Sandbox:
    """Refuse to run untrusted code without confinement unless the person accepts it.

    Raises:
        UserError: this machine does not confine and ``unconfined`` was not given.
    """
    if sandbox.level is Level.NAMESPACES:
        return sandbox
    if unconfined:
        return Sandbox(Level.NONE, sandbox.reason or "asked for with --unconfined")
    raise UserError(
        f"experiments cannot be confined on this machine: {sandbox.reason}",
        fix="install bubblewrap (apt install bubblewrap), or accept that edited code runs with"
        " your rights: --unconfined",
    )
