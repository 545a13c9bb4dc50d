"""``status``, ``log`` and ``show``: a run read from its journal, for people or as JSON."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import config, inbox, limits
from ..bench import read_text
from ..calibration import Calibration, expectation
from ..errors import UserError
from ..git import Store
from ..journal.ideas import Ideas, State
from ..journal.verification import Verification
from ..journal.view import Experiment, Role, RunView
from ..looks import Looks, looks
from ..run import FOLDER, held_by_engine
from ..snapshot import recent
from ..text import block, clean, excerpt
from ..types import Contention, Contract, Json, Outcome, Status
from . import task, words
from .live import amount

LOG_LINES = 20
SHOWN = 50
WIDE = 1000
SHARE_SHOWN = 0.01


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every reading command has."""
    command = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")(command)
    return task.options(command)


def read(folder: Path, tag: str | None) -> tuple[Contract, RunView, Path]:
    """The run's own contract, its state and its directory."""
    path, run = _find(folder, tag)
    view = task.read_view(path.parent, run.name)
    return _contract(view, path, run), view, run


def read_recent(folder: Path, tag: str | None) -> tuple[Contract, RunView, Path, Calibration]:
    """The same without old experiments, at a cost that does not grow; and the calibration."""
    path, run = _find(folder, tag)
    view, found = recent(run)
    contract = _contract(view, path, run)
    for each in view.decided:
        found.add(each, contract.metric)
    return contract, view, run, found


def _find(folder: Path, tag: str | None) -> tuple[Path, Path]:
    """The paths of the contract and of the run's directory."""
    path = task.contract_path(folder)
    return path, path.parent / FOLDER / task.existing_tag(path.parent, tag)


def _contract(view: RunView, path: Path, run: Path) -> Contract:
    if not view.contract:
        raise UserError(
            f"run {run.name!r} has not begun", fix="autoresearch run starts or continues it"
        )
    return config.from_snapshot(view.contract, path)


@click.command()
@_options
def status(folder: Path, tag: str | None, as_json: bool) -> None:
    """Say where a run stands."""
    contract, view, run, calibration = read_recent(folder, tag)
    inbox.foresee(view, run)
    found = status_json(contract, view, run, calibration)
    if as_json:
        click.echo(json.dumps(found))
        return
    reason = f" ({clean(str(found['reason']), 400)})" if found["reason"] else ""
    click.echo(f"run          {view.tag}, {found['state']}{reason}")
    if found["state"] == "running":
        click.echo(f"phase        {words.doing(view)}")
    click.echo(f"level        {view.level.value}")
    for name, each in limits_json(contract, view).items():
        assert isinstance(each, dict)
        used = each["used"]
        if each["max"] is not None and isinstance(used, int | float):
            click.echo(f"limit        {name} {amount(name, used)} of {each['max']:g}")
    if said := _ideas(view.ideas):
        click.echo(f"ideas        {said}; autoresearch idea list")
    if said := looks(view.decided).words():
        click.echo(f"screen       {said}")
    if said := calibration.words():
        click.echo(f"agent        {said}")
    click.echo(words.summary(contract, view, run).lstrip("\n"))


def status_json(
    contract: Contract, view: RunView, run: Path, calibration: Calibration
) -> dict[str, Json]:
    """The object of ``status --json``."""
    best, baseline = view.incumbent, view.experiments.get(0)
    state, reason = _state(view, run)
    incumbent: Json = None
    if best is not None and best.decision is not None:
        made = best.decision
        incumbent = {
            "experiment": best.number, "commit": best.commit, "value": made.value,
            "low": made.low, "high": made.high,
        }  # fmt: skip
    return {
        "version": 1,
        "tag": view.tag,
        "state": state,
        "reason": reason,
        "level": view.level.value,
        "phase": words.phase(view),
        "incumbent": incumbent,
        "baseline": {"value": baseline.decision.value}
        if baseline is not None and baseline.decision is not None
        else None,
        "counts": {each.value: count for each, count in view.counts.items()},
        "limits": limits_json(contract, view),
        "branch": view.branch,
        "results_tsv": str(run / "results.tsv"),
        "verified": verification_json(view, view.verified) if view.verified else None,
        "ideas": {each.value: view.ideas.counts[each] for each in State},
        "expectations": expectations_json(calibration),
        "screen": screen_json(looks(view.decided)),
    }


