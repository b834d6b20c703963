"""Capacity against simulated services whose truth is known: coverage over many seeds, and the cases at the edge."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.unit.insight.simulator import (
    GIB,
    MemorySource,
    Scrapes,
    Service,
    Setting,
    host_bound,
    observe,
    scrape,
    simulate,
)
from vibevoice_otel import semconv
from vibevoice_otel.insight.capacities import CardAnswer, LimitAnswer, capacity
from vibevoice_otel.insight.snapshot import SnapshotSource

SEEDS = 24
DRAWN = 16

# Each binds somewhere else.
MEMORY = Service(
    rate=0.6, slots=12, base=0.6, memory_base=3, memory_stream=1.7, memory_cv=0.4, hours=3, audio_law="lognormal"
)
QUEUE = Service(rate=0.3, slots=4, base=0.5, memory_stream=0.9)
SHARED = Service(rate=0.15, slots=4, base=0.3, slope=0.1, memory_stream=0.9)
REFUSING = Service(rate=0.8, slots=6, base=0.5, refuses=True)


@cache
def true_queue(service: Service) -> float:
    """Streams at which one in twenty first audios is late (or refused), by a long simulation of the queue itself."""
    low, high = 0.01, service.slots / (service.base + service.slope * service.slots)
    count = 30_000 if service.slope else 60_000
    for _ in range(11):
        middle = (low + high) / 2
        requests = simulate(dataclasses.replace(service, rate=middle / service.audio), np.random.default_rng(7), count)
        bad = requests.refused if service.refuses else requests.first_audio > semconv.SLO_FIRST_AUDIO_SECONDS
        low, high = (low, middle) if bad[count // 20 :].mean() > 0.05 else (middle, high)
    return low


@cache
def true_memory(service: Service, limit: float) -> int:
    """Streams whose memory stays below ``limit`` GiB in 99 of 100 moments, by drawing them."""
    rng, sigma = np.random.default_rng(3), math.sqrt(math.log1p(service.memory_cv**2))
    total, streams = np.zeros(40_000), 0
    while True:
        total += service.memory_stream * rng.lognormal(-(sigma**2) / 2, sigma, total.size)
        if service.overhead * (service.memory_base + float(np.quantile(total, 0.99))) > limit:
            return streams
        streams += 1


def true_compute(service: Service) -> float:
    """Audio seconds that all slots together make in a second."""
    return service.slots / (service.base + service.slope * service.slots)


def truth(service: Service) -> dict[str, float]:
    assert service.limit is not None
    return {
        "memory": true_memory(service, service.limit),
        "compute": true_compute(service),
        "queue": true_queue(service),
    }


def covers(hits: int, trials: int) -> bool:
    """Not significantly below the 95 % that the intervals state."""
    return bool(binomtest(hits, trials, 0.95, alternative="less").pvalue > 0.01)


def whole(value: float) -> int:
    return math.floor(value + 1e-9)


@pytest.mark.parametrize(
    ("service", "concurrency", "binds"),
    [
        (MEMORY, 12, "memory"),
        (QUEUE, 4, "queue"),
        (QUEUE, None, "queue"),
        (SHARED, 4, "queue"),
        (REFUSING, None, "queue"),
    ],
    ids=["memory", "queue", "slots inferred from waits", "slots that share a card", "slots inferred from refusals"],
)
def test_intervals_cover_the_truth(service: Service, concurrency: int | None, binds: str) -> None:
    """Over many seeds the number of streams, and each limit's, lies in its 95 % interval as often as stated; and the
    error is smaller than that of dividing peak memory by streams.
    """
    true = truth(service)
    answer = min(whole(value) for value in true.values())
    assert binds == min(true, key=lambda name: true[name])
    hits = dict.fromkeys((*true, "streams"), 0)
    ours, naive = [], []
    for seed in range(SEEDS):
        card = capacity(MemorySource(observe(service, seed)), concurrency=concurrency, draws=200, seed=seed).cards[0]
        assert card.streams is not None
        assert card.low is not None
        assert card.naive is not None
        hits["streams"] += card.low <= answer <= (math.inf if card.high is None else card.high)
        ours.append(abs(card.streams - answer))
        naive.append(abs(card.naive - answer))
        for limit in card.limits:
            assert limit.streams is not None, limit.why
            assert limit.low is not None
            high = math.inf if limit.high is None else limit.high
            hits[limit.name] += (
                whole(limit.low) <= whole(true[limit.name]) <= (high if math.isinf(high) else whole(high))
            )
    assert all(covers(count, SEEDS) for count in hits.values()), (true, hits)
    assert np.mean(ours) < 0.5 * np.mean(naive), (np.mean(ours), np.mean(naive))


def test_a_card_of_another_size_is_answered_from_the_same_line() -> None:
    """--gpu-memory moves the limit, not the fit; the verdict on a number of streams is right on both sides of the
    truth.
    """
    source = MemorySource(observe(dataclasses.replace(MEMORY, slots=64), 5))
    true = true_memory(MEMORY, 40.0)
    card = capacity(source, gpu_memory=40 * GIB, concurrency=64, streams=true - 3).cards[0]
    assert card.binds_first == "memory"
    assert card.low is not None
    assert card.high is not None
    assert card.low <= true <= card.high
    assert (card.verdict, card.extrapolates) == ("yes", True)
    assert capacity(source, gpu_memory=40 * GIB, concurrency=64, streams=true + 4).cards[0].verdict == "no"
    at = capacity(source, gpu_memory=40 * GIB, concurrency=64, streams=card.streams).cards[0]
    assert at.verdict in {"too close to say", "yes"}
    assert at.holds_probability is not None


def test_unknown_slots_bound_from_below_only() -> None:
    """A service that never let anyone wait may have more slots than were ever used: its answer is open above, and never
    a no.
    """
    quiet = Service(rate=0.05, slots=32, memory_stream=0.01, hours=12)
    card = capacity(MemorySource(observe(quiet, 1)), streams=12).cards[0]
    queue = next(limit for limit in card.limits if limit.name == "queue")
    assert queue.at_least
    assert queue.high is None
    assert card.verdict == "cannot say"
    assert "may be more" in card.slots_source


def test_no_gpu_is_said() -> None:
    """On a CPU memory cannot be answered; compute and the queue still are, and a yes is theirs."""
    card = capacity(MemorySource(observe(dataclasses.replace(QUEUE, limit=None), 1)), streams=1, concurrency=4).cards[0]
    memory = card.limits[0]
    assert memory.streams is None
    assert "memory cannot be answered" in memory.why
    assert card.card == "no GPU reported"
    assert card.streams == 2
    assert card.verdict == "yes"


def test_too_little_is_said() -> None:
    """One request, or none, gives no number but what is missing."""
    one = Service(rate=1e-9, hours=1)
    rng = np.random.default_rng(0)
    single = simulate(dataclasses.replace(one, rate=0.01), rng, 1)
    card = capacity(MemorySource(scrape(one, single, rng, 1_700_000_000.0)), streams=3).cards[0]
    assert card.streams is None
    assert card.verdict == "cannot say"
    assert [limit.streams for limit in card.limits] == [None, None, None]
    assert "at least 50" in card.limits[1].why
    none = simulate(one, rng, 0)
    card = capacity(MemorySource(scrape(one, none, rng, 1_700_000_000.0))).cards[0]
    assert "no audio was made" in card.limits[1].why
    empty = capacity(MemorySource(Scrapes(np.arange(10) * 15.0 + 1_700_000_000.0)))
    assert not empty.cards
    assert empty.notes


def test_a_restart_loses_nothing() -> None:
    """Counters that start again are bridged: the answer is as without the restart, and at most one scrape's requests
    are missing.
    """
    calm = capacity(MemorySource(observe(QUEUE, 3)), concurrency=4)
    again = capacity(MemorySource(observe(dataclasses.replace(QUEUE, restart_at=0.4), 3)), concurrency=4)
    assert not calm.notes
    assert "restarted" in again.notes[0]
    assert 0 <= calm.cards[0].requests - again.cards[0].requests < 20
    assert again.cards[0].streams == calm.cards[0].streams


def test_a_vanished_voice_is_no_restart() -> None:
    """When a voice leaves, the process's sums fall; that is neither growth nor load."""
    two = dataclasses.replace(QUEUE, settings=(Setting(voice="stays"), Setting(voice="leaves")))
    scrapes = observe(two, 3)
    whole_before = capacity(MemorySource(scrapes), concurrency=4).cards[0].requests
    for rows in scrapes.series.values():
        for labels, values in rows.items():
            if dict(labels).get("voice") == "leaves":
                values[-400:] = np.nan
    card = capacity(MemorySource(scrapes), concurrency=4).cards[0]
    assert 0.8 * whole_before < card.requests < whole_before


