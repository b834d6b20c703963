"""The Collector goes away, is slow, answers errors, returns: no metric is lost, spans that are lost are counted, nobody hears it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

from .harness import Heard, Service, Sink, wait_for

Start = Callable[..., Service]


def outage(start: Start, sink: Sink, how: str, seconds: float) -> tuple[list[Heard], list[Heard], Service, int]:
    """Requests with the Collector well, then for ``seconds`` with it ill, then well again."""
    service = start(OTEL_BSP_MAX_QUEUE_SIZE="256", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="64", OTEL_EXPORTER_OTLP_TIMEOUT="2")
    service.speak(20)  # warm
    well = service.speak(60)
    before = service.family()[-1].memory_info().rss
    if how == "down":
        sink.close()
    elif how == "errors":
        sink.status = 400  # not worth a retry
    else:
        sink.delay = 3.0  # longer than the exporter waits
    ill: list[Heard] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ill.extend(service.speak(20))
    grown = service.family()[-1].memory_info().rss - before
    sink.delay, sink.status = 0.0, 200
    if how == "down":
        sink.open()
    assert grown < 48 * 2**20, f"{grown / 2**20:.0f} MiB more"
    return well, ill, service, 80 + len(ill)


def check(start: Start, sink: Sink, how: str, seconds: float) -> None:
    well, ill, service, count = outage(start, sink, how, seconds)
    assert all(each.chunks == 3 for each in (*well, *ill)), "every listener has all his audio"
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == count, 40), service.log
    assert sink.total("vibevoice.first_audio.latency") == count
    service.speak(1)
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == count + 1, 20)

    def accounted() -> tuple[int, int]:
        """Spans of speech requests that came, and spans that were counted as lost (some of them of /healthz)."""
        came = [s for s in sink.spans() if s.name in {"vibevoice.synthesize", "vibevoice.first_chunk"} or s.name.endswith("/stream")]
        return len(came), int(sink.total("vibevoice.telemetry.dropped", what="spans"))

    made = 3 * (count + 1)  # SERVER, synthesize, first_chunk
    assert wait_for(lambda: sum(accounted()) >= made, 30), (accounted(), made, service.log[-2000:])
    first = [statistics.median(each.first or 9 for each in group) for group in (well, ill)]
    ratio = first[1] / first[0]
    print(f"{how}: first audio {first[0] * 1000:.1f} ms well, {first[1] * 1000:.1f} ms ill, ratio {ratio:.2f}; ", end="")
    print(f"dropped {accounted()[1]} spans, {count} requests")
    assert ratio < 1.5 or first[1] - first[0] < 0.03


@pytest.mark.parametrize("how", ["down", "errors", "slow"])
def test_an_outage_is_not_heard_and_loses_no_metric(start: Start, sink: Sink, how: str) -> None:
    """Seconds of outage under load: each request is counted once it is over, lost spans are counted, memory and first audio stay."""
    check(start, sink, how, 4.0)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["down", "errors", "slow"])
def test_two_minutes_of_outage(start: Start, sink: Sink, how: str) -> None:
    """The same for two minutes."""
    check(start, sink, how, 120.0)