def _ideas(ideas: Ideas) -> str:
    """How many ideas there are in each state, and notes; empty where there are none."""
    counts = [f"{count} {state.value}" for state in State if (count := ideas.counts[state])]
    if notes := len(ideas.notes):
        counts.append(f"{notes} note{'s' * (notes > 1)}")
    return ", ".join(counts)


def expectations_json(found: Calibration) -> dict[str, Json] | None:
    """How right agents were in what they expected, over the run and lately; None without any."""
    if not found.measured:
        return None
    return {
        "measured": found.measured, "right": found.right, "last": len(found.last),
        "last_right": found.last_right, "last_mean_error": found.mean_error,
    }  # fmt: skip


def screen_json(found: Looks) -> dict[str, Json] | None:
    """What first looks did to the experiments that are at hand; None where there were none."""
    if not found.taken:
        return None
    return {
        "looks": found.taken, "ended": found.ended, "both": found.both,
        "rank_correlation": found.ranks,
    }  # fmt: skip


def verification_json(view: RunView, record: Verification) -> dict[str, Json]:
    """A verification with a result, as ``verify --json`` and ``status --json`` show it."""
    assert record.result is not None
    steps: list[Json] = [
        step | {"description": words.description(view.experiments[step["experiment"]], 200)}
        for step in record.result["steps"]
    ]
    return {
        "experiment": record.experiment, "milestone": record.milestone,
        "split": "sealed" if record.sealed else "visible", "budget_s": record.budget_s,
        "samples": record.samples, "started": record.started, "ended": record.ended,
        **record.result, "steps": steps,
    }  # fmt: skip


def limits_json(contract: Contract, view: RunView) -> dict[str, Json]:
    """What is used of each limit, and how much there is."""
    return {
        name: {"used": amount, "max": getattr(contract.limits, name)}
        for name, amount in limits.used(view, view.active_s).items()
    }


def _state(view: RunView, run: Path) -> tuple[str, str | None]:
    if held_by_engine(run):
        paused = view.paused if view.verifying is None else None
        if paused and view.paused_until:
            paused = f"{paused}; goes on by itself at {view.paused_until:%H:%M:%S} UTC"
        return ("paused", paused) if paused else ("running", None)
    done = ("limit", "target", "passed", "the agent has nothing")
    if view.ended and view.end_reason.startswith(done):
        return "done", view.end_reason
    killed = "the engine was killed" + (" while it was paused" if view.held else "")
    return "stopped", view.end_reason or f"{killed}; autoresearch run continues"


@click.command()
@_options
@click.option(
    "--limit", type=click.IntRange(0),
    help=f"Only the last N rows, 0 for all; {SHOWN} without --json.",
)  # fmt: skip
def log(folder: Path, tag: str | None, as_json: bool, limit: int | None) -> None:
    """List the experiments of a run, newest last."""
    limit = (0 if as_json else SHOWN) if limit is None else limit
    contract, view, *_ = read_recent(folder, tag)
    if view.forgotten and not 0 < limit <= len(view.decided):
        contract, view, _ = read(folder, tag)
    rows = view.decided[-limit:] if limit else view.decided
    earlier = view.forgotten + len(view.decided) - len(rows)
    if as_json:
        body: list[Json] = [
            row_json(contract, each) | {"verified": view.survival.get(each.number)} for each in rows
        ]
        click.echo(json.dumps({"version": 1, "rows": body}))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    score = contract.metric.name + words.marks(contract)
    for name in ("#", "commit", score, "change", "status", "GiB"):
        justify: Any = "left" if name in ("commit", "status") else "right"
        table.add_column(Text(name), justify=justify, no_wrap=True)
    table.add_column("description", overflow="fold")
    for each in rows:
        assert each.decision is not None
        said = words.description(each, 120) + (" (open)" if each.open else "") + words.why(each)
        said += words.fallen(view, each)
        table.add_row(
            str(each.number), each.commit[:7] or "-", words.number(each.decision.value),
            words.change(contract, each), each.decision.status.value,
            f"{each.memory_gb:.2f}" if each.own else "-",
            Text(said), style=words.STYLES[each.decision.status],
        )  # fmt: skip
    print_table(table)
    if earlier:
        click.echo(f"{earlier} earlier rows: --limit 0 shows all", err=True)


