"""``autoresearch run --executor slurm`` on a real Slurm that misbehaves as clusters do."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch import sandbox
from autoresearch.bench import Places
from autoresearch.failpoint import VARIABLE
from autoresearch.run import FOLDER
from autoresearch.types import Outcome
from tests.cli.test_early_end import KNOWN, SLOW, expect, was_ended
from tests.cli.test_early_end import TRAIN as PROGRESS
from tests.conftest import Toy, counting, until
from tests.executors.cluster import Cluster
from tests.executors.world import World
from tests.faults.story import story
from tests.invariants import check_invariants

SLURM = 'executor = "slurm"\n[parallel.slurm]\npoll = "0.5s"\nlost = "2s"\n'


@pytest.fixture
def world(tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "none")  # so that a program can say when it runs
    made = World(tmp_path, SLURM)
    yield made
    made.hold.unlink(missing_ok=True)


def active(slurm: Cluster) -> str:
    """The jobs that have not ended."""
    return slurm.call("squeue", "--noheader", "--format=%j %T %N")


def test_a_killed_engine_finds_its_job_again_and_goes_on_without_a_cluster(world: World) -> None:
    engine = world.begin()
    engine.kill()
    engine.wait()
    before = world.starts()
    world.hold.unlink()
    world.finish()
    view = check_invariants(world.task)
    assert [each.decision.status.value for each in view.decided if each.decision] == ["keep"] * 2
    first = view.experiments[1].taken[0]
    assert (first.k, first.sample.outcome) == (0, Outcome.OK)
    assert world.starts()[: len(before)] == before
    assert len(set(world.starts())) == len(world.starts()), "a sample was taken twice"
    assert {each.sample.node for each in view.experiments[1].taken} <= {"n1", "n2"}
    argv = ("run", "--executor", "local", "--max-experiments", "2", "--unconfined")
    world.task.call(*argv)
    view = check_invariants(world.task)
    own = view.experiments[2].own
    assert len(view.decided) == 3 and own and own[0].node not in ("n1", "n2")


@pytest.mark.parametrize("name", ["journal.attempt:6", "sample.taken:6", "journal.sample:6"])
def test_killed_there_a_run_takes_no_sample_twice(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sixth sample is the first after the baseline's."""
    monkeypatch.setenv(VARIABLE, name)
    argv = ("run", "--tag", "t", "--max-experiments", "1", "--unconfined")
    world.task.call(*argv, code=-signal.SIGKILL)
    monkeypatch.delenv(VARIABLE)
    world.finish()
    assert world.task.statuses() == ["keep", "keep"]
    view = check_invariants(world.task)
    # One that was announced and not submitted is announced again.
    assert view.experiments[1].taken[0].k == (name == "journal.attempt:6")
    assert len(set(world.starts())) == len(world.starts()), "a sample was taken twice"


def test_a_killed_verification_finds_its_job_again(world: World) -> None:
    world.finish()
    world.hold.touch()
    argv = ("verify", "--samples", "2", "--unconfined")
    verifying = world.task.start(*argv)
    until(lambda: any(line.startswith("2 ") for line in world.starts()), 120)
    verifying.kill()
    verifying.wait()
    world.hold.unlink()
    world.task.call(*argv, code=None)
    view = check_invariants(world.task)
    assert [len(each.taken) for each in view.verifications] == [4]
    assert view.verifications[0].attempts == 4 and view.verifications[0].result
    assert len(set(world.starts())) == len(world.starts()), "a sample was taken twice"


def test_a_lost_node_costs_one_attempt(world: World, slurm: Cluster) -> None:
    engine = world.begin()
    node = next(line.split()[2] for line in active(slurm).splitlines() if "RUNNING" in line)
    slurm.kill(node)  # what runs there goes on, as it does where a network breaks
    try:
        until(lambda: len([line for line in world.starts() if line[0] == "1"]) == 2, 120)
        world.hold.unlink()
        assert engine.wait(120) == 0
    finally:
        slurm.start_node(node)
        slurm.wait(lambda: slurm.call("sinfo", "-h", "-o", "%T").split() == ["idle"])
    lost, again = world.task.view().experiments[1].taken[:2]
    assert (lost.sample.outcome, again.sample.outcome) == (Outcome.VOID, Outcome.OK)
    assert "NODE_FAIL" in lost.sample.reason and lost.sample.seed == again.sample.seed
    assert again.sample.node not in ("", node)
    check_invariants(world.task)


