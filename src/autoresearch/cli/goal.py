"""``init --goal``: from a sentence to a contract that a dry run has confirmed.

An agent reads a copy of the repository and writes a draft; nothing of it is believed. What it wrote
is validated, then measured as `check` does, and what is wrong is given back to it.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from .. import config, git, registry, sandbox
from ..bench import Bench, Places
from ..desk import Seat
from ..errors import AgentError, EvaluationError, UserError
from ..executors.local import LocalExecutor
from ..git import Store
from ..run import CHECK, FOLDER
from ..sandbox import Sandbox
from ..scope import Scope
from ..scratch import fresh
from ..text import block, clean
from ..types import AgentChoice, Assignment, Contract, Kind, Launched, Metric, Plan, Run, Task
from ..workspace import Captured, Workspace
from .check import Finding, audit, show

TRIES = 3
FILES_MOST, FILES_BYTES = 10, 256 << 10
LISTED = 300
LONGEST_BUDGET_S = 1800.0
SPREAD_MOST = 0.5
CLEARLY = 2.0
SPEECHLESS = ("search", "replay")
# What a proposal may say: it is run before a person has seen it, so nothing that is trusted.
MAY = {
    "task": ("editable", "data", "hidden"),
    "run": ("command", "budget", "clock", "timeout", "cpus"),
    "metric": (
        "name", "direction", "evaluate", "answer", "answer_cpu", "timeout", "pattern", "min_gain",
    ),
    "guard": ("command", "timeout", "expect"),
}  # fmt: skip
BRIEFING = """\
# Propose a task for autoresearch

A person wants this: {goal}

Read this repository and write `{name}`: which files an agent may edit to get there, which command
runs one experiment, which number says how good it is, and what must stay true. A draft is there.
{fixed}
```toml
[task]
editable = ["src/slow.py"]        # only what the goal needs; everything else is protected

[run]
command = "python bench.py"       # no shell; its output goes to a log; sees AUTORESEARCH_SEED
budget  = "30s"                   # what one run needs, or trains for: short
clock   = "wall"                  # or "cpu": processor time, steadier where it fits

[metric]
name      = "seconds"
direction = "lower"               # or "higher"
evaluate  = "python evaluate.py"  # protected: prints `seconds: 1.23`; see below

[guard]                           # optional; must pass on every candidate
command = "python -m pytest -q"
```

What is accepted is confirmed by a dry run, and no word of yours is believed:

- Three runs of the code as it is must each give one finite number, and nearly the same one.
- With the largest editable file emptied, the number must be worse or the run must fail.
- The guard must pass on the code as it is.
- The score must not be in the hands of the editable code. Best is `evaluate`: it runs after the
  command, in a tree of its own without the candidate's files, never imports editable code, and
  reads what the command left in the directory AUTORESEARCH_OUT, or the time and memory of the
  command as they were measured, `{{"wall_s", "cpu_s", "peak_rss_bytes"}}` in the JSON file
  AUTORESEARCH_USAGE. It ends with code 3 where the command's answers are wrong. Otherwise `command`
  is a protected script that uses the editable code and prints `name: value`.
- `evaluate`, the guard and the scripts that they run are not editable.

You may add new files for that, such as `evaluate.py` or `bench.py`, beside `{name}` or below it;
never change or delete a file that exists. Sections and keys are those above, and `timeout`,
`pattern`, `expect`, `data`, `hidden`, `cpus`; no others.

## Files of the repository

