"""``autoresearch run``: hold a run, drive the engine, stop cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from .. import config, disk, git, limits, sandbox
from ..bench import Places
from ..engine import End, Engine
from ..errors import DiskFullError, UserError
from ..run import CHECK, FOLDER, Run, begun, new_tag
from ..scope import Scope
from ..types import Contract, Level
from ..worker import back_off_s
from . import task
from .live import watch
from .words import summary

DETACH_S = 20.0
LONG_BYTES = 8 << 20  # of a journal: that of some 4,000 experiments, checked in two seconds
# So tempfile says that no disk has room.
NO_TEMPORARY = "No usable temporary directory"
Result = TypeVar("Result")
# A directory, a branch and a ref are named by it.
TAG = re.compile(rf"(?!{CHECK}$)[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*(?<!\.lock)")


@dataclass(frozen=True, slots=True)
class Begin:
    """How a run is to be started or resumed."""

    tag: str | None = None
    new: bool = False
    uncommitted: Literal["refuse", "seal", "leave"] = "refuse"
    unconfined: bool = False
    require: Level | None = None


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--tag", help="Name of the run (default: the latest, else the day).")
@click.option("--new", is_flag=True, help="Start a new run even if one could be resumed.")
@click.option("--agent", help="Use this agent instead of the contract's.")
@click.option("--workers", type=click.IntRange(1), help="So many experiments at once.")
@click.option("--executor", help="Where samples are taken: local, slurm, ray, or another's name.")
@click.option("--max-experiments", type=click.IntRange(0), help="End at this many in total.")
@click.option("--max-hours", type=click.FloatRange(0), help="End after this time in total.")
@click.option("--target", type=float, help="End when an incumbent reaches this value.")
@click.option("--until-pass", is_flag=True, help="Insist that a test is to pass: no [metric].")
@click.option("--dirty", is_flag=True, help="Begin from uncommitted changes of editable files.")
@click.option("--detach", is_flag=True, help="Go on in the background; see: autoresearch status.")
@click.option("--unconfined", is_flag=True, help="Run edited code with your own rights.")
@click.option(
    "--require",
    type=click.Choice([level.value for level in Level]),
    help="Refuse to run on a machine that confines less than this.",
)
def run(
    folder: Path,
    tag: str | None,
    new: bool,
    agent: str | None,
    workers: int | None,
    executor: str | None,
    max_experiments: int | None,
    max_hours: float | None,
    target: float | None,
    until_pass: bool,
    dirty: bool,
    detach: bool,
    unconfined: bool,
    require: str | None,
) -> None:
    """Start a run, or resume the latest one.

    It goes on until a limit, the target, or Ctrl-C: once finishes the sample in flight, twice
    stops now. Nothing recorded is lost either way; the same command continues.

    Where the contract has a [guard] and no [metric], it runs until that test passes.

    Exit codes: 0 done, 2 your input, 3 it ended before the target or the pass, 4 another engine
    holds this run, 130 interrupted.
    """
    if detach:
        _detach(folder)
        return
    contract = config.load(task.contract_path(folder))
    _check_until_pass(contract, until_pass, target)
    contract = override(contract, agent, max_experiments, max_hours, target, executor, workers)
    begin = Begin(
        tag, new, "seal" if dirty else "refuse", unconfined, Level(require) if require else None
    )
    sys.exit(start(contract, begin))


def _check_until_pass(contract: Contract, asked: bool, target: float | None) -> None:
    """Refuse options that do not fit to what the contract says is to be reached."""
    if asked and contract.suite is None:
        raise UserError(
            f"--until-pass: {contract.path} has a [metric], which is what is improved",
            fix="leave out [metric] and run.command, so that one [guard] says what must pass",
        )
    if contract.suite is not None and target is not None:
        raise UserError(
            f"--target {target:g}: without [metric] the target is a pass",
            fix="leave out --target",
        )


def override(
    contract: Contract,
    agent: str | None = None,
    max_experiments: int | None = None,
    max_hours: float | None = None,
    target: float | None = None,
    executor: str | None = None,
    workers: int | None = None,
) -> Contract:
    """The contract with what the command line says on top of it."""
    limits = contract.limits
    if max_experiments is not None:
        limits = replace(limits, experiments=max_experiments)
    if max_hours is not None:
        limits = replace(limits, hours=max_hours)
    if agent is not None and agent != contract.agents[0].use:
        # Its own table, and the names of keys, are in the file.
        contract = replace(contract, agents=config.load(contract.path, agent=agent).agents)
    if target is not None:
        contract = replace(contract, metric=replace(contract.metric, target=target))
    if workers is not None:
        contract = replace(contract, parallel=replace(contract.parallel, workers=workers))
    if executor is not None:
        contract = replace(contract, parallel=replace(contract.parallel, executor=executor))
    return replace(contract, limits=limits)


def start(contract: Contract, begin: Begin) -> int:
    """Run to the end, waiting for room on a full disk; returns the exit code."""
    tag = _choose_tag(contract.root, begin)
    if begin.tag is None and _passed_before(contract, tag):
        tag = new_tag(contract.root, datetime.now())
    # Tried again, it is the same run.
    begin = replace(begin, tag=tag, new=False)
    log = contract.root / FOLDER / tag / "engine.log"
    failures = 0
    while True:
        try:
            return _start(contract, begin)
        except DiskFullError as full:
            # Not even the journal can say so: else the engine waits, and this is never reached.
            failures += 1
            if _interrupted_while_waiting(full, failures, log):
                return 130


def _passed_before(contract: Contract, tag: str) -> bool:
    """Whether a run made its test pass, and HEAD is another than it began from."""
    if contract.suite is None or not begun(contract.root / FOLDER / tag):
        return False
    view = task.read_view(contract.root, tag)
    head = git.head(git.repository_root(contract.root))
    return bool(view.contract) and view.head != head and not limits.owes_a_pass(view, contract)


def _interrupted_while_waiting(full: DiskFullError, failures: int, log: Path) -> bool:
    """Wait for room, visibly and longer each time; true at once where a person ends it."""
    wait_s = back_off_s(failures)
    line = f"{datetime.now(UTC):%H:%M:%S} paused: {full.message}; trying again in {wait_s:g} s"
    _say(line)
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    pressed = asyncio.Event()

    async def wait() -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await pressed.wait()
        return pressed.is_set()

    return interruptible(wait, pressed.set) is not False


def _start(contract: Contract, begin: Begin) -> int:
    """Run to the end; prints progress and a summary, returns the exit code."""
    box = _confine_where_there_is_room(begin)
    with hold(contract, begin) as held:
        with watch(contract, held.view, log=held.places.run / "engine.log") as listener:
            held.listeners.append(listener)
            end = drive(Engine(held, contract, box))
            held.listeners.remove(listener)
        _say(summary(contract, held.view, held.places.run))
        for warning in held.warnings:
            _say(f"note: {warning}")
        if sys.stdout.isatty():
            # Elsewhere the last of the plain lines has said so.
            _say(f"ended: {end.reason}")
    return 130 if end.interrupted else 3 if end.short else 0


def _say(text: str) -> None:
    """Print, if there is still a terminal."""
    try:
        click.echo(text)
    except OSError:
        # What is left in its buffer would fail again when the interpreter ends.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


def confine(begin: Begin, *, quiet: bool = False) -> sandbox.Sandbox:
    """Find how this machine confines, and refuse where that is too little; warn of less."""
    found = sandbox.probe()
    strongest_first = list(Level)
    if begin.require is not None and strongest_first.index(found.level) > strongest_first.index(
        begin.require
    ):
        raise UserError(
            f"this machine confines at level {found.level.value}, required is"
            f" {begin.require.value}: {found.reason}",
            fix=f"{sandbox.raise_level(found)}, or require less",
        )
    box = sandbox.require(found, unconfined=begin.unconfined)
    if quiet:
        return box
    if box.level is Level.NONE:
        click.echo(f"warning: nothing is confined ({box.reason}); scores can be gamed", err=True)
    elif lacks := sandbox.not_guaranteed(box):
        click.echo(
            f"warning: level {box.level.value} ({box.reason}): {lacks[0]}; {len(lacks) - 1} more:"
            f" autoresearch check; to raise it: {sandbox.raise_level(box)}",
            err=True,
        )
    return box


def _confine_where_there_is_room(begin: Begin) -> sandbox.Sandbox:
    """Confine, which takes a file or two.

    Raises:
        DiskFullError: there is no room for them.
    """
    try:
        with disk.named(Path("/tmp")):
            return confine(begin)
    except FileNotFoundError as error:
        if NO_TEMPORARY not in str(error):
            raise
        raise DiskFullError(f"disk full: {error.strerror}") from error


@contextlib.contextmanager
def hold(contract: Contract, begin: Begin) -> Iterator[Run]:
    """Take the run's lock and begin or resume it; lets go at the end.

    Raises:
        DiskFullError: there is no room for it.
    """
    root = contract.root
    tag = _choose_tag(root, begin)
    repository = git.repository_root(root)
    base = git.head(repository)
    places = Places(root / FOLDER / tag, repository, root)

    def uncommitted() -> git.Edits:
        if begin.uncommitted == "leave":
            return {}
        return _uncommitted(contract, places, seal=begin.uncommitted == "seal")

    if not begun(places.run):
        uncommitted()  # refused before anything is made
    with disk.named(places.run):
        git.exclude(repository, f"{FOLDER}/")
        _say_if_long(places.run / "journal.db", tag)
        held = Run(places, tag)
        try:
            if held.view.base:
                held.resume(contract)
            else:
                held.begin(contract, base, uncommitted())
            yield held
        finally:
            held.release()


def _say_if_long(journal: Path, tag: str) -> None:
    """Journal and store are read to their ends, which takes its time for a run of thousands."""
    size = journal.stat().st_size if journal.exists() else 0
    if size >= LONG_BYTES:
        click.echo(f"checking run {tag}, whose journal has {size >> 20} MiB ...", err=True)


def _choose_tag(root: Path, begin: Begin) -> str:
    """The run that is meant: the one named, the latest, or a new one."""
    if begin.tag is not None and not TAG.fullmatch(begin.tag):
        raise UserError(
            f"--tag {begin.tag!r} cannot name a run",
            fix="use letters, digits, '-', '_' and '.' between them, such as nov23-wide",
        )
    if begin.new and begin.tag and (root / FOLDER / begin.tag).exists():
        raise UserError(f"run {begin.tag!r} exists", fix="choose another --tag, or leave out --new")
    latest = begin.tag or (None if begin.new else task.latest_tag(root))
    return latest or new_tag(root, datetime.now())


def _uncommitted(contract: Contract, places: Places, *, seal: bool) -> git.Edits:
    """Editable files that differ from HEAD, to be sealed with ``--dirty``; else an error."""
    scope = Scope(contract.task)
    changed = git.uncommitted(places.repository)
    prefix = "" if places.inner == Path() else f"{places.inner.as_posix()}/"
    edits: dict[str, tuple[str, bytes] | None] = {}
    for path in changed:
        inner = path[len(prefix) :] if path.startswith(prefix) else None
        if inner is not None and scope.editable(inner):
            file = places.repository / path
            edits[path] = ("100644", file.read_bytes()) if file.is_file() else None
    own = {path: path[len(prefix) :] for path in changed if path.startswith(prefix)}
    if unseen := sorted(inner for inner in own.values() if scope.protected(inner)):
        named = ", ".join(unseen[:3]) + (f" and {len(unseen) - 3} more" if unseen[3:] else "")
        raise UserError(
            f"uncommitted changes of protected files: {named}; a run sees what is committed",
            fix=f"git add {' '.join(unseen[:3])} && git commit, or put them aside: git stash -u",
        )
    if edits and not seal:
        raise UserError(
            f"uncommitted changes of editable files: {', '.join(sorted(edits))}",
            fix="commit them (git commit), or begin from them as they are: --dirty",
        )
    for word in (*contract.run.command, *(contract.metric.evaluate or ())):
        if f"{prefix}{word}" in changed and f"{prefix}{word}" not in edits:
            raise UserError(
                f"{word} has uncommitted changes, and a run measures what is committed",
                fix=f"git add {word} && git commit",
            )
    return edits


def drive(engine: Engine, *, ticket: str | None = None) -> End:
    """Run the engine in an event loop that knows what Ctrl-C, SIGTERM and SIGHUP mean."""

    pressed = False

    def stop() -> None:
        nonlocal pressed
        pressed = True
        engine.request_stop("Ctrl-C")

    end = interruptible(lambda: engine.loop(ticket=ticket), stop)
    if end is None:
        return End("interrupted", interrupted=True)
    return replace(end, reason="interrupted", interrupted=True) if pressed else end


def interruptible(
    begin: Callable[[], Coroutine[Any, Any, Result]], stop: Callable[[], None]
) -> Result | None:
    """Run to the end; Ctrl-C calls ``stop``, twice or SIGTERM ends it now, with None."""

    early = False

    def note(*_: object) -> None:
        nonlocal early
        early = True

    async def main() -> Result | None:
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(begin())
        pressed = False

        def interrupt() -> None:
            nonlocal pressed
            if pressed:
                work.cancel()
            else:
                pressed = True
                stop()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, work.cancel)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        if early:
            interrupt()
        try:
            return await work
        except asyncio.CancelledError:
            return None
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, note)

    # A Ctrl-C that raises while the loop is made, or closed, would leave it half so.
    usual = signal.signal(signal.SIGINT, note)
    try:
        return asyncio.run(main())
    finally:
        signal.signal(signal.SIGINT, usual)


def _detach(folder: Path) -> None:
    """Start the same command in a session of its own and wait until its engine is up."""
    contract = config.load(task.contract_path(folder))
    argv = [word for word in sys.argv[1:] if word != "--detach"]
    home = contract.root / FOLDER
    with disk.named(contract.root):
        home.mkdir(exist_ok=True)
    log = home / "detached.log"
    with disk.named(home), log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "autoresearch", *argv],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
    give_up = time.monotonic() + DETACH_S
    while time.monotonic() < give_up:
        if child.poll() is not None:
            sys.stderr.write(log.read_text(errors="replace"))
            sys.exit(child.returncode)
        tag = task.latest_tag(contract.root)
        if tag is not None and f"{child.pid}\n" == _holder(home / tag / "engine.lock"):
            break
        time.sleep(0.1)
    click.echo(f"running in the background as process {child.pid}")
    click.echo("follow: autoresearch status    end: autoresearch stop")


def _holder(lock: Path) -> str:
    return lock.read_text() if lock.is_file() else ""