def by_name(card: CardAnswer, name: str) -> LimitAnswer:
    (found,) = (limit for limit in card.limits if limit.name == name)
    return found


def test_the_card_itself_may_bind() -> None:
    """Device time bounds the card from below where it is scarcer than slots;
    host time of the same names is left out.
    """
    card = capacity(MemorySource(observe(dataclasses.replace(QUEUE, device=0.2), 2)), concurrency=4).cards[0]
    tight = by_name(card, "card")
    assert tight.streams == pytest.approx(5.0)
    assert tight.at_least
    assert "a lower bound" in tight.why
    ample = by_name(
        capacity(MemorySource(observe(dataclasses.replace(QUEUE, device=0.05), 2)), concurrency=4).cards[0], "card"
    )
    assert ample.streams == pytest.approx(20.0)
    assert ample.details["device_seconds_per_audio_second"] == pytest.approx(0.05)
    assert by_name(card, "compute").streams == pytest.approx(8.0)


#: As on a real H100: the host launches more slowly than the card computes, and kernels are at work in a tenth of a
#: frame.
HOST_BOUND = Service(rate=0.3, slots=4, base=0.5, memory_stream=0.9, device=0.5, host=0.97, kernel_share=0.1)


def test_a_host_that_binds_is_not_taken_for_the_card() -> None:
    """Intervals of the device are the host's there: the card's bound binds nothing, and the share says what it would
    carry.
    """
    unsampled = capacity(
        MemorySource(observe(dataclasses.replace(HOST_BOUND, kernel_share=None), 2)), concurrency=4
    ).cards[0]
    assert by_name(unsampled, "card").streams == pytest.approx(2.0)
    assert by_name(unsampled, "card").at_least
    assert unsampled.binds_first != "card"
    assert unsampled.per_card is not None
    assert unsampled.per_card.kernels is None
    assert "sample a frame" in unsampled.per_card.text
    plain = capacity(MemorySource(observe(dataclasses.replace(HOST_BOUND, host=None, device=None), 2)), concurrency=4)
    assert plain.cards[0].per_card is None
    assert (unsampled.streams, unsampled.low, unsampled.high) == (
        plain.cards[0].streams, plain.cards[0].low, plain.cards[0].high,
    )  # fmt: skip


