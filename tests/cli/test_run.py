"""``autoresearch run`` end to end: real git, real processes, real kills."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch import config
from autoresearch.cli.run import Begin, hold, interruptible
from autoresearch.journal.view import Role, RunView
from autoresearch.run import held_by_engine
from tests.conftest import IDENTITY, TRAIN, Toy, counting, lr_patch, until

MakeToy = Callable[..., Toy]

# Each call halves the distance of LR from its optimum, from whatever parent it is given.
HALVE = """\
#!/bin/sh
awk '/^LR/ { printf "LR = %.6f\\n", 0.1 + ($3 - 0.1) / 2; next } { print }' train.py >new
cat new >train.py; rm new
grep '^LR' train.py
"""


def lr(value: str) -> str:
    return f"sed -i 's/^LR = .*/LR = {value}/' train.py"


def measuring_a_candidate(view: RunView) -> bool:
    """Whether a sample of an experiment after the baseline is in flight."""
    unfinished = view.unfinished
    return unfinished is not None and unfinished.number > 0 and unfinished.in_flight is not None


def test_a_run_finds_and_delivers_a_better_model(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 3")
    head = task.git("rev-parse", "HEAD")
    done = task.call("run")
    assert task.statuses() == ["keep", "keep", "keep", "keep"]
    view = task.view()
    assert view.incumbent is not None
    assert task.git("rev-parse", view.branch) == view.incumbent.commit
    assert task.git("log", "--format=%s", f"{head}..{view.branch}").splitlines() == [
        "LR = 0.150000", "LR = 0.200000", "LR = 0.300000",
    ]  # fmt: skip
    assert task.git("rev-parse", "HEAD") == head
    assert task.git("status", "--porcelain") == ""
    header, *rows = task.rows()
    assert header == ["commit", "loss", "memory_gb", "status", "description"]
    assert [row[3] for row in rows] == task.statuses()
    assert rows[1][0] == task.git("rev-parse", f"{view.branch}~2")[:7]
    assert "ended: limit reached: experiments 3" in done.stdout
    task.git("fsck")


def test_the_value_of_a_keep_rests_on_fresh_samples_only(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 1")
    task.call("run")
    kept = task.experiment(1)
    fresh = kept.values(Role.FRESH)
    assert kept.decision is not None
    assert kept.decision.value == pytest.approx(sum(fresh) / len(fresh))
    assert kept.values(Role.SCREEN)[0] not in fresh
    seeds = [each.sample.seed for each in kept.taken]
    assert len(set(seeds)) == len(seeds)


def test_how_experiments_fail(toy: MakeToy) -> None:
    agent = counting(
        "echo 'raise SystemExit(\"out of ideas\")' >train.py",
        "echo 'import time; time.sleep(60)' >train.py",
        "echo 'print(\"loss: nan\")' >train.py",
        "echo 'print(\"no number here\")' >train.py",
        "echo x >>autoresearch.toml; " + lr("0.2"),
        "rm prepare.py; " + lr("0.2"),
        "true",
        "rm train.py; ln -s /etc/passwd train.py",
        "echo stray >stray.txt; " + lr("0.9"),
        lr("0.9"),
    )
    task = toy(
        {"agent.sh": agent, "prepare.py": "pass\n"},
        run='command = "python3 train.py"\nbudget = "3s"\ntimeout = "6s"',
        limits="experiments = 10",
    )
    task.call("run")
    decisions = [each.decision for each in task.view().decided[1:]]
    found = [(d.status.value, d.reason) for d in decisions if d]
    assert found[0] == ("crash", "exit code 1: out of ideas")
    assert found[1] == ("timeout", "killed after 6 s")
    assert found[2][0] == "crash" and "nan" in found[2][1]
    assert found[3] == ("crash", "no loss was printed")
    assert found[4][0] == "rejected" and "autoresearch.toml" in found[4][1]
    assert found[5][0] == "rejected" and "prepare.py" in found[5][1]
    assert found[6][0] == "rejected" and "no change" in found[6][1]
    assert found[7][0] == "rejected" and "train.py" in found[7][1]
    assert found[8][0] == "discard"
    assert task.experiment(9).dropped == ("stray.txt",)
    assert found[9][0] == "rejected" and "exact repeat of #9" in found[9][1]
    assert [row[1] for row in task.rows()[2:5]] == ["0.000000"] * 3
    assert task.rows()[6][0] == "-"


def test_over_the_budget_is_a_timeout(toy: MakeToy) -> None:
    agent = counting("echo 'import time; time.sleep(2.5)' >>train.py")
    task = toy(
        {"agent.sh": agent},
        run='command = "python3 train.py"\nbudget = "2s"\ntimeout = "8s"',
        limits="experiments = 1",
    )
    task.call("run")
    decision = task.experiment(1).decision
    assert decision is not None and decision.status.value == "timeout"
    assert "used 2." in decision.reason and "of 2.2 s" in decision.reason


def test_processor_time_is_a_budget_too(toy: MakeToy) -> None:
    loop = "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done"
    burn = f"import subprocess; subprocess.run(['sh', '-c', '{loop}'])".replace("$", "\\$")
    agent = counting(f'echo "{burn}" >>train.py', "echo 'import time; time.sleep(1.5)' >>train.py")
    task = toy(
        {"agent.sh": agent},
        run='command = "python3 train.py"\nbudget = "0.5s"\nclock = "cpu"\ntimeout = "30s"',
        limits="experiments = 2",
    )
    task.call("run")
    assert task.statuses()[:2] == ["keep", "timeout"]
    # Sleeping costs nothing on this clock; whether the noise then favours it is another matter.
    assert task.statuses()[2] in ("discard", "keep")


def test_training_on_inside_the_answer_is_charged(toy: MakeToy) -> None:
    evaluate = (
        "import os\n"
        "os.write(int(os.environ['AUTORESEARCH_ASK_FD']), b'?')\n"
        "print('loss:', os.read(int(os.environ['AUTORESEARCH_ANSWER_FD']), 99).decode())\n"
    )
    honest = (
        "import sys\nif '--answer' in sys.argv:\n    sys.stdin.read(1)\n"
        "    {}\n    sys.stdout.write('{}')\n"
    )
    loop = "sum(range(120_000_000))"
    task = toy(
        {
            "evaluate.py": evaluate,
            "train.py": honest.format("pass", 1.0),
            "agent.sh": f"#!/bin/sh\ncat >train.py <<'END'\n{honest.format(loop, 0.1)}END\n",
        },
        run='command = "python3 train.py"\nbudget = "0.5s"\nclock = "cpu"',
        metric='name = "loss"\nevaluate = "python3 evaluate.py"\n'
        'answer = "python3 train.py --answer"',
        limits="experiments = 1",
    )
    task.call("run")
    decision = task.experiment(1).decision
    assert decision is not None and decision.status.value == "timeout"
    assert "s in its answer" in decision.reason
    shown = task.call("show", "1").stdout
    assert "used" in shown


def test_guards_stand_between_screen_and_keep(toy: MakeToy) -> None:
    agent = counting(lr("0.3") + "; echo 'broken = True' >>train.py", lr("0.3"))
    guard = "print('2 passed')\nassert 'broken' not in open('train.py').read(), 'it is broken'\n"
    task = toy(
        {"agent.sh": agent, "check.py": guard},
        guard="command = \"python3 check.py\"\nexpect = '(\\d+) passed'",
        limits="experiments = 2",
    )
    task.call("run")
    assert task.statuses() == ["keep", "discard", "keep"]
    refused = task.experiment(1)
    assert refused.decision is not None and "guard failed" in refused.decision.reason
    assert "broken" in refused.decision.reason
    assert refused.values(Role.FRESH) == ()


def test_a_guard_may_not_lose_tests(toy: MakeToy) -> None:
    count = "print(open('train.py').read().count('#'), 'passed')\n"
    agent = counting(lr("0.3") + "; sed -i '/^#/d' train.py")
    task = toy(
        {"agent.sh": agent, "check.py": count, "train.py": TRAIN + "# one\n# two\n"},
        guard="command = \"python3 check.py\"\nexpect = '(\\d+) passed'",
        limits="experiments = 1",
    )
    task.call("run")
    decision = task.experiment(1).decision
    assert decision is not None and decision.status.value == "discard"
    assert "0 is less than the baseline's 2" in decision.reason


def test_a_baseline_that_fails_is_the_persons_to_mend(toy: MakeToy) -> None:
    task = toy({"train.py": "raise SystemExit('no data')\n"})
    done = task.call("run", code=2)
    assert "the baseline cannot be measured: exit code 1: no data" in done.stderr
    assert "run.log" in done.stderr
    task = Toy(task.root.with_name("other"), {}, {"guard": 'command = "false"'}).create()
    assert "the baseline fails its guard" in task.call("run", code=2).stderr


def test_an_agent_that_fails_makes_no_row(toy: MakeToy) -> None:
    task = toy({"agent.sh": "#!/bin/sh\necho no credit >&2; exit 7\n"})
    engine = task.start("run")
    until(task.saw(lambda view: view.paused))
    assert "exit code 7" in (task.view().paused or "")
    assert "no credit" in (task.view().paused or "")
    task.call("stop")
    assert engine.wait(20) == 0
    assert task.statuses() == ["keep"]


def test_protected_evaluation_takes_the_number_from_outside(toy: MakeToy) -> None:
    evaluate = (
        "import json, os, pathlib\n"
        "out = pathlib.Path(os.environ['AUTORESEARCH_OUT'])\n"
        "answer = float((out / 'answer').read_text())\n"
        "truth = float(pathlib.Path('data/val').read_text())\n"
        "usage = json.loads(pathlib.Path(os.environ['AUTORESEARCH_USAGE']).read_text())\n"
        "assert usage['cpu_s'] > 0\n"
        "print('loss:', abs(answer - truth))\n"
    )
    prepare = (
        "import pathlib\npathlib.Path('data').mkdir()\n"
        "pathlib.Path('data/train').write_text('3')\npathlib.Path('data/val').write_text('5')\n"
        "cache = pathlib.Path.home() / '.cache' / 'toy'\ncache.mkdir(parents=True)\n"
        "(cache / 'tokens').write_text('cached')\n"
    )
    train = (
        "import os, pathlib\n"
        "assert (pathlib.Path.home() / '.cache' / 'toy' / 'tokens').read_text() == 'cached'\n"
        "guess = float(open('data/train').read())\n"
        "pathlib.Path(os.environ['AUTORESEARCH_OUT'], 'answer').write_text(str(guess))\n"
        "print('loss: 0.0')\n"
    )
    agent = counting(
        "sed -i 's/float(.*)/float(open(\"data\\/val\").read() or 1)/' train.py",
        "sed -i 's/guess = .*/guess = 4.5/' train.py",
    )
    task = toy(
        {"agent.sh": agent, "evaluate.py": evaluate, "prepare.py": prepare, "train.py": train},
        task='editable = ["train.py"]\ndata = ["data/"]\nhidden = ["data/val"]',
        run='command = "python3 train.py"\nsetup = "python3 prepare.py"\nbudget = "5s"',
        metric='name = "loss"\nevaluate = "python3 evaluate.py"',
        limits="experiments = 2",
    )
    task.call("run")
    view = task.view()
    assert view.experiments[0].decision is not None
    assert view.experiments[0].decision.value == 2.0
    # What is hidden reads as empty: the peek is worth the fallback's 1, not the truth's 5. Where
    # nothing can be shown at another place, it does not exist.
    peek = [each.sample.value for each in view.experiments[1].taken]
    assert (task.statuses()[1], peek) in (("discard", [4.0]), ("crash", [None]))
    assert task.statuses()[::2] == ["keep", "keep"]
    assert view.experiments[2].decision is not None
    assert view.experiments[2].decision.value == 0.5


def test_secrets_of_the_person_reach_neither_agent_nor_candidate(
    toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "sk-123456")
    agent = "#!/bin/sh\nenv >env.txt; cat env.txt >>train.py; " + lr("0.4") + "\necho tried\n"
    train = TRAIN + "print(dict(os.environ))\n"
    task = toy({"agent.sh": agent, "train.py": train}, limits="experiments = 1")
    task.call("run")
    logs = [path for path in task.run_folder.rglob("*") if path.is_file()]
    assert logs
    assert not [path for path in logs if b"sk-123456" in path.read_bytes()]


def test_named_variables_reach_the_agent_only(
    toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "sk-123456")
    agent = '#!/bin/sh\necho "key $SECRET_KEY"; ' + lr("0.4") + "\n"
    task = toy(
        {"agent.sh": agent, "train.py": TRAIN + "print(dict(os.environ))\n"},
        agent='use = "command"\nenv = ["SECRET_KEY"]\n[agent.command]\nargv = ["./agent.sh"]',
        limits="experiments = 1",
    )
    task.call("run")
    assert "key sk-123456" in (task.run_folder / "experiments/1/agent.log").read_text()
    logs = list(task.run_folder.rglob("run.log"))
    assert logs and not [path for path in logs if "sk-123456" in path.read_text()]


def test_only_one_engine_holds_a_run(toy: MakeToy) -> None:
    task = toy({"agent.sh": "#!/bin/sh\nsleep 60\n"})
    engine = task.start("run")
    until(task.saw(lambda view: view.engine_started))
    done = task.call("run", code=4)
    assert "another engine holds run" in done.stderr
    engine.kill()
    engine.wait()


@pytest.mark.parametrize(
    "tag", ["../out", "a b", "x:y", ".hidden", "", "check", "a..b", "-x", "a.lock"]
)
def test_a_tag_names_one_directory_and_one_branch(toy: MakeToy, tag: str) -> None:
    task = toy()
    before = sorted(task.root.parent.rglob("*"))
    assert "cannot name a run" in task.call("run", f"--tag={tag}", code=2).stderr
    assert sorted(task.root.parent.rglob("*")) == before


def test_an_agent_that_is_not_there_is_an_error_at_once(toy: MakeToy) -> None:
    task = toy(agent='use = "command"\n[agent.command]\nargv = ["./no-agent.sh"]')
    for command in ("check", "run"):
        assert "there is no" in task.call(command, code=2).stderr


def test_a_stronger_level_than_required_will_do(toy: MakeToy) -> None:
    task = toy(limits="experiments = 0")
    task.call("run", "--require", "landlock")


def test_stop_ends_after_the_sample_in_flight_and_run_continues(toy: MakeToy) -> None:
    slow = TRAIN + "import time; time.sleep(1)\n"
    task = toy({"agent.sh": HALVE, "train.py": slow})
    engine = task.start("run")
    until(task.saw(measuring_a_candidate))
    assert "ends after the sample in flight" in task.call("stop").stdout
    assert engine.wait(20) == 0
    view = task.view()
    assert view.ended and view.end_reason == "stopped by request"
    assert view.unfinished is None or view.unfinished.in_flight is None
    taken = sum(len(each.taken) for each in view.experiments.values())
    task.call("run", "--max-experiments", "1")
    assert task.statuses()[:2] == ["keep", "keep"]
    assert sum(len(each.taken) for each in task.view().experiments.values()) > taken
    assert "not running" in task.call("stop").stdout


def test_a_long_run_says_why_it_takes_its_time(
    toy: MakeToy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 0")
    task.call("run", "--tag", "long")
    contract = config.load(task.root / "autoresearch.toml")
    with hold(contract, Begin()):
        assert capsys.readouterr().err == ""
    monkeypatch.setattr("autoresearch.cli.run.LONG_BYTES", 1 << 10)
    with hold(contract, Begin()):
        assert capsys.readouterr().err == "checking run long, whose journal has 0 MiB ...\n"


def test_ctrl_c_once_finishes_the_sample_twice_ends_now(toy: MakeToy) -> None:
    slow = TRAIN + "import time; time.sleep(20 if LR < 0.5 else 0)\n"
    task = toy(
        {"agent.sh": HALVE, "train.py": slow},
        run='command = "python3 train.py"\nbudget = "30s"',
    )
    engine = task.start("run")
    until(task.saw(measuring_a_candidate))
    engine.send_signal(signal.SIGHUP)
    engine.send_signal(signal.SIGINT)
    until(lambda: task.view().stop_requested)
    assert engine.poll() is None
    began = time.monotonic()
    engine.send_signal(signal.SIGINT)
    assert engine.wait(10) == 130
    assert time.monotonic() - began < 5
    assert task.view().end_reason == "interrupted"
    assert task.view().unfinished is not None


def test_ctrl_c_while_the_event_loop_is_made_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    make, before, pressed = asyncio.new_event_loop, signal.getsignal(signal.SIGINT), asyncio.Event()

    def interrupted() -> asyncio.AbstractEventLoop:
        signal.raise_signal(signal.SIGINT)
        return make()

    async def work() -> str:
        await pressed.wait()
        return "stopped"

    monkeypatch.setattr(asyncio.events, "new_event_loop", interrupted)
    assert interruptible(work, pressed.set) == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def leftovers(task: Toy) -> list[str]:
    done = subprocess.run(
        ["pgrep", "-f", str(task.root)], capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def test_a_killed_engine_is_called_killed(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE, "train.py": TRAIN + "import time; time.sleep(1)\n"})
    task.call("run", "--max-experiments", "0")
    engine = task.start("run")
    until(task.saw(measuring_a_candidate))
    engine.kill()
    engine.wait()
    until(lambda: not leftovers(task), 10)
    state = json.loads(task.call("status", "--json").stdout)
    assert (state["state"], state["reason"]) == (
        "stopped",
        "the engine was killed; autoresearch run continues",
    )
    assert "Traceback" not in task.said.read_text()


def test_a_contract_that_measurements_depend_on_may_not_change(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 1")
    task.call("run")
    contract = task.root / "autoresearch.toml"
    text = contract.read_text()
    contract.write_text(text.replace("experiments = 1", "experiments = 2"))
    task.call("run")
    assert len(task.statuses()) == 3
    contract.write_text(text.replace('budget = "5s"', 'budget = "9s"'))
    done = task.call("run", code=2)
    assert "run.budget" in done.stderr and "--new" in done.stderr
    task.call("run", "--new")
    assert len(list((task.root / ".autoresearch").glob("*/journal.db"))) == 2


def test_uncommitted_changes_are_named(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 1")
    (task.root / "train.py").write_text(TRAIN.replace("0.5", "0.4"))
    done = task.call("run", code=2)
    assert "uncommitted changes of editable files: train.py" in done.stderr
    task.call("run", "--dirty")
    baseline = task.experiment(0).decision
    assert baseline is not None and baseline.value == pytest.approx(0.09, abs=0.01)


def test_a_branch_in_use_is_left_alone(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 1")
    task.call("run", "--tag", "t")
    task.git("checkout", "--quiet", "autoresearch/t")
    head = task.git("rev-parse", "HEAD")
    done = task.call("run", "--max-experiments", "2")
    assert task.git("rev-parse", "HEAD") == head
    assert task.git("status", "--porcelain") == ""
    assert "results now arrive as autoresearch/t-2" in done.stdout
    assert task.git("rev-parse", "autoresearch/t-2~1") == head


def test_target_and_limits_have_exit_codes(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, metric='name = "loss"\ntarget = 0.05')
    assert "target reached: loss 0.0" in task.call("run").stdout
    task.call("run", "--new", "--target", "0.0001", "--max-experiments", "1", code=3)


def test_replay_applies_patches_in_order(toy: MakeToy) -> None:
    task = toy(
        {
            "patches/1-better.patch": lr_patch("0.3"),
            "patches/2-stale.patch": lr_patch("0.2"),
            "patches/3-best.patch": lr_patch("0.1", old="0.3"),
        },
        agent='use = "replay"\n[agent.replay]\ndir = "patches"',
    )
    assert "nothing more to propose" in task.call("run").stdout
    assert task.statuses() == ["keep", "keep", "rejected", "keep"]
    assert [row[4] for row in task.rows()[2:3]] == ["1-better"]


def test_a_subdirectory_of_a_repository_is_a_task_too(tmp_path: Path) -> None:
    outer = Toy(tmp_path / "outer", {"train.py": "outer\n"}).create()
    inner = Toy(outer.root / "deep" / "task", {"agent.sh": HALVE}, {"limits": "experiments = 1"})
    inner.create()
    subprocess.run(["rm", "-rf", str(inner.root / ".git")], check=True)
    outer.git("add", "--all")
    outer.git(*IDENTITY, "commit", "--quiet", "-m", "Inner")
    inner.call("run")
    assert inner.statuses() == ["keep", "keep"]
    branch = inner.view().branch
    changed = outer.git("diff", "--name-only", "main", branch)
    assert changed == "deep/task/train.py"


def test_detach_goes_on_in_the_background(toy: MakeToy) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 2")
    assert "running in the background" in task.call("run", "--detach").stdout
    until(lambda: len(task.statuses()) == 3 and not held_by_engine(task.run_folder))
    assert task.view().end_reason == "limit reached: experiments 2"


def test_unconfined_runs_and_says_so(toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy({"agent.sh": HALVE}, limits="experiments = 1")
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "none")
    assert "cannot be confined" in task.call("run", code=2).stderr
    done = task.call("run", "--unconfined")
    assert "nothing is confined" in done.stderr
    assert task.statuses() == ["keep", "keep"]
    assert task.experiment(1).taken[0].sample.level.value == "none"
