"""A worker: does one experiment at a time, from the plan to the decision.

Has a candidate made, measures, decides, records. Workers share nothing but the run and
what agents are shown of it: what each does next follows from the journal and from which worker it
is.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace
from typing import Any

from . import condense, disk, limits, strategy, verify
from .bench import Bench
from .contention import unless_void
from .decide import (
    LOOKS_OF_BASELINE,
    CheckGuards,
    Evidence,
    MoreSamples,
    Rule,
    baseline_decision,
    baseline_samples,
    decide,
    decide_look,
    decide_overtaken,
)
from .desk import Desk
from .errors import AgentError, DiskFullError, ExecutorError, UnansweredError, UserError
from .failpoint import failpoint
from .history import History
from .hopeless import spared
from .journal.view import ENGINE, Experiment, Role, Taken
from .memory import Memory
from .people import People
from .proposer import Proposer
from .run import REASON_LENGTH, Run
from .text import clean
from .types import (
    AgentFailure,
    Contract,
    Decision,
    Json,
    Kind,
    Outcome,
    Plan,
    Sample,
    Status,
)
from .types import Run as Allowance
from .watch import Watch
from .workspace import Workspace

VOIDS = 2
BASELINE_VOIDS = 12
# Candidates count their seeds up from 0, the agent has -1.
FIRST_OF_INCUMBENT = -2
PLANNING = -1_000_000_000
BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 600.0
LONGEST_RETRY_AFTER_S = 6 * 3600.0
FIRST_WAIT_S = {AgentFailure.RATE_LIMITED: 15.0, AgentFailure.USAGE_LIMIT: 120.0}
STUCK = 5
BY_REQUEST = "by request; autoresearch resume goes on"
OUTCOMES = {
    Outcome.CRASH: Status.CRASH,
    Outcome.TIMEOUT: Status.TIMEOUT,
    Outcome.HOPELESS: Status.DISCARD,
}


class Worker:
    """One of the workers of a run, with a bench, an agent and a number of its own.

    ``contract`` has the worker's agent as its only one.
    """

    def __init__(
        self, run: Run, contract: Contract, bench: Bench, workspace: Workspace, memory: Memory,
        history: History, people: People, watch: Watch,
    ) -> None:  # fmt: skip
        self.run = run
        self.view = run.view
        self.contract = contract
        self.bench = bench
        self.people = people
        self.watch = watch
        self.number = bench.slot.number
        self.workspace = workspace
        self.desk = Desk(run, contract, bench, workspace, memory, history)
        self.proposer = Proposer(run, bench, workspace, self.desk)
        self.rule = Rule(
            direction=contract.metric.direction,
            min_gain=contract.metric.min_gain,
            confirm=contract.keep.confirm,
            confidence=contract.keep.confidence,
            simplicity=contract.keep.simplicity,
            until_pass=contract.suite is not None,
        )
        self._failures = 0

    async def turn(self) -> None:
        """One experiment, the baseline first; or a pause where none can be done."""
        try:
            with disk.named(self.run.places.run):
                self.run.require_room()
                if self.number in self.view.pauses:
                    self.run.append("resumed", worker=self.number)
                await self._hold()
                if not self.view.decided:
                    await self._prepare()
                else:
                    if self.number == 0:
                        await self._milestone()
                        await self._condense()
                    await self._experiment()
            self._failures = 0
        except (AgentError, DiskFullError, ExecutorError) as error:
            self._failures += 1
            full = self._disk_full()
            self.bench.clear()
            if isinstance(error, AgentError) and not full:
                await self._agent_failed(error)
            else:
                await self._pause(full or error.message, back_off_s(self._failures))
        except StopAsyncIteration:
            return
        stuck = limits.rejected_in_a_row(self.view) - STUCK
        if stuck >= 0:
            reason = f"{stuck + STUCK} proposals in a row were rejected"
            await self._pause(reason, back_off_s(stuck + 1))

    @property
    def mine(self) -> Experiment | None:
        """The first of the experiments in flight that are this worker's.

        Those of workers that are no more have come down to the ones that are.
        """
        flight = self.view.in_flight.values()
        crew = self.bench.slot.of
        return next((each for each in flight if each.worker % crew == self.number), None)

    async def _experiment(self) -> Experiment:
        record = self._open()
        if not record.commit and (refusal := await self.proposer.propose(record)):
            return self.run.close(record, refusal)
        while not isinstance(step := self._judge(record), Decision):
            if self._spent():
                raise StopAsyncIteration  # the run goes on from here when it goes on
            await self._take(step, record)
        return self.run.close(record, step)

    def _spent(self) -> bool:
        return limits.before_sample(self.view, self.contract, self.run.active_s)

    async def _milestone(self) -> None:
        """Now and then, see whether the recorded gain reproduces; flags it, and changes nothing."""
        if samples := verify.due(self.view):
            verifier = verify.Verifier(self.run, self.bench, stop=lambda: self.people.want_to_wait)
            await verifier.verify(samples, milestone=True)

    async def _condense(self) -> None:
        """Now and then, let the agent make a short file of what all experiments taught."""
        every = self.contract.agents[0].condense_every
        if self.desk.reads and condense.due(self.view, every):
            proposal, text = await self.desk.condense()
            self.run.append(
                "condensed", decided=len(self.view.decided), lines=len(text.splitlines()),
                tokens=proposal.tokens, cost_usd=proposal.cost_usd,
            )  # fmt: skip

    # What to do next

    def _open(self) -> Experiment:
        """Go on with what was cut short; else repeat, combine, or let somebody propose."""
        mine = self.mine
        if mine is not None and mine.commit:
            return mine
        if (void := self._void(mine)) is not None:
            return self._open_void(void, mine)
        incumbent = self.view.incumbent
        assert incumbent is not None
        best = Plan(incumbent.commit, Kind.IMPROVE)  # what a person asks for is tried on the best
        if mine is not None and mine.combines is not None and self.run.store.has(mine.parent):
            return self._begin(mine, mine.plan, ENGINE)
        if ticket := self._next_ticket(mine):
            return self._begin(mine, best, "try", ticket=ticket)
        if (won := next(iter(self.view.to_combine), None)) is not None:
            reason = f"#{won} is promising, and #{incumbent.number} was kept meanwhile"
            plan = Plan(incumbent.commit, Kind.COMBINE, reason=reason, combines=won)
            return self._begin(mine, plan, ENGINE)
        idea = self.view.ideas.next(
            reads=self.desk.reads, worker=self.number, of=self.bench.slot.of,
            again=mine.number if mine else None,
        )  # fmt: skip
        if idea is not None:
            agent = "patch" if idea.code else self.desk.name
            return self._begin(mine, replace(best, hypothesis=idea.text), agent, idea=idea.number)
        number = mine.number if mine else self.view.next_number
        seed = self.view.seed_of(number, PLANNING)
        plan = strategy.next_plan(self.view, self.contract, number, seed)
        plan = plan if self.run.store.has(plan.parent) else best
        agent = self.desk.name if plan.combines is None else ENGINE
        return self._begin(mine, plan, agent)

    def _begin(
        self, mine: Experiment | None, plan: Plan, agent: str, *, ticket: str = "",
        repeats: int | None = None, idea: int | None = None,
    ) -> Experiment:  # fmt: skip
        number = self.view.next_number if mine is None else mine.number
        return self.run.open(
            number, plan, agent, worker=self.number, ticket=ticket, repeats=repeats, idea=idea
        )

    def _void(self, mine: Experiment | None) -> Experiment | None:
        """An experiment that was decided void and is to be done once more, by this worker."""
        if mine is not None and mine.repeats is not None:
            waiting = [self.view.experiments[mine.repeats]]
        else:
            waiting = list(self.view.to_repeat.values())
        return next((each for each in waiting if self.run.store.has(each.commit)), None)

    def _open_void(self, void: Experiment, mine: Experiment | None) -> Experiment:
        """Open a void experiment once more, with the same candidate."""
        record = self._begin(
            mine, void.plan, void.agent, ticket=void.ticket, repeats=void.number, idea=void.idea
        )
        self.run.append(
            "proposed", record.number, description=void.description,
            hypothesis=void.hypothesis, expected=void.expected,
        )  # fmt: skip
        self.run.append(
            "sealed", record.number, commit=void.commit, tokens_added=void.tokens_added,
            fingerprint=void.fingerprint, form=void.form,
        )  # fmt: skip
        return record

    def _next_ticket(self, mine: Experiment | None) -> str:
        """What a person waits for, and no other worker tries."""
        flight = [each for each in self.view.in_flight.values() if each is not mine]
        taken = {each.ticket for each in (*flight, *self.view.to_repeat.values())}
        return next((each for each in self.view.tickets if each not in taken), "")

    # Measure and decide

    async def _prepare(self) -> None:
        """Setup once, then the baseline: what every later value is compared with."""
        if self.contract.run.setup is not None and self.view.setup is None:
            self.run.append("setup_started")
            self.run.append("setup_done", **await self.bench.setup())
        begun = self.view.experiments.get(0)
        if begun is None or not begun.commit:
            base = self.view.base
            record = self.run.open(0, Plan(base, Kind.BASELINE), ENGINE)
            self.run.append("proposed", 0, description="baseline")
            self.run.append(
                "sealed", 0, commit=base, tokens_added=0, **self.workspace.names(base)
            )  # fmt: skip
        record = self.view.experiments[0]
        while not isinstance(step := self._judge_baseline(record), Decision):
            await self._take(step, record)
        self.run.close(record, step)

    def _judge_baseline(self, record: Experiment) -> Decision | MoreSamples | CheckGuards:
        taken = [each for each in record.taken if each.sample.outcome is not Outcome.VOID]
        if len(record.taken) - len(taken) > BASELINE_VOIDS:
            raise UserError(
                f"the baseline cannot be measured: {record.taken[-1].sample.reason}",
                fix="give it machines that are free and of one kind (docs/clusters.md)",
            )
        for each in taken:
            if each.sample.outcome is not Outcome.OK:
                log = self.run.places.sample(0, each.k) / "run.log"
                look = each.role is Role.LOOK
                raise UserError(
                    f"the baseline cannot be measured{' in a first look' * look}:"
                    f" {each.sample.reason}",
                    fix=f"read {log}, {self._mend_a_look() if look else 'mend the task'},"
                    " commit, and start again with: autoresearch run --new",
                )
        samples = [each.sample for each in taken if each.role is Role.BASELINE]
        wanted = baseline_samples(samples[0].usage.wall_s) if samples else 1
        if len(samples) < wanted:
            return MoreSamples("candidate", f"baseline sample {len(samples) + 1} of {wanted}")
        looks = len(taken) - len(samples)
        if self.contract.run.screen_s is not None and looks < LOOKS_OF_BASELINE:
            return MoreSamples("look", f"first look {looks + 1} of {LOOKS_OF_BASELINE}")
        if self.contract.guards and record.guards_passed is None:
            return CheckGuards("the baseline must pass its guards")
        return baseline_decision(record.values(Role.BASELINE))

    def _mend_a_look(self) -> str:
        run = self.contract.run.first_look
        return (
            f"let the command end within AUTORESEARCH_BUDGET_S, {run.budget_s:g} in a first look,"
            " or leave run.screen out"
        )

    def _judge(self, record: Experiment) -> Decision | MoreSamples | CheckGuards:
        """The next step of an experiment; follows from the journal alone."""
        own = [each for each in record.taken if each.role is not Role.INCUMBENT]
        for each in own:
            if each.sample.outcome in OUTCOMES:
                return Decision(OUTCOMES[each.sample.outcome], each.sample.reason)
            if (reason := self._over_budget(each)) is not None:
                return Decision(Status.TIMEOUT, reason)
        failed = [each.sample for each in record.taken if each.sample.outcome is not Outcome.OK]
        if len(failed) > VOIDS:
            return Decision(Status.VOID, f"{len(failed)} samples say nothing: {failed[-1].reason}")
        if record.guards_passed is False:
            return Decision(Status.DISCARD, record.guard_reason, record.mean)
        incumbent, screen = self.view.incumbent, record.values(Role.SCREEN)
        assert incumbent is not None
        if not screen:
            return self._look(record, incumbent) or MoreSamples("candidate", "screen")
        if record.parent != incumbent.commit:
            return self._judge_overtaken(record, incumbent)
        evidence = Evidence(
            tokens_added=record.tokens_added,
            screen=screen[0],
            fresh=record.values(Role.FRESH),
            incumbent_fresh=record.values(Role.INCUMBENT, incumbent.commit),
            guards_passed=bool(record.guards_passed) or not self.contract.guards,
        )
        step = decide(self.rule, self.view.standing(self._comparable(record)), evidence)
        if isinstance(step, Decision) and (said := record.own[-1].reason):
            return replace(step, reason=f"{step.reason}; {said}")
        return step

    def _look(self, record: Experiment, incumbent: Experiment) -> Decision | MoreSamples | None:
        """What a first look at a smaller budget says, or that it is to be taken; None to go on."""
        if self.contract.run.screen_s is None:
            return None
        if not (looks := record.values(Role.LOOK)):
            return MoreSamples("look", "a first look")
        hardware = self._comparable(record)
        best = [
            each.sample.value for each in incumbent.taken
            if each.role is Role.LOOK and each.sample.value is not None
            and hardware in (None, each.sample.hardware)
        ]  # fmt: skip
        if not best or spared(self.view.seed_of(record.number, 0)):
            return None
        return decide_look(self.rule, self.view.experiments[0].values(Role.LOOK), best, looks[0])

    def _judge_overtaken(self, record: Experiment, incumbent: Experiment) -> Decision:
        """What to do with a candidate that was begun from another commit than the incumbent."""
        hardware = self._comparable(record)
        standing = self.view.standing(hardware)
        if not record.apart:  # it was to beat its own parent
            standing = self.view.standing_of(record.parent, hardware)
        values = record.values(Role.FRESH) or record.values(Role.SCREEN)
        mean = sum(values) / len(values)
        said = f"#{incumbent.number} was kept meanwhile"
        if record.apart:
            said = f"it was begun from another commit than #{incumbent.number}"
        return decide_overtaken(self.rule, standing, Evidence(record.tokens_added, mean), said)

    def _allowance(self, role: Role) -> Allowance:
        """What a command may take for a sample with this role."""
        run = self.contract.run
        return run.first_look if role is Role.LOOK else run

    def _over_budget(self, taken: Taken) -> str | None:
        sample, look = taken.sample, taken.role is Role.LOOK
        if sample.outcome is not Outcome.OK:
            return None
        used, budget = self.bench.used_s(sample), self._allowance(taken.role).budget_s
        baseline = [
            each.sample for each in self.view.experiments[0].taken
            if each.sample.outcome is Outcome.OK and (each.role is Role.LOOK) is look
        ]  # fmt: skip
        extra = max((self.bench.used_s(each) - budget for each in baseline), default=0.0)
        allowed = budget * 1.1 + max(0.0, extra)
        if used <= allowed:
            return None
        answer_s = sample.answer_cpu_s
        part = f", {answer_s:.3g} s in its answer" if answer_s > 0 else ""
        beyond = f" and the {extra:.2g} s that the baseline took beyond it" if extra > 0 else ""
        return (
            f"used {used:.3g} s of {allowed:.3g} s{part}; allowed are the budget of {budget:g} s,"
            f" a tenth more{beyond}"
        )

    async def _take(self, step: MoreSamples | CheckGuards, record: Experiment) -> None:
        """Do what a decision asks for: one sample, or the guards.

        Raises:
            StopAsyncIteration: a person wants the run to end first.
        """
        await self._hold()
        k, number = record.attempts, record.number
        if isinstance(step, CheckGuards):
            least = self.view.experiments[0].guard_counts
            report = await self.bench.guard(record.commit, number, max(0, k - 1), least)
            failpoint("guards.ran")
            if number == 0 and not report.passed:
                raise UserError(
                    f"the baseline fails its guard: {report.reason}",
                    fix=f"read {self.bench.places.sample(number, max(0, k - 1))}/guard-*.log, mend"
                    " the guard or the code, commit, and begin with autoresearch run --new; to have"
                    " an agent make it pass, leave [metric] out: autoresearch init --until-pass",
                )
            self.run.append(
                "guarded", number, passed=report.passed, reason=report.reason,
                counts=list[Json](report.counts),
            )  # fmt: skip
            return
        if not self.bench.holds(record.lease):
            role, commit = self._role(step, record)
            seed, lease = self._next_seed(record, role), secrets.token_hex(8)
            self.run.record_attempt(number, k, role, seed, commit, lease)
        await self._finish(record)

    async def _finish(self, record: Experiment) -> None:
        """Take the sample that was announced; perhaps an engine that was killed began it."""
        announced: Any = record.in_flight
        number, k, role = record.number, announced["k"], Role(announced["role"])
        seed, commit, lease = announced["seed"], announced["commit"], announced["lease"]
        try:
            watching = self.watch.over(role, seed)
            measured = await self.bench.measure(
                commit, number, k, seed, known=self.view.known, watching=watching, lease=lease,
                hardware=self._comparable(record) or "", run=self._allowance(role),
            )  # fmt: skip
            sample = self._unless_void(measured, record, role)
        except UnansweredError:
            raise  # its job may be running: the next turn asks again
        except ExecutorError as error:
            self.bench.clear()
            self.run.require_room()
            void = Sample(commit, seed, Outcome.VOID, reason=error.message)
            self.run.record_sample(number, k, role, void, 0)
            raise
        if sample.outcome is Outcome.CRASH:
            self.run.require_room()  # a crash on a full disk says nothing about the candidate
        failpoint("sample.taken")
        self.run.record_sample(number, k, role, sample, self.contract.run.gpus)
        self.bench.forget(lease)

    def _role(self, step: MoreSamples, record: Experiment) -> tuple[Role, str]:
        if step.of == "look":
            return Role.LOOK, record.commit
        if record.kind is Kind.BASELINE:
            return Role.BASELINE, record.commit
        if step.of == "incumbent":
            assert self.view.incumbent is not None
            return Role.INCUMBENT, self.view.incumbent.commit
        return (Role.FRESH if record.values(Role.SCREEN) else Role.SCREEN), record.commit

    def _comparable(self, record: Experiment) -> str | None:
        """The hardware whose values an experiment is compared with; None where it is no matter."""
        return None if self.contract.suite is not None else record.hardware

    def _unless_void(self, sample: Sample, record: Experiment, role: Role) -> Sample:
        others = self._comparable(record) or sample.hardware
        if sample.hardware != others and sample.outcome in (Outcome.OK, Outcome.TIMEOUT):
            reason = f"taken on {sample.hardware}, the others of this experiment on {others}"
            return replace(sample, outcome=Outcome.VOID, value=None, reason=reason)
        run, exact = self._allowance(role), self.view.noise.exact
        return unless_void(sample, run, self.view.shares, exact=exact)

    def _next_seed(self, record: Experiment, role: Role) -> int:
        """The next sample's seed; the same again after one that was void or cut short.

        Otherwise who can make a sample void could choose between seeds. Candidate and incumbent
        have seeds of their own: an experiment that is repeated may take them in another order.
        """
        incumbent = role is Role.INCUMBENT
        told = sum(
            each.sample.outcome is not Outcome.VOID and (each.role is Role.INCUMBENT) is incumbent
            for each in record.taken
        )
        number = record.number if record.repeats is None else record.repeats
        return self.view.seed_of(number, FIRST_OF_INCUMBENT - told if incumbent else told)

    # Pauses

    def _disk_full(self) -> str:
        """What to say where a failure is the full disk's; empty where there is room."""
        try:
            self.run.reserve.require()
        except DiskFullError as full:
            return full.message
        return ""

    async def _agent_failed(self, error: AgentError) -> None:
        """Journal what the failure cost, and wait as long as its kind asks for.

        Raises:
            UserError: only a person can put it right.
        """
        mine = self.mine
        with contextlib.suppress(DiskFullError):
            self.run.append(
                "agent_failed", mine.number if mine else None, failure=error.failure.value,
                message=clean(error.message, REASON_LENGTH), tokens=error.tokens,
                cost_usd=error.cost_usd,
            )  # fmt: skip
        if error.failure is AgentFailure.AUTH:
            raise UserError(error.message, fix=error.fix) from error
        await self._pause(error.message, agent_wait_s(error, self._failures))

    async def _pause(self, reason: str, wait_s: float) -> None:
        """Wait visibly; a request to stop ends the wait."""
        left_h = limits.left(self.view, self.contract, "hours", self.run.active_s)
        if left_h is not None:
            wait_s = min(wait_s, 3600 * left_h)
        # Somebody may have taken even the reserve: then we wait without a word in the journal.
        with contextlib.suppress(DiskFullError):
            said = clean(reason, REASON_LENGTH)
            self.run.append("paused", reason=said, wait_s=wait_s, worker=self.number)
        await self.people.wait(wait_s)

    async def _hold(self) -> None:
        """Wait visibly as long as a person wants the run paused.

        Raises:
            StopAsyncIteration: a person wants it to end.
        """
        if self.people.stopping.is_set():
            raise StopAsyncIteration
        if self.view.pause_requested:
            self.run.append("paused", reason=BY_REQUEST, wait_s=None, worker=self.number)
            await self.people.until_resumed()
            self.run.append("resumed", worker=self.number)


def back_off_s(failures: int) -> float:
    """How long to wait after so many failures in a row, in seconds."""
    return min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2.0 ** min(failures - 1, 20))


def agent_wait_s(error: AgentError, failures: int) -> float:
    """How long to leave an agent alone, in seconds: as it asks, else by the kind of its failure."""
    if error.retry_after_s is not None:
        return min(LONGEST_RETRY_AFTER_S, max(BACK_OFF_S, error.retry_after_s))
    first_s = FIRST_WAIT_S.get(error.failure, BACK_OFF_S)
    return min(LONGEST_BACK_OFF_S, first_s * back_off_s(failures))