def test_processes_are_told_for_the_limit_that_binds() -> None:
    """Kernels' share of a lone frame says what the card carries at most; memory and cores say how many processes that
    may be.
    """
    source = MemorySource(observe(HOST_BOUND, 2))
    card = capacity(source, concurrency=4, cores=3).cards[0]
    assert by_name(card, "card").streams == pytest.approx(1 / (0.1 * 0.5), rel=0.1)
    assert card.per_card is not None
    assert card.per_card.limit == "the host's core"
    assert card.per_card.processes == 3
    free = capacity(source, concurrency=4, gpu_memory=10 * 80 * GIB).cards[0].per_card
    assert free is not None
    assert free.kernels is not None
    assert free.processes == math.ceil(free.kernels / free.streams_a_process)
    assert "if kernels of different processes do not disturb each other" in free.text
    assert "not measured above one process" in free.text


def test_the_knee_of_a_host_that_binds_lies_in_its_interval_before_it_is_rounded() -> None:
    """Not in whole streams, which hide an interval that is too narrow; services drawn at random, for what the model
    leaves out differs from one to the next. ``python -m tests.unit.insight.coverage 200 drawn`` asks 200 of them.
    """
    hits = 0
    for seed in range(DRAWN):
        service = host_bound(seed)
        found = by_name(
            capacity(MemorySource(observe(service, seed)), concurrency=service.slots, draws=200).cards[0], "queue"
        )
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= true_queue(service) <= found.high
    assert covers(hits, DRAWN), hits


