"""Runs jobs on a Ray cluster through its Jobs REST interface: plain HTTP, nothing of Ray's here.

Not Ray tasks: those die with their driver and are run again by themselves. A job is started once;
an attempt that is lost is ours to repeat.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..attempt import LOG, RUNNER, Attempt, pack, unpack
from ..errors import UnansweredError, UserError
from ..types import Contract
from .queue import QueueExecutor, Scheduler, Seen, State

ANSWER_S = 30.0
STATES = {"PENDING": State.QUEUED, "RUNNING": State.RUNNING}
MOST_BYTES = 64 << 20
PACKAGES = "/api/packages/gcs"


def executor(contract: Contract) -> QueueExecutor:
    """The executor that ``[parallel.ray]`` describes."""
    own: dict[str, Any] = dict(contract.parallel.options["ray"])
    run = contract.run
    wanted: dict[str, Any] = {"entrypoint_num_cpus": run.cpus}
    if run.gpus:
        wanted["entrypoint_num_gpus"] = run.gpus
    if run.memory_bytes is not None:
        wanted["entrypoint_memory"] = run.memory_bytes
    if own["resources"]:
        wanted["entrypoint_resources"] = own["resources"]
    scheduler = Ray(own["address"], own["token"], own["python"], wanted, shared=own["shared"])
    return QueueExecutor(
        scheduler, max_in_flight=own["max_in_flight"], poll_s=own["poll"], lost_s=own["lost"],
        queued_s=own["queue_timeout"], shared=own["shared"],
    )  # fmt: skip


class Ray(Scheduler):
    """A Ray head; ``token`` names the variable that holds what it asks for, if it does."""

    def __init__(
        self, address: str, token: str | None, python: str, wanted: Mapping[str, Any], *,
        shared: bool = True,
    ) -> None:  # fmt: skip
        self.address = address
        self.token = token
        self.python = python
        self.wanted = wanted
        self.shared = shared
        # The head is where jobs are sent, not where the world is reached through a proxy.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._offering = asyncio.Lock()

    async def submit(self, attempt: Attempt, job: Mapping[str, Any], avoid: Sequence[str]) -> None:
        """Start an attempt under its name, wherever Ray likes; not again where it is known."""
        if await self._job(attempt.name) is not None:
            return
        body = {"submission_id": attempt.name, **self.wanted}
        if self.shared:
            runner, log = attempt.folder / RUNNER.name, attempt.folder / LOG
            body["entrypoint"] = (
                f"{self._start(str(runner), str(attempt.folder))} >{shlex.quote(str(log))} 2>&1"
            )
        else:
            # It is unpacked into a directory of its own, where the job then starts.
            package = f"{attempt.name}.zip"
            data = await asyncio.to_thread(pack, attempt.folder)
            await self._call("PUT", f"{PACKAGES}/{package}", data)
            body["runtime_env"] = {"working_dir": f"gcs://{package}"}
            if common := job.get("common"):
                await self._offer(Path(common))
                # It is unpacked once on each node, into a folder that PYTHONPATH then names.
                body["runtime_env"]["py_modules"] = [f"gcs://{Path(common).name}"]
            body["entrypoint"] = self._start(RUNNER.name, ".")
        await self._call("POST", "/api/jobs/", body)

    def _start(self, runner: str, folder: str) -> str:
        return f"exec {shlex.join([self.python, '-I', '-S', '-B', runner, '--attempt', folder])}"

    async def _offer(self, package: Path) -> None:
        """Send a package unless Ray has it: asked for, it is kept for ten minutes without a job."""
        async with self._offering:
            if await self._call("GET", f"{PACKAGES}/{package.name}") is None:
                data = await asyncio.to_thread(package.read_bytes)
                await self._call("PUT", f"{PACKAGES}/{package.name}", data)

    async def states(self, names: Sequence[str]) -> dict[str, Seen]:
        """Where these jobs are; asked one by one, as Ray's list holds every job there ever was."""
        found = {}
        for name in names:
            if (job := await self._job(name)) is not None:
                detail = " ".join(f"{job['status']}: {job.get('message') or ''}".split())
                found[name] = Seen(STATES.get(job["status"], State.ENDED), detail[:300])
        return found

    async def collect(self, attempt: Attempt) -> None:
        """Take result and logs from what the job printed."""
        if (said := await self._call("GET", f"/api/jobs/{attempt.name}/logs")) is not None:
            unpack(attempt.folder, attempt.nonce, str(said.get("logs", "")))

    async def cancel(self, name: str) -> None:
        """Let Ray stop a job: SIGTERM first, SIGKILL three seconds later."""
        if (job := await self._job(name)) is not None and job["status"] in STATES:
            await self._call("POST", f"/api/jobs/{name}/stop")

    async def _job(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._call("GET", f"/api/jobs/{name}")
        return found

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None
    ) -> Any:
        """What Ray answers; None where it does not know what was asked for.

        Raises:
            UnansweredError: it does not answer, or cannot now.
            UserError: it wants another token, or is no Ray.
        """
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | bytes | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            if self.token not in os.environ:
                raise UserError(
                    f"parallel.ray.token = {self.token!r}: that variable is not set",
                    fix=f"export {self.token}=..., or leave out token",
                )
            headers["Authorization"] = f"Bearer {os.environ[self.token]}"
        data = json.dumps(body).encode() if isinstance(body, Mapping) else body
        request = urllib.request.Request(
            self.address + path, data=data, headers=headers, method=method
        )
        try:
            with self._opener.open(request, timeout=ANSWER_S) as answer:
                return json.loads(answer.read(MOST_BYTES) or b"{}")
        except urllib.error.HTTPError as error:
            # A traceback, whose last line of words says what it is.
            said = error.read(MOST_BYTES).decode(errors="replace").splitlines()
            words = [line.strip() for line in said if any(map(str.isalpha, line))]
            return self._refused(error.code, words[-1][:300] if words else error.reason)
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(f"Ray at {self.address} does not answer: {error}") from None
        except ValueError:
            raise UserError(
                f"parallel.ray.address = {self.address!r} does not answer as Ray does",
                fix="give the address of its dashboard, usually port 8265",
            ) from None

    def _refused(self, code: int, said: str) -> None:
        match code:
            case 404:
                return
            case 401 | 403:
                raise UserError(
                    f"Ray at {self.address} refuses us: {code} {said}",
                    fix="name the variable that holds its token: [parallel.ray] token",
                )
            case 400:
                raise UserError(
                    f"Ray refuses the job: {said}",
                    fix="see [parallel.ray] and what [run] asks for (cpus, gpus, memory)",
                )
            case 413:
                raise UserError(
                    f"Ray takes no package as large as the files of the task and its data: {said}",
                    fix="let the nodes share a file system with this machine, or make it smaller",
                )
            case _:
                raise UnansweredError(f"Ray at {self.address} says: {code} {said}")