def print_table(table: Table) -> None:
    """Print a table: within a terminal's width, elsewhere one line a row."""
    if sys.stdout.isatty():
        Console().print(table)
        return
    out = io.StringIO()
    width = None if "COLUMNS" in os.environ else WIDE
    Console(file=out, width=width, color_system=None).print(table)
    click.echo("\n".join(line.rstrip() for line in out.getvalue().splitlines()))


def row_json(contract: Contract, experiment: Experiment) -> dict[str, Json]:
    """One experiment as a row of ``log --json``."""
    made = experiment.decision
    expected = expectation(experiment.expected, contract.metric, experiment.was)
    return {
        "experiment": experiment.number,
        "commit": experiment.commit or None,
        "parent": experiment.parent or None,
        "value": made.value if made else None,
        "low": made.low if made else None,
        "high": made.high if made else None,
        "samples": len(experiment.own),
        "memory_gb": experiment.memory_gb if experiment.own else None,
        "status": made.status.value if made else None,
        "reason": made.reason if made else None,
        "description": words.description(experiment, 200),
        "kind": experiment.kind.value,
        "agent": experiment.agent,
        "cost_usd": experiment.cost_usd,
        "tokens": experiment.tokens,
        "started": experiment.started,
        "decided": experiment.decided or None,
        "self_reported": contract.metric.self_reported,
        "open": experiment.open,
        "expected": experiment.expected or None,
        "expected_change": expected.change if expected else None,
    }


@click.command()
@click.argument("number", type=int)
@_options
@click.option("--diff", is_flag=True, help="Only the change, as a patch.")
@click.option("--log", "only_log", is_flag=True, help="Only the log of its last sample.")
def show(
    number: int, folder: Path, tag: str | None, as_json: bool, diff: bool, only_log: bool
) -> None:
    """Show one experiment: the idea, its samples, the decision and the change."""
    contract, view, run = read(folder, tag)
    experiment = view.experiments.get(number)
    if experiment is None:
        last = max(view.experiments, default=None)
        raise UserError(
            f"run {view.tag} has no experiment {number}",
            fix="there is none yet"
            if last is None
            else f"choose one from 0 to {last}; autoresearch log lists them",
        )
    patch = _patch(experiment, run)
    tail = _log_tail(experiment, run)
    if as_json:
        body = _show_json(contract, experiment, patch, tail)
        click.echo(json.dumps(body | {"verified": view.survival.get(number)}))
    elif diff:
        # Into a file or git apply it goes as it is, to a terminal without what would act on it.
        sys.stdout.write(block(patch) if sys.stdout.isatty() else patch)
    elif only_log:
        click.echo(block(candidate_log(experiment, run)), nl=False)
    else:
        _print(contract, view, experiment, patch, tail, run)


def _show_json(
    contract: Contract, experiment: Experiment, patch: str, tail: str
) -> dict[str, Json]:
    samples: list[Json] = [
        {
            "k": each.k, "role": each.role.value, "commit": each.sample.commit,
            "seed": each.sample.seed, "value": each.sample.value,
            "outcome": each.sample.outcome.value, "reason": each.sample.reason or None,
            "wall_s": each.sample.usage.wall_s, "cpu_s": each.sample.usage.cpu_s,
            "level": each.sample.level.value, "node": each.sample.node,
            "hardware": each.sample.hardware,
            "void": each.sample.outcome is Outcome.VOID,
            "contention": _contention_json(each.sample.contention),
        }
        for each in experiment.taken
    ]  # fmt: skip
    return {
        "version": 1, **row_json(contract, experiment), "samples": samples,
        "hypothesis": experiment.hypothesis or None,
        "why": experiment.reason or None, "combines": experiment.combines,
        "idea": experiment.idea, "dropped": list[Json](experiment.dropped),
        "diff": patch or None, "log_tail": tail or None,
    }  # fmt: skip


