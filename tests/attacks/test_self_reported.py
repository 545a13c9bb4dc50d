"""Where edited code prints the score itself: what is still refused, and that the rest is marked."""

from __future__ import annotations

import json

from ..cli.test_run import MakeToy
from ..conftest import counting

LUCKY = "sed -i 's/int(os.environ\\[\"AUTORESEARCH_SEED\"\\])/7/' train.py"
SHOP = """cat > train.py <<'EOF'
import random
LR = 0.5
noise = min(random.Random(seed).gauss(0, 0.001) for seed in range(1000))
print("loss:", (LR - 0.1) ** 2 + noise)
EOF
"""
FAKE = "sed -i 's/^print.*/print(\"loss:\", 0.001 * noise)/' train.py"


def test_a_lucky_seed_is_not_kept_whether_written_down_or_shopped_for(toy: MakeToy) -> None:
    task = toy(files={"agent.sh": counting(LUCKY, SHOP)})
    task.call("run", "--max-experiments", "2")
    for number in (1, 2):
        decision = task.experiment(number).decision
        assert decision is not None and decision.status.value == "discard"
    shopped = task.experiment(2).decision
    assert shopped is not None and "ignores the seed" in shopped.reason


def test_a_number_that_the_code_says_itself_is_marked_wherever_it_is_shown(toy: MakeToy) -> None:
    task = toy(files={"agent.sh": counting(FAKE)})
    said = task.call("run", "--max-experiments", "1").stdout
    assert task.statuses() == ["keep", "keep"]
    assert "self-reported" in said
    for argv in (["status"], ["log"], ["show", "1"]):
        assert "self-reported" in task.call(*argv).stdout
    rows = json.loads(task.call("log", "--json").stdout)["rows"]
    assert all(row["self_reported"] for row in rows)
