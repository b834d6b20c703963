"""The Collector goes away, is slow, answers errors, returns: no metric is lost, spans that are lost are counted, nobody
hears it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .harness import Heard, Service, Sink, wait_for

Start = Callable[..., Service]
#: What the memory of a service may grow by: the sender's queue holds 16 MiB, and its objects as much again.
MEMORY = 48 * 2**20
HOWS = ["down", "errors", "busy", "slow", "flapping"]


def fall_ill(sink: Sink, how: str) -> None:
    if how in {"down", "flapping"}:
        sink.close()
    elif how == "slow":
        sink.delay = 3.0  # longer than the exporter waits
    else:
        sink.status = 400 if how == "errors" else 503  # not worth a retry; worth one


def recover(sink: Sink, how: str) -> None:
    sink.delay, sink.status = 0.0, 200
    if how in {"down", "flapping"}:
        sink.open()


@contextmanager
def ill(sink: Sink, how: str, seconds: float) -> Iterator[Callable[[], bool]]:
    """The Collector is ill for ``seconds`` from now and then well again, whatever goes on meanwhile; yields whether it
    is over.

    A flapping one is down and up again six times in that time.
    """
    turns = 6 if how == "flapping" else 1

    def course() -> None:
        for turn in range(turns):
            if turn:
                time.sleep(seconds / turns / 2)
                fall_ill(sink, how)
            time.sleep(seconds / turns / (2 if turns > 1 else 1))
            recover(sink, how)

    fall_ill(sink, how)
    running = threading.Thread(target=course)
    running.start()
    try:
        yield lambda: not running.is_alive()
    finally:
        running.join()


def outage(
    start: Start, sink: Sink, how: str, seconds: float
) -> tuple[list[Heard], list[Heard], list[Heard], Service, int]:
    """Requests with the Collector well, then with it ill, and on and on while it returns: what was heard well, ill and
    after.
    """
    # Nothing but speech makes spans, so that they can be counted exactly.
    service = start(
        OTEL_BSP_MAX_QUEUE_SIZE="256", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="64", OTEL_EXPORTER_OTLP_TIMEOUT="2",
        OTEL_PYTHON_FASTAPI_EXCLUDED_URLS="healthz",
    )  # fmt: skip
    service.speak(20)  # warm
    well = service.speak(60)
    process = service.family()[-1]
    before = process.memory_info().rss
    meanwhile, after, most = list[Heard](), list[Heard](), 0
    with ill(sink, how, seconds) as over:
        while not over():
            meanwhile.extend(service.speak(20))
            most = max(most, process.memory_info().rss - before)
        until = time.monotonic() + max(1.0, seconds / 10)
        while time.monotonic() < until:
            after.extend(service.speak(20))
    most = max(most, process.memory_info().rss - before)
    assert most < MEMORY, f"{most / 2**20:.0f} MiB more"
    return well, meanwhile, after, service, most


def check(start: Start, sink: Sink, how: str, seconds: float) -> None:
    well, meanwhile, after, service, most = outage(start, sink, how, seconds)
    count = 20 + len(well) + len(meanwhile) + len(after)
    assert all(each.chunks == 3 for each in (*well, *meanwhile, *after)), "every listener has all his audio"
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == count), service.log
    assert wait_for(lambda: sink.total("vibevoice.first_audio.latency") == count)
    assert service.speak(1)[0].chunks == 3
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == count + 1)

    def accounted() -> tuple[int, int]:
        """Spans that came, each once, and spans that were counted as lost."""
        return len({span.span_id for span in sink.spans()}), int(
            sink.total("vibevoice.telemetry.dropped", what="spans")
        )

    made = 3 * (count + 1)  # SERVER, synthesize, first_chunk
    assert wait_for(lambda: sum(accounted()) >= made), (accounted(), made, service.log[-2000:])
    time.sleep(1.2)  # two more exports change nothing
    came, lost = accounted()
    assert came + lost == made, f"{came} came, {lost} were counted as lost, {made} were made"
    first = [statistics.median(each.first or 9 for each in group) for group in (well, meanwhile)]
    ratio = first[1] / first[0]
    print(
        f"{how} for {seconds:.0f} s: first audio {first[0] * 1000:.1f} ms well, {first[1] * 1000:.1f} ms ill, ratio "
        f"{ratio:.2f}; ",
        end="",
    )
    print(
        f"{count + 1} requests, {len(after)} of them from its return on; {made} spans, {came} came, {lost} counted as "
        "lost; ",
        end="",
    )
    print(f"at most {most / 2**20:.1f} MiB more")
    assert ratio < 1.5 or first[1] - first[0] < 0.03


@pytest.mark.serial
@pytest.mark.parametrize("how", HOWS)
def test_an_outage_is_not_heard_and_loses_no_metric(start: Start, sink: Sink, how: str) -> None:
    """Seconds of outage under load, and its end under load too: each request is counted once, each span came or was
    counted as lost, memory and first audio stay.
    """
    check(start, sink, how, 4.0)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", HOWS)
def test_two_minutes_of_outage(start: Start, sink: Sink, how: str) -> None:
    """The same for two minutes."""
    check(start, sink, how, 120.0)
