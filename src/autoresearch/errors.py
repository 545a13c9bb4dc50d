"""What can go wrong on our side; a failing candidate is a value (`types.Status`).

AutoresearchError
├── UserError        your input: shown without a traceback, exit code 2
│   └── RunLockedError  another engine holds this run, exit code 4
├── AgentError       the agent failed: back off and ask again
├── ExecutorError    the infrastructure failed: the attempt is void and run again
│   └── UnansweredError  nobody says how the attempt is: it stays, and we ask again
├── EvaluationError  the ruler itself broke: the run stops
└── StoreError       journal or private git store cannot be trusted
    ├── DamagedError    journal or store is not what was written: rebuild it from the other
    └── DiskFullError   no room to write: pause until there is some
"""

from __future__ import annotations

from .types import AgentFailure


class AutoresearchError(Exception):
    """Root of all errors raised by autoresearch: a message and the next thing to do."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class UserError(AutoresearchError):
    """Something the person can put right; ``fix`` says how."""


class RunLockedError(UserError):
    """Another engine holds the run's lock."""


class AgentError(AutoresearchError):
    """The agent exited with an error or could not be started: why, and what it cost all the same.

    ``retry_after_s`` is when it asked to be tried again, where it said so.
    """

    def __init__(
        self,
        message: str,
        *,
        fix: str = "",
        failure: AgentFailure = AgentFailure.CRASHED,
        retry_after_s: float | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
    ) -> None:
        super().__init__(message, fix=fix)
        self.failure = failure
        self.retry_after_s = retry_after_s
        self.tokens = tokens
        self.cost_usd = cost_usd


class ExecutorError(AutoresearchError):
    """The machinery that runs jobs failed; says nothing about the candidate."""


class UnansweredError(ExecutorError):
    """A scheduler does not answer or takes no jobs now; an attempt it has is not lost."""


class EvaluationError(AutoresearchError):
    """The protected evaluation of the task is broken."""


class StoreError(AutoresearchError):
    """Journal or git store is damaged or was changed by someone else."""


class DamagedError(StoreError):
    """A file of the run is not what was written."""


class DiskFullError(StoreError):
    """The run's disk has no room left; nothing is damaged."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fix="make room; autoresearch run continues where it was")
