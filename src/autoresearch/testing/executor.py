"""An executor that starts no process: what a program prints is a function of what it would see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..types import Json


@dataclass(frozen=True, slots=True)
class Ran:
    """How a simulated program ended: ``outcome`` is one of those of ``runner.py``."""

    output: str = ""
    outcome: str = "ok"
    seconds: float = 1.0
    exit_code: int | None = 0


Program = Callable[[str, Path, Mapping[str, str]], Ran]
"""The step's name, the directory it runs in, and its environment; may raise ``ExecutorError``."""


class FakeExecutor:
    """Runs jobs of level ``none``, in plain directories, each step by sleeping for its seconds."""

    detached = False
    shared = True

    def __init__(self, program: Program, hardware: str = "simulated") -> None:
        self._program = program
        self.hardware = hardware

    async def run(self, job: dict[str, Json]) -> dict[str, Json]:
        """Run one job to its end."""
        steps: list[Json] = []
        wanted: Any = job["steps"]
        for step in wanted:
            process = step["processes"][0]
            ran = self._program(step["name"], Path(process["cwd"]), process["env"])
            await asyncio.sleep(ran.seconds)
            with open(process["log"], "w", encoding="utf-8") as log:  # noqa: ASYNC230, PTH123
                log.write(ran.output)
            steps.append({
                "name": step["name"],
                "outcome": ran.outcome,
                "detail": "" if ran.outcome == "ok" else f"exit code {ran.exit_code}",
                "exit_code": ran.exit_code,
                "usage": {"wall_s": ran.seconds, "cpu_s": ran.seconds, "peak_rss_bytes": 1 << 20},
                "answer_cpu_s": 0.0,
                "stalled_s": 0.0,
                "contention": None,
            })  # fmt: skip
            if ran.outcome != "ok":
                break
        return {
            "nonce": job["nonce"], "node": "simulated", "hardware": self.hardware,
            "account": "sampling", "steps": steps,
        }  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""