def test_what_dcgm_saw_of_the_card_counts_where_it_runs() -> None:
    """Joined by the UUID that NVML told, whatever the exporter's own labels are; NVML's utilisation, 90 % here, counts
    nowhere.
    """
    watched = dataclasses.replace(HOST_BOUND, kernel_share=None, card="GPU-6c3f8a52", dcgm=0.04)
    scrapes = observe(watched, 2)
    card = capacity(MemorySource(scrapes), concurrency=4).cards[0]
    found = by_name(card, "card")
    assert found.streams == pytest.approx(1 / 0.04, rel=0.02)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 1 / 0.04 <= found.high
    assert not found.at_least
    assert "DCGM_FI_PROF_GR_ENGINE_ACTIVE" in found.why
    assert found.details["sm_share"] == pytest.approx(0.5)
    assert card.per_card is not None
    assert card.per_card.kernels in {24, 25}
    rows = scrapes.series["DCGM_FI_PROF_GR_ENGINE_ACTIVE"]
    (values,) = rows.values()
    scrapes.put("DCGM_FI_PROF_GR_ENGINE_ACTIVE", {"UUID": "GPU-another", "job": "dcgm"}, np.ones_like(values))
    again = by_name(capacity(MemorySource(scrapes), concurrency=4).cards[0], "card")
    assert again.streams == found.streams, "a card that none of these processes uses"


def test_a_card_that_two_processes_share_is_counted_once() -> None:
    """Its seconds at work are those of both, and so is the audio."""
    first = dataclasses.replace(HOST_BOUND, kernel_share=None, card="GPU-6c3f8a52", dcgm=0.04)
    one, two = observe(first, 2), observe(dataclasses.replace(first, instance="two:9464", dcgm=None), 3)
    for series in ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_SM_ACTIVE"):
        rows = one.series[series]
        for labels in rows:
            rows[labels] = rows[labels] * 2  # the other process works the card as much
    found = by_name(capacity(MemorySource(one.merge(two)), concurrency=4).cards[0], "card")
    assert found.streams == pytest.approx(1 / 0.04, rel=0.05)


def test_little_of_dcgm_does_not_count() -> None:
    """An exporter that came an hour ago tells too little of six hours to resample: the sample,
    or the interval, stands.
    """
    scrapes = observe(dataclasses.replace(HOST_BOUND, card="GPU-6c3f8a52", dcgm=0.04), 2)
    for series in ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_SM_ACTIVE"):
        for values in scrapes.series[series].values():
            values[:-120] = np.nan
    found = by_name(capacity(MemorySource(scrapes), concurrency=4).cards[0], "card")
    assert "sample(s)" in found.why


def test_a_card_that_binds_is_not_multiplied() -> None:
    """Where the host waits for the card, more processes would hold no more."""
    card = capacity(MemorySource(observe(dataclasses.replace(HOST_BOUND, host=0.2), 2)), concurrency=4).cards[0]
    assert card.per_card is not None
    assert (card.per_card.limit, card.per_card.processes) == ("the card", 1)


def test_the_language_models_passes_are_the_cards() -> None:
    """Seconds of vibevoice.lm.duration by the device's clock count, those by the host's do not."""
    scrapes = observe(dataclasses.replace(QUEUE, device=0.2), 2)
    steps = scrapes.series[f"{semconv.INFERENCE.prometheus}_sum"]
    for labels, values in list(steps.items()):
        scrapes.put(f"{semconv.LM_DURATION.prometheus}_sum", {**dict(labels), "branch": "positive"}, values)
    found = by_name(capacity(MemorySource(scrapes), concurrency=4).cards[0], "card")
    assert found.details["device_seconds_per_audio_second"] == pytest.approx(0.2 + 0.15)


def test_slower_than_speech_holds_nothing() -> None:
    """A service that takes longer to make audio than to play it feeds not even one listener, and says so."""
    slow = capacity(
        MemorySource(observe(dataclasses.replace(QUEUE, rate=0.1, base=1.2), 2)), concurrency=4, streams=1
    ).cards[0]
    compute = slow.limits[1]
    assert (slow.streams, slow.low, slow.high, slow.verdict, slow.binds_first) == (0, 0, 0, "no", "compute")
    assert compute.high == 0
    assert "slower than it is heard" in compute.why


