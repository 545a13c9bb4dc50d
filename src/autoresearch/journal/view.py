"""What a run is now: the fold of its events. Resume, ``status`` and ``log`` all read this.

Applying an event costs the same at the ten-thousandth experiment as at the tenth. Where that
would take too long for a reader, ``snapshot.py`` begins with what was known a while ago.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from .. import suite
from ..contention import REMEMBERED
from ..decide import Noise, Reference, Standing
from ..types import (
    AgentFailure,
    Contention,
    Decision,
    Json,
    Kind,
    Level,
    Outcome,
    Plan,
    Sample,
    Status,
    Tally,
    Usage,
)
from . import Event
from .ideas import Ideas
from .verification import Verification

ENGINE = "engine"
"""Who proposes the baseline and what combines the gains of two experiments."""
RECENT_CONFIRMATIONS = 20
REFERENCES_KEPT = 24
VERIFYING = frozenset(
    {"verify_started", "verify_sealed", "verify_attempt", "verify_sample", "verify_abandoned",
     "verified", "offered"}
)  # fmt: skip


class Role(StrEnum):
    """What a sample is for: the screen selects, only those after it may enter an estimate.

    A first look is taken at a smaller budget, and compared with other first looks only.
    """

    BASELINE = "baseline"
    LOOK = "look"
    SCREEN = "screen"
    FRESH = "fresh"
    INCUMBENT = "incumbent"


@dataclass(frozen=True, slots=True)
class Taken:
    """A sample as the journal holds it: ``k`` names its directory."""

    k: int
    role: Role
    sample: Sample


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a worker waits, and when it goes on by itself; None where a person has to say so."""

    reason: str
    until: datetime | None


@dataclass(slots=True)
class Experiment:
    """One experiment as far as it has come.

    ``turn`` tells which of those that agents are asked for it is, from 0. One that is ``apart`` was
    begun from another commit than the incumbent. ``combines`` is the experiment whose gain it adds
    to what was kept meanwhile.
    """

    number: int
    kind: Kind = Kind.IMPROVE
    parent: str = ""
    agent: str = ""
    worker: int = 0
    turn: int = 0
    apart: bool = False
    started: str = ""
    hypothesis: str = ""
    description: str = ""
    expected: str = ""
    tokens: int | None = None
    cost_usd: float | None = None
    dropped: tuple[str, ...] = ()
    commit: str = ""
    fingerprint: str = ""
    form: str = ""
    tokens_added: int = 0
    open: bool = False
    ticket: str = ""
    idea: int | None = None
    repeats: int | None = None
    reason: str = ""
    combines: int | None = None
    attempts: int = 0
    in_flight: dict[str, Json] | None = None
    taken: list[Taken] = field(default_factory=list)
    guards_passed: bool | None = None
    guard_reason: str = ""
    guard_counts: tuple[float | None, ...] = ()
    decision: Decision | None = None
    decided: str = ""
    was: float | None = None

    def values(self, role: Role, commit: str | None = None) -> tuple[float, ...]:
        """The values of all samples with a role that have one; of one commit or of any."""
        return tuple(
            each.sample.value
            for each in self.taken
            if each.role is role
            and each.sample.value is not None
            and commit in (None, each.sample.commit)
        )

    @property
    def estimate(self) -> tuple[float, ...]:
        """The values that its candidate is known by: fresh ones, else what selected it."""
        return self.values(Role.BASELINE) or self.values(Role.FRESH) or self.values(Role.SCREEN)

    @property
    def mean(self) -> float | None:
        """The mean of all that its candidate gave with the whole budget so far."""
        apart = (Role.INCUMBENT, Role.LOOK)
        found = [each.sample.value for each in self.taken if each.role not in apart]
        values = [value for value in found if value is not None]
        return sum(values) / len(values) if values else None

    @property
    def plan(self) -> Plan:
        """What the strategy asked for."""
        return Plan(self.parent, self.kind, self.hypothesis, self.reason, self.combines)

    @property
    def own(self) -> list[Sample]:
        """Samples of this experiment's candidate."""
        return [each.sample for each in self.taken if each.role is not Role.INCUMBENT]

    @property
    def hardware(self) -> str | None:
        """The kind of machine that its samples were taken on; None before the first."""
        told = (each.sample for each in self.taken if each.sample.outcome is not Outcome.VOID)
        return next((sample.hardware for sample in told), None)

    @property
    def lease(self) -> str:
        """The nonce of its sample in flight; empty where there is none."""
        return str(self.in_flight.get("lease", "")) if self.in_flight else ""

    @property
    def memory_gb(self) -> float:
        return max((sample.memory_gb for sample in self.own), default=0.0)


