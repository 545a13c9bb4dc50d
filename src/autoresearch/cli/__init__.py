"""The command line: commands are imported when they are used, so that ``--help`` stays fast."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import click

from .. import __version__
from ..errors import AutoresearchError, RunLockedError, UserError
from ..text import block

COMMANDS = {
    "init": ("autoresearch.cli.init:init", "Write autoresearch.toml for the task in a directory."),
    "check": ("autoresearch.cli.check:check", "Prove that the task can be measured here."),
    "run": ("autoresearch.cli.run:run", "Start a run, or resume the latest one."),
    "try": ("autoresearch.cli.try_:try_", "Measure and decide your own edit of the files."),
    "status": ("autoresearch.cli.views:status", "Say where a run stands."),
    "log": ("autoresearch.cli.views:log", "List the experiments of a run."),
    "show": ("autoresearch.cli.views:show", "Show one experiment: idea, samples, reason, diff."),
    "idea": ("autoresearch.cli.idea:idea", "Queue ideas and notes while it runs; list, drop them."),
    "stop": ("autoresearch.cli.stop:stop", "End a run after the sample in flight."),
    "pause": ("autoresearch.cli.pause:pause", "Let a run wait after the sample in flight."),
    "resume": ("autoresearch.cli.pause:resume", "Go on with a run that was paused."),
    "verify": ("autoresearch.cli.verify:verify", "Measure again what was kept: is it real?"),
    "plot": ("autoresearch.cli.plot:plot", "Draw the progress of a run."),
    "mcp": ("autoresearch.cli.mcp:mcp", "Serve a session to an MCP client on stdin and stdout."),
    "demo": (
        "autoresearch.cli.demo:demo",
        "Watch a small language model get better, without a key.",
    ),
}


class Commands(click.Group):
    """A group that knows its commands by name and loads one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="autoresearch %(version)s")
def cli() -> None:
    """Let a coding agent improve anything with a number: safely, overnight, unattended.

    In the directory of your task: autoresearch init, then check, then run.
    To see it work first: autoresearch demo.
    """


def main() -> None:
    """The console script: our errors become one message and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except AutoresearchError as error:
        code = 4 if isinstance(error, RunLockedError) else 2 if isinstance(error, UserError) else 1
        _report(error)
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: AutoresearchError) -> None:
    if "--json" in sys.argv:
        body = {"kind": type(error).__name__, "message": error.message, "fix": error.fix}
        click.echo(json.dumps({"error": body}))
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {block(str(error))}", err=True)
