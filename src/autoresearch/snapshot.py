"""A run as it was not long ago, so that ``status`` need not read a long journal from its start.

The engine leaves one beside the journal now and then. It holds all totals, what was kept and what
is in flight; of the other experiments only the last, as the oldest are counted and *forgotten*. It
is for reading only: an engine always reads every event. It is worth nothing without the journal,
names the event it ends with by that event's digest, and can be deleted at any time; where it does
not fit, to the journal or to this program, all events are read.

It is JSON, in which experiments and ideas are named by their numbers, so that what is one object
stays one. Nothing but the types below can come out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from . import __version__, calibration, decide, types
from .calibration import Calibration
from .journal import Journal
from .journal.ideas import Idea, Ideas, State
from .journal.verification import Verification
from .journal.view import Experiment, Pause, Role, RunView, Taken

NAME = "snapshot.json"
EVERY, RECENT = 100, 100
CLASSES: dict[str, Any] = {
    f"{each.__module__.rpartition('.')[2]}.{each.__name__}": each
    for each in (
        Experiment, Taken, Role, Pause, Idea, Ideas, State, Verification, Calibration,
        calibration.Outcome, calibration.Expectation, decide.Noise, types.AgentFailure,
        types.Contention, types.Decision, types.Kind, types.Level, types.Outcome, types.Sample,
        types.Status, types.Tally, types.Usage,
    )
}  # fmt: skip
NAMES = {made: name for name, made in CLASSES.items()}
NOTHING = ...


def _default(of: Field[Any]) -> Any:
    """What a field is where nobody says otherwise; ``NOTHING`` where somebody must."""
    if of.default_factory is not MISSING:
        return of.default_factory()
    return NOTHING if of.default is MISSING else of.default


# Most of what is in flight has nothing in most of its fields.
DEFAULTS = {
    made: {each.name: _default(each) for each in fields(made)}
    for made in NAMES if is_dataclass(made)
}  # fmt: skip
# What only an engine asks for, and what is made from the experiments.
LEFT_OUT = ("experiments", "decided", "forgotten", "fingerprints", "forms", "numbers")


class Snapshots:
    """Writes those of one run; ``folder`` is the run's."""

    def __init__(self, folder: Path, metric: types.Metric) -> None:
        self._path = folder / NAME
        self._metric = metric
        self._forgotten = Calibration()
        self._followed = 0

    def write(self, view: RunView, digest: str) -> None:
        """Leave one; ``digest`` is that of the last event. A disk that refuses is no matter."""
        end = max(0, len(view.decided) - RECENT)
        for experiment in view.decided[self._followed : end]:
            self._forgotten.add(experiment, self._metric)
        self._followed = end
        body = {"shape": SHAPE, "digest": digest, **_Packer().view(view, self._forgotten)}
        draft = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(body, separators=(",", ":")), encoding="utf-8")
            draft.replace(self._path)


def recent(folder: Path) -> tuple[RunView, Calibration]:
    """What the run in ``folder`` is now, and the calibration of the experiments it has forgotten.

    At least the last hundred decided experiments are in it.

    Raises:
        StoreError: the journal is damaged, or cannot be read.
    """
    journal = Journal(folder / "journal.db", read_only=True)
    try:
        view, forgotten = _load(folder / NAME, journal) or (RunView(), Calibration())
        for event in journal.events(after=view.seq):
            view.apply(event)
        return view, forgotten
    finally:
        journal.close()


def _load(path: Path, journal: Journal) -> tuple[RunView, Calibration] | None:
    """What a snapshot holds; None where there is none that fits."""
    try:
        body = json.loads(path.read_bytes())
        if body["shape"] == SHAPE and body["digest"] == journal.digest_of(body["seq"]):
            return _Unpacker(body).view()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # whatever is there, it is no snapshot
    return None