class RunView:
    """The state of a run, built by applying events in order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:  # noqa: PLR0915
        self.seq = 0
        self.tag = ""
        self.contract: dict[str, Any] = {}
        self.base = ""
        self.head = ""
        self.seed = 0
        self.level = Level.NONE
        self.started = ""
        self.ended: str | None = None
        self.end_reason = ""
        self.workers = 1
        self.pauses: dict[int, Pause] = {}
        self.pause_requested = False
        self.stop_requested = False
        self.delivered: dict[str, str] = {}
        self.branch = ""
        self.setup: dict[str, Json] | None = None
        self.setup_running = False
        self.exhausted = False
        self.device_s = 0.0
        self.tickets: dict[str, dict[str, Any]] = {}
        self.ideas = Ideas()
        self.experiments: dict[int, Experiment] = {}
        self.in_flight: dict[int, Experiment] = {}
        self.next_number = 0
        self.numbers: dict[str, int] = {}
        self._turns = 0
        self._free_turns: list[int] = []
        self.decided: list[Experiment] = []
        self.forgotten = 0
        self.kept: list[Experiment] = []
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.fingerprints: dict[str, int] = {}
        self.forms: dict[str, int] = {}
        self.active_s = 0.0
        self.engine_started = ""
        self.tokens = 0
        self.cost_usd = 0.0
        self.condensed: int | None = None
        self.agent_failures: dict[AgentFailure, int] = dict.fromkeys(AgentFailure, 0)
        self.references: list[tuple[float, int, bool, str]] = []
        self.closed_noise = Noise()
        self.credit_used = 0.0
        self.confirmations: list[bool] = []
        self.shares: list[float] = []
        self.to_repeat: dict[int, Experiment] = {}
        self.to_combine: dict[int, Experiment] = {}
        self.last_at = ""
        self.samples_taken = 0
        self.verifications: list[Verification] = []
        self.survival: dict[int, str] = {}
        self.offers: dict[str, str] = {}
        self.clock_s = 0.0
        for event in events:
            self.apply(event)

    # What follows from the events

    @property
    def incumbent(self) -> Experiment | None:
        return self.kept[-1] if self.kept else None

    @property
    def built_on_open(self) -> bool:
        """Whether the incumbent is, or descends from, what somebody brought in by ``try``."""
        return any(each.open for each in self.kept)

    def knows(self, ticket: str) -> bool:
        """Whether a ticket is queued, in flight or decided."""
        known = (each.ticket for each in self.experiments.values())
        return ticket in self.tickets or ticket in known

    @property
    def decisions(self) -> int:
        """How many experiments are decided; the oldest may be *forgotten*, see ``snapshot.py``."""
        return self.forgotten + len(self.decided)

    @property
    def unfinished(self) -> Experiment | None:
        """The first experiment in flight, if any: opened and not decided."""
        return next(iter(self.in_flight.values()), None)

    @property
    def leases(self) -> list[str]:
        """The nonces of the samples in flight, that of a verification included."""
        flight: list[Experiment | Verification]
        flight = [*self.in_flight.values(), *self.verifications[-1:]]
        return [lease for each in flight if (lease := each.lease)]

    @property
    def paused(self) -> str | None:
        """Why nothing goes on, where no worker does anything; None where one works."""
        last = list(self.pauses.values())[-1:]
        return last[0].reason if last and len(self.pauses) >= self.workers else None

    @property
    def paused_until(self) -> datetime | None:
        """When the first worker goes on by itself; None where a person has to say so."""
        return min((each.until for each in self.pauses.values() if each.until), default=None)

    @property
    def held(self) -> bool:
        """Whether all workers wait for a person: that time is not the engine's."""
        held = sum(each.until is None for each in self.pauses.values())
        return held >= self.workers

    def seed_of(self, number: int, k: int) -> int:
        """A seed that follows from the run's own and cannot be chosen by a candidate."""
        name = f"{self.seed}:{number}:{k}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:4], "big") >> 1

    @property
    def verified(self) -> Verification | None:
        """The last verification that came to a result, of any kind."""
        return next((each for each in reversed(self.verifications) if each.result), None)

    @property
    def verifying(self) -> Verification | None:
        """The verification whose sample is in flight."""
        last = self.verifications[-1] if self.verifications else None
        return last if last and last.in_flight else None

    @property
    def known(self) -> Tally | None:
        """The tests that the baseline ran; None before it is decided, and where none is counted."""
        if not self.decided:
            return None
        own = [sample.tally for sample in self.experiments[0].own]
        return suite.least([each for each in own if each is not None])

    @property
    def noise(self) -> Noise:
        noise = self.closed_noise
        for kind in dict.fromkeys(kind for *_, kind in self.references):
            values = [value for value, _, _, other in self.references if other == kind]
            noise = noise.settle(values) if len(values) > 1 else noise
        return noise

    def standing(self, hardware: str | None = None) -> Standing:
        """What the run knew before the experiment in flight: of machines of one kind, or of all."""
        now = self.decisions
        known = [each for each in self.references if hardware in (None, each[3])]
        values = {value for value, *_ in known}
        return Standing(
            incumbent=tuple(Reference(v, now - then, kept) for v, then, kept, _ in known),
            noise=self.noise,
            credit_used=self.credit_used,
            recent_confirmations=(sum(self.confirmations), len(self.confirmations)),
            seed_sensitive=len(values) > 1,
        )

    def standing_of(self, commit: str, hardware: str | None = None) -> Standing:
        """As ``standing``, with an earlier experiment's commit in the incumbent's place."""
        parent = self.experiments[self.numbers[commit]]
        age = self.decisions
        known = parent.estimate if hardware in (None, parent.hardware) else ()
        incumbent = tuple(Reference(value, age, selected=True) for value in known)
        return replace(self.standing(hardware), incumbent=incumbent)

    # Applying events

    def apply(self, event: Event) -> None:
        """Take one more event into account."""
        working = self.engine_started and self.ended is None and not self.held
        if working and event.kind not in VERIFYING:
            # By the writer's own clock, which begins anew with each engine.
            self.active_s += max(0.0, event.clock_s - self.clock_s)
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(event, event.body)
        self.seq = event.seq
        if event.kind not in VERIFYING:
            # They may come long after the engine's last sign of life, which this is.
            self.last_at = event.at
            self.clock_s = event.clock_s

    def _experiment(self, event: Event) -> Experiment:
        assert event.experiment is not None
        return self.experiments[event.experiment]

    def _on_run_started(self, event: Event, body: dict[str, Any]) -> None:
        self.tag = body["tag"]
        self.contract = body["contract"]
        self.base = body["base"]
        self.head = body.get("head") or self.base
        self.seed = body["seed"]
        self.branch = body["branch"]
        self.started = event.at

    def _on_engine_started(self, event: Event, body: dict[str, Any]) -> None:
        if self.verifying is not None and not self.verifying.milestone:
            self.verifying.in_flight = None  # a person's: only `verify` goes on with it
        self.level = Level(body["level"])
        self.engine_started = event.at
        self.ended = None
        self.end_reason = ""
        self.exhausted = False
        self.workers = body.get("workers", 1)
        self.pauses.clear()
        self.pause_requested = self.stop_requested = False

    def _on_contract_changed(self, event: Event, body: dict[str, Any]) -> None:
        self.contract = body["contract"]

    def _on_run_ended(self, event: Event, body: dict[str, Any]) -> None:
        self.ended = event.at
        self.end_reason = body["reason"]
        self.pauses.clear()
        self.pause_requested = False

    def _on_paused(self, event: Event, body: dict[str, Any]) -> None:
        wait_s = body["wait_s"]
        started = datetime.fromisoformat(event.at)
        until = None if wait_s is None else started + timedelta(seconds=wait_s)
        worker = body.get("worker", 0)
        self.pauses.pop(worker, None)  # the last is what is shown
        self.pauses[worker] = Pause(body["reason"], until)

    def _on_resumed(self, event: Event, body: dict[str, Any]) -> None:
        self.pauses.pop(body.get("worker", 0), None)

    def _on_pause_requested(self, event: Event, body: dict[str, Any]) -> None:
        self.pause_requested = True

    def _on_resume_requested(self, event: Event, body: dict[str, Any]) -> None:
        self.pause_requested = False

    def _on_stop_requested(self, event: Event, body: dict[str, Any]) -> None:
        self.stop_requested = True

    def _on_setup_done(self, event: Event, body: dict[str, Any]) -> None:
        self.setup = body
        self.setup_running = False

    def _on_setup_started(self, event: Event, body: dict[str, Any]) -> None:
        self.setup_running = True

    def _on_ticket(self, event: Event, body: dict[str, Any]) -> None:
        self.tickets[body["ticket"]] = body

    def _on_idea(self, event: Event, body: dict[str, Any]) -> None:
        self.ideas.add(body, event.at)

    def _on_idea_dropped(self, event: Event, body: dict[str, Any]) -> None:
        self.ideas.drop(body["idea"])

    def _on_exhausted(self, event: Event, body: dict[str, Any]) -> None:
        self.exhausted = True

    def _on_opened(self, event: Event, body: dict[str, Any]) -> None:
        assert event.experiment is not None
        before = self.experiments.get(event.experiment)
        incumbent = self.incumbent
        experiment = Experiment(
            event.experiment,
            kind=Kind(body["kind"]),
            parent=body["parent"],
            agent=body["agent"],
            worker=body.get("worker", 0),
            apart=incumbent is not None and incumbent.commit != body["parent"],
            started=event.at,
            hypothesis=body.get("hypothesis", ""),
            open=body.get("open", False),
            ticket=body.get("ticket", ""),
            idea=body.get("idea"),
            repeats=body.get("repeats"),
            reason=body.get("reason", ""),
            combines=body.get("combines"),
        )
        self._give_turn(before, experiment)
        self.experiments[event.experiment] = self.in_flight[event.experiment] = experiment
        self.next_number = max(self.next_number, event.experiment + 1)
        if experiment.repeats is not None:
            self.to_repeat.pop(experiment.repeats, None)
        if experiment.combines is not None:
            self.to_combine.pop(experiment.combines, None)
        self.ideas.opened(event.experiment, body.get("idea"))

    def _give_turn(self, before: Experiment | None, experiment: Experiment) -> None:
        """Count it where it is an agent's; one that is opened once more may no longer be."""
        if before is not None and counts(before):
            self._free_turns.append(before.turn)
        if counts(experiment) and self._free_turns:
            experiment.turn = min(self._free_turns)
            self._free_turns.remove(experiment.turn)
        elif counts(experiment):
            experiment.turn = self._turns
            self._turns += 1

    def _on_proposed(self, event: Event, body: dict[str, Any]) -> None:
        experiment = self._experiment(event)
        experiment.description = body["description"]
        experiment.hypothesis = body.get("hypothesis") or experiment.hypothesis
        experiment.expected = body.get("expected", "")
        experiment.kind = Kind(body.get("kind") or experiment.kind)
        experiment.dropped = tuple(body.get("dropped", ()))
        self._spend(experiment, body.get("tokens"), body.get("cost_usd"))
        if counts(experiment):
            self.ideas.agent_answered()

    def _on_answered(self, event: Event, body: dict[str, Any]) -> None:
        self._spend(self._experiment(event), body["tokens"], body["cost_usd"])

    def _spend(self, experiment: Experiment, tokens: int | None, cost_usd: float | None) -> None:
        """An experiment costs what its agent used, each time that it was asked."""
        if tokens is not None:
            experiment.tokens = (experiment.tokens or 0) + tokens
            self.tokens += tokens
        if cost_usd is not None:
            experiment.cost_usd = (experiment.cost_usd or 0.0) + cost_usd
            self.cost_usd += cost_usd

    def _on_condensed(self, event: Event, body: dict[str, Any]) -> None:
        self.condensed = body["decided"]
        self.tokens += body["tokens"] or 0
        self.cost_usd += body["cost_usd"] or 0.0

    def _on_agent_failed(self, event: Event, body: dict[str, Any]) -> None:
        failure = AgentFailure(body["failure"])
        self.agent_failures[failure] += 1
        self.tokens += body["tokens"] or 0
        self.cost_usd += body["cost_usd"] or 0.0
        if event.experiment is not None:
            self.ideas.agent_failed(event.experiment, failure, body["message"])

    def _on_sealed(self, event: Event, body: dict[str, Any]) -> None:
        experiment = self._experiment(event)
        experiment.commit = body["commit"]
        experiment.tokens_added = body["tokens_added"]
        experiment.fingerprint = body["fingerprint"]
        experiment.form = body.get("form", "")
        self.numbers.setdefault(experiment.commit, experiment.number)

    def _on_attempt(self, event: Event, body: dict[str, Any]) -> None:
        experiment = self._experiment(event)
        experiment.attempts = body["k"] + 1
        experiment.in_flight = body | {"at": event.at}

    def _on_sample(self, event: Event, body: dict[str, Any]) -> None:
        experiment = self._experiment(event)
        experiment.in_flight = None
        sample = sample_of(body)
        experiment.taken.append(Taken(body["k"], Role(body["role"]), sample))
        self.device_s += body.get("gpus", 0) * sample.usage.wall_s
        if sample.contention.core_s:
            self.shares = [*self.shares, sample.contention.share][-REMEMBERED:]
        self.samples_taken += 1

    def _on_guarded(self, event: Event, body: dict[str, Any]) -> None:
        experiment = self._experiment(event)
        experiment.guards_passed = body["passed"]
        experiment.guard_reason = body["reason"]
        experiment.guard_counts = tuple(body["counts"])

    def _on_decided(self, event: Event, body: dict[str, Any]) -> None:
        experiment = self._experiment(event)
        decision = Decision(**(body["decision"] | {"status": Status(body["decision"]["status"])}))
        incumbent = self.incumbent
        experiment.decision = decision
        experiment.decided = event.at
        experiment.was = incumbent.decision.value if incumbent and incumbent.decision else None
        experiment.in_flight = None
        self.decided.append(experiment)
        self.in_flight.pop(experiment.number, None)
        self.ideas.decided(experiment.number, decision.status, again=experiment.repeats is not None)
        void = decision.status is Status.VOID
        if void and experiment.repeats is None:
            self.to_repeat[experiment.number] = experiment
        else:
            self.tickets.pop(experiment.ticket, None)
        if decision.combine:
            self.to_combine[experiment.number] = experiment
        self.counts[decision.status] += 1
        if experiment.fingerprint and not void:
            self.fingerprints.setdefault(experiment.fingerprint, experiment.number)
        if experiment.form and not void:
            # What has the same form as an earlier one and ran all the same is less code.
            self.forms[experiment.form] = experiment.number
        now = self.decisions
        kind = experiment.hardware or ""
        measured_beside = incumbent.commit if incumbent else None
        values = experiment.values(Role.INCUMBENT, measured_beside)
        self.references += [(value, now, False, kind) for value in values]
        del self.references[:-REFERENCES_KEPT]
        fresh = experiment.values(Role.FRESH)
        if fresh and experiment.kind is not Kind.BASELINE:
            self.confirmations.append(decision.status is Status.KEEP)
            del self.confirmations[:-RECENT_CONFIRMATIONS]
        if decision.status is Status.KEEP:
            self._crown(experiment, decision)
        elif len(fresh) > 1:
            self.closed_noise = self.closed_noise.add(fresh)

    def _crown(self, experiment: Experiment, decision: Decision) -> None:
        if len(self.references) > 1:
            self.closed_noise = self.noise
        now = self.decisions
        selected = experiment.kind is not Kind.BASELINE
        kind = experiment.hardware or ""
        self.references = [(value, now, selected, kind) for value in experiment.estimate]
        self.kept.append(experiment)
        gain = decision.gain or 0.0
        self.credit_used = 0.0 if gain > 0 else self.credit_used - gain

    def _on_delivered(self, event: Event, body: dict[str, Any]) -> None:
        self.branch = body["branch"]
        self.delivered[body["branch"]] = body["commit"]

    # Verifications: nothing of them enters the estimates that decisions rest on

    def _on_verify_started(self, event: Event, body: dict[str, Any]) -> None:
        number = len(self.verifications)
        # Commits are added to it; the event stays what was written.
        asked = body | {"commits": dict(body["commits"])}
        self.verifications.append(Verification(number, **asked, started=event.at))

    def _on_verify_sealed(self, event: Event, body: dict[str, Any]) -> None:
        self.verifications[-1].commits[body["arm"]] = body["commit"]

    def _on_verify_attempt(self, event: Event, body: dict[str, Any]) -> None:
        self.verifications[-1].attempts = body["k"] + 1
        self.verifications[-1].in_flight = body

    def _on_verify_sample(self, event: Event, body: dict[str, Any]) -> None:
        last, sample = self.verifications[-1], sample_of(body)
        last.in_flight = None
        last.taken.append((body["arm"], sample))
        self.device_s += body["gpus"] * sample.usage.wall_s

    def _on_verify_abandoned(self, event: Event, body: dict[str, Any]) -> None:
        self.verifications[-1].abandoned = body["reason"]
        self.verifications[-1].ended = event.at

    def _on_verified(self, event: Event, body: dict[str, Any]) -> None:
        self.verifications[-1].result = body
        self.verifications[-1].ended = event.at
        self.survival |= {step["experiment"]: step["verdict"] for step in body["steps"]}

    def _on_offered(self, event: Event, body: dict[str, Any]) -> None:
        self.offers[body["commit"]] = body["branch"]


