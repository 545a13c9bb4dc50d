"""``autoresearch demo``: a reference workload, improved in a directory of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from importlib import resources
from pathlib import Path

import click

from .. import config, git
from ..errors import UserError
from ..run import FOLDER
from . import task
from .run import Begin, override, start

EXPERIMENTS = 20
# What a workload imports, and the extra that brings it.
NEEDS = {"tinylm": ("demo", ("numpy",)), "tinygpt": ("gpt", ("torch", "numpy"))}
# Files that a workload has of another one: the same data and scorer, so that scores compare.
SHARED = {"tinygpt": ("tinylm", ("prepare.py", "evaluate.py", "requirements.txt"))}
IDENTITY = ("-c", "user.name=autoresearch", "-c", "user.email=autoresearch@localhost")


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--workload", type=click.Choice(["tinylm", "tinygpt", "latency", "service"]), default="tinylm"
)
@click.option("--experiments", type=click.IntRange(1), default=EXPERIMENTS, show_default=True)
@click.option("--unconfined", is_flag=True, help="Run edited code with your own rights.")
def demo(folder: Path | None, workload: str, experiments: int, unconfined: bool) -> None:
    """Watch a small language model get better, without a key.

    Copies a reference workload into FOLDER (default: a new autoresearch-demo), a git repository
    of its own that you keep, and runs there with the search agent.
    """
    extra, modules = NEEDS.get(workload, ("", ()))
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the workload {workload} needs {' and '.join(missing)}",
            fix=f"pip install 'autoresearch[{extra}]'",
        )
    target = (folder or _free(Path("autoresearch-demo"))).absolute()
    if target.exists() and any(target.iterdir()):
        raise UserError(
            f"{target} is not empty",
            fix="name a new directory, or continue there: autoresearch run",
        )
    prepare(workload, target)
    click.echo(f"task: {workload}, copied to {target}")
    contract = override(config.load(target / "autoresearch.toml"), max_experiments=experiments)
    code = start(contract, Begin(unconfined=unconfined))
    tag = task.latest_tag(target)
    if importlib.util.find_spec("matplotlib") is not None and tag is not None:
        from ..report.plot import draw  # noqa: PLC0415

        view = task.read_view(target, tag)
        picture = target / FOLDER / tag / "progress.svg"
        draw(view, contract, picture)
        click.echo(f"plot: {picture}")
    program = _program()
    click.echo(f"look around: cd {os.path.relpath(target)} && {program} log; {program} show 3")
    click.echo(f"go on there: {program} run")
    sys.exit(code)


def prepare(workload: str, target: Path) -> None:
    """Copy a workload into a new git repository with one commit."""
    with resources.as_file(resources.files("autoresearch") / "workloads") as workloads:
        shutil.copytree(
            workloads / workload, target, dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )  # fmt: skip
        owner, names = SHARED.get(workload, (workload, ()))
        for name in names:
            shutil.copyfile(workloads / owner / name, target / name)
    env = git.environment()
    git.git("init", "--quiet", "--initial-branch", "main", cwd=target, env=env)
    git.git("add", "--all", cwd=target, env=env)
    git.git(*IDENTITY, "commit", "--quiet", "-m", f"Start from the {workload} workload",
            cwd=target, env=env)  # fmt: skip
    if sys.prefix != sys.base_prefix:
        # The task runs with the interpreter beside its contract: the one that has NumPy or torch.
        git.exclude(target, ".venv")
        (target / ".venv").symlink_to(sys.prefix)


def _free(wanted: Path) -> Path:
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


def _program() -> str:
    """How the person can call us again from another directory."""
    found = shutil.which("autoresearch")
    if found and Path(found).resolve() == Path(sys.argv[0]).resolve():
        return "autoresearch"
    return str(Path(sys.argv[0]).absolute())
