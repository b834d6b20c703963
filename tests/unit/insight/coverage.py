"""Makes the table of docs/insight.md: ``python -m tests.unit.insight.coverage 200`` (seeds; a quarter of an hour on one
core).
"""

from __future__ import annotations

import math
import sys

import numpy as np

from tests.unit.insight.simulator import MemorySource, Service, observe
from tests.unit.insight.test_capacity import HOST_BOUND, MEMORY, QUEUE, REFUSING, SHARED, truth, whole
from vibevoice_otel.insight.capacities import capacity

UNEVEN = Service(rate=1.2, slots=64, base=0.5, memory_stream=1.1, memory_cv=0.5, hours=3)
EIGHT = Service(rate=0.8, slots=8, audio_law="lognormal", memory_stream=0.9, hours=4)
SHARED_EIGHT = Service(rate=0.4, slots=8, base=0.1, slope=0.055, memory_stream=0.9, hours=4)
ROWS: dict[str, tuple[Service, int | None]] = {
    "12 slots, log-normal requests, 24 GiB": (MEMORY, 12),
    "64 slots, uneven memory, 24 GiB": (UNEVEN, 64),
    "4 slots, exponential requests": (QUEUE, 4),
    "the same, slots inferred": (QUEUE, None),
    "8 slots, log-normal requests": (EIGHT, 8),
    "4 slots that share a card": (SHARED, 4),
    "8 slots that share a card": (SHARED_EIGHT, 8),
    "6 slots, refuses": (REFUSING, 6),
    "4 slots, the host the limit": (HOST_BOUND, 4),
}


def main(seeds: int) -> None:
    for name, (service, concurrency) in ROWS.items():
        true = truth(service)
        answer = min(whole(value) for value in true.values())
        hits, ours, naive = 0, [], []
        for seed in range(seeds):
            card = capacity(MemorySource(observe(service, seed)), concurrency=concurrency, draws=300).cards[0]
            assert card.streams is not None
            assert card.low is not None
            hits += card.low <= answer <= (math.inf if card.high is None else card.high)
            ours.append(abs(card.streams - answer))
            naive.append(abs((card.naive or 0) - answer))
        binds = min(true, key=lambda key: true[key])
        print(
            f"| {name} | {binds} | {answer} | {hits / seeds:.0%} | {np.mean(ours):.1f} | {np.mean(naive):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
