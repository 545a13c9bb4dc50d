"""``autoresearch check``: prove, before a night of compute, that the task can be measured here."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from .. import config, git, registry, sandbox
from ..bench import Bench, Places
from ..config import ContractError
from ..errors import AutoresearchError, UserError
from ..executors.local import LocalExecutor
from ..git import REGULAR, Store
from ..run import CHECK, FOLDER
from ..sandbox import Sandbox
from ..scope import Scope
from ..scratch import fresh
from ..types import Contract, Json, Outcome, Sample
from ..workspace import Workspace
from . import task, words

SAMPLES = 3
NIGHT_S = 8 * 3600
# Of a discarded experiment, and of one whose screen passes and is confirmed.
SAMPLES_PER_EXPERIMENT = 1.7


@dataclass(slots=True)
class Finding:
    """What check found: ``problems`` refuse a run, ``notes`` are worth knowing."""

    problems: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    crippled: Sample | None = None

    def problem(self, key: str, value: str, fix: str) -> None:
        self.problems.append({"file": "autoresearch.toml", "key": key, "value": value, "fix": fix})


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--unconfined", is_flag=True, help="Run the task's code with your own rights.")
@click.option("--agent", help="Only find out whether this agent is ready to work.")
@click.option("--no-ask", is_flag=True, help="With --agent: do not ask its model anything.")
def check(folder: Path, as_json: bool, unconfined: bool, agent: str | None, no_ask: bool) -> None:
    """Prove that the task can be measured here.

    Validates the contract, proves how strongly this machine confines, runs setup, the baseline
    and its guards, and audits the metric: is it repeatable, does an emptied file score worse, how
    small a gain can be told from noise, how many experiments fit into a night. Takes three
    samples; writes nothing but .autoresearch/check.

    With --agent: is it installed, has it a key or a login, can it edit a file? A coding agent is
    asked to add a line to a file in a folder of its own, which costs a few tokens.
    """
    if agent is not None:
        _check_agent(agent, folder, as_json=as_json, unconfined=unconfined, ask=not no_ask)
        return
    path = task.contract_path(folder)
    found = sandbox.probe()
    try:
        contract = config.load(path)
    except ContractError as error:
        if not as_json:
            raise
        problems = [
            {"file": p.file, "key": p.key, "value": p.value, "fix": p.fix} for p in error.problems
        ]
        body = {"version": 1, "ok": False, **_level(found), "problems": problems}
        click.echo(json.dumps(body))
        raise SystemExit(2) from None
    box = sandbox.require(found, unconfined=unconfined)
    say = (lambda _: None) if as_json else click.echo
    say(f"contract   {path}")
    say(f"level      {box.level.value}" + (f" ({box.reason})" if box.reason else ""))
    for i, lack in enumerate(sandbox.not_guaranteed(box)):
        say(f"{'' if i else 'not held':10} {lack}")
    if how := sandbox.raise_level(box):
        say(f"raise it   {how}")
    finding = asyncio.run(audit(contract, box, say))
    if as_json:
        click.echo(json.dumps(finding_json(contract, box, finding)))
    else:
        show(contract, finding)
    if finding.problems:
        raise SystemExit(2)


def _check_agent(name: str, folder: Path, *, as_json: bool, unconfined: bool, ask: bool) -> None:
    """Whether an agent can work, for the task here if there is one."""
    from .agent import examine  # noqa: PLC0415

    try:
        path = task.contract_path(folder)
    except UserError:
        choice, root = config.agent(name), folder
    else:
        choice, root = config.load(path, agent=name).agents[0], path.parent
    box = sandbox.require(sandbox.probe(), unconfined=unconfined)
    findings = examine(choice, root, box, ask=ask)
    click.echo(json.dumps(findings.json()) if as_json else "\n".join(findings.lines()))
    if findings.problem:
        raise SystemExit(2)


async def audit(
    contract: Contract, box: Sandbox, say: Callable[[str], None], new: git.Edits | None = None
) -> Finding:
    """Setup, guards, samples of HEAD with different seeds, and one of an emptied candidate.

    ``new`` are files to add to HEAD, as a task has them that is proposed only.
    """
    finding = await _measure(contract, box, say, new or {})
    _judge(contract, finding)
    return finding


async def _measure(
    contract: Contract, box: Sandbox, say: Callable[[str], None], new: git.Edits
) -> Finding:
    registry.agent(contract.agents[0], contract.root)
    repository = git.repository_root(contract.root)
    base = git.head(repository)
    places = Places(contract.root / FOLDER / CHECK, repository, contract.root)
    fresh(places.run)
    git.exclude(repository, f"{FOLDER}/")
    store, executor = Store.create(places.run / "store.git"), registry.executor(contract)
    bench = Bench(contract, places, store, base, box, executor, here=LocalExecutor())
    finding = Finding()
    scope, dirty = Scope(contract.task), git.uncommitted(repository)
    if changed := [name for name in task.names(contract, dirty) if scope.editable(name)]:
        finding.notes.append(
            f"uncommitted changes are not measured: {', '.join(changed)}; run refuses them"
            " without --dirty"
        )
    try:
        store.adopt(repository, base)
        if new:
            base = bench.base = store.seal(base, new, "Proposed", "refs/check/proposed")
        if contract.run.setup is not None:
            say(f"setup      {' '.join(contract.run.setup)} ...")
            await bench.setup()
        for k in range(SAMPLES):
            say(f"sample {k + 1}   {' '.join(contract.run.command)} ...")
            began = time.monotonic()
            sample = await bench.measure(base, 0, k, seed=k + 1)
            finding.samples.append(sample)
            finding.took_s.append(time.monotonic() - began)
            if sample.outcome is not Outcome.OK:
                log = places.sample(0, k) / "run.log"
                finding.problem("run.command", sample.reason, f"read {log}, mend it and commit")
                return finding
        if contract.guards:
            say(f"guards     {len(contract.guards)} ...")
            report = await bench.guard(base, 0, 0, ())
            if not report.passed:
                finding.problem("guard.command", report.reason, "mend the guard or the code")
        workspace = Workspace(store, bench.scope, places.inner)
        if not workspace.editable_files(base):
            finding.problem(
                "task.editable", str(list(contract.task.editable)), "name files that are committed"
            )
            return finding
        victim = _largest(workspace, base)
        say(f"cripple    empty {victim} ...")
        empty = store.seal(base, {victim: (REGULAR, b"")}, "Emptied", "refs/check/crippled")
        try:
            finding.crippled = await bench.measure(empty, 1, 0, seed=1)
        except AutoresearchError as error:
            finding.notes.append(f"an emptied {victim} breaks the evaluation: {error.message}")
        if bench.account == "sampling":
            finding.notes.append(
                "processor time of children that nobody waits for is only sampled here: this"
                " account may not make a control group, nor use perf_event_open"
                " (kernel.perf_event_paranoid above 2)"
            )
    finally:
        await bench.close()
        store.close()
    return finding


def _largest(workspace: Workspace, commit: str) -> str:
    """The editable file that must matter: a package's ``__init__.py`` may be empty anyway."""
    sources = workspace.sources(commit)
    return max(sources, key=lambda path: len(sources[path]))


