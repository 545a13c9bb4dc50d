"""Early end of hopeless runs: what it saves and costs on recorded curves of real tinylm searches.

    python bench/early_end.py                          replay what is recorded: seconds
    python bench/early_end.py --record FILE [--seeds 0,1] [--experiments 40] [--train-s 0.7]
    python bench/early_end.py --live [--seeds 0,1] [--experiments 40]

A replay shows each rule the curves of a search as far as it would have seen them: what it ends, how
much training that saves, and whether it would have ended what was kept. It cannot show what an
agent that learns less of a run would have proposed instead: ``--live`` runs the same searches with
runs ended, the agent told what it would be told. Recording is exact for a seed; the curves in
``data/`` are of four searches: ``--seeds 0,1``, ``--seeds 2 --experiments 100`` and, with the
training time that the workload has, ``--seeds 10 --train-s 4``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tinylm
from landscapes import Task
from referee import Referee
from search import Agent

from autoresearch import hopeless
from autoresearch.curves import Track, track
from autoresearch.hopeless import Complete, Field
from autoresearch.size import tokens_added
from autoresearch.types import Status

RECORDED = Path(__file__).parent / "data" / "tinylm_curves.jsonl"
NAME = "val_bpb"
EVALUATION = 0.25  # of the training time: tinylm trains for four seconds, and is scored in one
LATER = 21  # the first experiments of a search find much, the later ones little
Rule = Callable[[Track, "Known"], bool]


@dataclass
class Known:
    """What a search knows when a run is judged: the runs of what was kept, and all complete ones.

    ``kept`` begins with the baseline and ends with the incumbent.
    """

    kept: list[list[Complete]] = field(default_factory=lambda: [[]])
    complete: list[Complete] = field(default_factory=list)
    decided: int = 1

    def field(self) -> Field:
        return Field("lower", self.kept[-hopeless.REMEMBERED - 1 :], self.decided)


# The rules


def ours(run: Track, known: Known) -> bool:
    """The engine's: behind at the end at the pace of catching up, beyond kept steps and noise."""
    return hopeless.judge(run, known.field()) is not None


def without_pace(run: Track, known: Known, first: float = 0.3) -> bool:
    """Behind the incumbent by more than two noise widths at this moment, from 30 % on."""
    if run.at[-1] < first or known.decided < hopeless.EXPERIMENTS:
        return False
    there = [[_at(each, run) for each in runs] for runs in known.kept]
    values = [[each for each in found if each is not None] for found in there]
    repeated = [each for each in values if len(each) > 1]
    if not repeated or not values[-1]:
        return False
    dof = sum(len(each) - 1 for each in repeated)
    noise = math.sqrt(sum(statistics.variance(v) * (len(v) - 1) for v in repeated) / dof)
    return _recent(run) > statistics.median(values[-1]) + 2 * noise


def median_stopping(run: Track, known: Known) -> bool:
    """Worse than the median of complete runs there (Golovin et al., Google Vizier, KDD 2017)."""
    return run.at[-1] >= 0.3 and _rank(run, known) > 0.5


def halving(run: Track, known: Known) -> bool:
    """Not in the best third at a third of the run (as Li et al., arXiv 1810.05934)."""
    passed = [x for x in run.at if x >= 1 / 3]
    return len(passed) == 1 and _rank(run, known) > 1 / 3


RULES: dict[str, Rule] = {
    "median stopping": median_stopping,
    "successive halving": halving,
    "behind by two noises": without_pace,
    "the engine's": ours,
}


def _rank(run: Track, known: Known) -> float:
    """The share of the last complete runs that were better there; 0 while few are known."""
    values = [each for run_ in known.complete[-40:] if (each := _at(run_, run)) is not None]
    return sum(each < _recent(run) for each in values) / len(values) if len(values) > 5 else 0.0


def _recent(run: Track) -> float:
    return statistics.fmean(run.values[-2:])


def _at(other: Complete, run: Track) -> float | None:
    """What another run said when it was as far, averaged as ``_recent`` is."""
    points = zip(other.track.at, other.track.values, strict=True)
    values = [value for at, value in points if at <= run.at[-1] + 0.01]
    return statistics.fmean(values[-2:]) if len(values) == len(run.at) else None


# Replaying


