"""``autoresearch init``: look at a directory, and write the contract that fits it."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click

from .. import config, git, suite
from ..errors import UserError
from ..scope import Scope
from ..types import Task
from . import goal as proposing
from .check import finding_json
from .instructions import agreed, install

BUDGET = re.compile(
    r"^(?:TIME_BUDGET|BUDGET_S|TIME_BUDGET_S|TRAIN_SECONDS)\s*[:=][^\d\n]*"
    r"(\d+(?:\.\d+)?)(?:[ \t]*\*[ \t]*(\d+))?",
    re.M,
)
PRINTED = re.compile(r"print\(\s*f?[\"'](?:\\n)?([A-Za-z_]\w*):\s")
CACHE = re.compile(r"[\"'/]\.cache[\"'/,\s)]+[\"']?([\w.-]+)")
KEYS = {
    "editable": "task.editable", "command": "run.command", "metric": "metric.name",
    "direction": "metric.direction", "evaluate": "metric.evaluate", "guard": "guard.command",
    "budget": "run.budget",
}  # fmt: skip
# The files of each language, and those that are not the program itself.
CODE = {
    "pytest": (".py",), "go": (".go",), "cargo": (".rs",),
    "jest": (".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx"),
}  # fmt: skip
ASIDE = ("setup.py", "noxfile.py", "docs", "build.rs")
HIGHER = ("acc", "score", "auc", "f1", "reward", "throughput", "per_s", "tokens_s", "speed", "ops")


@dataclass(slots=True)
class Found:
    """What a directory says about its task; every value can be overruled by an option."""

    editable: list[str] = field(default_factory=list)
    command: str = ""
    metric: str = ""
    direction: str = ""
    evaluate: str = ""
    guard: str = ""
    setup: str = ""
    budget: str = "5m"
    readable: list[str] = field(default_factory=list)
    gpus: int = 0
    notes: list[str] = field(default_factory=list)
    until_pass: str = ""


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True), default=Path())
@click.option("--editable", multiple=True, help="A file or glob that may be edited; repeatable.")
@click.option("--command", help="What runs one experiment, such as: python train.py")
@click.option("--metric", help="Name of the number that it prints, such as: val_bpb")
@click.option("--direction", type=click.Choice(["lower", "higher"]), help="Which is better.")
@click.option("--evaluate", help="A protected command that prints the number instead.")
@click.option("--guard", help="A command that must pass, such as: pytest -q")
@click.option("--budget", help="Time for one experiment, such as 5m.")
@click.option(
    "--goal", help="What to reach, in a sentence: dry-runs the contract before it is yours."
)
@click.option("--agent", help="With --goal, who proposes it; else whose sessions are instructed.")
@click.option("--env", multiple=True, help="With --goal: a variable for the agent; repeatable.")
@click.option(
    "--login", is_flag=True, help="With --goal: the agent uses a copy of its CLI's login."
)
@click.option(
    "--unconfined", is_flag=True, help="With --goal: run agent and task with your rights."
)
@click.option("--yes", is_flag=True, help="Write what is shown without asking.")
@click.option("--until-pass", help="Instead of a number: a test to make pass, such as: pytest -q")
@click.option("--force", is_flag=True, help="Replace an existing contract.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def init(
    folder: Path,
    editable: tuple[str, ...],
    command: str | None,
    metric: str | None,
    direction: str | None,
    evaluate: str | None,
    guard: str | None,
    budget: str | None,
    goal: str | None,
    agent: str | None,
    env: tuple[str, ...],
    login: bool,
    unconfined: bool,
    yes: bool,
    until_pass: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write autoresearch.toml for the task in a directory.

    In a directory laid out as the original three-file repository (prepare.py, train.py,
    program.md) everything is found. Elsewhere, what cannot be found is asked for, or taken from
    the options. Writes nothing else.

    With --goal "make the API answer faster", the contract is run dry before it is written: the
    number must be repeatable, an emptied file must score worse, the guard must pass. --agent then
    names who reads the repository and proposes it: an agent by its name, or a command line of your
    own such as "./agent.sh {prompt_file}"; without it you are asked. Options fix what they say.

    With --agent and no --goal (claude, codex, opencode, gemini or pi), an agent that you start here
    yourself is told how to loop with `autoresearch try`, in the files that it reads: they are shown
    first, what you wrote in them stays, and a contract that exists already stays as it is.
    """
    root = folder.absolute()
    target = root / config.NAME
    git.head(git.repository_root(root))
    if target.exists() and not force:
        if agent is None or goal is not None:
            raise UserError(f"{target} exists", fix="edit it, or replace it with --force")
        install(root, agent, yes=yes)
        return
    found = look(root)
    given = {
        "editable": list(editable), "command": command, "metric": metric, "direction": direction,
        "evaluate": evaluate, "guard": guard, "budget": budget,
    }  # fmt: skip
    unused = [name for name, value in given.items() if value and name != "editable"]
    if until_pass and unused:
        raise UserError(f"--{unused[0]} has no use with --until-pass", fix="leave it out")
    found = look_for_tests(root, until_pass, editable) if until_pass else look(root)
    for name, value in given.items():
        if value:
            setattr(found, name, value)
    if goal is not None:
        fixed = {KEYS[name]: value for name, value in given.items() if value}
        box = proposing.confined(unconfined=unconfined)
        say = (lambda _: None) if as_json else click.echo
        asked = proposing.Goal(root, goal, fixed, box=box, say=say)
        _reach(asked, found, agent, env, login=login, yes=yes, as_json=as_json)
        return
    if not until_pass:
        _ask(found)
    _check_editable(root, found.editable)
    text = contract_text(found)
    config.parse(text, target)
    target.write_text(text, encoding="utf-8")
    if as_json:
        body = {name: getattr(found, name) for name in found.__slots__}
        click.echo(json.dumps({"version": 1, "file": str(target), **body}))
        return
    click.echo(f"wrote {target}")
    click.echo(text)
    for note in found.notes:
        click.echo(f"note: {note}")
    if agent is not None:
        install(root, agent, yes=yes)
    click.echo("next: autoresearch check")


