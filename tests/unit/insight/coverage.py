"""Makes the tables of docs/insight.md: ``python -m tests.unit.insight.coverage 200`` (seeds; half an hour on one core),
or the second alone with ``drawn`` behind it.
"""

from __future__ import annotations

import math
import sys
from functools import cache

import numpy as np

from tests.unit.insight.simulator import MemorySource, Service, host_bound, observe
from tests.unit.insight.test_capacity import (
    HOST_BOUND,
    MEMORY,
    QUEUE,
    REFUSING,
    SHARED,
    by_name,
    true_queue,
    truth,
    whole,
)
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


def drawn(seeds: int) -> None:
    """Services drawn at random, so that what the model leaves out differs from one to the next;
    not in whole streams.
    """
    for name, kind in (("slots of their own", False), ("slots that slow each other down", True), ("both", None)):
        hits, reach, off = 0, [], []
        for seed in range(seeds):
            service = host_bound(seed)
            if kind is not None and kind != bool(service.slope):
                continue
            low, middle, high = knee(service, seed)
            hits += low <= true_queue(service) <= high
            reach.append(max(high / middle - 1, 1 - low / middle))
            off.append(abs(middle / true_queue(service) - 1))
        print(
            f"| the host the limit, {name} | {len(reach)} | {hits / len(reach):.1%} | {np.mean(off):.1%} | "
            f"{np.median(reach):.0%} | {np.max(reach):.0%} | {np.mean(np.array(reach) <= 0.25):.1%} |",
            flush=True,
        )


@cache
def knee(service: Service, seed: int) -> tuple[float, float, float]:
    """(low, middle, high): the streams at which first audio begins to come late, by capacity."""
    found = by_name(
        capacity(MemorySource(observe(service, seed)), concurrency=service.slots, draws=300).cards[0], "queue"
    )
    assert found.streams is not None
    assert found.low is not None
    assert found.high is not None
    return found.low, found.streams, found.high


if __name__ == "__main__":
    if "drawn" not in sys.argv:
        main(int(sys.argv[1]))
    drawn(int(sys.argv[1]))