@dataclass
class Judged:
    """One experiment of a replay; times are in runs of the whole training time.

    ``ended_at`` is where its screen was ended, ``kept`` what had become of it.
    """

    experiment: int
    runs: int = 0
    spent: float = 0.0
    ended_at: float | None = None
    kept: bool = False

    @property
    def lost(self) -> bool:
        return self.kept and self.ended_at is not None


def replay(rows: Sequence[dict[str, Any]], rule: Rule) -> list[Judged]:
    """Judge the screens of a recorded search one after the other; the first is the baseline."""
    known, judged, own = Known(), [Judged(0)], list[Complete]()
    for row in rows:
        if "role" in row:
            now = judged[row["experiment"]] if row["role"] == "baseline" else judged[-1]
            complete = Complete(_track(row), row["value"])
            if row["role"] == "screen":
                own, now = [], Judged(row["experiment"])
                judged.append(now)
                now.ended_at = _ended_at(row, complete.track, rule, known)
            now.runs += 1
            repeats = row["role"] in ("baseline", "incumbent")
            (known.kept[-1] if repeats else own).append(complete)
            # What confirms a run that was ended is not measured.
            if now.ended_at is None or repeats:
                now.spent += 1
                known.complete += [complete] if row["value"] is not None else []
            elif row["role"] == "screen":
                now.spent += now.ended_at
        elif "status" in row:
            known.decided += 1
            judged[-1].kept = row["status"] == "keep"
            if judged[-1].kept:
                # What followed it is replayed all the same, also where it would have been lost.
                known.kept.append(own)
    return judged


def _ended_at(row: dict[str, Any], run: Track, rule: Rule, known: Known) -> float | None:
    if hopeless.spared(zlib.crc32(f"{row['seed']}:{row['experiment']}".encode())):
        return None
    for i in range(1, len(run.at) + 1):
        if rule(Track(False, run.at[:i], run.values[:i], run.at[i - 1]), known):
            return run.at[i - 1]
    return None


def _track(row: dict[str, Any]) -> Track:
    values = [math.nan if value is None else value for _, value in row["curve"]]
    return Track(False, [at for at, _ in row["curve"]], values, 1.0)


