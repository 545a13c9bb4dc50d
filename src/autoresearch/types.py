"""The nouns of autoresearch as frozen values; this module imports nothing of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

Direction = Literal["lower", "higher"]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Status(StrEnum):
    """How an experiment ended."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    VOID = "void"


class Kind(StrEnum):
    """What the strategy asked for."""

    BASELINE = "baseline"
    IMPROVE = "improve"
    EXPLORE = "explore"
    SIMPLIFY = "simplify"
    COMBINE = "combine"
    TUNE = "tune"


OPTIMIZER = (Kind.TUNE, Kind.SIMPLIFY)  # what is proposed without a model


class Level(StrEnum):
    """How strongly this machine confines untrusted code, strongest first."""

    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"
    SEATBELT = "seatbelt"
    NONE = "none"


class Outcome(StrEnum):
    """How one sample ended: only ``ok`` has a value, ``void`` says nothing about the candidate.

    ``hopeless`` was ended early, as its curve could not win any more.
    """

    OK = "ok"
    CRASH = "crash"
    TIMEOUT = "timeout"
    VOID = "void"
    HOPELESS = "hopeless"


class AgentFailure(StrEnum):
    """Why an agent gave no proposal; each is waited out or ended in its own way."""

    DENIED = "denied"
    RATE_LIMITED = "rate limited"
    USAGE_LIMIT = "usage limit"
    AUTH = "auth"
    LIMIT = "limit"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


# The contract: autoresearch.toml after validation (config.py). Seconds and bytes.


@dataclass(frozen=True, slots=True)
class Task:
    editable: tuple[str, ...]
    goal: str
    instructions: str | None = None
    data: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    command: tuple[str, ...]
    setup: tuple[str, ...] | None = None
    budget_s: float = 300.0
    clock: Literal["wall", "cpu"] = "wall"
    timeout_s: float = 600.0
    memory_bytes: int | None = None
    cpus: int = 1
    gpus: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    readable: tuple[str, ...] = ()
    early_end: bool = False
    screen_s: float | None = None

    def lasting(self, budget_s: float) -> Run:
        """The same with another budget, and a timeout in proportion."""
        timeout_s = self.timeout_s * budget_s / self.budget_s
        return replace(self, budget_s=budget_s, timeout_s=timeout_s)

    @property
    def first_look(self) -> Run:
        """What a candidate is run with before it gets the whole budget."""
        assert self.screen_s is not None
        return self.lasting(self.screen_s)


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    direction: Direction = "lower"
    evaluate: tuple[str, ...] | None = None
    answer: tuple[str, ...] | None = None
    answer_cpu_s: float = 60.0
    timeout_s: float = 300.0
    pattern: str | None = None
    min_gain: float = 0.0
    target: float | None = None
    loopback: bool = False

    @property
    def self_reported(self) -> bool:
        """True where the number is printed by code the agent may edit."""
        return self.evaluate is None

    def better(self, a: float, b: float) -> bool:
        return a < b if self.direction == "lower" else a > b

    def gain(self, new: float, old: float) -> float:
        """Improvement of ``new`` over ``old`` in metric units, positive when better."""
        return old - new if self.direction == "lower" else new - old


@dataclass(frozen=True, slots=True)
class Guard:
    command: tuple[str, ...]
    timeout_s: float = 300.0
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """The test to make pass, where a contract has no metric; ``run.command`` is what runs it.

    ``runner`` is one whose output is known, else empty.
    """

    runner: str
    expect: str | None = None
    expect_failing: str | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    confirm: Literal["auto", "never"] | int = "auto"
    confidence: float = 0.99
    simplicity: Literal["auto"] | float = "auto"