def test_a_scheduler_that_does_not_answer_is_waited_for(world: World, slurm: Cluster) -> None:
    engine = world.begin()
    slurm.stop("controller")
    try:
        until(lambda: "Slurm:" in (world.task.view().paused or ""), 120)
        world.hold.unlink()  # the job ends while nobody can say so
    finally:
        slurm.start_controller()
    assert engine.wait(120) == 0
    view = check_invariants(world.task)
    outcomes = [each.sample.outcome for each in view.experiments[1].taken]
    reasons = [each.sample.reason for each in view.experiments[1].taken]
    assert set(outcomes) == {Outcome.OK}, f"an attempt was given up: {reasons}"
    assert len(set(world.starts())) == len(world.starts()), "a sample was taken twice"


def test_what_ends_an_engine_ends_its_job(world: World, slurm: Cluster) -> None:
    engine = world.begin()
    engine.terminate()
    assert engine.wait(120) == 130
    assert active(slurm) == ""
    world.finish()
    assert world.task.statuses() == ["keep", "keep"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ('partition = "nosuch"', "Slurm refuses the job: sbatch: error: invalid partition"),
        ('args = ["--gres=gpu:7"]', "Slurm refuses the job: sbatch: error: "),
    ],
)
def test_what_slurm_never_takes_is_an_input_error(
    option: str, said: str, toy: Callable[..., Toy], slurm: Cluster
) -> None:
    task = toy(parallel=f'executor = "slurm"\n[parallel.slurm]\n{option}')
    done = task.call("run", "--max-experiments", "1", code=2)
    assert said in done.stderr and "[parallel.slurm]" in done.stderr


def test_a_job_whose_turn_never_comes_is_taken_out_of_the_queue(
    toy: Callable[..., Toy], slurm: Cluster
) -> None:
    waits = 'args = ["--begin=now+1hour"]\nqueue_timeout = "3s"\npoll = "1s"'
    task = toy(parallel=f'executor = "slurm"\n[parallel.slurm]\n{waits}')
    engine = task.start("run", "--max-experiments", "1", "--unconfined")
    until(task.saw(lambda view: "waited for its turn for 3 s" in (view.paused or "")), 60)
    until(lambda: active(slurm) == "", 10)
    engine.terminate()
    assert engine.wait(60) == 130
    assert active(slurm) == ""
    sample = task.view().experiments[0].taken[0].sample
    assert sample.outcome is Outcome.VOID and "for its turn" in sample.reason


def test_without_slurm_there_is_an_input_error(
    toy: Callable[..., Toy],
) -> None:
    done = toy().call("run", "--executor", "slurm", "--max-experiments", "1", code=2)
    assert "sbatch is not on the PATH" in done.stderr


