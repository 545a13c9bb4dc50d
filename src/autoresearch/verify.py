"""Measures what was kept once more, with fresh seeds: which gains are real?

Every sample is journaled as it is taken, and a verification that was cut short goes on where it
was. Nothing of it enters a decision or changes a row. What the samples say is in ``verdict.py``.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import verdict
from .bench import Bench
from .contention import unless_void
from .failpoint import failpoint
from .git import Edits
from .journal.verification import FALLS, INSEPARABLE, SURVIVES, Verification
from .journal.view import Experiment, RunView, sample_body
from .run import Run
from .types import Json, Outcome
from .undo import builds_on, leave_out
from .verdict import Difference, Verdict, compare, harms, judge, next_arm, recorded, survives

BASELINE, INCUMBENT, AGAIN = "baseline", "incumbent", "incumbent again"
REST = "without what does not survive"
VOIDS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """A kept experiment and what its change is worth at the end of the run.

    ``together`` are the later steps that build on it and were left out with it.
    """

    experiment: int
    verdict: str
    together: tuple[int, ...] = ()
    reason: str = ""
    contribution: Difference | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """The incumbent without the steps that do not survive; ``branch`` is empty if it is worse."""

    undone: tuple[int, ...]
    reason: str
    commit: str = ""
    branch: str = ""
    change: Difference | None = None


class Verifier:
    """Verifies one run through a bench of its own contract, or of one with a longer budget."""

    def __init__(self, run: Run, bench: Bench, *, stop: Callable[[], bool]) -> None:
        self.run = run
        self.view = run.view
        self.bench = bench
        self.stop = stop
        self.metric = bench.contract.metric
        self.confidence = bench.contract.keep.confidence
        self._used: set[int] = set()

    async def verify(
        self, samples: int, *, each: bool = False, milestone: bool = False
    ) -> Verification:
        """Measure and judge; with ``each`` also every step, by leaving it out.

        Where nothing can be said the verification is ``abandoned``, with the reason.

        Raises:
            StopAsyncIteration: a person asked to stop first; the same call goes on later.
        """
        record = self._begin(samples, each=each, milestone=milestone)
        self._used = _seeds(self.view, record)
        groups = self._leave_out(record) if each else []
        without = [arm for group in groups if (arm := _without(group)) in record.commits]
        await self._measure(record, [BASELINE, INCUMBENT], samples, without)
        reason = self._useless(record, BASELINE) or self._void(record, INCUMBENT)
        if reason is not None:
            self.run.append("verify_abandoned", reason=reason)
            return record
        steps = [self._step(record, group) for group in groups]
        offer = await self._offer(record, steps, samples)
        self.run.append("verified", **self._result(record, steps, offer))
        return record

    def _begin(self, samples: int, *, each: bool, milestone: bool) -> Verification:
        """A new verification, or the last one where it asked the same and was cut short."""
        baseline, best = self.view.experiments[0], self.view.incumbent
        assert best is not None and best.number > 0, "nothing was kept yet"
        asked: dict[str, Json] = {
            "milestone": milestone, "each": each, "sealed": self.bench.sealed, "samples": samples,
            "budget_s": self.bench.contract.run.budget_s, "experiment": best.number,
        }  # fmt: skip
        last = self.view.verifications[-1] if self.view.verifications else None
        if last and not last.ended and all(getattr(last, k) == v for k, v in asked.items()):
            return last
        commits: dict[str, Json] = {
            BASELINE: baseline.commit, INCUMBENT: best.commit, AGAIN: best.commit,
        }  # fmt: skip
        self.run.append("verify_started", **asked, kept=len(self.view.kept) - 1, commits=commits)
        return self.view.verifications[-1]

    # Measuring

    async def _measure(
        self, record: Verification, needed: Sequence[str], samples: int, more: Sequence[str] = ()
    ) -> None:
        """Sample all arms in turn, as long as those that are ``needed`` can be measured."""
        while all(self._useless(record, arm) is None for arm in needed):
            arms = [*needed, *(arm for arm in more if self._useless(record, arm) is None)]
            taken = Counter(arm for arm, sample in record.taken if sample.outcome is Outcome.OK)
            arm = next_arm(arms, taken, samples)
            if arm is None:
                return
            if self.stop():
                raise StopAsyncIteration
            await self._take(record, arm)

    async def _take(self, record: Verification, arm: str) -> None:
        """Take one sample; perhaps of the arm that a process which was killed had begun."""
        if not self.bench.holds(record.lease):
            self.run.append(
                "verify_attempt", arm=arm, k=record.attempts, seed=self._seed(record, arm),
                commit=record.commits[arm], lease=secrets.token_hex(8),
            )  # fmt: skip
        announced: Any = record.in_flight
        arm, k, seed = announced["arm"], announced["k"], announced["seed"]
        folder = self.run.places.verification(record.number) / str(k)
        # A candidate cannot tell this from a sample of the next experiment.
        number = self.view.next_number
        measured = await self.bench.measure(
            announced["commit"], number, k, seed, folder=folder, known=self.view.known,
            lease=record.lease,
        )  # fmt: skip
        # Only its own samples are compared with each other, so they say what is usual.
        sample = unless_void(
            measured, self.bench.contract.run, record.shares, exact=self.view.noise.exact
        )
        failpoint("sample.taken")
        self.run.append(
            "verify_sample", arm=arm, gpus=self.bench.contract.run.gpus, **sample_body(sample)
        )
        self.bench.forget(announced["lease"])

    def _seed(self, record: Verification, arm: str) -> int:
        """A seed that this run has not used yet; the same again after a void or killed sample.

        Otherwise who can make a sample void could choose between seeds.
        """
        told = sum(each == arm and s.outcome is not Outcome.VOID for each, s in record.taken)
        turn = 0
        while True:
            name = f"{self.view.seed}:verify:{record.number}:{arm}:{told}:{turn}".encode()
            seed = int.from_bytes(hashlib.sha256(name).digest()[:4], "big") >> 1
            if seed not in self._used:
                return seed
            turn += 1

    def _useless(self, record: Verification, arm: str) -> str | None:
        """Why an arm has no value, if so."""
        if (failure := record.failure(arm)) is not None:
            return f"{_the(arm)} cannot be measured: {failure.outcome.value}: {failure.reason}"
        return self._void(record, arm)

    def _void(self, record: Verification, arm: str) -> str | None:
        voids = record.voids(arm)
        if len(voids) <= VOIDS:
            return None
        return f"{len(voids)} samples of {_the(arm)} in a row say nothing: {voids[0].reason}"

    def _compare(self, record: Verification, before: str, after: str) -> Difference:
        return compare(
            self.metric.direction, record.values(before), record.values(after), self.view.noise,
            self.confidence,
        )  # fmt: skip

    # Leaving steps out

    def _leave_out(self, record: Verification) -> list[list[Experiment]]:
        """Seal a commit without each step, and without the later ones that build on it."""
        steps, store = self.view.kept[1:], self.run.store
        groups = []
        for i in range(len(steps)):
            built = builds_on(store, [(each.parent, each.commit) for each in steps[i:]])
            group = [steps[i], *(steps[i + j] for j in built)]
            arm = _without(group)
            if arm not in record.commits and (edits := self._edits(record, group)):
                self._seal(record, arm, edits, f"Leave out {_named(group)}")
            groups.append(group)
        return groups

    def _edits(self, record: Verification, steps: Sequence[Experiment]) -> Edits | None:
        pairs = [(step.parent, step.commit) for step in steps]
        return leave_out(self.run.store, record.commits[INCUMBENT], pairs)

    def _seal(self, record: Verification, arm: str, edits: Edits, message: str) -> None:
        slug = re.sub(r"\W+", "-", arm)[:40]
        ref = f"refs/autoresearch/{self.run.tag}/verify/{record.number}/{slug}"
        commit = self.run.store.seal(record.commits[INCUMBENT], edits, f"{message}\n", ref)
        self.run.append("verify_sealed", arm=arm, commit=commit)

    def _step(self, record: Verification, group: Sequence[Experiment]) -> Step:
        arm, number = _without(group), group[0].number
        together = tuple(each.number for each in group[1:])
        if arm not in record.commits:
            return Step(number, INSEPARABLE, together, "nothing of it is left")
        for each in (arm, INCUMBENT):
            if (reason := self._useless(record, each)) is not None:
                return Step(number, INSEPARABLE, together, reason)
        found = self._compare(record, arm, INCUMBENT)
        tokens = sum(each.tokens_added for each in group)
        fine = survives(found, tokens, self.confidence)
        return Step(number, SURVIVES if fine else FALLS, together, "", found)

    async def _offer(
        self, record: Verification, steps: Sequence[Step], samples: int
    ) -> Offer | None:
        """Undo what does not survive, measure that, and deliver it as a branch if it is as good."""
        fallen = [step for step in steps if step.verdict == FALLS]
        undone = tuple(sorted({n for step in fallen for n in (step.experiment, *step.together)}))
        if not undone:
            return None
        if REST not in record.commits:
            rows = [self.view.experiments[number] for number in undone]
            edits = self._edits(record, rows)
            if not edits:
                return Offer(undone, "they cannot be taken out together")
            self._seal(record, REST, edits, f"Undo {_named(rows)}: did not survive verification")
        commit = self._offered_before(record.commits[REST])
        if failed := await self._guards(record, commit):
            return Offer(undone, failed, commit)
        await self._measure(record, [REST, AGAIN], samples)
        for arm in (REST, AGAIN):
            if (reason := self._useless(record, arm)) is not None:
                return Offer(undone, reason, commit)
        change = self._compare(record, AGAIN, REST)
        if harms(change, self.confidence):
            reason = "without all of them it is worse: one may stand in for another"
            return Offer(undone, reason, commit, "", change)
        better = 1 - change.sure < 1 - self.confidence
        reason = f"{'better' if better else 'as good'} without them"
        return Offer(undone, reason, commit, self.run.offer(commit), change)

    def _offered_before(self, commit: str) -> str:
        """The same files as an earlier verification offered them, or ``commit``."""
        tree = self.run.store.tree
        return next((each for each in self.view.offers if tree(each) == tree(commit)), commit)

    async def _guards(self, record: Verification, commit: str) -> str:
        if not self.bench.contract.guards:
            return ""
        least = self.view.experiments[0].guard_counts
        folder = self.run.places.verification(record.number) / "guards"
        folder.mkdir(parents=True, exist_ok=True)
        report = await self.bench.guard(commit, self.view.next_number, 0, least, folder=folder)
        failpoint("guards.ran")
        return "" if report.passed else f"without them a {report.reason}"

    # What comes out

    def _result(
        self, record: Verification, steps: Sequence[Step], offer: Offer | None
    ) -> dict[str, Json]:
        baseline, best = self.view.experiments[0].decision, self.view.incumbent
        assert baseline is not None and best is not None and best.decision is not None
        claim = recorded(self.metric.direction, baseline, best.decision)
        before, after = record.values(BASELINE), record.values(INCUMBENT)
        failure = self._useless(record, INCUMBENT)
        found = None if failure else self._compare(record, BASELINE, INCUMBENT)
        if found is None:
            said = Verdict(False, failure or "")
        else:
            alpha = 1 - self.confidence if record.milestone else verdict.ALPHA
            elsewhere = _elsewhere(record, self.view)
            said = judge(found, claim, before, after, alpha=alpha, elsewhere=elsewhere)
        return {
            "reproduces": said.reproduces,
            "reason": said.reason,
            "gain": asdict(found) if found else None,
            "recorded": asdict(claim),
            "baseline": _mean(before),
            "incumbent": _mean(after),
            "steps": [asdict(step) | {"together": list(step.together)} for step in steps],
            "offer": asdict(offer) | {"undone": list(offer.undone)} if offer else None,
        }


def due(view: RunView) -> int:
    """How many samples a side the short form of a running search may take now; 0 for none."""
    if view.tickets or len(view.kept) < 2:
        return 0
    milestones = [each for each in view.verifications if each.milestone]
    if milestones and not milestones[-1].ended:
        return milestones[-1].samples
    return verdict.due(
        kept=len(view.kept) - 1,
        checked=max((each.kept for each in milestones), default=0),
        taken=view.samples_taken,
        spent=sum(len(each.taken) for each in milestones),
    )


def _elsewhere(record: Verification, view: RunView) -> str:
    """How the conditions differ from those of the run, in words; empty where they do not."""
    parts = ["on the sealed split"] if record.sealed else []
    if record.budget_s != view.contract["run"]["budget_s"]:
        parts.append(f"with a budget of {record.budget_s:g} s")
    return " ".join(parts)


def _named(steps: Sequence[Experiment]) -> str:
    return ", ".join(f"#{step.number}" for step in steps)


def _without(steps: Sequence[Experiment]) -> str:
    """The arm that has everything but these steps."""
    return f"without {_named(steps)}"


def _the(arm: str) -> str:
    """An arm in a sentence."""
    return f"the code {arm}" if arm.startswith("without") else f"the {arm}"


def _seeds(view: RunView, record: Verification) -> set[int]:
    """Every seed that the run has used for something else."""
    used = {each.sample.seed for row in view.experiments.values() for each in row.taken}
    earlier = view.verifications[: record.number]
    return used | {sample.seed for each in earlier for _, sample in each.taken}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