@dataclass(frozen=True, slots=True)
class Prices:
    """What a model costs in dollars per million tokens; ``cached`` is input that it kept."""

    input: float
    output: float
    cached: float | None = None

    def cost_usd(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """What a call cost; ``cached_tokens`` are part of ``input_tokens``."""
        cached = self.input if self.cached is None else self.cached
        fresh_tokens = max(0, input_tokens - cached_tokens)
        spent = fresh_tokens * self.input + cached_tokens * cached + output_tokens * self.output
        return spent / 1e6

    def most_usd(self, tokens: int) -> float:
        """What tokens of an unknown kind cost at most."""
        return tokens * max(self.input, self.output, self.cached or 0.0) / 1e6


@dataclass(frozen=True, slots=True)
class AgentChoice:
    use: str = "search"
    timeout_s: float = 1200.0
    env: tuple[str, ...] = ()
    network: Literal["host", "none"] = "host"
    login: Literal["none", "mine"] = "none"
    briefing_tokens: int = 8000
    condense_every: int | None = None
    prices: Prices | None = None
    options: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Range:
    """The values a named constant may take: an interval, or choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[bool | int | float | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    experiments: int | None = None
    hours: float | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    device_hours: float | None = None


@dataclass(frozen=True, slots=True)
class Parallel:
    """How many experiments are in flight at once, and where.

    ``oversubscribe`` lets samples share cores and devices. ``options`` are each executor's own
    settings by its name.
    """

    workers: int = 1
    frontier: int = 1
    executor: str = "local"
    oversubscribe: bool = False
    options: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contract:
    """What to improve and under which rules; ``path`` is the file it was read from."""

    path: Path
    task: Task
    run: Run
    metric: Metric
    guards: tuple[Guard, ...] = ()
    keep: Keep = Keep()
    agents: tuple[AgentChoice, ...] = (AgentChoice(),)
    space: Mapping[str, Range] = field(default_factory=dict)
    limits: Limits = Limits()
    parallel: Parallel = Parallel()
    suite: Suite | None = None

    @property
    def root(self) -> Path:
        """The directory that all relative paths of the contract are relative to."""
        return self.path.parent


# What happens during a run.


@dataclass(frozen=True, slots=True)
class Usage:
    """What one step used, as we measured it, over its whole process tree."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Contention:
    """What a sample's cores did for others while it was ready to run, in seconds.

    ``core_s`` is the time that its cores had, zero where nothing is known: a sample of less than
    1.5 s or without cores of its own. ``stolen_s`` is what the host took from them.
    """

    core_s: float = 0.0
    lost_s: float = 0.0
    stolen_s: float = 0.0

    @property
    def share(self) -> float:
        """The part of the cores' time that the sample wanted and did not get."""
        return (self.lost_s + self.stolen_s) / self.core_s if self.core_s else 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What a run of the tests said of them; ``passed`` is None where its runner does not say.

    ``errors`` are failures outside of a test's own body. ``skipped`` is all that was not asked to
    pass. ``unloaded`` counts files or packages that could not be imported or compiled, so that
    nobody knows how many tests they hold. ``expected`` is what the guard's ``expect`` matched.
    """

    passed: int | None = None
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    unloaded: int = 0
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value of one commit with one seed, or why there is none.

    ``usage`` is that of the command step, ``answer_cpu_s`` the processor time of the answer.
    ``told`` is the reason as agents may read it: it quotes nothing that an evaluation printed,
    which sees what is hidden. ``foretold`` is what the curve of a run that was ended early let
    expect: for choosing what to try next, never a value. ``node`` is where it was taken, and
    ``hardware`` what kind of machine that is, in words: values compare only between machines of one
    kind.
    """

    commit: str
    seed: int
    outcome: Outcome
    value: float | None = None
    reason: str = ""
    usage: Usage = Usage()
    memory_gb: float = 0.0
    level: Level = Level.NONE
    node: str = ""
    answer_cpu_s: float = 0.0
    contention: Contention = Contention()
    told: str = ""
    tally: Tally | None = None
    foretold: float | None = None
    hardware: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the strategy asks an agent for: an idea of some kind on top of ``parent``.

    ``reason`` is one sentence about the choice. ``combines`` is the experiment whose change is to
    be brought onto ``parent``.
    """

    parent: str
    kind: Kind
    hypothesis: str = ""
    reason: str = ""
    combines: int | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an agent says about its edit; the edit itself is in the workspace."""

    description: str = ""
    hypothesis: str = ""
    expected: str = ""
    kind: Kind | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal sealed as a commit: the parent's tree with only allowed files changed."""

    commit: str
    parent: str
    tokens_added: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The end of an experiment: a status and one human sentence with its numbers.

    ``value`` is what the row shows; ``low`` and ``high`` bound it at the run's confidence;
    ``gain`` is candidate over incumbent in metric units, positive when better. ``combine`` asks
    for its change on top of what was kept since it was begun.
    """

    status: Status
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    gain: float | None = None
    confidence: float | None = None
    combine: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """One experiment as agents see it; ``sources`` reads its editable files on demand.

    ``status`` is None while it is being measured. ``value`` is what its row shows; of one that was
    ended early what its curve foretold.
    ``seconds`` went by from the plan to the decision.
    """

    number: int
    commit: str
    parent: str
    kind: Kind
    status: Status | None
    value: float | None
    description: str
    sources: Callable[[], Mapping[str, str]]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Launched:
    """How a confined agent process ended."""

    outcome: str
    detail: str
    exit_code: int | None
    log: Path
    usage: Usage
    errors: Path | None = None


@dataclass(frozen=True, slots=True)
class Inside:
    """The paths of an assignment as a confined process sees them; it starts in ``workspace``."""

    workspace: Path
    briefing: Path
    proposal: Path
    memory: Path
    home: Path


@dataclass(frozen=True, slots=True)
class Needs:
    """What an agent's own process is given beyond the workspace, and how it is held.

    ``home`` are the files of a fresh home directory by relative path, made for this process alone;
    ``readable`` are further places of this machine. ``idle_s`` ends a process that prints nothing
    for so long, ``lines`` one that prints more of them. ``apart`` keeps its standard error out of
    its log.
    """

    home: Mapping[str, bytes] = field(default_factory=dict)
    readable: tuple[Path, ...] = ()
    idle_s: float | None = None
    lines: int | None = None
    apart: bool = False


class Launcher(Protocol):
    """Starts a confined process in the workspace."""

    def __call__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdin: Path | None,
        needs: Needs = ...,
        /,
    ) -> Awaitable[Launched]:
        """Run ``argv`` to its end, with extra environment and a file as standard input."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that an agent is handed for one iteration; agents keep no memory between calls.

    ``workspace`` is a writable export of the parent commit and the only thing an agent may
    change; ``editable`` lists the existing files it may edit, relative to ``workspace``.
    ``memory`` is a folder to read in: results.tsv, lessons, diffs and logs of past experiments; a
    process that ``launch`` starts is shown it as ``.autoresearch`` in its workspace.
    ``turn`` counts the experiments that agents proposed before. ``launch`` runs a confined process
    that sees the same places at the paths of ``inside``, at the confinement ``level``.
    ``allowed`` are the contract's patterns of editable files, relative to ``inside.workspace``.
    ``run`` runs a command there for so many seconds without the agent's variables or a network.
    ``tokens_left`` and ``cost_left_usd`` are what the run's limits leave for this iteration.
    ``history`` is oldest first, begins with the baseline, and is bounded by the engine;
    ``pending`` are the candidates that other workers measure at this moment.
    """

    number: int
    workspace: Path
    editable: tuple[str, ...]
    plan: Plan
    seed: int
    metric: Metric
    space: Mapping[str, Range]
    history: Sequence[Past]
    briefing: Path
    directory: Path
    pending: Sequence[Past] = ()
    turn: int = 0
    memory: Path | None = None
    launch: Launcher | None = None
    run: Callable[[Sequence[str], float], Awaitable[Launched]] | None = None
    inside: Inside | None = None
    level: Level = Level.NONE
    allowed: tuple[str, ...] = ()
    choice: AgentChoice = AgentChoice()
    tokens_left: float | None = None
    cost_left_usd: float | None = None

    @property
    def proposal(self) -> Path:
        """Where an agent may leave a JSON file about its proposal."""
        return self.directory / "proposal.json"
