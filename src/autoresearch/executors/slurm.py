"""Runs jobs on a Slurm cluster by Slurm's own commands: sbatch, squeue and scancel.

No accounting database is asked, and a node needs a ``python3`` with its standard library. Slurm
never runs a job again by itself (``--no-requeue``): an attempt that is lost is ours to repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..attempt import LOG, RUNNER, Attempt
from ..errors import UnansweredError, UserError
from ..types import Contract
from .queue import QueueExecutor, Scheduler, Seen, State

ANSWER_S = 60.0
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"})
RUNNING = frozenset(
    {"CONFIGURING", "RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED",
     "RESIZING"}
)  # fmt: skip
# What only a change of the settings can mend; all else that Slurm says may be over in a while.
HOPELESS = re.compile(
    r"invalid|unrecognized|unknown option|configuration is not available|no partition specified"
    r"|specify an account|does not exist|ambiguous",
    re.IGNORECASE,
)
# A job gets what we say, not what this shell has: no keys, and no limits of a job we may be in.
HANDED_ON = re.compile(r"PATH|HOME|USER|LOGNAME|LANG|LC_ALL|LD_LIBRARY_PATH|SBATCH_\w+"
                       r"|SLURM_CONF|SLURM_CLUSTERS|MUNGE_\w+")  # fmt: skip
MIB = 1 << 20
# For the runner itself, on top of what the job may use: Slurm must not be the one who kills.
BESIDE_MIB = 256


def executor(contract: Contract) -> QueueExecutor:
    """The executor that ``[parallel.slurm]`` describes."""
    own: dict[str, Any] = dict(contract.parallel.options["slurm"])
    scheduler = Slurm(
        own["partition"], tuple(own["args"]), own["python"], own["margin"],
        cpus=contract.run.cpus, gpus=contract.run.gpus, memory_bytes=contract.run.memory_bytes,
    )  # fmt: skip
    return QueueExecutor(
        scheduler, max_in_flight=own["max_in_flight"], poll_s=own["poll"], lost_s=own["lost"],
        queued_s=own["queue_timeout"],
    )  # fmt: skip


class Slurm(Scheduler):
    """A Slurm controller; ``margin_s`` is what its own time limit allows beyond our deadlines."""

    def __init__(
        self, partition: str | None, args: Sequence[str], python: str, margin_s: float, *,
        cpus: int = 1, gpus: int = 0, memory_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self.args = args
        self.python = python
        self.margin_s = margin_s
        self.wanted = [f"--cpus-per-task={cpus}"]
        if partition is not None:
            self.wanted.append(f"--partition={partition}")
        if gpus:
            self.wanted.append(f"--gres=gpu:{gpus}")
        if memory_bytes is not None:
            # Slurm counts what the kernel caches for the job, too.
            self.wanted.append(f"--mem={math.ceil(memory_bytes * 1.1 / MIB) + BESIDE_MIB}M")

    async def submit(self, attempt: Attempt, job: Mapping[str, Any], avoid: Sequence[str]) -> None:
        """Queue an attempt under its name.

        Raises:
            UnansweredError: Slurm does not answer, or takes no more jobs now.
            UserError: Slurm will never take such a job.
        """
        deadline_s = sum(step["deadline_s"] for step in job["steps"])
        runner = shlex.join([self.python, "-I", "-S", "-B", str(attempt.folder / RUNNER.name),
                             "--attempt", str(attempt.folder)])  # fmt: skip
        await _call(
            "sbatch", "--parsable", "--no-requeue", "--nodes=1", "--ntasks=1",
            f"--job-name={attempt.name}", f"--chdir={attempt.folder}",
            f"--output={_literal(str(attempt.folder / LOG))}", "--open-mode=append",
            f"--time={math.ceil((deadline_s + self.margin_s) / 60)}", *self.wanted,
            *([f"--exclude={','.join(avoid)}"] if avoid else []), *self.args,
            script=f"#!/bin/sh\nexec {runner}\n",
        )  # fmt: skip

    async def states(self, names: Sequence[str]) -> dict[str, Seen]:
        """Where these jobs are; of several with one name the one that has not ended."""
        if not names:
            return {}
        out = await _call("squeue", "--noheader", "--states=all", "--format=%j|%T|%N|%r",
                          f"--name={','.join(names)}")  # fmt: skip
        found: dict[str, Seen] = {}
        for line in out.splitlines():
            name, said, nodes, reason = [*line.split("|"), "", "", ""][:4]
            why = f"({reason})" if reason != "None" else ""
            words = [said, f"on {nodes}" if nodes else "", why]
            state = State.RUNNING if said in RUNNING else State.ENDED
            if said in WAITING:
                state = State.QUEUED
            if name not in found or found[name].state is State.ENDED:
                found[name] = Seen(state, " ".join(word for word in words if word))
        return found

    async def collect(self, attempt: Attempt) -> None:
        """Nothing: files are shared."""

    async def cancel(self, name: str) -> None:
        """Let Slurm end a job: SIGTERM first, SIGKILL after its own KillWait."""
        await _call("scancel", "--quiet", f"--name={name}")


def _literal(path: str) -> str:
    """A path in which Slurm finds no pattern."""
    return path.replace("%", "%%")


async def _call(program: str, *argv: str, script: str = "") -> str:
    """Run one of Slurm's commands and return what it printed.

    Raises:
        UnansweredError: it failed, and may not the next time.
        UserError: it is not installed, or refuses what it was asked for.
    """
    env = {name: value for name, value in os.environ.items() if HANDED_ON.fullmatch(name)}
    try:
        process = await asyncio.create_subprocess_exec(
            program, *argv, env=env, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError(
            f'parallel.executor = "slurm": {program} is not on the PATH',
            fix="run it on a machine that can submit jobs (often a login node), or use local",
        ) from None
    try:
        async with asyncio.timeout(ANSWER_S):
            out, err = await process.communicate(script.encode())
    except TimeoutError:
        raise UnansweredError(f"{program} did not answer within {ANSWER_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == 0:
        return out.decode(errors="replace")
    said = " ".join(err.decode(errors="replace").split()) or f"exit code {process.returncode}"
    if program == "sbatch" and HOPELESS.search(said):
        raise UserError(
            f"Slurm refuses the job: {said}",
            fix="see [parallel.slurm] and what [run] asks for (cpus, gpus, memory)",
        )
    raise UnansweredError(f"Slurm: {said}")