class _Packer:
    """Makes JSON of a view."""

    def __init__(self) -> None:
        self._experiments: dict[int, Experiment] = {}
        self._ideas: dict[int, Idea] = {}

    def view(self, view: RunView, forgotten: Calibration) -> dict[str, Any]:
        state = {k: self._pack(v) for k, v in vars(view).items() if k not in LEFT_OUT}
        decided = [self._pack(each) for each in view.decided[-RECENT:]]
        for each in view.experiments.values():
            if each.decision is None:
                self._pack(each)
        return {
            "seq": view.seq,
            "state": state,
            "decided": decided,
            "forgotten": len(view.decided) - len(decided),
            "calibration": self._pack(forgotten),
            "experiments": [self._fields(each) for _, each in sorted(self._experiments.items())],
            # Code is tried by the engine, which has the journal.
            "ideas": [self._fields(replace(each, patch=None)) for each in self._ideas.values()],
        }

    def _pack(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Experiment):
            self._experiments[value.number] = value
            return {"experiment": value.number}
        if isinstance(value, Idea):
            self._ideas[value.number] = value
            return {"idea": value.number}
        if isinstance(value, Enum):
            return {"of": NAMES[type(value)], "value": value.value}
        if isinstance(value, datetime):
            return {"time": value.isoformat()}
        if isinstance(value, deque):
            return {"deque": [self._pack(each) for each in value], "most": value.maxlen}
        if isinstance(value, tuple):
            return {"tuple": [self._pack(each) for each in value]}
        if isinstance(value, list):
            return [self._pack(each) for each in value]
        if isinstance(value, Mapping):
            return {"dict": [[self._pack(k), self._pack(v)] for k, v in value.items()]}
        return self._fields(value)

    def _fields(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Ideas):
            packed = {name: self._pack(each) for name, each in vars(value).items()}
        else:
            packed = {
                name: self._pack(each)
                for name, usual in DEFAULTS[type(value)].items()
                if type(each := getattr(value, name)) is not type(usual) or each != usual
            }
        return {"of": NAMES[type(value)], "fields": packed}


class _Unpacker:
    """Makes a view of that JSON again."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._experiments: dict[int, Experiment] = {}
        self._ideas: dict[int, Idea] = {}

    def view(self) -> tuple[RunView, Calibration]:
        for each in map(self._unpack, self._body["experiments"]):
            self._experiments[each.number] = each
        for each in map(self._unpack, self._body["ideas"]):
            self._ideas[each.number] = each
        view = RunView()
        for name, value in self._body["state"].items():
            setattr(view, name, self._unpack(value))
        view.experiments = self._experiments
        view.decided = self._unpack(self._body["decided"])
        view.forgotten = self._body["forgotten"]
        return view, self._unpack(self._body["calibration"])

    def _unpack(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, list):
            return [self._unpack(each) for each in value]
        match value:
            case {"of": name, "fields": packed}:
                return self._made(CLASSES[name], {k: self._unpack(v) for k, v in packed.items()})
            case {"of": name, "value": each}:
                return CLASSES[name](each)
            case {"experiment": number}:
                return self._experiments[number]
            case {"idea": number}:
                return self._ideas[number]
            case {"time": said}:
                return datetime.fromisoformat(said)
            case {"deque": each, "most": most}:
                return deque(map(self._unpack, each), maxlen=most)
            case {"tuple": each}:
                return tuple(map(self._unpack, each))
            case {"dict": pairs}:
                return {self._unpack(k): self._unpack(v) for k, v in pairs}
        raise ValueError("unknown")

    def _made(self, of: Any, named: dict[str, Any]) -> Any:
        if of is not Ideas:
            return of(**named)
        ideas = Ideas()
        for name, value in named.items():
            setattr(ideas, name, value)
        return ideas


def _shape() -> str:
    """A name for all that a snapshot's meaning depends on: another program reads no old ones."""
    parts = [(name, repr(DEFAULTS.get(of))) for name, of in sorted(CLASSES.items())]
    said = json.dumps([__version__, sorted(vars(RunView())), sorted(vars(Ideas())), parts])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


SHAPE = _shape()