def counts(experiment: Experiment) -> bool:
    """Whether an agent was to propose an experiment."""
    own = experiment.agent != ENGINE and not experiment.open
    return own and experiment.repeats is None


def seconds_between(start: str, end: str) -> float:
    """Seconds between two time stamps of the journal, never negative."""
    if not start or not end:
        return 0.0
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())


def sample_body(sample: Sample) -> dict[str, Json]:
    """A sample as JSON for the journal."""
    return {
        "commit": sample.commit,
        "seed": sample.seed,
        "outcome": sample.outcome.value,
        "value": sample.value,
        "reason": sample.reason,
        "wall_s": sample.usage.wall_s,
        "cpu_s": sample.usage.cpu_s,
        "peak_rss_bytes": sample.usage.peak_rss_bytes,
        "memory_gb": sample.memory_gb,
        "level": sample.level.value,
        "node": sample.node,
        "answer_cpu_s": sample.answer_cpu_s,
        "contention": asdict(sample.contention),
        "told": sample.told,
        "tally": asdict(sample.tally) if sample.tally else None,
        "foretold": sample.foretold,
        "hardware": sample.hardware,
    }


def sample_of(body: dict[str, Any]) -> Sample:
    """The sample that ``sample_body`` wrote."""
    return Sample(
        commit=body["commit"],
        seed=body["seed"],
        outcome=Outcome(body["outcome"]),
        value=body["value"],
        reason=body["reason"],
        usage=Usage(body["wall_s"], body["cpu_s"], body["peak_rss_bytes"]),
        memory_gb=body["memory_gb"],
        level=Level(body["level"]),
        node=body["node"],
        answer_cpu_s=body.get("answer_cpu_s", 0.0),
        contention=Contention(**body.get("contention", {})),
        told=body.get("told", ""),
        tally=Tally(**body["tally"]) if body.get("tally") else None,
        foretold=body.get("foretold"),
        hardware=body.get("hardware", ""),
    )
