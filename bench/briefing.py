"""What a briefing and the memory cost an agent and us, as a run grows: tokens, bytes, time.

    python bench/briefing.py [--experiments 10000] [--json]

Journals a simulated run straight into its view: ideas in words, a tenth of them kept, some crashed,
each with a log and a curve. A token is taken as four ASCII characters, or one other.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autoresearch import config
from autoresearch.bench import Places
from autoresearch.briefing import CURVES_SHOWN, Known, briefing, tokens_of
from autoresearch.git import Store
from autoresearch.journal import Event, tsv
from autoresearch.journal.view import RunView, sample_body
from autoresearch.memory import Memory
from autoresearch.types import Contract, Kind, Metric, Outcome, Plan, Run, Sample, Status, Task

SHOWN_AT = (10, 100, 1000, 10_000)
WHAT = ("LR", "WIDTH", "dropout", "warm-up", "weight decay", "batch size", "depth", "momentum",
        "initial scale", "attention heads", "label smoothing", "gradient clipping")  # fmt: skip
WHY = "the loss was still falling when the time was over, so a shorter schedule must help"
PROGRAM = "Prefer changes that make the model learn faster in the fixed time.\n" * 60


class Simulated:
    """A run whose experiments are made up."""

    def __init__(self, root: Path) -> None:
        self.rng = random.Random(1)
        self.places = Places(root / "run", root, root)
        self.places.run.mkdir(parents=True)
        self.contract = Contract(
            root / "autoresearch.toml", Task(("train.py",), "lower loss"),
            Run(("python3", "train.py")), Metric("loss", evaluate=("python3", "evaluate.py")),
        )  # fmt: skip
        self.store = Store.create(self.places.run / "store.git")
        self.ref = "refs/autoresearch/b/candidate"
        source = b"".join(b"LINE_%d = %d\n" % (i, i) for i in range(300))
        (root / "train.py").write_bytes(source)
        for argv in (
            ["init", "--quiet"],
            ["add", "train.py"],
            ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "--quiet", "-m", "Start"],
        ):
            subprocess.run(["git", *argv], cwd=root, check=True)
        argv = ["git", "rev-parse", "HEAD"]
        base = subprocess.run(argv, cwd=root, check=True, capture_output=True, text=True)
        self.base = base.stdout.strip()
        self.store.adopt(root, self.base)
        self.source = source
        self.view, self.best = RunView(), 3.0
        self.tell("run_started", tag="b", contract=config.snapshot(self.contract), base=self.base,
                  head=self.base, seed=1, branch="autoresearch/b")  # fmt: skip
        self.memory = Memory(self.places, self.store, self.contract)
        self.results = self.places.run / "results.tsv"
        self.results.write_text(tsv.header("loss"))

    def tell(self, kind: str, number: int | None = None, /, **body: object) -> None:
        event = Event(self.view.seq + 1, "2026-01-01T00:00:00Z", kind, number, body)  # type: ignore[arg-type]
        self.view.apply(event)

    def experiment(self, *, real: bool) -> None:
        """One more; ``real`` with a commit of its own, which takes git's time."""
        number, rng = self.view.next_number, self.rng
        incumbent = self.view.incumbent
        parent = incumbent.commit if incumbent else self.base
        what, other = rng.sample(WHAT, 2)
        low, high = round(rng.random(), 3), round(rng.random(), 3)
        text = f"{what} {low} -> {high}, and less {other} so that it is not regularised twice"
        commit = self.base
        if number and real:
            line = b"LINE_%d = %d\n" % (number % 300, number)
            data = self.source.replace(b"LINE_%d = %d\n" % ((number % 300,) * 2), line)
            edits = {"train.py": ("100644", data)}
            commit = self.store.seal(self.base, edits, text, self.ref)
            parent = self.base
        elif number:
            commit = f"{number:040x}"
        crash = number and rng.random() < 0.1
        keep = not number or (not crash and rng.random() < 0.1)
        gain = abs(rng.gauss(0, 0.001)) * (1 if keep else -1)
        value = None if crash else self.best - gain
        self.tell("opened", number, kind="improve" if number else "baseline", parent=parent,
                  agent="x", hypothesis=WHY)  # fmt: skip
        self.tell("proposed", number, description=text, hypothesis=WHY, expected="-0.002")
        self.tell("sealed", number, commit=commit, tokens_added=rng.randint(-20, 80),
                  fingerprint=f"{number}", form=f"f{number}")  # fmt: skip
        outcome = Outcome.CRASH if crash else Outcome.OK
        told = f"exit code 1: RuntimeError: shapes {rng.randint(1, 99)} and 64 differ"
        sample = Sample(commit, 1, outcome, value, told if crash else "", told=told)
        self.tell("sample", number, k=0, role="screen" if number else "baseline",
                  **sample_body(sample))  # fmt: skip
        status = Status.CRASH if crash else Status.KEEP if keep else Status.DISCARD
        reason = told if crash else f"{value:.6g} is {abs(gain):.3g} off; not worth a confirmation"
        self.tell("decided", number, decision={
            "status": status.value, "reason": reason, "value": value, "gain": gain,
        })  # fmt: skip
        if keep and value is not None:
            self.best = value
        with self.results.open("a") as file:
            file.write(tsv.row(self.view.decided[-1]))
        if real:
            folder = self.places.sample(number, 0)
            folder.mkdir(parents=True)
            (folder / "run.log").write_text(
                "".join(f"step {i} train_loss {3 + 2 / (i + 1):.4f}\n" for i in range(500))
            )

    def measure(self) -> dict[str, float]:
        """What it takes to ask an agent now, as the engine does it."""
        began = time.process_time()
        folder = self.memory.write(self.view)
        shown = {each.number: each for each in self.view.decided[-CURVES_SHOWN:]}
        incumbent = self.view.incumbent
        assert incumbent is not None
        shown[incumbent.number] = incumbent
        curves = {number: self.memory.curves(each) for number, each in shown.items()}
        known = Known(self.memory.lessons, curves, "", PROGRAM, memory="/m", proposal="/p")
        said = briefing(self.view, self.contract, Plan(self.base, Kind.IMPROVE), known)
        took = time.process_time() - began
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {
            "tokens": tokens_of(said), "characters": len(said), "ms": 1000 * took,
            "memory_files": len(files),
            "memory_kb": sum(p.stat().st_size for p in files if p.name != "results.tsv") / 1024,
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    marks = [each for each in SHOWN_AT if each <= options.experiments]
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="autoresearch-briefing-") as folder:
        run = Simulated(Path(folder, "task"))
        for number in range(marks[-1] + 1):
            # Diffs and logs are made for those that a mark will show, and asked for in between.
            near = any(mark - 60 <= number <= mark for mark in marks)
            run.experiment(real=near)
            if near and number:
                found[number] = run.measure()
        run.store.close()
    if options.json:
        print(json.dumps({mark: found[mark] for mark in marks}))
        return 0
    print("experiments  tokens  characters  memory: files, kB  one more asking, ms")
    for mark in marks:
        each = found[mark]
        print(
            f"{mark:11,d}  {each['tokens']:6,.0f}  {each['characters']:10,.0f}"
            f"  {each['memory_files']:13,.0f} {each['memory_kb']:4,.0f}  {each['ms']:19.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
