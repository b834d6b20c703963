"""What a forked child renews, and what it leaves alone."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.metrics import by_name
from vibevoice_otel import forking, semconv, wiring
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.recording.clock import now
from vibevoice_otel.sdk.identity import begin_anew
from vibevoice_otel.settings import Settings

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_child(tell: Callable[[], Any]) -> Any:
    """What ``tell`` returns in a forked child, which then leaves without any clean-up of the parent's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, json.dumps(tell()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return json.loads(said)


class Kept:
    def __init__(self) -> None:
        self.renewed = 0
        forking.renew_in_child(self.renew)

    def renew(self) -> None:
        self.renewed += 1


def test_it_renews_what_lives_and_keeps_nothing_alive() -> None:
    """An object that nobody else holds is gone, and so is its place."""
    gc.collect()
    kept, gone = Kept(), Kept()
    reference = weakref.ref(gone)
    del gone
    gc.collect()
    assert reference() is None
    assert [each for each in list(forking._renewed) if isinstance(each, Kept)] == [kept]
    assert in_child(lambda: kept.renewed) == 1
    assert kept.renewed == 0


def _points(reader: InMemoryMetricReader) -> dict[str, tuple[float, int]]:
    """Sum and start of each counter that we or the host have."""
    return {
        name: (sum(point.value for point in points), points[0].start_time_unix_nano)
        for name, points in by_name(reader).items()
        if name in {semconv.REQUESTS.name, "host"}
    }


def test_on_the_prometheus_page_a_child_counts_from_zero_and_the_host_goes_on() -> None:
    """Each process tells on a page of its own what it has served: counts and histograms of parent and child add up to
    what was served, and the host's counter stands in the child as the fork left it.
    """
    registry = CollectorRegistry()
    meters = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    host = meters.get_meter("host").create_counter("host")
    instrumentor = VibeVoiceInstrumentor()
    tracers = TracerProvider(shutdown_on_exit=False)
    instrumentor.instrument(tracer_provider=tracers, meter_provider=meters, settings=Settings(), skip_dep_check=True)
    recorder = instrumentor.recorder
    assert recorder is not None
    served = 0

    def page(times: int) -> dict[str, float]:
        """Sums on the page, by name, once ``times`` requests more have been served."""
        nonlocal served
        for _ in range(times):
            timeline = recorder.open("work", context=Context())
            timeline.sent(now(), now(), 3200)
            recorder.release(timeline, "work")
            served += 1
        assert recorder.flush(60.0)
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample in family.samples:
                if sample.name in {
                    "host_total",
                    "vibevoice_streaming_requests_total",
                    "vibevoice_first_audio_latency_seconds_count",
                }:
                    found[sample.name] = found.get(sample.name, 0) + sample.value
        return found

    host.add(5)
    before = page(4)
    assert before == {
        "host_total": 5,
        "vibevoice_streaming_requests_total": served,
        "vibevoice_first_audio_latency_seconds_count": served,
    }

    def child() -> tuple[dict[str, float], int]:
        host.add(1)
        return page(2), served

    try:
        in_the_child, served_there = in_child(child)
        after = page(3)
    finally:
        instrumentor.uninstrument()
    own = served_there - (served - 3)
    assert own == 2
    assert in_the_child.pop("host_total") == 6
    assert after.pop("host_total") == 5
    assert in_the_child == dict.fromkeys(after, own)
    assert {name: after[name] + in_the_child[name] for name in after} == dict.fromkeys(after, served + own)


@pytest.mark.parametrize("temporality", list(AggregationTemporality)[1:], ids=lambda each: each.name)
def test_our_counts_begin_at_zero_in_the_child_and_the_hosts_do_not(temporality: AggregationTemporality) -> None:
    """Parent and child together count each request once; the host's own counter is as a fork leaves it."""
    reader = InMemoryMetricReader(preferred_temporality={Counter: temporality})
    meters = MeterProvider([reader], shutdown_on_exit=False)
    host = meters.get_meter("host").create_counter("host")
    recorder = wiring.build(
        Settings(), TracerProvider(shutdown_on_exit=False), meters, list, stack=contextlib.ExitStack()
    )

    def speak(times: int) -> dict[str, tuple[float, int]]:
        for _ in range(times):
            recorder.release(recorder.open("work", context=Context()), "work")
        assert recorder.flush(60.0)
        return _points(reader)

    class Renewal:
        def renew(self) -> None:
            begin_anew(meters)

    renewal = Renewal()
    forking.renew_in_child(renewal.renew)
    host.add(7)
    before = speak(3)
    host.add(1)
    child = in_child(lambda: speak(2))
    after = speak(1)
    assert before[semconv.REQUESTS.name][0] == 3
    assert child[semconv.REQUESTS.name][0] == 2
    assert child[semconv.REQUESTS.name][1] > before[semconv.REQUESTS.name][1]
    cumulative = temporality is AggregationTemporality.CUMULATIVE
    assert child["host"][0] == (8 if cumulative else 1)
    assert after[semconv.REQUESTS.name][0] == (4 if cumulative else 1)
    recorder.shutdown()


def test_a_child_waits_for_no_lock_of_its_parents_threads() -> None:
    """Another thread holds every lock of ours as the process forks: the child records a request all the same."""
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    recorder = wiring.build(
        Settings(), TracerProvider(shutdown_on_exit=False), meters, list, stack=contextlib.ExitStack()
    )
    ledger = next(sink for sink in recorder.sinks if hasattr(sink, "_ledger"))._ledger
    holding, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with recorder._lock, ledger.lock, recorder._ids._lock:  # type: ignore[union-attr]
            holding.set()
            let_go.wait(120)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(60)

    def speak() -> bool:
        recorder.release(recorder.open("work", context=Context()), "work")
        return recorder.flush(60.0)

    assert in_child(speak) is True
    let_go.set()
    thread.join()
    recorder.shutdown()
