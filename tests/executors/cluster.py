"""A real Slurm on this machine: one controller and two node daemons on loopback.

From Debian's packages, unpacked into a cache folder: nothing is installed. Everything it starts is
ended by ``close``.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libmunge2",
    "libhwloc15",
)  # fmt: skip
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoresearch-tests"
CONF = """\
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
MailProg=/bin/true
MessageTimeout=5
SlurmdTimeout=5
KillWait=5
ReturnToService=2
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={n1} CPUs=8 RealMemory=8192
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={n2} CPUs=8 RealMemory=8192
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
NODES = ("n1", "n2")


class MissingError(Exception):
    """Why there can be no cluster here."""


def unpacked() -> Path:
    """Slurm's files, from the cache or from Debian's mirrors."""
    if sys.platform != "linux" or not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise MissingError("Slurm is taken from Debian's packages, and there is no apt-get here")
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")
    target = CACHE / f"slurm-{release}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            draft = CACHE / f"slurm-{release}.new"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            _download(draft)
            for package in draft.glob("*.deb"):
                subprocess.run(["dpkg", "-x", package, draft], check=True)
                package.unlink()
            draft.rename(target)
    return target


def _download(folder: Path) -> None:
    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)

    done = call("apt-get", "download", "-q", *PACKAGES)
    if done.returncode and os.geteuid() == 0:
        call("apt-get", "update", "-q")
        done = call("apt-get", "download", "-q", *PACKAGES)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise MissingError(f"Debian's packages cannot be had: {said[-1] if said else 'no reason'}")


class Cluster:
    """Controller and nodes; ``commands`` are the variables that Slurm's commands need."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = unpacked()
        library = files / "usr/lib" / f"{platform.machine()}-linux-gnu"
        self.programs = files / "usr/sbin"
        self.commands = {
            "SLURM_CONF": str(root / "slurm.conf"),
            "LD_LIBRARY_PATH": f"{library / 'slurm-wlm'}:{library}",
            "PATH": f"{files / 'usr/bin'}:{os.environ['PATH']}",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (root / name).mkdir()
        (root / "munge.key").write_bytes(os.urandom(128))
        (root / "munge.key").chmod(0o600)
        with contextlib.ExitStack() as ports:
            held = [ports.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            numbers = [each.getsockname()[1] for each in held]
        (root / "slurm.conf").write_text(CONF.format(
            root=root, plugins=library / "slurm-wlm", user=getpass.getuser(),
            host=socket.gethostname(), controller=numbers[0], n1=numbers[1], n2=numbers[2],
        ))  # fmt: skip

    def start(self) -> None:
        """Start all daemons, and wait until there are nodes to run jobs on."""
        root = self.root
        self._start("munged", "munged", "--foreground", "--force", "--num-threads=2",
                    f"--socket={root}/munge.socket", f"--key-file={root}/munge.key",
                    f"--pid-file={root}/munge.pid", f"--log-file={root}/munge.log",
                    f"--seed-file={root}/munge.seed")  # fmt: skip
        self.wait((root / "munge.socket").exists)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: self.call("sinfo", "--noheader", "-o", "%T").split() == ["idle"])

    def _start(self, name: str, program: str, *argv: str) -> None:
        with (self.root / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [self.programs / program, *argv], env={**os.environ, **self.commands},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def start_controller(self) -> None:
        self._start("controller", "slurmctld-wlm", "-D")

    def start_node(self, node: str) -> None:
        step = str(self.programs / "slurmstepd-wlm")
        self._start(node, "slurmd-wlm", "-D", "-N", node, "-d", step)

    def kill(self, name: str) -> None:
        """End a daemon at once; what it started goes on."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def stop(self, name: str) -> None:
        """End a daemon in good order; a controller writes down what it knows."""
        self.daemons[name].terminate()
        self.daemons[name].wait()

    def call(self, *argv: str) -> str:
        """What one of Slurm's commands prints; empty where it fails."""
        done = subprocess.run(
            argv, env={**os.environ, **self.commands}, capture_output=True, text=True, check=False
        )
        return done.stdout

    def wait(self, condition: Callable[[], object], seconds: float = 60) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            for name, daemon in self.daemons.items():
                assert daemon.poll() is None, f"{name} ended: {self.said(name)}"
            assert time.monotonic() < give_up, "".join(map(self.said, self.daemons))
            time.sleep(0.1)

    def said(self, name: str) -> str:
        return f"{name}:\n{(self.root / f'{name}.out').read_text(errors='replace')[-1000:]}\n"

    def close(self) -> None:
        """End every job and every daemon."""
        self.call("scancel", "--full", "--signal=KILL", "--me")
        self.call("scancel", "--me")
        for name in ("n1", "n2", "controller", "munged"):
            with contextlib.suppress(ProcessLookupError, KeyError):
                self.daemons[name].kill()
                self.daemons[name].wait()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"SLURM_CONF={self.root}/".encode() in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)


@contextlib.contextmanager
def cluster(root: Path) -> Iterator[Cluster]:
    """A cluster for as long as it is needed."""
    made = Cluster(root)
    try:
        made.start()
        yield made
    finally:
        made.close()