def searches(path: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The recorded searches, each with what it was recorded with."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    starts = [i for i, row in enumerate(rows) if "train_s" in row]
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        yield rows[start], rows[start + 1 : end]


def report(path: Path) -> int:
    """Print what each rule does on each search; 1 where the engine's loses something kept."""
    recorded = list(searches(path))
    for name, rule in RULES.items():
        print(f"\n{name}: {(rule.__doc__ or '').split('(')[0].strip(' .')}")
        print(f"  {'search':30}{'ended':>10}{'screens':>10}{'training':>10}{'all':>8}  lost")
        done = [replay(rows, rule) for _, rows in recorded]
        for (head, rows), judged in zip(recorded, done, strict=True):
            said = f"seed {head['seed']}, {head['train_s']:g} s, best {_best(rows):.3f}"
            print(f"  {said:30}{_line(judged)}")
            if rule is ours:
                print(f"  {f'  from #{LATER} on':30}{_line(judged[LATER:])}")
        print(f"  {'all':30}{_line([each for judged in done for each in judged])}")
    return 1 if any(each.lost for _, rows in recorded for each in replay(rows, ours)) else 0


def _best(rows: Sequence[dict[str, Any]]) -> float:
    """The true value of what a search ended with: of fresh seeds that it did not see."""
    return statistics.fmean(next(row["truth"] for row in rows if "truth" in row))


def _line(judged: Sequence[Judged]) -> str:
    """What was ended, and the part saved of the screens' training, of all, and with evaluations."""
    proposed = [each for each in judged if each.experiment]
    ended = [each.ended_at for each in proposed if each.ended_at is not None]
    runs, spent = sum(each.runs for each in judged), sum(each.spent for each in judged)
    of_screens = sum(1 - at for at in ended) / len(proposed)
    whole = (runs - spent + EVALUATION * len(ended)) / (runs * (1 + EVALUATION))
    lost = [f"#{each.experiment} at {100 * (each.ended_at or 0):.0f} %" for each in proposed
            if each.lost]  # fmt: skip
    kept = sum(each.kept for each in proposed)
    return (
        f"{len(ended):4} of {len(proposed):3}{100 * of_screens:8.1f} %"
        f"{100 * (1 - spent / runs):8.1f} %{100 * whole:6.1f} %  {len(lost)} of {kept}"
        f"{f': {lost[0]}' if len(lost) == 1 else ''}"
    )


# Recording


class EndedError(Exception):
    """A run was ended early; ``foretold`` is what the agent is told of it."""

    def __init__(self, foretold: float | None) -> None:
        super().__init__("ended early")
        self.foretold = foretold


def record(
    seed: int, experiments: int, train_s: float, write: Callable[[dict[str, Any]], None],
    rule: bool = False,
) -> None:  # fmt: skip
    """One search of the real agent under the real keep rule; ``rule`` ends hopeless screens."""
    tinylm.TRAIN_S = train_s
    script = (tinylm.WORKLOAD / "train.py").read_text()
    taken, number, role, known, own = 0, 0, "baseline", Known(), list[Complete]()

    def measure(text: str) -> float | None:
        nonlocal taken, role
        taken += 1
        value, said = tinylm.run(text, 10_000 * (seed + 1) + taken)
        if number:
            role = "incumbent" if text == referee.incumbent else "fresh" if role else "screen"
        run = track(said, NAME)
        points = [[round(at, 3), short(each)] for at, each in zip(run.at, run.values, strict=True)]
        row = {"seed": seed, "experiment": number, "role": role, "value": short(value)}
        write(row | {"curve": points})
        complete = Complete(run, value if value is not None else math.nan)
        at = _ended_at(row, run, ours, known) if rule and role == "screen" else None
        if at is not None:
            i = run.at.index(at) + 1
            cut = Track(False, run.at[:i], run.values[:i], run.at[i - 1])
            found = hopeless.judge(cut, known.field())
            assert found is not None
            write({"seed": seed, "experiment": number, "ended_at": round(found.at, 3)})
            raise EndedError(found.foretold)
        (known.kept[-1] if role in ("baseline", "incumbent") else own).append(complete)
        return value

    referee: Referee[str] = Referee(measure, script)
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(Task("tinylm", tinylm.AXES, script, none, none), Path(folder), seed)
        agent.begin(referee.recorded)
        for number in range(1, experiments + 1):
            role, own = "", []
            text = agent.ask()
            size = tokens_added({"train.py": referee.incumbent}, {"train.py": text})
            try:
                status, value = referee.experiment(text, size)
            except EndedError as ended:
                status, value = Status.DISCARD, ended.foretold
                referee.decided += 1
            agent.tell(status, value)
            known.decided += 1
            if status is Status.KEEP:
                known.kept.append(own)
            write({"seed": seed, "experiment": number, "status": status.value,
                   "value": short(value), "recorded": short(referee.recorded)})  # fmt: skip
    truth = [tinylm.bits_per_byte(referee.incumbent, 1000 - each) for each in tinylm.TRUTH_SEEDS]
    write({"seed": seed, "truth": [short(each) for each in truth]})


def none(*_: object) -> None:
    return None


def short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def live(seeds: Sequence[int], experiments: int, train_s: float) -> None:
    """The same searches with and without runs ended: training time, and the true final best."""
    known = {(head["seed"], head["train_s"]): rows for head, rows in searches(RECORDED)}
    print(f"{'':8}{'all runs to their end':>28}{'hopeless ones ended':>28}")
    for seed in seeds:
        whole = known.get((seed, train_s), [])
        if sum("status" in row for row in whole) != experiments:
            whole = []
            record(seed, experiments, train_s, whole.append)
        ended: list[dict[str, Any]] = []
        record(seed, experiments, train_s, ended.append, rule=True)
        print(f"seed {seed:3}{_summary(whole):>28}{_summary(ended):>28}", flush=True)


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    runs = sum("role" in row for row in rows)
    saved = sum(1 - row["ended_at"] for row in rows if "ended_at" in row)
    return f"{runs - saved:8.1f} runs, best {_best(rows):.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--record", type=Path)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--seeds", default="0,1", type=lambda text: [*map(int, text.split(","))])
    parser.add_argument("--experiments", type=int, default=40)
    parser.add_argument("--train-s", type=float, default=0.7)
    args = parser.parse_args()
    if not args.record and not args.live:
        return report(RECORDED)
    tinylm.prepare()
    if args.live:
        live(args.seeds, args.experiments, args.train_s)
        return 0
    with args.record.open("a") as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
            file.flush()

        for seed in args.seeds:
            write({"seed": seed, "train_s": args.train_s})
            record(seed, args.experiments, args.train_s, write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
