"""The keep rule under simulated noise: the real decision module against the naive rule.

    python bench/keep_rule.py [--quick | --full] [--curve]

Lower is better, noise has standard deviation 1. "Naive" keeps whatever a single run shows to be
better than the recorded best, as the public tools do. Figures follow from fixed seeds.
Exits 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

from referee import Referee

from autoresearch import decide as rules
from autoresearch.decide import Rule
from autoresearch.types import Status

Sampler = Callable[[float], float]
LEVEL = 300.0  # a value whose prior noise (a thousandth of it) is below the true noise of 1


class Campaign:
    """One run of the real rule on true values, and what its keeps were worth."""

    def __init__(self, sample: Sampler, baseline: int = 5, rule: Rule | None = None) -> None:
        self.referee = Referee(sample, LEVEL, baseline, rule or Rule("lower"))
        self.start = LEVEL
        self.baseline = baseline
        self.keeps = 0
        self.useless = 0

    @property
    def truth(self) -> float:
        return self.referee.incumbent

    @property
    def recorded(self) -> float:
        return self.referee.recorded

    @property
    def runs(self) -> int:
        return self.referee.runs

    def experiment(self, truth: float, tokens: int = 0) -> bool:
        """Try a candidate of this true value; whether it was kept."""
        before = self.truth
        status, _ = self.referee.experiment(truth, tokens)
        if status is not Status.KEEP:
            return False
        self.keeps += 1
        self.useless += truth >= before
        return True


@dataclass
class Naive:
    """Any single run that beats the recorded best is kept."""

    sample: Sampler
    truth: float = LEVEL
    runs: int = 1
    keeps: int = 0
    useless: int = 0

    def __post_init__(self) -> None:
        self.start = self.truth
        self.recorded = self.sample(self.truth)

    def experiment(self, truth: float) -> bool:
        self.runs += 1
        value = self.sample(truth)
        if value >= self.recorded:
            return False
        self.recorded = value
        self.keeps += 1
        self.useless += truth >= self.truth
        self.truth = truth
        return True


def noises(rng: random.Random) -> dict[str, Sampler]:
    """Ways in which a measurement varies; all but the exact one have standard deviation 1."""
    drift = [0.0, 0]

    def gaussian(truth: float) -> float:
        return truth + rng.gauss(0, 1)

    def heavy(truth: float) -> float:
        # Student's t with 4 degrees of freedom, scaled to unit variance.
        chi = sum(rng.gauss(0, 1) ** 2 for _ in range(4)) / 4
        return truth + rng.gauss(0, 1) / math.sqrt(chi) / math.sqrt(2)

    def drifting(truth: float) -> float:
        drift[1] += 1
        drift[0] = 0.98 * drift[0] + rng.gauss(0, 0.1)
        return truth + rng.gauss(0, 0.87) + drift[0]

    def uneven(truth: float) -> float:
        return truth + rng.gauss(0, rng.choice((0.5, 0.5, 1.0, 1.58)))

    return {"Gaussian": gaussian, "heavy-tailed": heavy, "drifting": drifting, "uneven": uneven}


def null_run(sampler: Sampler, experiments: int, **how: object) -> Campaign:
    campaign = Campaign(sampler, **how)  # type: ignore[arg-type]
    for _ in range(experiments):
        campaign.experiment(campaign.truth)
    return campaign


def all_null(name: str, repeats: int, experiments: int, **how: object) -> dict[str, float]:
    """Only worthless ideas: false keeps per 1,000, recorded minus true, samples each."""
    false = drift = runs = 0.0
    for seed in range(repeats):
        campaign = null_run(noises(random.Random(f"{name}{seed}"))[name], experiments, **how)
        false += campaign.keeps
        drift += campaign.recorded - campaign.truth
        runs += campaign.runs - campaign.baseline
    total = repeats * experiments
    return {"false": 1000 * false / total, "drift": drift / repeats, "samples": runs / total}


def power(gain: float, repeats: int, nulls: int = 100) -> float:
    """How often a gain of ``gain`` sigma is kept after ``nulls`` worthless ideas."""
    found = 0
    for seed in range(repeats):
        rng = random.Random(f"power{gain}{seed}")
        campaign = null_run(noises(rng)["Gaussian"], nulls)
        found += campaign.experiment(campaign.truth - gain)
    return found / repeats


IDEAS = {
    "rare gains": [(0.01, -2.0), (0.03, -1.0), (0.40, 1.0)],
    "rich in gains": [(0.05, -2.0), (0.10, -1.0), (0.40, 1.0)],
}


def idea(rng: random.Random, mix: list[tuple[float, float]]) -> float:
    """The true effect of an idea: negative is a gain."""
    at = rng.random()
    for share, effect in mix:
        if at < share:
            return effect
        at -= share
    return 0.0


def campaigns(mix: list[tuple[float, float]], repeats: int, budget: int) -> dict[str, float]:
    """Progress per sample with a fixed number of samples, against the naive rule."""
    ours = naive = keeps = useless = naive_useless = naive_keeps = 0.0
    for seed in range(repeats):
        rng = random.Random(f"campaign{seed}")
        campaign = Campaign(noises(rng)["Gaussian"])
        while campaign.runs < budget:
            campaign.experiment(campaign.truth + idea(rng, mix))
        plain = Naive(noises(rng)["Gaussian"])
        while plain.runs < budget:
            plain.experiment(plain.truth + idea(rng, mix))
        ours += campaign.start - campaign.truth
        naive += plain.start - plain.truth
        keeps, useless = keeps + campaign.keeps, useless + campaign.useless
        naive_keeps, naive_useless = naive_keeps + plain.keeps, naive_useless + plain.useless
    return {
        "gain": ours / repeats,
        "naive": naive / repeats,
        "share": ours / naive,
        "useless": useless / max(keeps, 1),
        "naive useless": naive_useless / max(naive_keeps, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, for CI")
    parser.add_argument("--full", action="store_true", help="more repeats, for the documentation")
    parser.add_argument("--curve", action="store_true", help="also print the trade-off curve")
    options = parser.parse_args()
    scale = 0.25 if options.quick else 4 if options.full else 1
    runs = int(100 * scale)
    missed = []

    def target(name: str, value: float, good: bool) -> str:
        if not good:
            missed.append(f"{name} = {value:.3g}")
        return "" if good else "  <- missed"

    print("All ideas worthless, 300 experiments a run")
    print(f"  {'noise':14} {'false keeps /1000':>18} {'recorded - true':>16} {'samples each':>13}")
    for name in noises(random.Random(0)):
        found = all_null(name, runs, 300)
        note = ""
        if name == "Gaussian" or options.full:
            # Fewer repeats cannot tell 1.8 from 2.
            note += target(f"{name}: false keeps per 1000", found["false"], found["false"] <= 2)
            note += target(f"{name}: drift", found["drift"], abs(found["drift"]) <= 0.1)
            note += target(f"{name}: samples", found["samples"], found["samples"] <= 1.7)
        print(
            f"  {name:14} {found['false']:18.2f} {found['drift']:+15.3f}s"
            f" {found['samples']:13.2f}{note}"
        )
    found = all_null("Gaussian", runs, 300, baseline=2)
    print(f"  {'two samples':14} {found['false']:18.2f} {found['drift']:+15.3f}s"
          f" {found['samples']:13.2f}  (a baseline of two)")  # fmt: skip
    exact = null_run(lambda truth: truth, 300)
    print(f"  {'exact':14} {exact.keeps / 0.3:18.2f} {exact.recorded - exact.truth:+15.3f}s"
          f" {(exact.runs - 5) / 300:13.2f}"
          + target("exact keeps", exact.keeps, not exact.keeps))  # fmt: skip

    print("\nA real gain after 100 worthless ideas is kept")
    for gain in (1.0, 2.0, 3.0):
        share = power(gain, int(1000 * scale))
        note = target("power at 2 sigma", share, share >= 0.6) if gain == 2 else ""
        print(f"  {gain:.0f} sigma  {share:5.2f}{note}")

    print("\nCampaigns of 500 samples")
    print(f"  {'ideas':14} {'true gain':>10} {'naive':>7} {'share':>7} {'useless':>8} {'naive':>7}")
    for name, mix in IDEAS.items():
        found = campaigns(mix, runs, 500)
        note = ""
        if name.startswith("rich"):
            note += target("share of naive progress", found["share"], found["share"] >= 0.6)
            note += target("useless keeps", found["useless"], found["useless"] <= 0.1)
        print(
            f"  {name:14} {found['gain']:9.1f}s {found['naive']:6.1f}s {found['share']:7.0%}"
            f" {found['useless']:8.1%} {found['naive useless']:7.1%}{note}"
        )
    if options.curve:
        curve(runs, int(400 * scale))
    if missed:
        print("\nmissed: " + "; ".join(missed))
    return 1 if missed else 0


def curve(runs: int, repeats: int) -> None:
    """The trade-off: how loose the rule may become where gains are common."""
    print("\nTrade-off: how much looser the rule may become where confirmations succeed")
    print(f"  {'looser':>7} {'false /1000':>12} {'rich share':>11} {'rich useless':>13}")
    standard = rules.LOOSEST
    for looser in (1.0, 4.0, 10.0, 25.0, 50.0):
        rules.LOOSEST = looser
        nulls = all_null("Gaussian", runs, 300)
        rich = campaigns(IDEAS["rich in gains"], runs, 500)
        mark = "  (default)" if looser == standard else ""
        print(
            f"  {looser:7.0f} {nulls['false']:12.2f} {rich['share']:11.0%}"
            f" {rich['useless']:13.1%}{mark}"
        )
    rules.LOOSEST = standard


if __name__ == "__main__":
    sys.exit(main())
