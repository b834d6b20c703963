"""Who is the limit: each case of a fake card and host whose truth is known gets its own word,
and a bound that holds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.fake_gpu.device import MS, US, FakeGpu
from tests.unit.gpu.simulated import Run
from vibevoice_otel import semconv
from vibevoice_otel.recording.device.limits import FrameLimits, Turn, frame_limits, verdict
from vibevoice_otel.recording.device.marks import FRAME, STEP, Mark
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.semconv import Limit

SEEDS = 50
FRAMES = 40


def card(rng: random.Random) -> FakeGpu:
    """Launches of some microseconds, a clock that runs a little off the host's, and waits that keep the core or give it
    up, from which the thread wakes soon or late.
    """
    return FakeGpu(
        launch=lambda: rng.lognormvariate(1.7, 0.4) * US,
        skew=rng.uniform(-4e-5, 4e-5),
        spins=rng.random() < 0.5,
        wake_up=rng.lognormvariate(4, 1.5) * US,
    )


def slow_host(rng: random.Random) -> Run:
    """As on a real H100: the host takes ten times as long to launch as the card to compute."""
    return Run(card(rng), step_ns=3 * MS, pass_ns=5 * MS, kernels=20, host_ns=rng.uniform(0.9, 2) * MS)


def slow_host_that_waits_in_steps(rng: random.Random) -> Run:
    run = slow_host(rng)
    run.waits_in_steps = True
    return run


def slow_card(rng: random.Random) -> Run:
    return Run(
        card(rng), step_ns=rng.uniform(25, 60) * MS, pass_ns=50 * MS, kernels=20, host_ns=rng.uniform(20, 200) * US
    )


def slow_card_that_is_waited_for_in_steps(rng: random.Random) -> Run:
    run = slow_card(rng)
    run.waits_in_steps = True
    return run


def two_threads(rng: random.Random) -> Run:
    """Another stream's thread takes the lock at each launch, for as long as this one had it, and puts as much work on
    the card.
    """
    run = Run(
        card(rng),
        step_ns=3 * MS,
        pass_ns=5 * MS,
        kernels=20,
        host_ns=rng.uniform(0.9, 2) * MS,
        waits_in_steps=rng.random() < 0.5,
    )
    run.gpu.generations.begin(99)
    run.rival = lambda: (run.host_ns * rng.uniform(0.8, 1.2), run.step_ns / run.kernels)
    return run


def another_process(rng: random.Random) -> Run:
    """It has the card for more than half of the time, in slices of milliseconds; the host is fast, and waits in each
    step.
    """
    run = Run(
        card(rng), step_ns=rng.uniform(8, 20) * MS, pass_ns=15 * MS, kernels=20, host_ns=rng.uniform(20, 150) * US
    )
    run.waits_in_steps = True
    own, theirs = rng.uniform(1, 2) * MS, rng.uniform(1.5, 4)
    run.gpu.slices = lambda: (own, own * theirs * rng.uniform(0.5, 1.5))
    return run


CASES: list[tuple[Callable[[random.Random], Run], Limit]] = [
    (slow_host, Limit.CORE),
    (slow_host_that_waits_in_steps, Limit.CORE),
    (slow_card, Limit.CARD),
    (slow_card_that_is_waited_for_in_steps, Limit.CARD),
    (two_threads, Limit.LOCK),
    (another_process, Limit.OTHER_PROCESS),
]


def limits(run: Run, frames: int = FRAMES) -> dict[str, float]:
    """Seconds by limit of a generation, as the metric has them; ``error`` among them."""
    run.leaf(Leaf.PREFILL, 4 * MS)
    for _ in range(frames):
        run.frame()
        run.notes.placing.collect()
    run.end()
    block = run.finish().block(semconv.FRAME)
    assert block is not None
    return {name: float(np.nansum(block.measures[name])) for name in FrameLimits._fields}


@pytest.mark.parametrize(("case", "word"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_each_case_gets_its_own_word(case: Callable[[random.Random], Run], word: Limit) -> None:
    """At most one of fifty seeds gets another."""
    found: Counter[str] = Counter()
    for seed in range(SEEDS):
        seconds = limits(case(random.Random(seed)))
        error = seconds.pop("error")
        found[verdict(seconds, error)] += 1
    assert found[word] >= SEEDS - 1, found


def mark(kind: int, host: int, *, dry: bool) -> Mark:
    return Mark(kind, host, host, None, dry)


def test_waiting_is_weighed_by_time() -> None:
    """The host waits from its mark until the card comes by, less a launch, and no longer than to its next mark."""
    marked = [
        (mark(FRAME, 0, dry=True), 5_000),
        (mark(STEP, 1_000_000, dry=False), 1_605_000),  # 600 us of waiting
        (mark(STEP, 2_000_000, dry=False), 9_000_000),  # it goes on 500 us later, the card far behind
        (mark(STEP, 2_500_000, dry=True), 9_010_000),
    ]
    found = frame_limits(marked, Turn(0, 0, 1), Turn(4_000_000, 1_000_000, 1))
    assert found is not None
    assert found.device_wait == pytest.approx(0.6e-3 + 0.5e-3 + 1.5e-3)
    assert found.host_bound == pytest.approx(4e-3 - found.device_wait)


def test_what_nobody_knows_is_not_told() -> None:
    """A thread other than the one that entered the frame left it: its time on a core says nothing."""
    marked = [(mark(FRAME, 0, dry=True), 5_000), (mark(STEP, 1_000_000, dry=True), 1_005_000)]
    for following in (None, Turn(1_000_000, 50_000_000, 1), Turn(1_000_000, -5, 1)):
        found = frame_limits(marked, Turn(0, 0, 1), following)
        assert found is not None
        assert found.unknown == pytest.approx(1e-3)
    assert verdict({Limit.UNKNOWN: 6.0, Limit.CARD: 4.0}) is Limit.UNKNOWN


@pytest.mark.parametrize(
    ("seconds", "error", "word"),
    [
        ({Limit.CARD: 4.9}, 0.0, Limit.UNKNOWN),  # too few
        ({Limit.CARD: 5.1, Limit.CORE: 4.9}, 0.0, Limit.CARD),
        ({Limit.CARD: 5.1, Limit.CORE: 4.9}, 0.2, Limit.UNKNOWN),  # the clocks do not tell them apart
        ({Limit.CARD: 3.0, Limit.OTHER_PROCESS: 3.0, Limit.CORE: 4.0}, 0.0, Limit.OTHER_PROCESS),
        ({Limit.CARD: 4.0, Limit.CORE: 3.6, Limit.LOCK: 2.4}, 0.0, Limit.CORE),
        ({Limit.CARD: 4.0, Limit.CORE: 3.4, Limit.LOCK: 2.6}, 0.0, Limit.LOCK),
    ],
)
def test_verdict(seconds: dict[str, float], error: float, word: Limit) -> None:
    """Exactly one word, the larger of both sides; none where the clocks' error spans the line."""
    assert verdict(seconds, error) is word


