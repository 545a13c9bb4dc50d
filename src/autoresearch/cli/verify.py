"""``autoresearch verify``: which of the keeps survive a second look, with fresh seeds?"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from .. import config, registry
from ..bench import Bench
from ..errors import UserError
from ..executors.local import LocalExecutor
from ..journal.verification import Verification
from ..journal.view import RunView
from ..run import Run
from ..sandbox import Sandbox
from ..types import Contract
from ..verify import Verifier
from . import stop, words
from .live import watch
from .run import Begin, confine, hold, interruptible
from .views import print_table, read, verification_json

SAMPLES = 8


def _seconds(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else config.duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--tag", help="Name of the run (default: the latest).")
@click.option("--samples", type=click.IntRange(2, 1000), default=SAMPLES, show_default=True,
              help="Fresh samples of each commit.")  # fmt: skip
@click.option("--each", is_flag=True, help="Also measure what every kept step contributes.")
@click.option("--budget", callback=_seconds, metavar="TIME",
              help="Give each run this long, such as 30m: does the gain transfer?")  # fmt: skip
@click.option("--unconfined", is_flag=True, help="Run edited code with your own rights.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    folder: Path,
    tag: str | None,
    samples: int,
    each: bool,
    budget: float | None,
    unconfined: bool,
    as_json: bool,
) -> None:
    """Measure the baseline and the best again, with fresh seeds: is the gain real?

    On the sealed split where the task has one. With --each, what every kept step contributes, by
    leaving it out; what does not survive is offered undone, as a branch. Rows never change, and
    neither do your files. Stopped with Ctrl-C, the same command goes on.

    Exit codes: 0 the recorded gain reproduces, 2 your input, 3 it does not, 4 an engine holds this
    run, 130 interrupted.
    """
    contract, view, _ = read(folder, tag)
    if len(view.kept) < 2:
        raise UserError(
            f"run {view.tag} has kept nothing yet: there is no gain to verify",
            fix="autoresearch run goes on, autoresearch log lists what was tried",
        )
    box = confine(Begin(unconfined=unconfined))
    with hold(contract, Begin(tag=view.tag, uncommitted="leave")) as held:
        with watch(contract, held.view, stream=sys.stderr,
                   log=held.places.run / "engine.log") as listen:  # fmt: skip
            held.listeners.append(listen)
            record = _measure(held, _longer(contract, budget), box, samples, each)
            held.listeners.remove(listen)
        if record is None:
            click.echo("interrupted: what was measured is kept, the same command goes on", err=True)
            sys.exit(130)
        if record.abandoned:
            raise UserError(
                record.abandoned,
                fix=f"read the logs in {held.places.verification(record.number)}",
            )
        if as_json:
            body = {"version": 1, "tag": held.view.tag, **verification_json(held.view, record)}
            click.echo(json.dumps(body))
        else:
            _print(contract, held.view, record)
    assert record.result is not None
    sys.exit(0 if record.result["reproduces"] else 3)


def _longer(contract: Contract, budget_s: float | None) -> Contract:
    """The contract with another budget, and with the timeout in proportion."""
    if budget_s is None:
        return contract
    return replace(contract, run=contract.run.lasting(budget_s))


def _measure(
    held: Run, contract: Contract, box: Sandbox, samples: int, each: bool
) -> Verification | None:
    """Verify until done or interrupted, then with None."""
    bench = Bench(
        contract, held.places, held.store, held.view.base, box, registry.executor(contract),
        here=LocalExecutor(), sealed=bool(contract.task.sealed),
    )  # fmt: skip
    pressed = False

    def press() -> None:
        nonlocal pressed
        pressed = True
        click.echo("stopping after the sample in flight (Ctrl-C again: now)", err=True)

    verifier = Verifier(held, bench, stop=lambda: pressed or stop.asked(held.places.run))

    async def work() -> Verification | None:
        try:
            return await verifier.verify(samples, each=each)
        except StopAsyncIteration:
            return None
        finally:
            await bench.close(keep=held.view.leases)

    return interruptible(work, press)


def _print(contract: Contract, view: RunView, record: Verification) -> None:
    found, metric = record.result, contract.metric
    assert found is not None
    where = ", on the sealed split" if record.sealed else ""
    if record.budget_s != contract.run.budget_s:
        where += f", with a budget of {record.budget_s:g} s"
    click.echo(f"{metric.name}, {metric.direction} is better{words.best_marks(contract, view)};"
               f" {record.samples} fresh samples each{where}")  # fmt: skip
    claim, gain = found["recorded"], found["gain"]
    half = (claim["high"] - claim["low"]) / 2
    lines = [
        ("baseline", words.number(found["baseline"])),
        ("best", f"{words.number(found['incumbent'])}  by #{record.experiment}"),
        ("total gain", words.difference(gain) if gain else "-"),
        ("recorded", words.number(claim["gain"]) + (f" ± {half:.2g}" if half else ", exact")),
        ("reproduces", f"{'yes' if found['reproduces'] else 'NO'}: {found['reason']}"),
    ]
    for name, said in lines:
        click.echo(f"  {name:<12} {said}")
    if found["steps"]:
        click.echo()
        print_table(_steps(view, found["steps"]))
    if found["offer"]:
        _print_offer(found["offer"])


def _steps(view: RunView, steps: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", overflow="fold")
    table.add_column("contribution", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what it was", overflow="fold")
    for step in steps:
        found = step["contribution"]
        what = words.description(view.experiments[step["experiment"]], 60)
        also = "".join(f" #{number}" for number in step["together"])
        table.add_row(
            f"#{step['experiment']}" + (f" with{also}" if also else ""),
            words.difference(found) if found else "-", step["verdict"],
            Text(f"{what}: {step['reason']}" if step["reason"] else what),
        )  # fmt: skip
    return table


def _print_offer(offer: dict[str, Any]) -> None:
    named = ", ".join(f"#{number}" for number in offer["undone"])
    change = f"; the change is {words.difference(offer['change'])}" if offer["change"] else ""
    click.echo(f"\nundoing {named}: {offer['reason']}{change}")
    if offer["branch"]:
        click.echo(f"to take it: git merge {offer['branch']}")
