"""Measures: turns a commit and a seed into a sample, through an executor.

Decides what each process of a measurement may see. The candidate's processes see the candidate's
tree and the data; the evaluation sees the base commit's tree, the hidden data and the artefacts.
No file of the person's checkout is ever shown to either.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from . import attempt, suite
from .contention import contention_of
from .curves import final
from .errors import EvaluationError, ExecutorError, UnansweredError, UserError
from .failpoint import failpoint
from .git import EXECUTABLE, REGULAR, SUBMODULE, Store
from .hopeless import Hopeless
from .ports import Executor
from .sandbox import OPEN, Box, Mount, Sandbox, copy_settings, sweep, toolchain
from .scope import Scope
from .scratch import fresh, remove
from .text import clean
from .types import (
    Contention,
    Contract,
    Guard,
    Json,
    Launched,
    Level,
    Needs,
    Outcome,
    Sample,
    Tally,
    Usage,
)
from .types import Run as Allowance

INVALID_ANSWER = 3
LOG_BYTES = 1 << 20
EVENTS_BYTES = 8 << 20
OUTPUT_BYTES = 256 << 20
DISK_BYTES = 10 << 30
PROCESSES = 512
SETUP_DEADLINE_S = 3600.0
TRIAL, TRIAL_S = "trial", 60.0
# Which devices a scheduler has given to a job.
GRANTED = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
LOCALE = ("LANG", "LC_ALL", "TZ")
# How this machine reaches the network and where it gets packages; only setup is told.
ROUTES = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "UV_INDEX_URL", "UV_DEFAULT_INDEX",
    "HF_ENDPOINT",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
INSIDE_OUT = Path("/out")
INSIDE_USAGE = Path("/usage.json")
TMP = Path("/tmp")
Env: TypeAlias = Mapping[str, str | Path]
Watching: TypeAlias = Callable[[Path], Awaitable[Hopeless]]
"""Follows the run.log of a command until it cannot win any more; else it never returns."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Which of how many workers: it has cores, devices and places that no other one uses."""

    number: int = 0
    of: int = 1

    def share(self, things: Sequence[Any], count: int) -> tuple[Any, ...]:
        """Its own ``count`` of the things that all workers have; the first has the last ones.

        Where there are too few, workers share some.
        """
        if not things:
            return ()
        end = len(things) - self.number * count
        return tuple(sorted(things[i % len(things)] for i in range(end - count, end)))


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of one run, and where the task lives in the person's repository."""

    run: Path
    repository: Path
    root: Path
    work: Path | None = None
    worker: int = 0

    def of_worker(self, number: int) -> Places:
        """The same with a scratch directory that only one of the workers uses."""
        return replace(self, worker=number)

    def apart(self) -> Places:
        """The same with the trees that processes work in outside of the repository.

        Where a process is shown things at their own places, its tools would look for settings in
        the folders above them, and find the person's.
        """
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = hashlib.sha256(os.fsencode(self.run)).hexdigest()[:12]
        return replace(self, work=cache / "autoresearch" / name)

    @property
    def inner(self) -> Path:
        """The contract's directory relative to the repository."""
        return self.root.relative_to(self.repository)

    @property
    def setup_tree(self) -> Path:
        return self.run / "setup" / "tree"

    @property
    def setup_home(self) -> Path:
        return self.run / "setup" / "home"

    def evaluation_tree(self, *, sealed: bool) -> Path:
        return (self.work or self.run / "setup") / ("evaluation-sealed" if sealed else "evaluation")

    @property
    def scratch(self) -> Path:
        name = f"scratch-{self.worker}" if self.worker else "scratch"
        return (self.work or self.run) / name

    def trees(self) -> list[Path]:
        """The directories that processes of any worker work in."""
        return [self.work] if self.work else sorted(self.run.glob("scratch*"))

    @property
    def memory(self) -> Path:
        """What agents are shown of past experiments."""
        return self.run / "memory"

    @property
    def attempts(self) -> Path:
        """Where jobs that outlive the engine have their directories."""
        work = self.work
        return work.with_name(f"{work.name}-attempts") if work else self.run / "attempts"

    def experiment(self, number: int) -> Path:
        return self.run / "experiments" / str(number)

    def sample(self, number: int, k: int) -> Path:
        return self.experiment(number) / "samples" / str(k)

    def verification(self, number: int) -> Path:
        return self.run / "verify" / str(number)


@dataclass(frozen=True, slots=True)
class GuardReport:
    """Whether all guards passed; ``counts`` are what their ``expect`` groups matched."""

    passed: bool
    reason: str
    counts: tuple[float | None, ...]


