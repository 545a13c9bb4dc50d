"""Coding agents with a command line, held to one set of rules; what differs is in ``clis/``.

Each iteration is a fresh mind: a home directory of its own that holds nothing but what the entry
and the contract name, no standard input, a clock on the wall and one on silence. It succeeded if it
said so itself, exited with zero, and was not refused all it tried to edit.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import AgentError, UserError
from ..text import clean
from ..types import (
    AgentChoice,
    AgentFailure,
    Assignment,
    Json,
    Launched,
    Level,
    Needs,
    Proposal,
)
from . import answer, clis
from .clis import Call, Cli, Said
from .clis.claude import CLI as CLAUDE
from .clis.codex import CLI as CODEX
from .clis.gemini import CLI as GEMINI
from .clis.opencode import CLI as OPENCODE
from .clis.pi import CLI as PI
from .command import read_proposal

# The longest argument that Linux passes to a program is 128 KiB.
PROMPT_BYTES = 120_000
# How this machine reaches the network.
ROUTES = (
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE",
)  # fmt: skip
MOST = 1e12
# Of a CLI's events, those that are no call of a tool.
OTHER_LINES = 10
NO_TERMINAL = "it ended without a word about how"


class CliAgent:
    """``[agent.claude]`` and its like; config.py checks their options, a ``CliSection``."""

    def __init__(self, cli: Cli, options: Mapping[str, Json]) -> None:
        self.cli = cli
        found = shutil.which(cli.name)
        if found is None:
            raise UserError(f"{cli.name} is not installed, or not on PATH", fix=cli.install)
        if cli.names_model and options.get("base_url") and not options.get("model"):
            raise UserError(
                f"agent.{cli.name}.model is missing, which a base_url needs",
                fix=f'[agent.{cli.name}] model = "the name that the endpoint knows"',
            )
        self.program = Path(found)
        self._options: Mapping[str, Any] = options

    def ready(self, choice: AgentChoice) -> None:
        """See that it has credentials, before anything is measured.

        Raises:
            UserError: it has none.
        """
        try:
            self.keys(choice)
            if choice.login == "mine":
                self.login()
        except AgentError as error:
            raise UserError(error.message, fix=error.fix) from error

    async def propose(self, assignment: Assignment) -> Proposal:
        """Let the CLI edit the workspace once.

        Raises:
            AgentError: it gave no proposal; typed, with what it cost where it said so.
        """
        assert assignment.launch is not None
        call = self._call(assignment)
        before = _look(assignment.workspace)
        launched = await assignment.launch(
            [str(self.program.resolve()), *self.cli.argv(call)],
            self._env(assignment.choice, call),
            None,
            self._needs(assignment.choice, call),
        )
        said = _priced(self._heard(launched), assignment.choice)
        self._judge(launched, said, unchanged=lambda: _look(assignment.workspace) == before)
        written = read_proposal(assignment.proposal)
        return answer.proposal(said.text, written, tokens=_tokens(said), cost_usd=said.cost_usd)

    # What it is given

    def _call(self, assignment: Assignment) -> Call:
        inside, choice, options = assignment.inside, assignment.choice, self._options
        assert inside is not None
        prompt = assignment.briefing.read_text(encoding="utf-8")
        prompt += answer.ASK.format(metric=assignment.metric.name)
        if (size := len(prompt.encode())) > PROMPT_BYTES:
            raise UserError(
                f"{self.cli.name} can be told {PROMPT_BYTES} bytes, the briefing has {size}",
                fix="[agent] briefing_tokens = 20000, or less",
            )
        return Call(
            prompt=prompt,
            home=inside.home,
            proposal=inside.proposal,
            allowed=assignment.allowed,
            confined=assignment.level is not Level.NONE,
            keys=self.keys(choice),
            max_turns=options["max_turns"],
            login=choice.login == "mine",
            model=str(options.get("model") or ""),
            base_url=str(options.get("base_url") or ""),
            args=tuple(options["args"]),
        )

    def keys(self, choice: AgentChoice) -> tuple[str, ...]:
        """The variables with a key that the process will have.

        Raises:
            AgentError: it would have neither key nor login.
        """
        cli = self.cli
        named = [name for name in cli.keys if name in choice.env]
        found = tuple(name for name in named if os.environ.get(name))
        if found or choice.login == "mine" or self._options.get("base_url"):
            return found
        if named:
            problem = f"{named[0]} is named in [agent] env, and is not set"
            raise _unauthorized(f"{cli.name} has no key: {problem}", f"export {named[0]}=...")
        if choice.env:
            return ()  # some other way in, such as a cloud's
        if name := next((each for each in cli.keys if os.environ.get(each)), ""):
            raise _unauthorized(
                f"{cli.name} has no key: {name} is set, and [agent] env does not name it",
                f'[agent] env = ["{name}"]',
            )
        raise _unauthorized(f"{cli.name} has neither a key nor a login", self.fix)

    @property
    def fix(self) -> str:
        """What to do where there are no credentials, or wrong ones."""
        key = self.cli.keys[0]
        return (
            f'export {key} and name it: [agent] env = ["{key}"]; or {self.cli.sign_in}, and let it'
            ' use a copy of that login: [agent] login = "mine"'
        )

    def _env(self, choice: AgentChoice, call: Call) -> dict[str, str]:
        routes = ROUTES if choice.network == "host" else ()
        env = {name: os.environ[name] for name in routes if name in os.environ}
        if not call.keys and not call.login and call.base_url:
            env[self.cli.keys[0]] = "none"  # a server of one's own asks for none, the client does
        return env | {"HOME": str(call.home), **self.cli.env(call)}

    def _needs(self, choice: AgentChoice, call: Call) -> Needs:
        files = {name: text.encode() for name, text in self.cli.files(call).items()}
        if call.login:
            files |= self.login()
        lines = self.cli.lines_per_turn * call.max_turns
        bound = lines + OTHER_LINES if lines else None
        readable = installation(self.program)
        return Needs(files, readable, self._options["idle"], bound, apart=True)

    def login(self) -> dict[str, bytes]:
        """The person's own login to the CLI, by where it belongs in a home.

        Raises:
            AgentError: there is none.
        """
        found = {}
        for file in self.cli.login:
            folder = os.environ.get(file.variable) or Path.home() / file.folder
            path = Path(folder) / file.name
            if path.is_file():
                found[f"{file.folder}/{file.name}"] = path.read_bytes()
        if not found:
            place = f"~/{self.cli.login[0].folder}/{self.cli.login[0].name}"
            raise _unauthorized(f'login = "mine", and there is no {place}', self.fix)
        return found

    # What it said

    def _heard(self, launched: Launched) -> Said:
        events = clis.events(launched.log.read_text("utf-8", errors="replace"))
        errors = launched.errors.read_text("utf-8", errors="replace") if launched.errors else ""
        try:
            return _sensible(self.cli.read(events, errors))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Another version of the CLI, or an agent that prints events of its own.
            return Said(message=f"its events make no sense: {error!r}")

    def _judge(self, launched: Launched, said: Said, unchanged: Callable[[], bool]) -> None:
        """Raise what kept the CLI from ending well, if anything did."""
        ended_late = launched.outcome in ("timeout", "idle")
        if said.done and (launched.exit_code == 0 or ended_late):
            # It may hang after its last word; that word counts.
            if said.denied and unchanged():
                what = ", ".join(dict.fromkeys(said.denied))
                raise self._error(
                    said, AgentFailure.DENIED, f"was not allowed: {what}", launched,
                    fix="name the files that it should edit in [task] editable",
                )  # fmt: skip
            return
        why = _last_words(said.message) or NO_TERMINAL
        if said.failure is not None:
            retry_s = said.retry_after_s
            if said.retry_at is not None:
                retry_s = max(0.0, said.retry_at - time.time())
            raise self._error(said, said.failure, why, launched, retry_after_s=retry_s)
        if ended_late or launched.outcome == "lines":
            limit = launched.outcome == "lines"
            failure = AgentFailure.LIMIT if limit else AgentFailure.TIMEOUT
            raise self._error(said, failure, launched.detail, launched)
        detail = launched.detail or f"exit code {launched.exit_code}"
        raise self._error(said, AgentFailure.CRASHED, f"{detail}: {why}", launched)

    def _error(
        self,
        said: Said,
        failure: AgentFailure,
        why: str,
        launched: Launched,
        *,
        fix: str = "",
        retry_after_s: float | None = None,
    ) -> AgentError:
        if not fix:
            fix = self.fix if failure is AgentFailure.AUTH else f"read {launched.log}"
        return AgentError(
            f"{self.cli.name}: {failure.value}: {clean(why, 300)}",
            fix=fix,
            failure=failure,
            retry_after_s=retry_after_s,
            tokens=_tokens(said),
            cost_usd=said.cost_usd,
        )


def _unauthorized(message: str, fix: str) -> AgentError:
    return AgentError(message, fix=fix, failure=AgentFailure.AUTH)


def _sensible(said: Said) -> Said:
    """What was said, with texts that are texts: whoever prints events can print any.

    Raises:
        ValueError: it counts what nobody can have used, or names no time.
    """
    counts = [said.cost_usd or 0.0]
    if said.spent is not None:
        counts += [said.spent.input, said.spent.output, said.spent.cached]
    if not all(0 <= count < MOST for count in counts):
        raise ValueError(f"{counts} tokens and dollars")
    retry_at = None if said.retry_at is None else float(said.retry_at)
    return replace(said, text=str(said.text), message=str(said.message), retry_at=retry_at)


def _tokens(said: Said) -> int | None:
    return said.spent.input + said.spent.output if said.spent else None


def _priced(said: Said, choice: AgentChoice) -> Said:
    """With what its tokens cost by the contract's prices, where the CLI does not say."""
    if said.cost_usd is not None or said.spent is None or choice.prices is None:
        return said
    cost_usd = choice.prices.cost_usd(said.spent.input, said.spent.output, said.spent.cached)
    return replace(said, cost_usd=cost_usd)


def _last_words(text: str) -> str:
    """The last line of what was printed that says something."""
    lines = [clean(line, 300) for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _look(workspace: Path) -> dict[str, tuple[int, int, int]]:
    """Names, sizes and times of a workspace's files: differs as soon as one was written."""
    found = {}
    for folder, folders, files in os.walk(workspace):
        folders[:] = [each for each in folders if each != ".git"]
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118
            status = os.lstat(path)
            if status.st_size:
                found[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def installation(program: Path) -> tuple[Path, ...]:
    """What must be readable for a program of ``PATH`` to start, beside the folders of ``PATH``.

    All of the ``node_modules`` that it is installed in, and the program itself.
    """
    real = program.resolve()
    found = [real]
    if "node_modules" in real.parts:
        last = real.parts.index("node_modules")
        found.append(Path(*real.parts[: last + 1]))
    with real.open("rb") as file:
        if file.read(2) == b"#!" and (node := shutil.which("node")):
            found.append(Path(node).resolve())
    return tuple(found)


claude = partial(CliAgent, CLAUDE)
codex = partial(CliAgent, CODEX)
opencode = partial(CliAgent, OPENCODE)
gemini = partial(CliAgent, GEMINI)
pi = partial(CliAgent, PI)