def test_mixed_cards_are_answered_apart() -> None:
    """A 24 GiB and an 80 GiB card never share a fit; each gets its own number, and the one asked about comes first."""
    small, large = MEMORY, dataclasses.replace(MEMORY, limit=80.0, memory_base=10.0, instance="two:9464", slots=64)
    both = observe(small, 1).merge(observe(large, 2))
    report = capacity(MemorySource(both), concurrency=64)
    assert {card.card for card in report.cards} == {"24 GiB", "80 GiB"}
    by_card = {card.card: card for card in report.cards}
    for service, name in ((small, "24 GiB"), (large, "80 GiB")):
        limit = by_card[name].limits[0]
        assert limit.low is not None
        assert limit.high is not None
        assert service.limit is not None
        assert whole(limit.low) - 1 <= true_memory(service, service.limit) <= whole(limit.high) + 1
    assert capacity(MemorySource(both), gpu_memory=81 * GIB).cards[0].card == "80 GiB"


def test_peaks_between_scrapes_are_kept_free() -> None:
    """Memory that comes and goes between two scrapes shows in the peak alone,
    and takes from what is left for streams.
    """
    calm = memory_of(capacity(MemorySource(observe(MEMORY, 4)), concurrency=12).cards[0])
    spiky = capacity(MemorySource(observe(dataclasses.replace(MEMORY, spike=6.0), 4)), concurrency=12).cards[0]
    assert any("Peaks rose" in note for note in spiky.notes)
    assert memory_of(spiky) < calm - 1


def memory_of(card: CardAnswer) -> float:
    streams = card.limits[0].streams
    assert streams is not None
    return streams


def test_memory_that_does_not_follow_streams_is_not_extrapolated() -> None:
    """Constant memory gives no slope, and so no number, rather than an infinite one."""
    flat = observe(dataclasses.replace(MEMORY, memory_stream=1e-9, memory_cv=0.1), 2)
    limit = capacity(MemorySource(flat), concurrency=12).cards[0].limits[0]
    assert limit.streams is None or limit.streams > 1e6


def test_curved_memory_is_pointed_out() -> None:
    """Where a parabola fits clearly better, the straight line's answer is called unsafe."""
    scrapes = observe(MEMORY, 2)
    active = next(iter(scrapes.series[semconv.ACTIVE.prometheus].values()))
    for values in scrapes.series[semconv.GPU_MEMORY.prometheus].values():
        values[:] = (4 + 0.1 * active**2) * GIB
    notes = capacity(MemorySource(scrapes), concurrency=12).cards[0].notes
    assert any("straight line" in note for note in notes)


def test_a_snapshot_says_what_it_cannot_answer() -> None:
    """One look at /metrics gives the demand for compute, and names what needs a history."""
    page = """# TYPE vibevoice_generate_busy_seconds_total counter
vibevoice_generate_busy_seconds_total{voice="a"} 40.0
# TYPE vibevoice_audio_produced_seconds_total counter
vibevoice_audio_produced_seconds_total{voice="a"} 100.0
# TYPE vibevoice_streaming_requests_total counter
vibevoice_streaming_requests_total{voice="a",status="success",cfg="1.5",steps="5"} 7.0
"""
    report = capacity(SnapshotSource(page), streams=50)
    (card,) = report.cards
    assert card.limits[1].streams == pytest.approx(2.5)
    assert card.limits[1].low is None
    assert card.limits[0].streams is None
    assert card.limits[2].streams is None
    assert (card.verdict, card.requests) == ("cannot say", 7)
    assert "need a history" in report.notes[0]
    assert capacity(SnapshotSource("")).cards == []


def test_the_same_data_gives_the_same_answer() -> None:
    """The bootstrap's seed is fixed, so that two operators see one number."""
    scrapes = observe(QUEUE, 8)
    assert capacity(MemorySource(scrapes), concurrency=4) == capacity(MemorySource(scrapes), concurrency=4)


@pytest.mark.parametrize(
    "wrong", [{"streams": 0}, {"gpu_memory": -1.0}, {"concurrency": 0}, {"slo_seconds": 0.0}, {"slo_ratio": 1.0}]
)
def test_wrong_arguments_are_named(wrong: dict[str, float]) -> None:
    """A wrong argument is refused by its name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        capacity(MemorySource(observe(dataclasses.replace(QUEUE, hours=0.1), 1)), **wrong)  # type: ignore[arg-type]