def _reach(
    asked: proposing.Goal, found: Found, agent: str | None, env: tuple[str, ...], *,
    login: bool, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Have a contract for a goal confirmed by a dry run, show it, and write it after a yes."""
    root = asked.root
    if agent is not None:
        choice = proposing.choose(agent, root, env, login=login)
        confirmed = asyncio.run(asked.propose(choice, contract_text(found)))
    else:
        _ask(found)
        _check_editable(root, found.editable)
        try:
            confirmed = asyncio.run(asked.confirm(proposing.Proposed(contract_text(found))))
        except UserError as error:
            fix = error.fix or "mend it; without --goal, init writes it without a dry run"
            raise UserError(error.message, fix=fix) from None
    if not as_json:
        proposing.present(confirmed)
    if not agreed(yes):
        click.echo("nothing was written")
        return
    written = proposing.write(root, confirmed)
    if as_json:
        body = finding_json(confirmed.contract, asked.box, confirmed.finding)
        click.echo(json.dumps(body | {"files": written}))
        return
    for path in written:
        click.echo(f"wrote {path}")
    names = " ".join(str(Path(path).relative_to(root)) for path in written)
    click.echo(f'next: git add {names} && git commit -m "Add the task", then autoresearch run')


def look(root: Path) -> Found:
    """What the files of a directory say."""
    found = Found()
    train, prepare = root / "train.py", root / "prepare.py"
    python = _python(root)
    if train.is_file():
        found.editable = ["train.py"]
        found.command = f"{python} train.py"
        _read_sources(found, root, [path for path in (train, prepare) if path.is_file()])
        if prepare.is_file():
            _read_prepare(found, prepare, python)
        text = train.read_text(errors="replace")
        if "cuda" in text and shutil.which("nvidia-smi"):
            found.gpus = 1
    if (root / "evaluate.py").is_file():
        found.evaluate = f"{python} evaluate.py"
    found.guard = "" if train.is_file() and prepare.is_file() else _guard(root, python)
    return found


def look_for_tests(root: Path, command: str, editable: tuple[str, ...]) -> Found:
    """What could make a test pass: the code of the test's language that is no test itself.

    Raises:
        UserError: nothing is found, and ``editable`` is empty.
    """
    found = Found(until_pass=command)
    words = shlex.split(command)
    if (name := suite.runner(words)) == "cargo" and suite.stops_early(words):
        found.until_pass = f"{command} --no-fail-fast"
    scope = Scope(Task(("*",), "", protected=suite.PROTECTED))
    repository = git.repository_root(root)
    for path in sorted(set(git.files(repository)) - git.untracked(repository)):
        file = repository / path
        inner = file.relative_to(root).as_posix() if file.is_relative_to(root) else ""
        if Path(inner).suffix in CODE.get(name, ()) and scope.editable(inner):
            top, _, below = inner.partition("/")
            if top not in (*ASIDE, *found.editable) and f"{top}/" not in found.editable:
                found.editable.append(f"{top}/" if below else top)
    if not found.editable and not editable:
        raise UserError(
            f"cannot tell which files may be edited to make {command!r} pass",
            fix="autoresearch init --until-pass ... --editable src/",
        )
    found.notes.append("files with usual names of tests stay protected, also in editable folders")
    found.notes.append("the agent `search` only tunes numbers; name a coding agent in [agent]")
    return found


def _python(root: Path) -> str:
    """How this project runs Python."""
    if (root / "pyproject.toml").is_file() and (root / "uv.lock").is_file():
        return "uv run"
    if (root / "pyproject.toml").is_file() and shutil.which("uv") and not (root / ".venv").is_dir():
        return "uv run"
    return "python" if (root / ".venv").is_dir() or shutil.which("python") else "python3"


def _read_sources(found: Found, root: Path, files: list[Path]) -> None:
    """The metric that is printed, and the budget that is built in."""
    texts = [path.read_text(errors="replace") for path in files]
    program = root / "program.md"
    words = program.read_text(errors="replace") if program.is_file() else ""
    names = list(dict.fromkeys(name for text in texts for name in PRINTED.findall(text)))
    ranked = sorted(names, key=lambda name: (not name.startswith("val"), f"{name}:" not in words))
    if ranked:
        found.metric = ranked[0]
        found.direction = "higher" if any(word in ranked[0] for word in HIGHER) else "lower"
    for text in texts:
        if budget := BUDGET.search(text):
            seconds = float(budget[1]) * float(budget[2] or 1)
            found.budget = f"{seconds:g}s"
            found.notes.append(f"the budget of {seconds:g} s is built into the code; kept the same")
            break


def _read_prepare(found: Found, prepare: Path, python: str) -> None:
    """Where prepared data is: there already and readable, or to be made by setup."""
    text = prepare.read_text(errors="replace")
    names = list(dict.fromkeys(CACHE.findall(text)))
    present = [name for name in names if (Path.home() / ".cache" / name).is_dir()]
    if names and present == names:
        found.readable = [f"~/.cache/{name}" for name in present]
        found.notes.append(f"data prepared before is used: {', '.join(found.readable)}")
    else:
        found.setup = f"{python} prepare.py"


def _guard(root: Path, python: str) -> str:
    """The test command of a project, if it has one that is usual."""
    if (root / "Cargo.toml").is_file():
        return "cargo test --quiet"
    if (root / "go.mod").is_file():
        return "go test ./..."
    if (root / "tests").is_dir() or list(root.glob("test_*.py")):
        return f"{python} -m pytest -q" if python != "uv run" else "uv run pytest -q"
    package = root / "package.json"
    if package.is_file() and '"test"' in package.read_text(errors="replace"):
        return "npm test"
    return ""


def _check_editable(root: Path, editable: list[str]) -> None:
    """Refuse names of files that are not there: a glob may match later, a name is a slip."""
    for name in editable:
        if not any(c in name for c in "*?[") and not (root / name.strip("/")).exists():
            raise UserError(
                f"--editable {name}: there is no such file in {root}",
                fix="name a file that exists, or a glob such as src/*.py",
            )


def _ask(found: Found) -> None:
    """Ask for what is still missing, or say which options give it."""
    needed = {"--editable": found.editable, "--command": found.command, "--metric": found.metric}
    missing = [option for option, value in needed.items() if not value]
    if not missing:
        found.direction = found.direction or "lower"
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"cannot tell what to improve here: {', '.join(missing)} not found",
            fix=f"autoresearch init {' '.join(f'{option} ...' for option in missing)}",
        )
    if not found.editable:
        found.editable = click.prompt(
            "Which files may be edited (globs, separated by spaces)"
        ).split()
    if not found.command:
        found.command = click.prompt("Which command runs one experiment")
    if not found.metric:
        found.metric = click.prompt("What is the number it prints called (as in `name: 1.23`)")
        found.direction = click.prompt(
            "Which is better", type=click.Choice(["lower", "higher"]),
            default=found.direction or "lower",
        )  # fmt: skip
    if not found.guard:
        found.guard = click.prompt("Which command must always pass (empty: none)", default="")


def contract_text(found: Found) -> str:
    """The contract as a short commented file."""

    def quoted(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    def listed(values: list[str]) -> str:
        return "[" + ", ".join(quoted(value) for value in values) + "]"

    lines = ["[task]", f"editable = {listed(found.editable)}  # everything else is protected", ""]
    if found.until_pass:
        lines += [
            "# no [metric]: it runs until this passes, and lowers the number of failing tests"
        ]
        return "\n".join([*lines, "[guard]", f"command = {quoted(found.until_pass)}"]) + "\n"
    lines += ["[run]", f"command = {quoted(found.command)}"]
    if found.setup:
        lines.append(f"setup = {quoted(found.setup)}  # once, with network, before the baseline")
    lines.append(f"budget = {quoted(found.budget)}  # killed at twice that")
    if found.gpus:
        lines.append(f"gpus = {found.gpus}")
    if found.readable:
        lines.append(f"readable = {listed(found.readable)}")
    lines += ["", "[metric]", f"name = {quoted(found.metric)}"]
    lines.append(f"direction = {quoted(found.direction or 'lower')}")
    if found.evaluate:
        lines.append(f"evaluate = {quoted(found.evaluate)}  # protected: prints the number")
    else:
        lines.append("# read from the run's own output, so self-reported;")
        lines.append("# evaluate = a protected command that measures it from outside")
    if found.guard:
        lines += ["", "[guard]", f"command = {quoted(found.guard)}  # must pass"]
    return "\n".join(lines) + "\n"