def _judge(contract: Contract, finding: Finding) -> None:
    values = [sample.value for sample in finding.samples if sample.value is not None]
    crippled = finding.crippled.value if finding.crippled else None
    metric = contract.metric
    if contract.suite is not None:
        _judge_test(contract, finding, values, crippled)
    elif crippled is not None and values and not metric.better(statistics.mean(values), crippled):
        finding.problem(
            "metric",
            f"an emptied editable file scores {crippled:.6g}, the baseline"
            f" {statistics.mean(values):.6g}",
            "the metric does not depend on the editable file; measure something it does",
        )
    if metric.self_reported and contract.suite is None:
        finding.notes.append(
            "the score is self-reported: printed by code the agent may edit; add metric.evaluate"
            " to measure it from outside"
        )
    if said := words.busy([each.contention.share for each in finding.samples]):
        finding.notes.append(f"this machine is {said}")


def _judge_test(
    contract: Contract, finding: Finding, values: list[float], crippled: float | None
) -> None:
    """Whether failing tests can be counted here, and what an emptied file does to them."""
    if crippled is not None and values and crippled < min(values):
        finding.problem(
            "guard.command",
            f"with an emptied editable file {crippled:g} tests fail, else {min(values):g}",
            "it must not help to leave code out; see that the tests need the editable files",
        )
    if values and not any(values):
        finding.notes.append("it passes already; a run would end at once")
    if len(set(values)) > 1:
        shown = ", ".join(f"{value:g}" for value in values)
        finding.notes.append(f"flaky: {shown} tests failed; only two passes in a row end a run")
    suite = contract.suite
    assert suite is not None
    if not suite.runner and suite.expect_failing is None:
        finding.notes.append(
            "its runner is not known, so failing is 0 or 1, by the exit code; to see progress:"
            " guard.expect_failing = '(\\d+) failed'"
        )
    if not suite.runner and suite.expect is None:
        finding.notes.append(
            "code that ends the test early with exit code 0 would pass; to refuse that:"
            " guard.expect = '(\\d+) passed'"
        )
    tallies = [sample.tally for sample in finding.samples if sample.tally is not None]
    if contract.agents[0].use == "search":
        finding.notes.append("the agent search only tunes numbers: name a coding agent in [agent]")
    if suite.runner == "go" and tallies and tallies[0].passed is None:
        finding.notes.append("go does not say which tests pass, nor what is skipped: add -v")
    finding.notes.append(
        "the number is self-reported: tests and the code that agents edit share a process"
    )


