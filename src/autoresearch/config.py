"""``autoresearch.toml`` to a ``Contract``: every problem found at once, each with its fix.

The models below are the reference: ``docs/contract.md`` is checked against them. Nothing is
guessed and nothing is dropped: an unknown key or an impossible value is an error.
"""

from __future__ import annotations

import difflib
import math
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from . import suite, types
from .errors import UserError
from .scope import Scope
from .types import Contract, Json

NAME = "autoresearch.toml"
MAY_CHANGE = ("limits", "agents", "parallel", "space", "task.instructions", "run.early_end")
# Where a contract has no metric, what is run comes from the guard.
OF_THE_GUARD = {
    "run.command": "guard.command", "run.budget_s": "guard.timeout", "suite": "guard",
    "run.timeout_s": "guard.timeout", "suite.runner": "guard.command",
    "suite.expect": "guard.expect", "suite.expect_failing": "guard.expect_failing",
}  # fmt: skip
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
WORKERS_MOST = 10_000
CLIS = ("claude", "codex", "opencode", "gemini", "pi")
WITHOUT_WORDS = ("search", "replay", "hybrid")  # no coding agents
SHELL = re.compile(r"&&|\|\||[|<>;`]|\$\(|\$\{?[A-Za-z_]|(?:^|\s)&(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a contract, and how to put it right."""

    file: str
    key: str
    value: str
    fix: str

    def __str__(self) -> str:
        shown = f" = {self.value}" if self.value else ""
        return f"{self.file}: {self.key}{shown}: {self.fix}"


class ContractError(UserError):
    """A contract with problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


def _wrong(fix: str) -> PydanticCustomError:
    return PydanticCustomError("contract", "{fix}", {"fix": fix})


# The kinds of values


def duration(value: object) -> float:
    """Seconds of a duration as people write it.

    Raises:
        ValueError: it is none, with what to write instead.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong('not a duration; write "90s", "5m", "1h30m" or seconds')
    if isinstance(value, str):
        text = value.strip().replace(" ", "")
        parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise _wrong('not a duration; write "90s", "5m", "1h30m" or seconds')
        value = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not math.isfinite(value) or value <= 0:
        raise _wrong("a duration must be more than zero")
    return float(value)


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong('not a size; write "16GB", "512MB" or bytes')
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", value.strip())
        if not found or found[2].upper() not in SIZES:
            raise _wrong('not a size; write "16GB", "512MB" (decimal), "16GiB" (binary) or bytes')
        value = int(float(found[1]) * SIZES[found[2].upper()])
    if value < 1 << 20:
        raise _wrong("less than 1 MiB; nothing runs in that")
    return value


def _command(value: object) -> tuple[str, ...]:
    if not isinstance(value, str):
        raise _wrong('a command is one string, such as "python train.py"')
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", value)
    if found := SHELL.search(bare):
        raise _wrong(
            f"{found[0].strip()!r} needs a shell, and commands run without one;"
            " put it into a script, or write: bash -c '...'"
        )
    try:
        words = tuple(shlex.split(value))
    except ValueError as error:
        raise _wrong(f"cannot be split into words: {error}") from None
    if not words:
        raise _wrong('is empty; write a command such as "python train.py"')
    return words


def _glob(value: object) -> str:
    if not isinstance(value, str) or not value.strip("/ "):
        raise _wrong("must be a path or a glob")
    if value.startswith(("~", "/")) or ".." in value.split("/"):
        raise _wrong("must stay in the contract's directory: no leading / or ~, no ..")
    return value


def _pattern(value: object) -> str:
    try:
        groups = re.compile(str(value)).groups if isinstance(value, str) else -1
    except re.error as error:
        raise _wrong(f"not a regular expression: {error}") from None
    if groups != 1:
        raise _wrong("must be a regular expression with exactly one group, around the number")
    return str(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong("must be a finite number")
    return float(value)


def _confirm(value: object) -> object:
    if value in ("auto", "never") or (type(value) is int and 1 <= value <= 8):
        return value
    raise _wrong('must be "auto", "never", or a number of fresh samples from 1 to 8')


def _address(value: object) -> str:
    if isinstance(value, str) and re.match(r"https?://[^\s/]", value):
        return value
    raise _wrong('must be an address such as "http://localhost:11434/v1"')


def _ray_address(value: object) -> str:
    if isinstance(value, str) and re.match(r"https?://[^\s/]+/?$", value):
        return value.rstrip("/")
    raise _wrong('must be the address of Ray\'s dashboard, such as "http://127.0.0.1:8265"')


# Of sbatch: what names, places and ends a job is ours.
OURS_OF_SBATCH = (
    "--job-name", "-J", "--output", "-o", "--error", "-e", "--requeue", "--no-requeue", "--time",
    "-t", "--chdir", "-D", "--array", "-a", "--wrap", "--wait", "-W", "--parsable", "--test-only",
    "--export", "--input", "-i", "--open-mode", "--nodes", "-N", "--ntasks", "-n",
)  # fmt: skip


def _sbatch_option(value: object) -> str:
    if not isinstance(value, str) or not re.match(r"--?[A-Za-z]", value):
        raise _wrong('each must be one option of sbatch, such as "--constraint=h100"')
    if value.partition("=")[0] in OURS_OF_SBATCH:
        raise _wrong(f"{value.partition('=')[0]} is set by us; see docs/clusters.md")
    return value


def _simplicity(value: object) -> object:
    if value == "auto":
        return value
    if (number := _number(value)) < 0:
        raise _wrong('must be "auto" or not below zero: what ten added syntax tokens must bring')
    return number


Duration = Annotated[float, BeforeValidator(duration)]
Size = Annotated[int, BeforeValidator(_size)]
Command = Annotated[tuple[str, ...], BeforeValidator(_command)]
Glob = Annotated[str, BeforeValidator(_glob)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Number = Annotated[float, BeforeValidator(_number)]
Address = Annotated[str, BeforeValidator(_address)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TaskSection(Section):
    editable: list[Glob] = Field(min_length=1)
    goal: str | None = None
    instructions: str | None = None
    data: list[Glob] = []
    hidden: list[Glob] = []
    sealed: list[Glob] = []
    protected: list[Glob] | None = None

    @model_validator(mode="after")
    def _named_is_not_protected(self) -> TaskSection:
        for name in _both(self, tuple(self.protected or ())):
            raise _wrong(f"{name} is both editable and protected; it can only be one of them")
        return self


def _both(task: TaskSection, protected: tuple[str, ...]) -> list[str]:
    """What is named as editable and could never be edited."""
    scope = Scope(types.Task((), "", protected=protected))
    bare = [name.rstrip("/") for name in task.editable]
    return [name for name in bare if scope.protected(name) or scope.protected(f"{name}/x")]


class MachineSection(Section):
    """What a job gets of the machine."""

    setup: Command | None = None
    memory: Size | None = None
    cpus: int = Field(default=1, ge=1, le=1024)
    gpus: int = Field(default=0, ge=0, le=64)
    env: dict[str, str] = {}
    readable: list[str] = []


class RunSection(MachineSection):
    command: Command
    budget: Duration = 300.0
    clock: Literal["wall", "cpu"] = "wall"
    timeout: Duration | None = None
    early_end: bool = False
    screen: Duration | None = None

    @model_validator(mode="after")
    def _screen_is_cheaper(self) -> RunSection:
        if self.screen is not None and self.screen >= self.budget:
            raise _wrong(
                f"screen = {self.screen:g} s is no cheaper than budget = {self.budget:g} s;"
                " a tenth of the budget is a good beginning"
            )
        return self

    @model_validator(mode="after")
    def _timeout_covers_budget(self) -> RunSection:
        if self.timeout is not None and self.timeout < self.budget:
            raise _wrong(
                f"timeout = {self.timeout:g} s is shorter than budget = {self.budget:g} s;"
                " leave it out for twice the budget"
            )
        return self


class MetricSection(Section):
    name: str = Field(pattern=r"^[A-Za-z_][\w./-]*$")
    direction: Literal["lower", "higher"] = "lower"
    evaluate: Command | None = None
    answer: Command | None = None
    answer_cpu: Duration = 60.0
    timeout: Duration = 300.0
    pattern: Pattern | None = None
    min_gain: Annotated[Number, Field(ge=0)] = 0.0
    target: Number | None = None
    loopback: bool = False

    @model_validator(mode="after")
    def _answer_needs_evaluate(self) -> MetricSection:
        if self.answer is not None and self.evaluate is None:
            raise _wrong("answer needs evaluate: the protected command that asks the questions")
        if self.loopback and self.answer is None:
            raise _wrong("loopback needs answer: the command that serves what evaluate asks for")
        return self


class GuardSection(Section):
    command: Command
    timeout: Duration = 300.0
    expect: Pattern | None = None
    expect_failing: Pattern | None = None


class KeepSection(Section):
    confirm: Annotated[Any, BeforeValidator(_confirm)] = "auto"
    confidence: float = Field(default=0.99, gt=0.5, lt=1)
    simplicity: Annotated[Any, BeforeValidator(_simplicity)] = "auto"


class ApiSection(Section):
    model: str = Field(min_length=1)
    base_url: Address | None = None
    turns: int = Field(default=40, ge=1, le=1000)
    idle: Duration = 300.0
    max_tokens: int | None = Field(default=None, ge=1)


class CliSection(Section):
    """The settings of a coding agent with a command line."""

    model: Annotated[str, Field(min_length=1)] | None = None
    base_url: Address | None = None
    args: list[str] = []
    max_turns: int = Field(default=100, ge=1, le=1000)
    idle: Duration = 600.0


class HybridSection(Section):
    structure: str = Field(min_length=1)


class PricesSection(Section):
    input: Annotated[Number, Field(ge=0)]
    output: Annotated[Number, Field(ge=0)]
    cached: Annotated[Number, Field(ge=0)] | None = None


class AgentSection(Section):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    use: str = "search"
    timeout: Duration = 1200.0
    env: list[str] = []
    network: Literal["host", "none"] = "host"
    login: Literal["none", "mine"] = "none"
    briefing_tokens: int = Field(default=8000, ge=2000, le=200_000)
    condense_every: int | None = Field(default=None, ge=1)
    prices: PricesSection | None = None
    hybrid: HybridSection | None = None
    api: ApiSection | None = None
    claude: CliSection = CliSection()
    codex: CliSection = CliSection()
    opencode: CliSection = CliSection()
    gemini: CliSection = CliSection()
    pi: CliSection = CliSection()

    @model_validator(mode="after")
    def _hybrid_has_a_coding_agent(self) -> AgentSection:
        if self.use == "hybrid" and self.hybrid is None:
            raise _wrong(
                "hybrid needs a coding agent, which changes the structure:"
                ' [agent.hybrid] structure = "claude"'
            )
        if self.structure in WITHOUT_WORDS:
            raise _wrong(f"hybrid.structure = {self.structure!r}: must be a coding agent")
        return self

    @model_validator(mode="after")
    def _api_has_a_model(self) -> AgentSection:
        if "api" in (self.use, self.structure) and self.api is None:
            raise _wrong('api needs a model: [agent.api] model = "openai:..."')
        return self

    @property
    def structure(self) -> str:
        """The coding agent of a hybrid; empty elsewhere."""
        return self.hybrid.structure if self.use == "hybrid" and self.hybrid else ""

    def own(self, use: str) -> dict[str, Json]:
        """What the table of the agent of a name says."""
        if use in ("api", *CLIS):
            known: dict[str, Json] = getattr(self, use).model_dump(exclude_none=True)
            return known
        return dict((self.model_extra or {}).get(use, {}))

    @model_validator(mode="after")
    def _only_its_own_table(self) -> AgentSection:
        for key, value in (self.model_extra or {}).items():
            if not isinstance(value, dict):
                raise _wrong(
                    f"{key}: unknown key{_meant(key, AgentSection)};"
                    f" the agent's own settings belong into [agent.{self.use}]"
                )
        return self


class RangeSection(Section):
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    choices: list[bool | int | float | str] = []

    @model_validator(mode="after")
    def _interval_or_choices(self) -> RangeSection:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise _wrong("give either choices, or low and high")
            if len(self.choices) < 2:
                raise _wrong("choices needs at least two values")
            return self
        if self.low is None or self.high is None:
            raise _wrong("needs low and high, or choices")
        if self.low >= self.high:
            raise _wrong(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise _wrong("a log scale needs low above zero")
        return self


class SearchSection(Section):
    space: dict[str, RangeSection] = {}


class LimitsSection(Section):
    experiments: int | None = Field(default=None, ge=0)
    hours: Annotated[Number, Field(gt=0)] | None = None
    cost_usd: Annotated[Number, Field(gt=0)] | None = None
    tokens: int | None = Field(default=None, gt=0)
    device_hours: Annotated[Number, Field(gt=0)] | None = None


class QueueSection(Section):
    """What every executor with a queue has."""

    python: str = Field(default="python3", min_length=1)
    max_in_flight: int = Field(default=64, ge=1, le=10_000)
    poll: Duration = 15.0
    lost: Duration = 60.0
    queue_timeout: Duration = 86_400.0


class SlurmSection(QueueSection):
    partition: str | None = Field(default=None, pattern=r"^[\w.,-]+$")
    args: list[Annotated[str, BeforeValidator(_sbatch_option)]] = []
    margin: Duration = 300.0


class RaySection(QueueSection):
    address: Annotated[str, BeforeValidator(_ray_address)] = "http://127.0.0.1:8265"
    token: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*$")
    shared: bool = True
    resources: dict[str, Annotated[Number, Field(gt=0)]] = {}


class ParallelSection(Section):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    workers: int | None = Field(default=None, ge=1, le=WORKERS_MOST)
    oversubscribe: bool = False
    frontier: int = Field(default=1, ge=1, le=64)
    executor: str = "local"
    slurm: SlurmSection = SlurmSection()
    ray: RaySection = RaySection()

    @model_validator(mode="after")
    def _only_tables_of_executors(self) -> ParallelSection:
        for key, value in (self.model_extra or {}).items():
            if not isinstance(value, dict) or key == "local":
                raise _wrong(
                    f"{key}: unknown key{_meant(key, ParallelSection)}; an executor's own settings"
                    " belong into its table, such as [parallel.slurm]"
                )
        return self


class Common(Section):
    """What every contract has."""

    task: TaskSection
    run: MachineSection
    guard: list[GuardSection] = []
    keep: KeepSection = KeepSection()
    agent: list[AgentSection] = Field([AgentSection()], min_length=1)
    search: SearchSection = SearchSection()
    limits: LimitsSection = LimitsSection()
    parallel: ParallelSection = ParallelSection()

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in ("guard", "agent"):
                if isinstance(data.get(name), dict):
                    data = data | {name: [data[name]]}
        return data

    @model_validator(mode="after")
    def _a_worker_for_each_agent(self) -> Common:
        workers = self.parallel.workers
        if workers is not None and workers < len(self.agent):
            raise _wrong(
                f"parallel.workers = {workers}, but there are {len(self.agent)} agents; each needs"
                " a worker: raise it, leave it out, or take out agents"
            )
        return self


class File(Common):
    run: RunSection
    metric: MetricSection

    @model_validator(mode="after")
    def _hidden_needs_evaluate(self) -> File:
        if (self.task.hidden or self.task.sealed) and self.metric.evaluate is None:
            raise _wrong("task.hidden and task.sealed need metric.evaluate: only it may see them")
        for secret in (*self.task.hidden, *self.task.sealed):
            if secret in self.task.editable:
                raise _wrong(f"{secret} is both editable and hidden; it can only be one of them")
        if any(guard.expect_failing is not None for guard in self.guard):
            raise _wrong("guard.expect_failing has no use beside [metric]; leave one of them out")
        return self


class TestMachineSection(MachineSection):
    __test__ = False

    @model_validator(mode="before")
    @classmethod
    def _nothing_else_runs(cls, data: Any) -> Any:
        for key in ("command", "budget", "clock", "timeout"):
            if isinstance(data, dict) and key in data:
                raise _wrong(
                    f"{key} has no use without [metric], where only the guard is run, until it"
                    " passes; leave it out, or add [metric] with name"
                )
        return data


class TestFile(Common):
    """A contract without a metric: its one guard is to pass."""

    __test__ = False
    run: TestMachineSection = TestMachineSection()

    @model_validator(mode="after")
    def _one_that_counts_all(self) -> TestFile:
        if len(self.guard) != 1:
            raise _wrong("without [metric] there must be one guard: the test to make pass")
        if mend := suite.stops_early(self.guard[0].command):
            raise _wrong(
                "the guard stops at the first failure, so that nobody knows how many tests fail;"
                f" {mend}"
            )
        if self.task.hidden or self.task.sealed:
            raise _wrong("task.hidden and task.sealed need metric.evaluate: only it may see them")
        for name in _both(self.task, _protected(self.task)):
            raise _wrong(
                f"{name} has the name of a test, and tests are protected; if it is none, say"
                " which files are: task.protected = [...]"
            )
        return self


def _protected(task: TaskSection) -> tuple[str, ...]:
    """What of the editable files stays protected; the usual names of tests by default."""
    return suite.PROTECTED if task.protected is None else tuple(task.protected)


# Reading


def load(path: Path, *, agent: str | None = None) -> Contract:
    """Read a contract, with another agent than it says where one is named.

    Raises:
        ContractError: with every problem of the file.
        UserError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", fix="autoresearch init writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}", fix="make it a UTF-8 text file"
        ) from None
    return parse(text, path, agent=agent)


def parse(text: str, path: Path, *, agent: str | None = None) -> Contract:
    """The contract in a text that was read from ``path``.

    Raises:
        ContractError: with every problem of the text.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ContractError([Problem(path.name, "TOML", "", f"{error}; mend that line")]) from None
    if agent is not None and isinstance(own := _first(data.get("agent", {})), dict):
        data["agent"] = own | {"use": agent}
    try:
        if "metric" not in data and "guard" in data:
            return _until_pass(TestFile.model_validate(data), path)
        return _contract(File.model_validate(data), path)
    except ValidationError as error:
        problems = [_problem(path.name, data, each) for each in error.errors()]
        raise ContractError(list(dict.fromkeys(problems))) from None


def _contract(file: File, path: Path) -> Contract:
    task, run, metric = file.task, file.run, file.metric
    factor = 4 if run.clock == "cpu" else 2
    return Contract(
        path=path,
        task=_task(task, f"{metric.direction} {metric.name}", path, tuple(task.protected or ())),
        run=types.Run(
            run.command, run.setup, run.budget, run.clock, run.timeout or factor * run.budget,
            run.memory, run.cpus, run.gpus, dict(run.env), tuple(run.readable), run.early_end,
            run.screen,
        ),
        metric=types.Metric(
            metric.name, metric.direction, metric.evaluate, metric.answer, metric.answer_cpu,
            metric.timeout, metric.pattern, metric.min_gain, metric.target, metric.loopback,
        ),
        guards=tuple(types.Guard(each.command, each.timeout, each.expect) for each in file.guard),
        **_common(file),
    )  # fmt: skip


def _until_pass(file: TestFile, path: Path) -> Contract:
    """The test is what is run, and how many of it fail is what is lowered to 0."""
    run, guard = file.run, file.guard[0]
    said = " ".join(guard.command)
    return Contract(
        path=path,
        task=_task(file.task, f"Make `{said}` pass", path, _protected(file.task)),
        run=types.Run(
            guard.command, run.setup, guard.timeout, "wall", guard.timeout,
            run.memory, run.cpus, run.gpus, dict(run.env), tuple(run.readable),
        ),
        metric=types.Metric(suite.NAME, target=0.0),
        suite=types.Suite(suite.runner(guard.command), guard.expect, guard.expect_failing),
        **_common(file),
    )  # fmt: skip


def _task(task: TaskSection, goal: str, path: Path, protected: tuple[str, ...]) -> types.Task:
    program = path.parent / "program.md"
    default = "program.md" if program.is_file() else None
    return types.Task(
        tuple(task.editable),
        task.goal or goal,
        task.instructions if task.instructions is not None else default,
        tuple(task.data),
        tuple(task.hidden),
        tuple(task.sealed),
        protected,
    )


def _common(file: Common) -> dict[str, Any]:
    """The parts of a contract that do not depend on what is measured."""
    return {
        "keep": types.Keep(file.keep.confirm, file.keep.confidence, file.keep.simplicity),
        "agents": tuple(_agent(each) for each in file.agent),
        "space": {
            name: types.Range(each.low, each.high, each.log, tuple(each.choices))
            for name, each in file.search.space.items()
        },
        "limits": types.Limits(**file.limits.model_dump()),
        "parallel": _parallel(file.parallel, len(file.agent)),
    }


def _parallel(section: ParallelSection, agents: int) -> types.Parallel:
    own = {"slurm": section.slurm.model_dump(), "ray": section.ray.model_dump()}
    options = own | dict(section.model_extra or {})
    return types.Parallel(
        section.workers or agents, section.frontier, section.executor, section.oversubscribe,
        options,
    )  # fmt: skip


def _agent(section: AgentSection) -> types.AgentChoice:
    structure = section.structure
    own = section.own(section.use)
    if structure:
        own = {"structure": structure, structure: section.own(structure)}
    prices = types.Prices(**section.prices.model_dump()) if section.prices else None
    return types.AgentChoice(
        section.use, section.timeout, tuple(section.env), section.network, section.login,
        section.briefing_tokens, section.condense_every, prices, own,
    )  # fmt: skip


def agent(
    use: str, env: Sequence[str] = (), login: Literal["none", "mine"] = "none"
) -> types.AgentChoice:
    """An agent that no contract says anything of.

    Raises:
        ContractError: it cannot do without.
    """
    try:
        return _agent(AgentSection(use=use, env=list(env), login=login))
    except ValidationError as error:
        raise ContractError([_problem(NAME, {}, each) for each in error.errors()]) from None


def defaults(use: str) -> dict[str, Json]:
    """What an agent's own table says where it says nothing."""
    section = SECTIONS.get(f"agent.{use}")
    named = section.model_fields.items() if section else ()
    return {name: each.default for name, each in named if not each.is_required()}


def _first(section: object) -> object:
    return section[0] if isinstance(section, list) and section else section


# Saying what is wrong


def _problem(file: str, data: Mapping[str, Any], error: Any) -> Problem:
    place = [str(part) for part in error["loc"] if not isinstance(part, int)]
    # Pydantic names the member of a union that failed; that is not part of the key.
    place = [part for part in place if not re.search(r"[\[\(]|^(bool|int|float|str)$", part)]
    key = ".".join(place) or "contract"
    value = "" if error["type"] in ("missing", "model_type") else _shown(error.get("input"))
    return Problem(file, key, value, _fix(error, place, key))


def _fix(error: Any, place: list[str], key: str) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "contract":
            return str(context["fix"])
        case "missing":
            return f"is required; {EXAMPLES.get(key, 'add it')}"
        case "extra_forbidden":
            return f"unknown key{_meant(place[-1], _model(place[:-1]))}"
        case "literal_error":
            return f"must be {context['expected']}"
        case "too_short":
            return EXAMPLES.get(key, "must not be empty")
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return str(error["msg"]).replace("Input should be", "must be")
        case "string_pattern_mismatch":
            return "must be a name: letters, digits, _ . / -, beginning with a letter"
        case _:
            return str(error["msg"]).replace("Input should be a valid", "must be a").replace(
                "Input should be", "must be"
            )  # fmt: skip


EXAMPLES = {
    "task": "add [task] with editable",
    "task.editable": 'name the files that may be edited: editable = ["train.py"]',
    "run": "add [run] with command",
    "run.command": 'command = "python train.py"',
    "metric": "add [metric] with name, or a [guard] alone to run until its test passes",
    "metric.name": 'name = "val_bpb"',
    "guard.command": 'command = "pytest -q"',
    "agent.api.model": 'model = "openai:..."',
    "agent.hybrid.structure": 'structure = "claude"',
    "agent.prices.input": "in dollars per million tokens",
    "agent.prices.output": "in dollars per million tokens",
}
SECTIONS: dict[str, type[BaseModel]] = {
    "": File, "task": TaskSection, "run": RunSection, "metric": MetricSection,
    "guard": GuardSection, "keep": KeepSection, "agent": AgentSection,
    "agent.hybrid": HybridSection, "agent.api": ApiSection, "agent.prices": PricesSection,
    "search": SearchSection,
    "search.space": RangeSection, "limits": LimitsSection, "parallel": ParallelSection,
    **{f"agent.{name}": CliSection for name in CLIS},
    "parallel.slurm": SlurmSection, "parallel.ray": RaySection,
}  # fmt: skip


def _model(place: Sequence[str]) -> type[BaseModel]:
    return SECTIONS.get(".".join(place[:2]), SECTIONS.get(".".join(place[:1]), File))


def _meant(key: str, model: type[BaseModel]) -> str:
    close = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(model.model_fields)}"


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 80 and not isinstance(value, dict) else ""


# For the journal


def snapshot(contract: Contract) -> dict[str, Json]:
    """The whole contract as JSON, without the place it was read from."""
    body = {name.name: getattr(contract, name.name) for name in fields(contract)}
    del body["path"]
    space = {name: asdict(each) for name, each in contract.space.items()}
    plain: dict[str, object] = {
        key: asdict(value)
        for key, value in body.items()
        if key not in ("guards", "agents", "space", "suite")
    }
    plain |= {
        "guards": [asdict(each) for each in contract.guards],
        "agents": [asdict(each) for each in contract.agents],
        "space": space,
        "suite": asdict(contract.suite) if contract.suite else None,
    }
    return _listed(plain)  # type: ignore[no-any-return]


def _listed(value: Any) -> Any:
    """Tuples become lists, as they do in JSON."""
    if isinstance(value, Mapping):
        return {key: _listed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(each) for each in value]
    return value


def from_snapshot(body: Mapping[str, Any], path: Path) -> Contract:
    """The contract that ``snapshot`` described."""
    return Contract(
        path=path,
        task=_make(types.Task, body["task"]),
        run=_make(types.Run, body["run"]),
        metric=_make(types.Metric, body["metric"]),
        guards=tuple(_make(types.Guard, each) for each in body["guards"]),
        keep=_make(types.Keep, body["keep"]),
        agents=tuple(_agent_of(each) for each in body["agents"]),
        space={name: _make(types.Range, each) for name, each in body["space"].items()},
        limits=_make(types.Limits, body["limits"]),
        parallel=_make(types.Parallel, body["parallel"]),
        suite=_make(types.Suite, body["suite"]) if body.get("suite") else None,
    )


def _agent_of(body: Mapping[str, Any]) -> types.AgentChoice:
    made: types.AgentChoice = _make(types.AgentChoice, body)
    return replace(made, prices=types.Prices(**body["prices"])) if body.get("prices") else made


def _make(kind: Callable[..., Any], body: Mapping[str, Any]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in body.items()})


def frozen_changes(old: Contract, new: Contract) -> list[str]:
    """Keys that differ and that measurements depend on, so that a resumed run must not change."""
    before, after = snapshot(old), snapshot(new)
    found = []
    for section in before:
        if section in MAY_CHANGE:
            continue
        a, b = before[section], after[section]
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{section}.{key}" for key in a if a[key] != b.get(key)]
        elif a != b:
            found.append(section)
    if old.suite and new.suite:
        found = list(dict.fromkeys(OF_THE_GUARD.get(key, key) for key in found))
    return [_written(key) for key in found if key not in MAY_CHANGE and key != "metric.target"]


def _written(key: str) -> str:
    """A key as it is written in the file."""
    return re.sub(r"_(s|bytes)$", "", key).replace("guards", "guard")
