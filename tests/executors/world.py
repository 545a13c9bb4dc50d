"""A task whose samples last as long as a test wants, and count their own starts."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Toy, until
from tests.started import Running

# Counts its own starts outside of what a run looks at, and lasts as long as the test wants.
TRAIN = """\
import os, random, time
LR = 0.5
with open(STARTS, "a") as file:
    print(os.environ["AUTORESEARCH_EXPERIMENT"], os.environ["AUTORESEARCH_SEED"], file=file)
while os.path.exists(HOLD) and os.environ["AUTORESEARCH_EXPERIMENT"] != "0":
    time.sleep(0.05)
noise = random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.001)
print("loss:", (LR - 0.1) ** 2 + noise)
"""
AGENT = """\
#!/bin/sh
awk '/^LR/ { printf "LR = %.6f\\n", 0.1 + ($3 - 0.1) / 4; next } { print }' train.py >new
cat new >train.py; rm new
"""


class World:
    """A task on a cluster: ``hold`` keeps all samples running but those of the baseline."""

    def __init__(self, root: Path, parallel: str) -> None:
        self.hold, self.starts_file = root / "hold", root / "starts"
        train = f"STARTS, HOLD = {str(self.starts_file)!r}, {str(self.hold)!r}\n{TRAIN}"
        self.task = Toy(
            root / "task", {"train.py": train, "agent.sh": AGENT},
            {
                "run": f'command = "python3 train.py"\nbudget = "60s"\nreadable = ["{root}"]',
                "keep": "confirm = 1",
                "parallel": parallel,
            },
        ).create()  # fmt: skip

    def starts(self) -> list[str]:
        return self.starts_file.read_text().splitlines() if self.starts_file.exists() else []

    def begin(self) -> Running:
        """Start a run, and wait until the first sample of its first experiment is running."""
        self.hold.touch()
        engine = self.task.start("run", "--tag", "t", "--max-experiments", "1", "--unconfined")
        until(lambda: any(line.startswith("1 ") for line in self.starts()), 120)
        return engine

    def finish(self) -> None:
        self.hold.unlink(missing_ok=True)
        self.task.call("run", "--tag", "t", "--max-experiments", "1", "--unconfined")