HOSTILE = """\
import glob, json, os, pathlib
NAMES = ("result.json", "heartbeat", "claim", "job.json", "cancel")
out = pathlib.Path(os.environ["AUTORESEARCH_OUT"])
folders = ["/", ".", "..", "../..", "/out", "/tmp", ATTEMPTS, *glob.glob(ATTEMPTS + "/*")]

def readable(name):
    try:
        return open(name).read() or "empty"
    except OSError:
        return ""
names = [f"{folder}/{name}" for folder in folders for name in NAMES]
print(*filter(readable, names))
for name in names:
    try:
        pathlib.Path(name).write_text(json.dumps({"nonce": "x", "steps": []}))
    except OSError:
        pass
(out / "answer").write_text("0.5")
print({name for name in os.environ if "SLURM" in name or "KEY" in name})
"""


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_a_candidate_on_a_node_cannot_reach_what_its_runner_shares(
    level: str, tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", level)
    if (how := sandbox.probe()).level.value != level:
        pytest.skip(how.reason)
    monkeypatch.setenv("SOME_API_KEY", "secret")
    task = story(tmp_path / "task")
    places = Places(task.root / FOLDER / "t", task.root, task.root)
    places = places if how.remaps else places.apart()
    hostile = f"ATTEMPTS = {str(places.attempts)!r}\n{HOSTILE}"
    (task.root / "agent.sh").write_text(f"#!/bin/sh\ncat >train.py <<'EOF'\n{hostile}EOF\n")
    contract = task.root / "autoresearch.toml"
    contract.write_text(f"{contract.read_text()}[parallel]\n{SLURM}")
    train = task.root / "train.sh"
    train.write_text(train.read_text().replace("echo trained", "python3 train.py"))
    task.git("commit", "--quiet", "--all", "-m", "Hostile")
    task.call("run", "--tag", "t", "--max-experiments", "1")
    view = check_invariants(task)
    assert task.statuses() == ["keep", "discard"]
    sample = view.experiments[1].taken[0].sample
    assert (sample.level, sample.outcome) == (how.level, Outcome.OK)
    log = task.run_folder / "experiments" / "1" / "samples" / "0" / "run.log"
    assert log.read_text() == "\nset()\n"
    assert view.experiments[0].guards_passed and view.experiments[0].hardware
    assert (log.parent / "result.json").exists() and not places.attempts.exists()


def test_a_task_is_checked_and_verified_where_it_will_run(
    toy: Callable[..., Toy], slurm: Cluster
) -> None:
    halve = "#!/bin/sh\nsed -i 's/^LR = .*/LR = 0.2/' train.py\n"
    task = toy({"agent.sh": halve}, keep="confirm = 1", parallel=SLURM)
    assert json.loads(task.call("check", "--json").stdout)["ok"]
    task.call("run", "--max-experiments", "1")
    task.call("verify", "--samples", "2")
    taken = task.view().verifications[0].taken
    assert {sample.node for _, sample in taken} <= {"n1", "n2"}
    check_invariants(task)


def test_who_cancels_the_job_of_a_guard_discards_nothing(
    tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_LEVEL", "none")
    hold = tmp_path / "hold"
    guard = f"while test -e {hold}; do touch {hold}.seen; sleep 0.05; done"
    task = Toy(
        tmp_path / "task", {"guard.sh": f"#!/bin/sh\n{guard}\n"},
        {"guard": 'command = "./guard.sh"', "keep": "confirm = 1", "parallel": SLURM},
    ).create()  # fmt: skip
    hold.touch()
    engine = task.start("run", "--tag", "t", "--max-experiments", "0", "--unconfined")
    until(Path(f"{hold}.seen").exists, 120)
    slurm.call("scancel", "--me")
    until(lambda: "somebody ended the guard's job" in task.said.read_text(), 120)
    hold.unlink()
    assert engine.wait(120) == 0
    assert task.statuses() == ["keep"]


def test_a_run_that_cannot_win_is_ended_on_its_node(tmp_path: Path, slurm: Cluster) -> None:
    run = 'command = "python3 train.py"\nbudget = "5s"\nearly_end = true'
    files = {"agent.sh": counting(*KNOWN, *SLOW), "train.py": PROGRESS}
    task = Toy(tmp_path / "task", files, {"run": run, "parallel": SLURM}).create()
    task.call("run", "--tag", "t", "--executor", "local", "--max-experiments", str(len(KNOWN)))
    task.call("run", "--tag", "t", "--max-experiments", "6")
    view = check_invariants(task)
    assert task.statuses()[5:] == ["discard"] * 2
    for number in (5, 6):
        experiment = view.experiments[number]
        assert was_ended(experiment) is expect(view, number)
        sample = experiment.own[0]
        assert sample.node in ("n1", "n2") and sample.hardware
        if was_ended(experiment):
            assert len(experiment.taken) == 1 and 1.0 < sample.usage.wall_s < 2.3
    assert active(slurm) == ""
