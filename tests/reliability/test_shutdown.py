"""Nothing lost when the process ends: what ended is exported, what is open ends as error, shutdown, once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import pytest

from .harness import Service, Sink, wait_for

Start = Callable[..., Service]


def _end_with_open_requests(service: Service, how: int) -> float:
    """Two requests that ended, two that are speaking when the signal comes; returns the seconds that the end took."""

    async def scene() -> float:
        await asyncio.gather(service.listen(text="a"), service.listen(text="b"))
        speaking = [asyncio.create_task(service.listen(text="c", chunks=1000, pace=0.05)) for _ in range(2)]
        await asyncio.sleep(0.6)
        took = await asyncio.to_thread(service.stop, how)
        await asyncio.gather(*speaking)
        return took

    return asyncio.run(scene())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_exports_all(start: Start, sink: Sink, how: int) -> None:
    """SIGTERM and SIGINT: two ended requests and two open ones arrive, in spans and in metrics, each once, though no export was due."""
    service = start(OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_METRIC_EXPORT_INTERVAL="60000")
    _end_with_open_requests(service, how)
    assert sink.roots() == {"success": 2, "error/shutdown": 2}, service.log
    assert sink.total("vibevoice.streaming.requests", status="success") == 2
    assert sink.total("vibevoice.streaming.requests", status="error") == 2
    assert sink.total("vibevoice.errors", error_type="shutdown") == 2
    servers = [span for span in sink.spans() if span.kind == 2 and span.name.endswith("/stream")]
    assert len(servers) == 4
    assert len({span.span_id for span in sink.spans()}) == len(sink.spans())


@pytest.mark.parametrize("state", ["down", "slow"])
def test_a_dead_collector_does_not_hold_the_end(start: Start, sink: Sink, state: str) -> None:
    """With the Collector down, or answering after a minute, SIGTERM ends the process within the setting's time and a second or two."""
    service = start(OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_METRIC_EXPORT_INTERVAL="60000", VIBEVOICE_OTEL_SHUTDOWN_TIMEOUT="2")
    service.speak(2)
    if state == "down":
        sink.close()
    else:
        sink.delay = 60
    took = service.stop(signal.SIGTERM)
    assert took < 2 + 3, service.log
    assert service.process.returncode == -signal.SIGTERM, "the process ends by the signal, as without us"


def test_kill_9_loses_one_interval_at_most(start: Start, sink: Sink) -> None:
    """What ended more than an interval before kill -9 is there; the next start counts from zero and works."""
    service = start(OTEL_BSP_SCHEDULE_DELAY="300", OTEL_METRIC_EXPORT_INTERVAL="300")
    service.speak(3)
    time.sleep(1.5)  # both intervals, and the export itself
    service.stop(signal.SIGKILL)
    assert sink.roots()["success"] == 3
    assert sink.total("vibevoice.streaming.requests", status="success") == 3
    again = start(port=service.port)
    again.speak(2)
    assert wait_for(lambda: sink.roots()["success"] == 5)
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 5), "two instances, their sums apart"
    assert len({instance for instance, _ in sink.series("vibevoice.streaming.requests")}) == 2
