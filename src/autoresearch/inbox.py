"""The inbox of a run: what other commands and agents ask of the process that holds it.

Only the holder of a run writes its journal. Everybody else leaves a file for each request in
``inbox/``, a JSON object. The holder reads them in the order in which they were left, journals what
is asked, and then removes the file; what it cannot understand it removes without a word. Nobody
needs to hold the run: what is not forgotten waits for the next who does.

``{"kind": "stop"}``, ``{"kind": "pause"}``, ``{"kind": "resume"}``
    Meant for the engine that works now: forgotten where a run is taken hold of anew.
``{"kind": "ticket", "ticket": ID, "message": TEXT, "files": {PATH: BASE64 | null}, "patch": BASE64 | null}``
    Carry out an experiment with these editable files, or with a patch of the incumbent (``try``).
``{"kind": "idea", "ticket": ID, "text": TEXT}``
    Queue a hypothesis. May also have ``"priority": 0`` (higher is taken first), ``"worker": null``
    (a number from 0: only that one takes it), ``"patch": BASE64`` (tried as it is, without an
    agent), ``"note": true`` (told to every agent, never an experiment; a person's only), and
    ``"by": NAME`` where an agent proposes it. The text becomes one printable line of at most 1,000 characters.
``{"kind": "idea_drop", "idea": NUMBER}``
    Take an idea or a note back.

An ID is a fresh random name: with it a request is carried out once, whoever is killed when.
"""  # noqa: E501

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from . import disk
from .errors import StoreError
from .journal import ideas
from .journal.view import RunView
from .types import Json

FOLDER = "inbox"
# What is meant for the engine that works now.
PASSING = ("stop", "pause", "resume")


def drop(run: Path, request: dict[str, Json]) -> None:
    """Leave a request in a run's inbox.

    Raises:
        DiskFullError: there is no room for it.
    """
    # By name in the order of asking: pause and resume must not be taken the other way round.
    name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
    draft = run / FOLDER / f".{name}"
    try:
        with disk.named(run), draft.open("w") as file:
            json.dump(request, file)
            file.flush()
            os.fsync(file.fileno())
    except StoreError:
        draft.unlink(missing_ok=True)
        raise
    draft.rename(run / FOLDER / f"{name}.json")


def pending(run: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The requests that wait, oldest first; one that cannot be understood is empty."""
    found = []
    for path in sorted((run / FOLDER).glob("*.json")):
        request: Any = {}
        try:
            request = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue  # the holder took it
        except (ValueError, RecursionError):
            pass
        found.append((path, request if isinstance(request, dict) else {}))
    return found


def take(run: Path, kinds: Collection[str]) -> list[str]:
    """Remove the requests of these kinds, unheard; returns their kinds, oldest first."""
    found = []
    for path, request in pending(run):
        kind = request.get("kind")
        if isinstance(kind, str) and kind in kinds:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                found.append(kind)
    return found


def foresee(view: RunView, run: Path) -> RunView:
    """Add to a view what is asked about ideas and not journaled yet; returns it."""
    for _, request in pending(run):
        match request.get("kind"):
            case "idea" if (body := ideas.asked(request, view.ideas)) is not None:
                view.ideas.add(body, "")
            case "idea_drop":
                view.ideas.drop(request.get("idea"))
    return view
