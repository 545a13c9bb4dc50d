"""A task with everything in it: setup, data, an agent, a command, an evaluation and a guard."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Toy

AGENT = """\
#!/bin/sh
[ -f lessons.md ] && { echo "be brief" >lessons.md; exit 0; }
[ -n "$AGENT_FAILS" ] && { echo "no credit" >&2; exit 7; }
[ -n "$AGENT_REPEATS" ] && { date '+# %N' >>train.py; exit 0; }
sleep PAUSE
awk -v now="$(date +%N)" '
/^LR/ { printf "LR = %.6f\\n", 0.1 + ($3 - 0.1) / 2; next }
/^STAMP/ { printf "STAMP = \\"%s\\"\\n", now; next }
{ print }' train.py >new
cat new >train.py; rm new
grep '^LR' train.py
"""
TRAIN = """\
import os, time
LR = 0.5
STAMP = ""
time.sleep(PAUSE)
with open(os.environ["AUTORESEARCH_OUT"] + "/answer", "w") as file:
    file.write(str(LR))
print("trained")
"""
EVALUATE = """\
import os, time
from _random import Random  # what random is made of, and imported in no time
time.sleep(PAUSE)
noise = (Random(int(os.environ["AUTORESEARCH_SEED"])).random() - 0.5) / 289
with open(os.environ["AUTORESEARCH_OUT"] + "/answer") as answer, open("data/target") as target:
    print("loss:", (float(answer.read()) - float(target.read())) ** 2 + noise)
"""
PREPARE = """\
import os, time
time.sleep(PAUSE)
os.makedirs("data", exist_ok=True)
with open("data/target", "w") as target:
    target.write("0.1")
"""
CHECK = "import time; time.sleep(PAUSE); print('ok')\n"
SCRIPTS = ("agent.sh", "train.py", "evaluate.py", "check.py", "prepare.py")


def story(root: Path, *, pause_s: float = 0.0) -> Toy:
    """Make the task; each of its programs takes ``pause_s``."""
    files = {
        "agent.sh": AGENT,
        "train.py": TRAIN,
        "evaluate.py": EVALUATE,
        "prepare.py": PREPARE,
        "check.py": CHECK,
    }
    sections = {
        "task": 'editable = ["train.py"]\ndata = ["data/"]\nhidden = ["data/target"]',
        "run": 'command = "python3 train.py"\nsetup = "python3 prepare.py"\nbudget = "5s"',
        "metric": 'name = "loss"\nevaluate = "python3 evaluate.py"',
        "guard": 'command = "python3 check.py"',
        "keep": "confirm = 1",
        "agent": (
            'use = "command"\nenv = ["AGENT_FAILS", "AGENT_REPEATS"]\n'
            '[agent.command]\nargv = ["./agent.sh"]\n'
            '[agent.replay]\ndir = "patches"'
        ),
    }
    files = {name: text.replace("PAUSE", f"{pause_s:g}") for name, text in files.items()}
    return Toy(root, {**files, "patches/README": "none yet\n"}, sections).create()