@given(
    st.integers(0, 10_000), st.floats(0.05, 40), st.floats(0.02, 2), st.floats(0.002, 3), st.booleans(), st.booleans(),
    st.booleans(),
)  # fmt: skip
@examples(max_examples=60, deadline=None)
@example(seed=0, step_ms=60.0, host_ms=1.0, wake_ms=2.0, in_steps=True, syncs=True, spins=True)
def test_no_card_saves_more(
    seed: int, step_ms: float, host_ms: float, wake_ms: float, in_steps: bool, syncs: bool, spins: bool
) -> None:
    """The same program on a card that computes in no time is faster by at most the waiting and the waking from it,
    within the stated error. What waking takes is known where the model is looked at after a wait.
    """
    wake_ms = wake_ms if syncs else 0.0

    def run(factor: float) -> tuple[float, dict[str, float]]:
        rng = random.Random(seed)
        gpu = FakeGpu(launch=lambda: rng.lognormvariate(1.7, 0.4) * US, spins=spins, wake_up=wake_ms * MS)
        run = Run(
            gpu,
            step_ns=step_ms * MS * factor,
            pass_ns=MS * factor,
            kernels=4,
            host_ns=host_ms * MS,
            waits_in_steps=in_steps,
            syncs=syncs,
        )
        seconds = limits(run, 6)
        return sum(seconds.values()) - seconds["error"], seconds

    total, seconds = run(1.0)
    without, _ = run(1e-9)
    marks = 6 * 13
    assert total - without <= seconds["card"] + seconds["other_process"] + seconds["error"] + marks * 60e-6