class Bench:
    """Measures commits of one run on one executor; ``sealed`` on the split of `verify`.

    Setup and agents run on this machine: on ``here``, where the executor's jobs run elsewhere.
    """

    def __init__(
        self,
        contract: Contract,
        places: Places,
        store: Store,
        base: str,
        sandbox: Sandbox,
        executor: Executor,
        *,
        here: Executor | None = None,
        sealed: bool = False,
        slot: Slot = Slot(),
    ) -> None:
        sandbox.require_loopback(contract.metric.loopback)
        self.contract = contract
        self.slot = slot
        _require_sendable(contract, sandbox, executor)
        places = places.of_worker(slot.number)
        self.places = places if sandbox.remaps else places.apart()
        if self.places.work is not None:
            self.clear()  # what a killed engine left there may be of another run of that name
        self.store = store
        self.base = base
        self.executor = executor
        self.here = here if here is not None and executor.detached else executor
        self.sealed = sealed
        self.scope = Scope(contract.task)
        self._kept = self.places.attempts if executor.detached else None
        self._empty = (self._kept or self.places.scratch) / "empty"
        self._env = environment(contract, sandbox.home)
        if contract.run.gpus and not executor.detached and (devices := available_devices()):
            own = slot.share(devices, contract.run.gpus)
            self._env = {**self._env, **dict.fromkeys(GRANTED, ",".join(own))}
        roots = toolchain(str(self._env["PATH"]), sandbox.home)
        roots += [Path(p).expanduser() for p in contract.run.readable]
        self._tools = [Mount(root, root) for root in roots if root.exists()]
        if any(places.run.is_relative_to(root) for root in roots):
            runs = places.run.parent
            self._tools.append(Mount(self._nothing(runs), runs, hides=True))
        self._cores = slot.share(available_cores(), contract.run.cpus)
        self._memory_bytes = contract.run.memory_bytes or machine_share_bytes() // slot.of
        # Files in the private places are memory that no process is charged for.
        scratch_bytes = min(sandbox.scratch_bytes, self._memory_bytes // 4)
        settings = None if executor.detached else self.places.scratch / "etc"
        self.sandbox = replace(sandbox, scratch_bytes=scratch_bytes, settings=settings)
        self.account = ""

    # The three things a run measures or runs

    async def setup(self) -> dict[str, Json]:
        """Run the task's own preparation once: trusted, with network, in a tree of its own."""
        places, contract = self.places, self.contract
        assert contract.run.setup is not None
        fresh(places.setup_tree)
        places.setup_home.mkdir(parents=True, exist_ok=True)
        self.store.export(self.base, places.setup_tree)
        log = places.run / "setup" / "setup.log"
        mounts = [
            *self._tools,
            *self._private(places.scratch / "setup"),
            Mount(places.setup_tree, places.repository, writable=True),
            Mount(places.setup_home, self.sandbox.home, writable=True),
        ]
        env = {**self._env, **_inherited(ROUTES)}
        box = Box(
            contract.run.setup, places.root, env, log, mounts, network=True, whole_system=True
        )
        # Trusted, and data may be large: only its time is bounded.
        bounds = _step("setup", [box], SETUP_DEADLINE_S) | {"writable": []}
        with self._points(mounts):
            result = await self._run(self._job([bounds], bounds={"cores": None}), self.here)
        step = _entry(result, "setup")
        if step["outcome"] != "ok":
            raise EvaluationError(
                f"setup failed: {step['detail']}: {last_line(log)}",
                fix=f"read {log}, mend run.setup and start again",
            )
        _prune(places.setup_home)
        failpoint("setup.ran")
        usage = step["usage"]
        assert isinstance(usage, dict)
        return {"wall_s": usage["wall_s"], "hashes": dict(self._hash_data())}

    async def measure(
        self,
        commit: str,
        number: int,
        k: int,
        seed: int,
        *,
        folder: Path | None = None,
        known: Tally | None = None,
        watching: Watching | None = None,
        lease: str = "",
        hardware: str = "",
        run: Allowance | None = None,
    ) -> Sample:
        """Take one sample of a commit: its command, then its evaluation; logs go to ``folder``.

        ``known`` is what the baseline ran of its tests, where failing tests are counted. The sample
        is ended early as soon as ``watching`` says that it cannot win. Of a ``lease`` that is held
        (``holds``) the job is not begun anew, but waited for; it stays until ``forget`` is called.
        ``hardware`` is where it should be taken, if there is a choice; ``run`` is what the command
        may take, where that is not what the contract says.

        Raises:
            ExecutorError: the attempt is lost; of a lease that is still held, ``UnansweredError``.
        """
        folder = fresh(folder or self.places.sample(number, k))
        run = run or self.contract.run
        if self.holds(lease):
            place = self.places.attempts / lease
            job = attempt.load(place)
        else:
            place = self._place("sample", lease)
            logs = fresh(place / "logs") if self._kept else folder
            steps = self._measurement(commit, number, seed, place, logs, run)
            result_file = folder / "result.json"
            job = self._job(steps, commit, result=result_file, place=place, nonce=lease)
            job["hardware"] = hardware
        result, hopeless = await self._run_watched(job, place, folder, watching, leased=bool(lease))
        if self._kept and (place / attempt.RESULT).exists():
            shutil.copyfile(place / attempt.RESULT, folder / "result.json")
        self._deliver(place, folder)
        if hopeless is None:
            sample = self._sample(commit, number, seed, folder, result, run, known)
        else:
            sample = self._ended_early(commit, seed, result, hopeless)
        if sample.tally is not None and (changed := self._changed_test(commit, place / "tree")):
            reason = f"{changed} was changed while the test ran"
            sample = replace(sample, outcome=Outcome.CRASH, value=None, reason=reason)
        if not lease or not self._kept:
            remove(place)
        return sample

    def _measurement(
        self, commit: str, number: int, seed: int, scratch: Path, folder: Path, run: Allowance
    ) -> list[dict[str, Any]]:
        """The steps of a sample, with all they need in ``scratch``; their logs go to ``folder``."""
        contract, metric = self.contract, self.contract.metric
        out = scratch / "out"
        out.mkdir()
        usage_file = scratch / "usage.json"
        env = self._variables(number, seed, run)
        if contract.suite is not None:
            env |= suite.variables(contract.suite, contract.run.env)
        tree = self._candidate_tree(commit, scratch / "tree")
        command = self._candidate_box(contract.run.command, env, folder / "run.log", tree, out)
        steps = [
            _step("command", [command], run.timeout_s)
            | {"usage_file": str(usage_file), "artefacts": str(out)}
        ]
        if metric.evaluate is not None:
            boxes = [self._evaluation_box(metric.evaluate, env, folder, out, usage_file)]
            if metric.answer is not None:
                boxes.append(self._answer_box(metric.answer, env, folder, commit, scratch, out))
            steps.append(_step("evaluate", boxes, metric.timeout_s))
        usage_file.touch()
        return steps

    async def guard(
        self,
        commit: str,
        number: int,
        k: int,
        least: Sequence[float | None],
        *,
        folder: Path | None = None,
    ) -> GuardReport:
        """Run the guards on a commit; ``least`` are the counts that the baseline reached."""
        counts: list[float | None] = []
        for i, guard in enumerate(self.contract.guards):
            scratch = self._place("guard")
            out = scratch / "out"
            out.mkdir()
            home = folder or self.places.sample(number, k)
            log = home / f"guard-{i}.log"
            env = self._variables(number, 0, self.contract.run)
            tree = self._candidate_tree(commit, scratch / "tree")
            logs = fresh(scratch / "logs") if self._kept else home
            box = self._candidate_box(guard.command, env, logs / log.name, tree, out)
            step = _step(f"guard-{i}", [box], guard.timeout_s)
            entry = _entry(await self._run(self._job([step], commit, place=scratch)), f"guard-{i}")
            self._deliver(scratch, home)
            remove(scratch)
            if entry["outcome"] == "cancelled":
                raise ExecutorError("somebody ended the guard's job")
            count = _count(guard, log)
            counts.append(count)
            name = " ".join(guard.command)
            if entry["outcome"] != "ok":
                return GuardReport(
                    False, f"guard failed: {name}: {entry['detail']}: {last_line(log)}", ()
                )
            wanted = least[i] if i < len(least) else None
            if guard.expect is not None and count is None:
                return GuardReport(False, f"guard {name}: {guard.expect!r} is not in its log", ())
            if wanted is not None and count is not None and count < wanted:
                reason = f"guard {name}: {count:g} is less than the baseline's {wanted:g}"
                return GuardReport(False, reason, ())
        return GuardReport(True, "guards passed", tuple(counts))

    async def launch(
        self,
        workspace: Path,
        log: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdin: Path | None,
        *,
        deadline_s: float,
        network: bool,
        extra: Sequence[Mount],
        needs: Needs,
    ) -> Launched:
        """Run an agent's process with the workspace as the only place it may write.

        It may use what the machine has of memory and cores: the task's limits are for candidates.
        """
        errors = log.with_suffix(".err") if needs.apart else None
        private = self.places.scratch / "agent-private"
        mounts = [
            *self._tools,
            *self._private(private),
            *extra,
            Mount(workspace, self.places.repository, writable=True),
            *self._data_mounts(candidate=True),
        ]
        box = Box(
            argv, self.places.root, {**self._env, **env}, log, mounts, network=network,
            stdin=stdin, errors=errors,
        )  # fmt: skip
        step = _step("agent", [box], deadline_s) | {"idle_s": needs.idle_s, "lines": needs.lines}
        bounds: dict[str, Json] = {"cores": None, "memory_bytes": machine_share_bytes()}
        if needs.apart:
            bounds["log_bytes"] = EVENTS_BYTES
        with self._points(mounts):
            entry = _entry(await self._run(self._job([step], bounds=bounds), self.here), "agent")
        remove(private)
        return Launched(
            entry["outcome"], entry["detail"], entry["exit_code"], log, Usage(**entry["usage"]),
            errors,
        )  # fmt: skip

    async def close(self, keep: Collection[str] = ()) -> None:
        """Let go of the executors and of all trees; no job is left but those of leases to keep."""
        for each in {self.executor, self.here}:
            await each.close()
        self.tidy(keep)
        if not any(self.places.attempts.glob(f"*/{attempt.JOB}")):
            remove(self.places.attempts)
        self.clear()

    def clear(self) -> None:
        """Remove the trees that processes worked in, and what a killed runner left there."""
        scratch, work = self.places.scratch, self.places.work
        alone = self.slot.of == 1
        sweep([scratch.parent if alone else scratch], [self.places.attempts])
        remove(work if work and alone else scratch)

    # Reading results

    def _sample(
        self,
        commit: str,
        number: int,
        seed: int,
        folder: Path,
        result: dict[str, Any],
        run: Allowance,
        known: Tally | None = None,
    ) -> Sample:
        command = _entry(result, "command")
        usage = Usage(**command["usage"])
        run_log = folder / "run.log"
        memory_gb = reported_memory_gb(run_log) or usage.peak_rss_bytes / 2**30
        answer_cpu_s = float(result["steps"][-1]["answer_cpu_s"])

        def ended(
            outcome: Outcome, reason: str, value: float | None = None, *, told: str | None = None
        ) -> Sample:
            return Sample(
                commit, seed, outcome, value, reason, usage, memory_gb,
                self.sandbox.level, result["node"], answer_cpu_s, contention_of(result),
                told=reason if told is None else told, hardware=result.get("hardware", ""),
            )  # fmt: skip

        if stalled_s := sum(step["stalled_s"] for step in result["steps"]):
            return ended(Outcome.VOID, f"we were stopped for {stalled_s:.0f} s meanwhile")
        match command["outcome"]:
            case "cancelled":
                return ended(Outcome.VOID, "interrupted")
            case "timeout":
                return ended(Outcome.TIMEOUT, f"killed after {run.timeout_s:g} s")
            case "ok" | "failed" if self.contract.suite is not None:
                return self._count_failing(run_log, command["exit_code"], known, ended)
            case "failed":
                return ended(Outcome.CRASH, f"{command['detail']}: {last_line(run_log)}")
            case "ok":
                pass
            case _:
                return ended(Outcome.CRASH, command["detail"])
        if self.contract.metric.evaluate is None:
            return self._read(run_log, ended)
        evaluate = _entry(result, "evaluate")
        log = folder / "evaluate.log"
        match evaluate["outcome"], evaluate["exit_code"]:
            case "cancelled", _:
                return ended(Outcome.VOID, "interrupted")
            case (("timeout" | "cpu"), _):
                return ended(Outcome.TIMEOUT, f"evaluation {evaluate['detail']}")
            case "failed", code if code == INVALID_ANSWER:
                told = "its evaluation refused what it left or answered"
                return ended(Outcome.CRASH, last_line(log), told=told)
            case "ok", _:
                return self._read(log, ended)
        broken = f"evaluation failed: {evaluate['detail']}: {last_line(log)}"
        if number == 0:
            raise EvaluationError(broken, fix=f"read {log}; the baseline must be measurable")
        return ended(Outcome.CRASH, broken, told=f"its evaluation failed: {evaluate['detail']}")

    def _ended_early(
        self, commit: str, seed: int, result: dict[str, Any], hopeless: Hopeless
    ) -> Sample:
        """A sample without a value: what a run says along its way is never taken for one."""
        # An executor may have nothing more to say of a job that it was told to end.
        usage = Usage(**_entry(result, "command")["usage"]) if result else Usage()
        lost = contention_of(result) if result else Contention()
        reason = hopeless.said(usage.wall_s or hopeless.usual_s)
        return Sample(
            commit, seed, Outcome.HOPELESS, None, reason, usage,
            usage.peak_rss_bytes / 2**30, self.sandbox.level, result.get("node", ""), 0.0, lost,
            told=reason, foretold=hopeless.foretold, hardware=result.get("hardware", ""),
        )  # fmt: skip

    def _read(self, log: Path, ended: Any) -> Sample:
        name = self.contract.metric.name
        try:
            value = read_metric(read_text(log), name, self.contract.metric.pattern)
        except ValueError as error:
            own = self.contract.metric.evaluate is None
            told = str(error) if own else f"its evaluation printed no finite {name}"
            return ended(Outcome.CRASH, str(error), told=told)  # type: ignore[no-any-return]
        return ended(Outcome.OK, "", value)  # type: ignore[no-any-return]

    def _count_failing(
        self, log: Path, exit_code: int | None, known: Tally | None, ended: Any
    ) -> Sample:
        assert self.contract.suite is not None
        try:
            count, tally = suite.failing(self.contract.suite, read_text(log), exit_code, known)
        except ValueError as error:
            return ended(Outcome.CRASH, f"{error}: {last_line(log)}")  # type: ignore[no-any-return]
        sample = ended(Outcome.OK, suite.explain(tally, known), float(count))
        return replace(sample, tally=tally)  # type: ignore[no-any-return]

    def _changed_test(self, commit: str, tree: Path) -> str:
        """A protected file that is no longer in ``tree`` what it is in the commit; else empty."""
        for path, entry in self.store.tree(commit).items():
            inner = self._inside(path)
            if inner is None or not self.scope.protected(inner) or self._secret(path):
                continue
            if entry.mode in (REGULAR, EXECUTABLE) and _blob(tree / path) != entry.oid:
                return inner
        return ""

    def used_s(self, sample: Sample) -> float:
        """What the candidate used of its budget, on the contract's clock.

        The processor time of its answer counts, too: else it would go on training there.
        """
        clock = self.contract.run.clock
        own_s = sample.usage.cpu_s if clock == "cpu" else sample.usage.wall_s
        return own_s + sample.answer_cpu_s

    # What each process may see

    def _variables(self, number: int, seed: int, run: Allowance) -> dict[str, str | Path]:
        return {
            **self._env,
            "AUTORESEARCH_BUDGET_S": f"{run.budget_s:g}",
            "AUTORESEARCH_SEED": str(seed),
            "AUTORESEARCH_OUT": INSIDE_OUT,
            "AUTORESEARCH_EXPERIMENT": str(number),
        }

    def _candidate_tree(self, commit: str, target: Path) -> Path:
        target.mkdir(parents=True)
        self.store.export(commit, target, without=self._secret)
        return target

    def _secret(self, path: str) -> bool:
        inner = self._inside(path)
        return inner is not None and (self.scope.hidden(inner) or self.scope.sealed(inner))

    def _unsealed(self, path: str) -> bool:
        """Whether even the evaluation must not see this file."""
        inner = self._inside(path)
        return not self.sealed and inner is not None and self.scope.sealed(inner)

    def _inside(self, path: str) -> str | None:
        """A path of the repository relative to the contract's directory, None outside of it."""
        prefix = str(self.places.inner)
        if prefix == ".":
            return path
        return path[len(prefix) + 1 :] if path.startswith(prefix + "/") else None

    def _candidate_box(
        self, argv: Sequence[str], env: Env, log: Path, tree: Path, out: Path
    ) -> Box:
        mounts = [
            *self._tools,
            *self._private(tree.with_name("command-private")),
            Mount(tree, self.places.repository, writable=True),
            *self._data_mounts(candidate=True),
            Mount(out, INSIDE_OUT, writable=True),
        ]
        return self._box(argv, env, log, mounts, gpus=self.contract.run.gpus > 0)

    def _answer_box(
        self, argv: Sequence[str], env: Env, folder: Path, commit: str, scratch: Path, out: Path
    ) -> Box:
        tree = self._candidate_tree(commit, scratch / "answer")
        mounts = [
            *self._tools,
            *self._private(scratch / "answer-private"),
            Mount(tree, self.places.repository, writable=True),
            Mount(out, INSIDE_OUT),
        ]
        log, cpu_s = folder / "answer.log", self.contract.metric.answer_cpu_s
        gpus, loopback = self.contract.run.gpus > 0, self.contract.metric.loopback
        return self._box(argv, env, log, mounts, gpus=gpus, cpu_s=cpu_s, loopback=loopback)

    def _evaluation_box(
        self, argv: Sequence[str], env: Env, folder: Path, out: Path, usage: Path
    ) -> Box:
        if self.sealed:
            env = {**env, "AUTORESEARCH_SPLIT": "sealed"}
        mounts = [
            *self._tools,
            *self._private(out.with_name("evaluation-private")),
            Mount(self._evaluation_tree(), self.places.repository),
            *self._data_mounts(candidate=False),
            Mount(out, INSIDE_OUT),
            Mount(usage, INSIDE_USAGE),
        ]
        env = {**env, "AUTORESEARCH_USAGE": INSIDE_USAGE}
        loopback = self.contract.metric.loopback
        return self._box(argv, env, folder / "evaluate.log", mounts, loopback=loopback)

    def _box(
        self, argv: Sequence[str], env: Env, log: Path, mounts: Sequence[Mount], *,
        gpus: bool = False, cpu_s: float | None = None, loopback: bool = False,
    ) -> Box:  # fmt: skip
        self._make_points(mounts)
        root = self.places.root
        return Box(argv, root, env, log, mounts, gpus=gpus, cpu_s=cpu_s, loopback=loopback)

    def _evaluation_tree(self) -> Path:
        """The base commit's files, exported once per run; what is sealed only for `verify`."""
        tree = self.places.evaluation_tree(sealed=self.sealed)
        if self._kept:
            tree = self._kept / tree.name
        if not tree.is_dir():
            draft = fresh(tree.with_name("evaluation.new"))
            self.store.export(self.base, draft, without=self._unsealed)
            draft.rename(tree)
            failpoint("evaluation.exported")
        return tree

    def _private(self, folder: Path) -> list[Mount]:
        """An own home and /tmp for one process, where the level itself does not give it any."""
        if self.sandbox.remaps:
            return []
        home, temporary = folder / "home", folder / "tmp"
        remove(folder)
        home.mkdir(parents=True)
        temporary.mkdir()
        mounts = [Mount(temporary, TMP, writable=True)]
        if self.sandbox.home != Path("/"):
            mounts.append(Mount(home, self.sandbox.home, writable=True))
        return mounts

    def _data_source(self) -> Path:
        """Where the data is: made by setup, else beside the person's contract."""
        if self.contract.run.setup is not None:
            return self.places.setup_tree / self.places.inner
        return self.places.root

    def _data_mounts(self, *, candidate: bool) -> list[Mount]:
        """Data read-only, with what this process must not see hidden under empty files."""
        source, root = self._data_source(), self.places.root
        shown = list(_matches(source, self.contract.task.data))
        hidden = list(_matches(source, self.contract.task.hidden))
        sealed = list(_matches(source, self.contract.task.sealed))
        secret, open_to_evaluate = ([], hidden + sealed) if self.sealed else (sealed, hidden)
        if candidate:
            secret = hidden + sealed
        elif self.contract.run.setup is not None:
            shown += open_to_evaluate
        mounts = [Mount(source / path, root / path) for path in shown]
        for path in secret:
            if any(path.is_relative_to(other) for other in shown):
                empty = self._nothing(source / path)
                mounts.append(Mount(empty, root / path, hides=True))
        if self.contract.run.setup is not None:
            home = self.places.setup_home
            mounts += [
                Mount(each, self.sandbox.home / each.relative_to(home)) for each in _caches(home)
            ]
        return mounts

    def _nothing(self, like: Path) -> Path:
        """An empty file or folder to put over what must not be seen."""
        if like.is_dir():
            folder = self._empty / "folder"
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        file = self._empty / "file"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        return file

    @contextlib.contextmanager
    def _points(self, mounts: Sequence[Mount]) -> Iterator[None]:
        """The places that mounts need, for as long as a process runs in a tree that is kept."""
        links = self._make_points(mounts)
        try:
            yield
        finally:
            for link, source, folder in links:
                # The process may have put something else there, also above it.
                if link.is_symlink() and link.readlink() == source and _real(link.parent) == folder:
                    link.unlink()

    def _make_points(self, mounts: Sequence[Mount]) -> list[tuple[Path, Path, Path]]:
        """Make the places, in trees of ours, where mounts that go into them will be seen.

        Where nothing can be shown at another place than its own these are links, returned as
        (link, what it leads to, its folder).
        """
        links: list[tuple[Path, Path, Path]] = []
        for mount in sorted(mounts, key=lambda each: len(each.at.parts)):
            above = [
                each for each in mounts
                if each.at != mount.at and mount.at.is_relative_to(each.at) and not each.hides
            ]  # fmt: skip
            tree = max(above, key=lambda each: len(each.at.parts), default=None)
            ours = (self.places.run, self.places.scratch.parent, self.places.attempts)
            if tree is None or not any(tree.source.is_relative_to(each) for each in ours):
                continue
            point = tree.source / mount.at.relative_to(tree.at)
            if point == mount.source or not _real(point.parent).is_relative_to(_real(tree.source)):
                continue  # it is there already, or a link of the task's own leads elsewhere
            if not self.sandbox.remaps:
                hidden = {
                    mount.source / each.at.relative_to(mount.at)
                    for each in mounts
                    if each.hides and each.at.is_relative_to(mount.at)
                }
                links += _link(mount.source, point, hidden)
            elif not point.exists() and not point.is_symlink():
                point.parent.mkdir(parents=True, exist_ok=True)
                if mount.source.is_dir():
                    point.mkdir()
                else:
                    point.touch()
        return links

    def _hash_data(self) -> list[tuple[str, str]]:
        source = self._data_source()
        found = []
        patterns = (
            *self.contract.task.data,
            *self.contract.task.hidden,
            *self.contract.task.sealed,
        )
        for path in sorted(set(_matches(source, patterns))):
            for file in sorted([source / path, *(source / path).rglob("*")]):
                if file.is_file() and not file.is_symlink():
                    with file.open("rb") as data:
                        digest = hashlib.file_digest(data, "sha256").hexdigest()
                    found.append((str(file.relative_to(source)), digest))
        return found

    # Through the executor

    async def _run_watched(
        self, job: dict[str, Json], place: Path, folder: Path, watching: Watching | None, *,
        leased: bool,
    ) -> tuple[dict[str, Any], Hopeless | None]:  # fmt: skip
        """Run a sample's job to its end, or until it is clear that it cannot win."""
        file, logs = (place / attempt.RESULT, place / "logs") if self._kept else (
            folder / "result.json", folder
        )  # fmt: skip
        if watching is None:
            return await self._run(job, leased=leased), None
        running = asyncio.ensure_future(self._run(job, leased=leased))
        eye = asyncio.ensure_future(watching(logs / "run.log"))
        try:
            await asyncio.wait({running, eye}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result(), None
            hopeless = eye.result()
            running.cancel()
            await asyncio.wait({running})
            if not running.cancelled():
                return running.result(), None  # it came to its end in that very moment
            known = json.loads(file.read_text()) if file.exists() else None
            cut = known is None or any(each["outcome"] == "cancelled" for each in known["steps"])
            return known or {}, hopeless if cut else None
        finally:
            for each in (running, eye):
                each.cancel()
            await asyncio.gather(running, eye, return_exceptions=True)

    def holds(self, lease: str) -> bool:
        """Whether the job of a lease was submitted by an earlier engine, or by this one."""
        return bool(self._kept and lease) and attempt.held(self.places.attempts / lease)

    def forget(self, lease: str) -> None:
        """Remove what is left of a lease's job: its sample is in the journal."""
        if self._kept:
            remove(self._kept / lease)

    def tidy(self, keep: Collection[str] = ()) -> None:
        """End jobs that an earlier engine left to an executor, but for those of leases to keep.

        Directories go where nobody writes to them any more.
        """
        places = sorted(self.places.attempts.glob(f"*/{attempt.JOB}"))
        for place in (each.parent for each in places):
            if place.name not in keep and attempt.give_up(place):
                remove(place)

    def _place(self, name: str, lease: str = "") -> Path:
        """An empty directory for one job: named by its lease where it may outlive the engine."""
        if self._kept:
            return fresh(self._kept / (lease or secrets.token_hex(8)))
        return fresh(self.places.scratch / name)

    def _deliver(self, place: Path, folder: Path) -> Path:
        """Copy the logs of a job that ran in a directory of its own to where they are kept."""
        if self._kept:
            for log in (place / "logs").iterdir():
                shutil.copyfile(log, folder / log.name)
        return folder

    def _job(
        self, steps: list[dict[str, Any]], commit: str = "", *,
        bounds: Mapping[str, Json] = MappingProxyType({}), result: Path | None = None,
        place: Path | None = None, nonce: str = "",
    ) -> dict[str, Json]:  # fmt: skip
        """The job of these steps on a commit; ``bounds`` are those that differ from a candidate's.

        One for the executor has a ``place``: there, where jobs outlive us, is all it works with.
        """
        settings = self.sandbox.settings
        if settings is not None and self.sandbox.remaps and not settings.is_dir():
            copy_settings(settings)
        away = place if self._kept else None
        if away is not None and self.sandbox.level is not Level.NONE:
            steps = [self._trial(away), *steps]
        sent: dict[str, Json] = {}
        if away is not None and not self.executor.shared:
            sent = self._send(commit, away)
            for step in steps:
                step["processes"] = [self._enclose(box, away) for box in step["processes"]]
        job: dict[str, Json] = {
            "nonce": away.name if away else nonce or secrets.token_hex(8),
            "result": str(result) if result and not away else None,
            "steps": [
                {**step, "processes": [self.sandbox.process(box) for box in step["processes"]]}
                for step in steps
            ],
            "cores": None if away else list[Json](self._cores),
            "memory_bytes": self.contract.run.memory_bytes if away else self._memory_bytes,
            "processes": PROCESSES,
            "log_bytes": LOG_BYTES,
            "output_bytes": OUTPUT_BYTES,
            "disk_bytes": DISK_BYTES,
            **bounds,
            **sent,
        }
        if away is not None:
            job |= {"directory": str(away), "cpus": self.contract.run.cpus}
            job["inherit"] = list[Json](GRANTED)
        return job

    def _send(self, commit: str, place: Path) -> dict[str, Json]:
        """Bundle the files of the candidate's trees; of the trees only places for mounts are left.

        Returns what a job that is sent says of that.
        """
        bundle = place / attempt.BUNDLE
        self.store.bundle(commit, bundle, beyond=self.base, without=self._secret)
        trees = [tree for name in ("tree", "answer") if (tree := place / name).is_dir()]
        for path, entry in self.store.tree(commit).items():
            if entry.mode != SUBMODULE and not self._secret(path):
                for tree in trees:
                    (tree / path).unlink()
        return {"common": str(self._common()), "trees": [str(tree) for tree in trees]}

    def _common(self) -> Path:
        """The package of all that is the same for every job; made once, as long as jobs need it."""
        assert self._kept is not None
        seen = [[*self._tools, *self._data_mounts(candidate=True)]]
        if self.contract.metric.evaluate is not None:
            tree = Mount(self._evaluation_tree(), self.places.repository)
            seen.append([*self._tools, tree, *self._data_mounts(candidate=False)])
        sources = [each.source for mounts in seen for each in mounts if not self._is_tool(each)]
        things = {f"shown/{_short(source)}": source.resolve() for source in sources}
        folder = self._kept / f"common-{_short(' '.join(things))}"
        if not folder.is_dir():
            for mounts in seen:
                self._make_points(mounts)
            draft = fresh(folder.with_name(f"{folder.name}.new"))
            bundle = draft / attempt.BASE_BUNDLE
            self.store.bundle(self.base, bundle, without=self._secret)
            attempt.pack_common({bundle.name: bundle, **things}, draft)
            draft.rename(folder)
        return next(folder.glob("*.zip"))

    def _enclose(self, box: Box, place: Path) -> Box:
        """The box with all that is ours at the places where a node unpacks it."""
        return replace(box, mounts=[
            mount if self._is_tool(mount) or mount.source.is_relative_to(place)
            else replace(mount, source=place / "shown" / _short(mount.source))
            for mount in box.mounts
        ])  # fmt: skip

    def _is_tool(self, mount: Mount) -> bool:
        """Whether a mount shows what is at the same place on every node."""
        return not mount.hides and any(mount.source == each.source for each in self._tools)

    def _trial(self, place: Path) -> dict[str, Any]:
        """A step that fails on a machine that does not confine as this one does."""
        mounts = [*self._tools, *self._private(place / "trial-private")]
        argv, env = self.sandbox.trial(place / attempt.JOB), {"PATH": "/usr/bin:/bin"}
        return _step(TRIAL, [Box(argv, Path("/"), env, place / "trial.log", mounts)], TRIAL_S)

    async def _run(
        self, job: dict[str, Json], executor: Executor | None = None, *, leased: bool = False
    ) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await (executor or self.executor).run(job)
        except UnansweredError:
            if not leased:  # nobody would come back for it
                attempt.give_up(Path(str(job["directory"])))
            raise
        if answer["nonce"] != job["nonce"]:
            raise EvaluationError("the executor answered for another job")
        self.account = str(answer["account"])
        first = answer["steps"][0]
        if first["name"] == TRIAL:
            if first["outcome"] != "ok":
                why = OPEN.get(first["exit_code"], first["detail"])
                log = Path(str(job["directory"])) / "trial.log"
                attempt.give_up(log.parent)
                raise ExecutorError(
                    f"node {answer['node']} does not confine at level"
                    f" {self.sandbox.level.value}: {why}: {last_line(log)}"
                )
            del answer["steps"][0]
        return answer


def _require_sendable(contract: Contract, sandbox: Sandbox, executor: Executor) -> None:
    """Refuse what cannot be sent to nodes that do not see this machine's files.

    Raises:
        UserError: with what to do instead.
    """
    if executor.shared:
        return
    why = ""
    if not sandbox.remaps:
        why = f"level namespaces, this is {sandbox.level.value}: paths differ there"
    elif contract.suite is not None:
        why = "[metric]: tests are compared with the commit's after they ran"
    if why:
        name = contract.parallel.executor
        raise UserError(
            f"parallel.{name}.shared = false needs {why}",
            fix="let the nodes share a file system with this machine",
        )


def _short(path: Path | str) -> str:
    """A few letters that stand for a path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _step(name: str, boxes: list[Box], deadline_s: float) -> dict[str, Any]:
    writable = [mount.source for box in boxes for mount in box.mounts if mount.writable]
    return {
        "name": name,
        "processes": boxes,
        "deadline_s": deadline_s,
        "writable": [str(path) for path in writable],
    }


def _blob(path: Path) -> str:
    """A file of any size as git would name it; empty for what is no file of its own."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return ""
            digest = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
            while data := file.read(1 << 20):
                digest.update(data)
            return digest.hexdigest()
    except OSError:
        return ""


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _link(source: Path, point: Path, hidden: set[Path]) -> list[tuple[Path, Path, Path]]:
    """Show ``source`` at ``point`` by links, but for what is hidden and what is there already."""
    if source in hidden or point.is_symlink():
        return []
    if source.is_dir() and (point.is_dir() or any(each.is_relative_to(source) for each in hidden)):
        point.mkdir(parents=True, exist_ok=True)
        inside = sorted(source.iterdir())
        return [link for each in inside for link in _link(each, point / each.name, hidden)]
    if point.exists():
        return []
    point.parent.mkdir(parents=True, exist_ok=True)
    point.symlink_to(source)
    return [(point, source, _real(point.parent))]


def _entry(result: dict[str, Any], name: str) -> dict[str, Any]:
    entry: dict[str, Any] = next(step for step in result["steps"] if step["name"] == name)
    return entry


def _matches(source: Path, patterns: Sequence[str]) -> list[Path]:
    """Existing paths below ``source``, relative to it, that patterns of the contract name."""
    found = []
    for pattern in patterns:
        name = pattern.strip("/")
        if any(c in name for c in "*?["):
            found += [path.relative_to(source) for path in source.glob(name)]
        elif (source / name).exists():
            found.append(Path(name))
    return sorted(set(found))


def _prune(folder: Path) -> None:
    """Remove empty folders, such as the places where mounts were."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def _caches(home: Path) -> list[Path]:
    """What setup left in its home, deep enough that siblings stay writable in a private home."""
    found: list[Path] = []
    for each in sorted(home.iterdir()) if home.is_dir() else ():
        if each.name in (".cache", ".local", ".config", "share") and each.is_dir():
            found += _caches(each)
        else:
            found.append(each)
    return found


def environment(contract: Contract, home: Path) -> dict[str, str | Path]:
    """The variables that every process of an experiment gets: an allow-list and ``run.env``."""
    path = os.environ.get("PATH", os.defpath)
    venv = contract.root / ".venv" / "bin"
    if venv.is_dir():
        path = f"{venv}{os.pathsep}{path}"
    return {
        **_inherited(LOCALE),
        "PATH": path,
        "HOME": home,
        "TMPDIR": TMP,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "UV_OFFLINE": "1",
        "UV_NO_SYNC": "1",
        "UV_FROZEN": "1",
        "UV_NO_CACHE": "1",
        **contract.run.env,
    }


def _inherited(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def available_cores() -> list[int]:
    """The cores that samples may be pinned to, in order; none where nothing can be pinned.

    A sole worker has the last ones, as interrupts prefer the first.
    """
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def available_devices() -> list[str]:
    """The devices that samples may use, by the names that CUDA gives them."""
    told = os.environ.get(GRANTED[0])
    if told is not None:
        return [name for name in told.split(",") if name]
    found = Path("/dev").glob("nvidia[0-9]*")
    return sorted(path.name.removeprefix("nvidia") for path in found)


def machine_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine_share_bytes() -> int:
    """What a job may use of the machine's memory where nothing less is asked for."""
    return machine_memory_bytes() * 9 // 10


def read_text(log: Path) -> str:
    try:
        return log.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def last_line(log: Path, length: int = 200) -> str:
    """The last line of a log that says something, printable and bounded."""
    for line in reversed(read_text(log).splitlines()):
        if text := clean(line, length):
            return text
    return "it printed nothing"


def read_metric(text: str, name: str, pattern: str | None) -> float:
    """The metric in a log: ``pattern``, ``METRIC name=value``, ``name: value``, or last-line JSON.

    Values along the way (``step=``, ``progress:``) are never taken for it, whatever the pattern.

    Raises:
        ValueError: it is not there, or is not one finite number.
    """
    text = final(text)
    if pattern is not None:
        found = re.findall(pattern, text, re.MULTILINE)
    else:
        key = re.escape(name)
        found = re.findall(rf"^METRIC\s+{key}=(\S+)\s*$", text, re.MULTILINE) or re.findall(
            rf"^{key}:\s*(\S+)\s*$", text, re.MULTILINE
        )
    if found:
        raw = found[-1]
        try:
            value = float(raw.replace(",", ""))
        except ValueError:
            raise ValueError(f"{name} is {raw[:40]!r}, not a number") from None
    else:
        value = _json_metric(text, name)
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, not a finite number")
    return value


def _json_metric(text: str, name: str) -> float:
    lines = text.strip().splitlines()
    try:
        value = json.loads(lines[-1])[name] if lines else None
    except (ValueError, TypeError, KeyError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"no {name} was printed")
    return float(value)


def reported_memory_gb(log: Path) -> float | None:
    """Device memory as the run itself reported it (``peak_vram_mb:``), in GiB."""
    found = re.findall(r"^peak_vram_mb:\s*([\d.]+)\s*$", read_text(log), re.MULTILINE)
    try:
        value = float(found[-1]) / 1024 if found else 0.0
    except ValueError:
        return None
    return value if 0.0 < value < 1e6 else None


def _count(guard: Guard, log: Path) -> float | None:
    return None if guard.expect is None else suite.last(guard.expect, read_text(log))