{files}
{problems}"""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A contract in the making: its text, and new files by repository path."""

    text: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A contract that a dry run has confirmed."""

    proposed: Proposed
    contract: Contract
    finding: Finding


class Goal:
    """The sentence, where it is to be reached, and what the person has decided already."""

    def __init__(
        self, root: Path, sentence: str, fixed: Mapping[str, Any], *, box: Sandbox,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.root = root
        self.sentence = clean(sentence, 400)
        self.fixed = fixed
        self.box = box
        self.say = say
        self.repository = git.repository_root(root)
        self.places = Places(root / FOLDER / CHECK, self.repository, root)
        inner = self.places.inner
        self.prefix = "" if inner == Path() else f"{inner.as_posix()}/"

    async def propose(self, choice: AgentChoice, draft: str) -> Confirmed:
        """Let an agent propose until a dry run confirms it.

        Raises:
            AgentError: it could not be asked.
            UserError: nothing that it proposed was confirmed.
        """
        proposed, problems = Proposed(draft), list[str]()
        for i in range(TRIES):
            self.say(f"asking     {choice.use}, {i + 1} of {TRIES} ...")
            captured = await self._ask(choice, proposed, problems)
            proposed, problems = self._taken(captured)
            if not problems:
                try:
                    return await self.confirm(proposed, choice)
                except UserError as refused:
                    problems = refused.message.splitlines()
            for problem in problems:
                self.say(f"refused    {clean(problem, 400)}")
        raise UserError(
            f"a dry run confirmed none of {TRIES} proposals of {choice.use}; the last one: "
            + clean("; ".join(problems), 600),
            fix="say more in --goal, fix parts of it with --editable --command --metric, or leave"
            " out --agent and answer the questions yourself",
        )

    async def confirm(self, proposed: Proposed, choice: AgentChoice | None = None) -> Confirmed:
        """Run a proposed contract dry.

        Raises:
            UserError: one line for each thing that is wrong with it.
        """
        text = _finished(proposed.text, self.sentence, choice)
        contract = config.parse(text, self.root / config.NAME)
        new: git.Edits = {path: (git.REGULAR, data) for path, data in proposed.files.items()}
        try:
            finding = await audit(contract, self.box, self.say, new)
        except EvaluationError as error:
            raise UserError(error.message) from error
        if choice is not None:
            _judge(contract, finding)
        if finding.problems:
            said = (f"{each['key']}: {each['value']}; {each['fix']}" for each in finding.problems)
            raise UserError("\n".join(said))
        return Confirmed(Proposed(text, proposed.files), contract, finding)

    async def _ask(
        self, choice: AgentChoice, before: Proposed, problems: Sequence[str]
    ) -> Captured:
        """Let the agent work in an export of HEAD with what was proposed before."""
        contract = Contract(
            self.root / config.NAME, Task(("**",), self.sentence), Run(("true",)),
            Metric("the metric"), agents=(choice,),
        )  # fmt: skip
        agent = registry.agent(choice, self.root)
        try:
            registry.require_credentials(agent, choice)
        except UserError as error:
            raise UserError(
                error.message,
                fix="name the variable with its key, --env NAME, or --login for your own login",
            ) from error
        places, head = self.places, git.head(self.repository)
        git.exclude(self.repository, f"{FOLDER}/")
        directory = fresh(places.run) / "agent"
        directory.mkdir()
        store, executor = Store.create(places.run / "store.git"), LocalExecutor()
        bench = Bench(contract, places, store, head, self.box, executor)
        seat = Seat(contract, bench, places)
        workspace = Workspace(store, Scope(contract.task), Path())
        try:
            store.adopt(self.repository, head)
            folder = workspace.export(head, bench.places.scratch / "agent")
            written = {f"{self.prefix}{config.NAME}": before.text.encode(), **before.files}
            for path, data in written.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
            brief = directory / "briefing.md"
            brief.write_text(self._briefing(store, head, problems), encoding="utf-8")

            async def launch(*job: Any) -> Launched:
                return await seat.launch(directory, folder, *job)

            async def run(argv: Sequence[str], deadline_s: float) -> Launched:
                return await seat.run(folder, argv, deadline_s)

            assignment = Assignment(
                number=0, workspace=folder, editable=workspace.editable_files(head),
                plan=Plan(head, Kind.EXPLORE, self.sentence), seed=0, metric=contract.metric,
                space={}, history=(), briefing=brief, directory=directory, launch=launch,
                run=run, inside=seat.inside(directory, folder), level=self.box.level,
                allowed=contract.task.editable, choice=choice,
            )  # fmt: skip
            try:
                async with asyncio.timeout(choice.timeout_s + 60):
                    await agent.propose(assignment)
            except TimeoutError as error:
                raise AgentError(f"{choice.use} did not answer in time") from error
            return workspace.capture(head, folder)
        finally:
            await executor.close()
            store.close()
            bench.clear()

    def _briefing(self, store: Store, head: str, problems: Sequence[str]) -> str:
        paths = [clean(path, 200) for path in store.tree(head)]
        more = [f"and {len(paths) - LISTED} more"] if len(paths) > LISTED else []
        fixed = "".join(
            f"\nThe person has decided: {key} = {json.dumps(value)}"
            for key, value in self.fixed.items()
        )
        said = [f"- {clean(problem, 400)}" for problem in problems]
        refused = ["\n## Why your last proposal was refused; it is in place, mend it\n", *said]
        return BRIEFING.format(
            goal=self.sentence, name=f"{self.prefix}{config.NAME}",
            fixed=f"{fixed}\n" if fixed else "", files="\n".join([*paths[:LISTED], *more]),
            problems="\n".join(refused) + "\n" if said else "",
        )  # fmt: skip

    def _taken(self, captured: Captured) -> tuple[Proposed, list[str]]:
        """What the agent wrote, and all that is wrong with it before anything is run."""
        name = f"{self.prefix}{config.NAME}"
        problems = [f"{path} {why}" for path, why in captured.changes.unsafe]
        tree = set(git.files(self.repository))
        text, files = "", dict[str, bytes]()
        for path, edit in captured.edits.items():
            if path == name and edit is not None:
                text = edit[1].decode(errors="replace")
            elif edit is None or path in tree:
                problems.append(f"{path} exists and must stay as it is")
            elif not path.startswith(self.prefix) or "/." in f"/{path}":
                problems.append(f"{path}: new files belong beside {name}, none of them hidden")
            elif (self.repository / path).exists():
                problems.append(f"{path} exists, ignored by git; choose another name")
            else:
                files[path] = edit[1]
        if len(files) > FILES_MOST or sum(map(len, files.values())) > FILES_BYTES:
            problems.append(f"more than {FILES_MOST} new files, or {FILES_BYTES >> 10} KiB of them")
            files = {}
        for path, data in (*files.items(), (name, text.encode())):
            if block(said := data.decode(errors="replace")) != said:
                problems.append(f"{path} has characters that do not show")
        return Proposed(text, files), problems or self._wrong(text, files)

    def _wrong(self, text: str, files: Mapping[str, bytes]) -> list[str]:
        """What is wrong with a contract that can be told without running it."""
        try:
            contract = config.parse(text, self.root / config.NAME)
        except UserError as error:
            return str(error).splitlines()
        data = tomllib.loads(text)
        problems = []
        for section, body in data.items():
            for each in body if isinstance(body, list) else [body]:
                keys = each if section in MAY and isinstance(each, dict) else {"": None}
                problems += [
                    f"{section}{'.' if key else ''}{key}: leave it out; a person adds it by hand"
                    for key in keys
                    if key not in MAY.get(section, ())
                ]
        for key, value in self.fixed.items():
            section, _, name = key.partition(".")
            body = data.get(section) or {}
            if (body[0] if isinstance(body, list) else body).get(name) != value:
                problems.append(f"{key} must be {json.dumps(value)}: the person has decided it")
        if contract.run.budget_s > LONGEST_BUDGET_S and "run.budget" not in self.fixed:
            problems.append(f"run.budget: at most {LONGEST_BUDGET_S:g} s without the person")
        scope = Scope(contract.task)
        problems += [
            f"{path} is new and editable; what measures must be protected"
            for path in files
            if scope.editable(path[len(self.prefix) :])
        ]
        return problems + self._exposed(contract, {*git.files(self.repository), *files})

    def _exposed(self, contract: Contract, paths: set[str]) -> list[str]:
        """Commands that measure, and are in the hands of the code that is measured."""
        scope, metric = Scope(contract.task), contract.metric
        inner = [path[len(self.prefix) :] for path in paths if path.startswith(self.prefix)]

        def editable(argv: Sequence[str]) -> list[str]:
            named = [word.strip("./") for word in argv]
            return [
                path
                for path in inner
                if scope.editable(path)
                and any(path == word or path.startswith(f"{word}/") for word in named if word)
            ]

        found = [
            f"{key} runs {path}, which is editable"
            for key, argv in (
                ("metric.evaluate", metric.evaluate or ()),
                *(("guard.command", guard.command) for guard in contract.guards),
            )
            for path in editable(argv)
        ]
        if metric.evaluate is None:
            found += [
                f"the number is printed by {path}, which is editable: add metric.evaluate, or run"
                " a protected script that uses it"
                for path in editable(contract.run.command)
            ]
        return found


def choose(words: str, root: Path, env: Sequence[str], *, login: bool) -> AgentChoice:
    """The agent that was named: of the contract that is there, by its name, or a command line.

    Raises:
        UserError: it cannot be asked in words.
    """
    if words in SPEECHLESS:
        raise UserError(f"--agent {words}: it cannot be asked in words", fix="name a coding agent")
    path = root / config.NAME
    if path.is_file():
        same = [each for each in config.load(path).agents if each.use == words]
        if same:
            return same[0]
    try:
        argv = shlex.split(words)
    except ValueError as error:
        raise UserError(f"--agent {words}: {error}", fix="quote it as in a shell") from None
    if words in registry.AGENTS or (len(argv) <= 1 and not (root / words).is_file()):
        return config.agent(words, env, "mine" if login else "none")
    if not (root / argv[0]).is_file() and shutil.which(argv[0]) is None:
        raise UserError(f"--agent {words}: there is no program {argv[0]}", fix="name one that is")
    return AgentChoice("command", env=tuple(env), options={"argv": list(argv)})


def confined(*, unconfined: bool) -> Sandbox:
    """How this machine confines the agent and the dry run."""
    return sandbox.require(sandbox.probe(), unconfined=unconfined)


def present(found: Confirmed) -> None:
    """Show what would be written, and what the dry run found."""
    click.echo(f"\n{config.NAME}:\n\n{block(found.proposed.text)}")
    for path, data in found.proposed.files.items():
        click.echo(f"{path} (new):\n\n{block(data.decode(errors='replace'))}")
    show(found.contract, found.finding)


def write(root: Path, found: Confirmed) -> list[str]:
    """Write the contract and its new files; never over one that came to be meanwhile."""
    repository = git.repository_root(root)
    written = [str(root / config.NAME)]
    for path, data in found.proposed.files.items():
        target = repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(data)
        written.append(str(target))
    (root / config.NAME).write_text(found.proposed.text, encoding="utf-8")
    return written


def _judge(contract: Contract, finding: Finding) -> None:
    """What a person may settle for in a contract of their own, and an agent's must not have."""
    values = [sample.value for sample in finding.samples if sample.value is not None]
    if not values:
        return
    spread, middle = max(values) - min(values), sum(values) / len(values)
    if spread > SPREAD_MOST * abs(middle):
        said = ", ".join(f"{value:.6g}" for value in values)
        finding.problem(
            "metric", f"three runs of the same code gave {said}", "measure something repeatable"
        )
    crippled, metric = finding.crippled, contract.metric
    # Beyond the worst by more than chance brings: a number that depends on nothing varies, too.
    beyond = -CLEARLY * spread if metric.direction == "higher" else CLEARLY * spread
    worst = (min(values) if metric.direction == "higher" else max(values)) + beyond
    if crippled is None:
        finding.problem(
            "metric", "with empty editable code it breaks", "make it end in an orderly way"
        )
    elif crippled.value is not None and not metric.better(worst, crippled.value):
        finding.problem(
            "metric", "empty editable code scores within the noise of the code as it is",
            "measure what the editable code does",
        )  # fmt: skip


def _finished(text: str, sentence: str, choice: AgentChoice | None) -> str:
    """The contract with what is not the agent's to say: the goal, and who works on it.

    Raises:
        UserError: there is no place for the goal.
    """
    goal = f"goal = {json.dumps(sentence, ensure_ascii=False)}\n"
    text, found = re.subn(
        r"^\[task\][^\n]*\n", lambda match: match[0] + goal, text, count=1, flags=re.M
    )
    if not found:
        raise UserError("task: write it as a section, [task] on a line of its own")
    if choice is None or "[agent]" in text:
        return text
    lines = ["", "[agent]", f"use = {json.dumps(choice.use)}"]
    if choice.env:
        lines.append(f"env = {json.dumps(list(choice.env))}")
    if choice.login != "none":
        lines.append(f"login = {json.dumps(choice.login)}")
    usual = config.defaults(choice.use)
    own = {key: each for key, each in choice.options.items() if each != usual.get(key)}
    if own:
        lines += ["", f"[agent.{choice.use}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in own.items()]
    return text.rstrip() + "\n" + "\n".join(lines) + "\n"
