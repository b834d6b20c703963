"""Makes the tables of docs/insight.md: ``python -m tests.unit.insight.comparison 500`` (seeds; some minutes on one
core), or the second alone with ``cards`` behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from tests.unit.insight.pairs import Pair, Truth, more_energy, pair, requests
from vibevoice_otel.insight.compare import energy
from vibevoice_otel.insight.compare.effect import Effect, TooLittle, effect
from vibevoice_otel.insight.compare.report import MARGIN

SIZES = (300, 1000, 3000, 10_000)
SCENARIOS = {
    "no difference": Truth(),
    "no difference, load uneven": Truth(load=0.3),
    "no difference, another mix of requests": Truth(mix=1.0),
    "2 % slower": Truth(scale=1.02),
    "10 % slower": Truth(scale=1.10),
    "the slowest tenth 20 % slower": Truth(tail=1.20),
    "one voice of five 10 % slower": Truth(one_voice=1.10),
    "10 % slower, hidden by a faster mix": Truth(scale=1.10, mix=-0.5),
}
FIGURES: dict[str, Callable[[Pair], Effect]] = {
    "median": lambda p: effect(*p.seconds, scale="ratio", quantile=0.5),
    "P95": lambda p: effect(*p.seconds, scale="ratio", quantile=0.95),
    "mean": lambda p: effect(*p.mean, scale="ratio"),
}


def true(truth: Truth) -> dict[str, float]:
    """The change of each figure in the standard mix, from two million requests."""
    rng = np.random.default_rng(1)
    plain = Truth(load=truth.load, mix=truth.mix)  # both in one mix, as the standardised figures are
    a, b = (requests(one, 2_000_000, 4000, np.random.default_rng(rng.integers(2**32)))[2] for one in (plain, truth))
    found = {"median": np.median(b) / np.median(a), "P95": np.quantile(b, 0.95) / np.quantile(a, 0.95)}
    return {name: float(value) - 1 for name, value in {**found, "mean": b.mean() / a.mean()}.items()}


def main(seeds: int) -> None:
    for name, truth in SCENARIOS.items():
        known = true(truth)
        if truth.scale != 1.0 or truth == Truth() or truth.mix or truth.load != 0.1:
            known = dict.fromkeys(known, truth.scale - 1)  # exact: every value changes alike
        for n in SIZES:
            pairs = [pair(truth, n, seed) for seed in range(seeds)]
            cells = []
            for figure, compare in FIGURES.items():
                effects = [compare(each) for each in pairs]
                found = np.mean([one.p < 0.05 for one in effects])
                held = np.mean([one.low <= known[figure] <= one.high for one in effects])
                cells.append(f"{found:.1%} | {held:.1%}")
            naive = np.mean([abs(each.naive_p95()) > MARGIN for each in pairs])
            print(f"| {name} | {n:,} | {' | '.join(cells)} | {naive:.1%} |", flush=True)


def cards(seeds: int) -> None:
    """Seconds of cards and energy: claimed, held; and how often energy was not compared, for the cards' loads."""
    for name in ("no difference", "no difference, load uneven", "no difference, another mix of requests",
                 "2 % slower", "10 % slower", "10 % slower, hidden by a faster mix"):  # fmt: skip
        truth = SCENARIOS[name]
        for n in SIZES:
            pairs = [pair(truth, n, seed) for seed in range(seeds)]
            taken = [effect(*each.card, scale="ratio") for each in pairs]
            drawn = [found for each in pairs if (found := compared(each)) is not None]
            cells = []
            for found, true in ((taken, truth.scale - 1), (drawn, more_energy(truth.scale))):
                claimed = [one.p < 0.05 for one in found]
                held = [one.low <= true <= one.high for one in found]
                cells.append(f"{np.mean(claimed):.1%} | {np.mean(held):.1%}" if found else "– | –")
            print(f"| {name} | {n:,} | {' | '.join(cells)} | {1 - len(drawn) / seeds:.1%} |", flush=True)


def compared(each: Pair) -> Effect | None:
    """The energies' effect; None where they are not compared."""
    one, two = each.energy
    try:
        energy.check(one, two, MARGIN)
    except TooLittle:
        return None
    return effect(one, two, scale="ratio")


if __name__ == "__main__":
    if "cards" not in sys.argv:
        main(int(sys.argv[1]))
    cards(int(sys.argv[1]))
