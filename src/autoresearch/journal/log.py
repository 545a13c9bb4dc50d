"""The log of decisions: one commit message for each, together the journal's second copy.

A message has a title, the decision as one line of JSON, and then each event of the journal since
the message before it. The journal can be rebuilt from these alone, up to the last decision.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ..errors import DamagedError
from ..text import cell
from . import Event
from .view import Experiment

TOO_LARGE_TO_KEEP = ("files", "patch")


def message(experiment: Experiment, events: Iterable[Event]) -> str:
    """What the log says of a decided experiment; ``events`` end with its decision."""
    decision = experiment.decision
    assert decision is not None
    entry = {
        "experiment": experiment.number,
        "commit": experiment.commit,
        "status": decision.status.value,
        "value": decision.value,
        "reason": decision.reason,
        "description": cell(experiment.description),
    }
    lines = [f"#{experiment.number} {decision.status.value}", "", json.dumps(entry)]
    for event in events:
        body = {k: v for k, v in event.body.items() if k not in TOO_LARGE_TO_KEEP}
        row = [event.seq, event.at, event.clock_s, event.kind, event.experiment, body]
        lines.append(json.dumps(row, separators=(",", ":")))
    return "\n".join(lines) + "\n"


def last_seq(message: str) -> int:
    """The number of the last event that a message holds; 0 for the log's first message."""
    events = _events(message)
    return events[-1].seq if events else 0


def events(messages: Sequence[str]) -> list[Event]:
    """The events of a whole log, oldest message first.

    Raises:
        DamagedError: some are missing.
    """
    found = [event for message in messages for event in _events(message)]
    if [event.seq for event in found] != list(range(1, len(found) + 1)):
        raise DamagedError("the log of decisions has gaps")
    carried_out = {str(event.body.get("ticket", "")) for event in found if event.kind == "opened"}
    # What a person queued and nobody carried out yet is kept without its files: it is lost.
    return [
        Event(each.seq, each.at, "ticket_lost", None, {"message": each.body["message"]},
              each.clock_s)
        if each.kind == "ticket" and each.body["ticket"] not in carried_out else each
        for each in found
    ]  # fmt: skip


def _events(message: str) -> list[Event]:
    found = []
    for line in message.splitlines()[3:]:
        try:
            seq, at, clock_s, kind, experiment, body = json.loads(line)
        except ValueError as error:
            raise DamagedError(f"the log of decisions is unreadable: {error}") from error
        found.append(Event(seq, at, kind, experiment, body, clock_s))
    return found