def _noise(finding: Finding) -> float | None:
    values = [sample.value for sample in finding.samples if sample.value is not None]
    return statistics.stdev(values) if len(values) > 1 else None


def _smallest_gain(noise: float) -> float:
    """The gain told apart at 99 % by four fresh samples of each side (one-sided z = 2.33)."""
    return float(2.33 * noise * (2 / 4) ** 0.5)


def finding_json(contract: Contract, box: Sandbox, finding: Finding) -> dict[str, Json]:
    """The object of ``check --json``."""
    values = [sample.value for sample in finding.samples if sample.value is not None]
    noise = _noise(finding)
    problems: list[Json] = [dict(problem) for problem in finding.problems]
    return {
        "version": 1,
        "ok": not finding.problems,
        **_level(box),
        "problems": problems,
        "baseline": statistics.mean(values) if values else None,
        "noise": noise,
        "smallest_gain": _smallest_gain(noise) if noise is not None else None,
        "self_reported": contract.metric.self_reported,
        "notes": list[Json](finding.notes),
    }


def _level(box: Sandbox) -> dict[str, Json]:
    """How strongly this machine confines, what that leaves open, and how to raise it."""
    return {
        "level": box.level.value,
        "not_guaranteed": list[Json](sandbox.not_guaranteed(box)),
        "raise": sandbox.raise_level(box) or None,
    }


def show(contract: Contract, finding: Finding) -> None:
    """Print what was found."""
    values = [sample.value for sample in finding.samples if sample.value is not None]
    if values:
        noise = _noise(finding) or 0.0
        wall_s = statistics.mean(finding.took_s)
        click.echo(f"baseline   {contract.metric.name} {statistics.mean(values):.6g}")
        click.echo(
            f"noise      {noise:.3g} between seeds; four fresh samples tell a gain of"
            f" {_smallest_gain(noise):.3g}"
            if noise
            else "noise      none: different seeds give the same value (an exact task)"
        )
        night = NIGHT_S / (wall_s * SAMPLES_PER_EXPERIMENT)
        click.echo(f"speed      {wall_s:.1f} s a sample, about {night:,.0f} experiments a night")
    if finding.crippled is not None:
        value = finding.crippled.value
        said = finding.crippled.outcome.value if value is None else f"scores {value:.6g}"
        click.echo(f"crippled   an emptied editable file: {said}")
    for note in finding.notes:
        click.echo(f"note       {note}")
    for problem in finding.problems:
        click.echo(f"problem    {problem['key']}: {problem['value']}")
        click.echo(f"           fix: {problem['fix']}")
    click.echo("ready: autoresearch run" if not finding.problems else "not ready")