def _contention_json(found: Contention) -> dict[str, Json] | None:
    return {"share": found.share, **asdict(found)} if found.core_s else None


def _print(
    contract: Contract, view: RunView, experiment: Experiment, patch: str, tail: str, run: Path
) -> None:
    made = experiment.decision
    console = Console(highlight=False, markup=False, emoji=False)
    title = Text(f"#{experiment.number} {words.description(experiment, 200)}", "bold")
    console.print(title + words.marks(contract, experiment))
    if made is not None:
        verdict = Text(made.status.value, words.STYLES[made.status])
        console.print(verdict + Text(f": {clean(made.reason, 400)}", ""))
    else:
        console.print("not decided yet")
    idea = view.ideas.get(experiment.idea)
    for name, value in (
        ("idea", f"{idea.number}: {idea.text}" if idea else ""),
        ("why", experiment.reason),
        ("hypothesis", experiment.hypothesis), ("expected", experiment.expected),
        ("commit", experiment.commit), ("parent", experiment.parent), ("agent", experiment.agent),
        ("code", f"{experiment.tokens_added:+d} tokens" if experiment.commit else ""),
        ("dropped", ", ".join(experiment.dropped)),
        ("repeats", f"#{experiment.repeats}, which was void" if experiment.repeats else ""),
        ("verified", view.survival.get(experiment.number, "")),
        ("files", str(run / "experiments" / str(experiment.number))),
    ):  # fmt: skip
        if value:
            console.print(Text(f"{name:11} {clean(value, 400)}"), soft_wrap=True)
    if experiment.taken:
        print_table(_samples(contract, experiment))
    if made is not None and made.status in (Status.CRASH, Status.TIMEOUT) and tail:
        console.print(Text("\nlast lines of its log", "bold"))
        console.print(Text(tail), soft_wrap=True)
    if patch:
        console.print()
        for each in block(patch).splitlines():
            color = {"+": "green", "-": "red", "@": "cyan"}.get(each[:1], "")
            console.print(Text(each, color), soft_wrap=True)


def _samples(contract: Contract, experiment: Experiment) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("sample", "for", "seed", contract.metric.name, "wall s", "cpu s", "GiB"):
        left = name == "for"
        table.add_column(Text(name), justify="left" if left else "right", no_wrap=True)
    table.add_column("outcome", overflow="fold")
    for each in experiment.taken:
        sample = each.sample
        said = sample.outcome.value + (f": {clean(sample.reason, 200)}" if sample.reason else "")
        if sample.answer_cpu_s > 0:
            said += f", its answer took {sample.answer_cpu_s:.2f} s"
        if sample.outcome is not Outcome.VOID and sample.contention.share >= SHARE_SHOWN:
            said += f", {100 * sample.contention.share:.0f} % of its cores' time went to others"
        table.add_row(
            str(each.k), each.role.value, str(sample.seed), words.number(sample.value),
            f"{sample.usage.wall_s:.2f}", f"{sample.usage.cpu_s:.2f}", f"{sample.memory_gb:.2f}",
            Text(said),
        )  # fmt: skip
    return table


def _patch(experiment: Experiment, run: Path) -> str:
    if not experiment.commit or experiment.number == 0:
        return ""
    return Store(run / "store.git").diff(experiment.parent, experiment.commit)


def candidate_log(experiment: Experiment, run: Path) -> str:
    """What the candidate printed in its last sample: its command, else its answers."""
    own = [each.k for each in experiment.taken if each.role is not Role.INCUMBENT]
    k = own[-1] if own else experiment.attempts - 1
    folder = run / "experiments" / str(experiment.number) / "samples" / str(k)
    return read_text(folder / "run.log") or read_text(folder / "answer.log")


def _log_tail(experiment: Experiment, run: Path) -> str:
    return excerpt(candidate_log(experiment, run), LOG_LINES, 400)
