"""Makes the tables of docs/insight.md: ``python -m tests.unit.insight.comparison 500`` (seeds; some minutes on one
core).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from tests.unit.insight.pairs import EDGES, Pair, Truth, pair, requests
from vibevoice_otel.insight.compare.effect import Effect, effect
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
    "median": lambda p: effect(*p.seconds, scale="ratio", quantile=(0.5, EDGES)),
    "P95": lambda p: effect(*p.seconds, scale="ratio", quantile=(0.95, EDGES)),
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


if __name__ == "__main__":
    main(int(sys.argv[1]))
