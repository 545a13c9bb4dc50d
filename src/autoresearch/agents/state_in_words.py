"""What the optimizer knows, in words for a coding agent: centre, spread, and what matters. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..types import Metric
from . import constants as consts
from .constants import Dimension, Value
from .landscape import Landscape
from .sources import Key, Parsed, Trial
from .surrogate import Surrogate

SHOWN = 12  # constants
MUCH, LITTLE = 1.4, 0.7  # what a constant matters, where 1 is the average
SURE = 0.25  # typical effects by which one direction must look better to be named


def state(
    here: Parsed,
    dimensions: Mapping[Key, Dimension],
    trials: Sequence[Trial],
    metric: Metric,
    new: Collection[Key] = (),
) -> list[str]:
    """Lines about the constants, the most important first; none where nothing is tuned."""
    if not dimensions:
        return []
    scape = Landscape.of(here, dimensions, trials, metric)
    model = Surrogate(scape.dimensions, scape.start, scape.rows, scape.worse, scape.crashed)
    lines = [
        f"an optimizer tunes {len(dimensions)} constants between your turns, from their values"
        f" now and by about {scape.radius:.2g} natural steps: change the structure rather than"
        " values, and name new numbers as constants in capitals, which it then tunes"
    ]
    known = [{row[i] for row in scape.rows} for i in range(len(dimensions))]
    keys = list(dimensions)
    order = sorted(range(len(keys)), key=lambda i: (keys[i] not in new, -model.shares[i]))
    for i in order[:SHOWN]:
        key = keys[i]
        said = _matters(model.shares[i]) if len(known[i]) > 1 else "not varied yet"
        said = "new, " + said if key in new else said
        lines.append(
            f"{here.names[key]} = {here.constants[key].text} ({_spread(scape, i, here, key)}):"
            f" {said}{_direction(scape, model, i)}{_crashes(scape, i)}"
        )
    if (more := len(dimensions) - SHOWN) > 0:
        lines.append(f"and {more} more that matter less")
    return lines


def _matters(share: float) -> str:
    if share >= MUCH:
        return "matters much"
    return "matters little" if share <= LITTLE else "matters"


def _spread(scape: Landscape, i: int, here: Parsed, key: Key) -> str:
    """Where it looks next."""
    axis = scape.dimensions[i]
    if axis.scale == "choice":
        return "of " + ", ".join(map(str, axis.choices[:6]))
    low, high = (axis.value(scape.start[i] + sign * scape.radius) for sign in (-1, 1))
    text = here.constants[key].text
    return f"tries {consts.render(low, text)} to {consts.render(high, text)}"


def _direction(scape: Landscape, model: Surrogate, i: int) -> str:
    """Which way looks better, where that is clear."""
    axis = scape.dimensions[i]
    if axis.scale == "choice" and not axis.ordered:
        return ""
    down, up = (
        model.promise(tuple(at + sign * (i == j) for j, at in enumerate(scape.start)))
        for sign in (-1, 1)
    )
    if abs(up - down) < SURE:
        return ""
    return f", {'more' if up > down else 'less'} looks better"


def _crashes(scape: Landscape, i: int) -> str:
    """From which value on everything crashed, if there is one."""
    axis = scape.dimensions[i]
    if axis.scale == "choice" and not axis.ordered:
        return ""
    fine = [row[i] for row, bad in zip(scape.rows, scape.crashed, strict=True) if not bad]
    bad = [row[i] for row, bad in zip(scape.rows, scape.crashed, strict=True) if bad]
    fine.append(scape.start[i])
    above = [at for at in bad if at > max(fine)]
    below = [at for at in bad if at < min(fine)]
    said = ""
    if above:
        said += f", crashed at {_number(axis.value(min(above)))} and more"
    if below:
        said += f", crashed at {_number(axis.value(max(below)))} and less"
    return said


def _number(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
