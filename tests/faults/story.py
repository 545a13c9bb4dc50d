"""A task with everything in it: setup, data, an agent, a command, an evaluation and a guard.

Every step of its agent gains fifty times the noise, however many there are.
"""

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
/^LR/ { printf "LR = %.6f\\n", $3 - 0.05; next }
/^STAMP/ { printf "STAMP = \\"%s\\"\\n", now; next }
{ print }' train.py >new
cat new >train.py; rm new
grep '^LR' train.py
"""
CONSTANTS = """\
LR = 0.5
STAMP = ""
"""
# Shell starts in a tenth of the time that Python takes.
TRAIN = """\
sleep PAUSE
sed -n 's/^LR = //p' train.py >"$AUTORESEARCH_OUT/answer"
echo trained
"""
EVALUATE = """\
sleep PAUSE
awk -v seed="$AUTORESEARCH_SEED" -v answer="$(cat "$AUTORESEARCH_OUT/answer")" \\
  -v target="$(cat data/target)" '
BEGIN { srand(seed); printf "loss: %.9f\\n", answer - target + (rand() - 0.5) / 289 }'
"""
PREPARE = """\
sleep PAUSE
mkdir -p data
printf 0.1 >data/target
"""
CHECK = "sleep PAUSE; echo ok\n"
SCRIPTS = ("agent.sh", "train.sh", "evaluate.sh", "check.sh", "prepare.sh")


def story(root: Path, *, pause_s: float = 0.0, confirm: str = "1") -> Toy:
    """Make the task; each of its programs takes ``pause_s``."""
    files = {
        "agent.sh": AGENT,
        "train.py": CONSTANTS,
        "train.sh": TRAIN,
        "evaluate.sh": EVALUATE,
        "prepare.sh": PREPARE,
        "check.sh": CHECK,
    }
    sections = {
        "task": 'editable = ["train.py"]\ndata = ["data/"]\nhidden = ["data/target"]',
        "run": 'command = "sh train.sh"\nsetup = "sh prepare.sh"\nbudget = "5s"',
        "metric": 'name = "loss"\nevaluate = "sh evaluate.sh"',
        "guard": 'command = "sh check.sh"',
        "keep": f"confirm = {confirm}",
        "agent": (
            'use = "command"\nenv = ["AGENT_FAILS", "AGENT_REPEATS"]\n'
            '[agent.command]\nargv = ["./agent.sh"]\n'
            '[agent.replay]\ndir = "patches"'
        ),
    }
    files = {name: text.replace("PAUSE", f"{pause_s:g}") for name, text in files.items()}
    return Toy(root, {**files, "patches/README": "none yet\n"}, sections).create()
