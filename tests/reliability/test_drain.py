"""A pod that is taken away: SIGTERM stops new streams, lets the open ones end,
and then the telemetry and the process.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import urllib.error
from collections.abc import Callable

from .harness import PATIENCE, Heard, Service, Sink, free_port, wait_for

Start = Callable[..., Service]
DRAIN = 120  # seconds: far longer than the streams last, on a busy machine too
#: No export comes due in a test's time, and each frame takes long enough that three streams last some seconds.
SLOW = {
    "OTEL_BSP_SCHEDULE_DELAY": "60000",
    "OTEL_METRIC_EXPORT_INTERVAL": "60000",
    "VIBEVOICE_SERVICE_CONCURRENCY": "3",
    "VIBEVOICE_SERVICE_FAULTS": '{"decode_delay": 0.3}',
}
TEXT = "Three listeners hear all of this sentence."


def _service(start: Start, **environment: str) -> Service:
    port = free_port()
    command = (sys.executable, "-m", "vibevoice_otel.service", "--port", str(port))
    service = start(command=command, port=port, **{**SLOW, **environment})
    service.speak(text="load")  # the model is loaded
    return service


def _ready(service: Service) -> bool:
    try:
        service.get("/readyz")
    except urllib.error.HTTPError as error:
        error.close()
        return False
    return True


async def _three_streams_and_sigterm(service: Service) -> list[asyncio.Task[Heard]]:
    """Three open streams of a service that has then got SIGTERM."""
    open_streams = await service.speaking(3, text=TEXT)
    service.process.send_signal(signal.SIGTERM)
    return open_streams


def test_open_streams_end_and_no_new_one_begins(start: Start, sink: Sink) -> None:
    """SIGTERM with three open streams: not ready, a fourth is refused, all three are heard to their end, all is
    exported, and the process ends then, long before the drain's time is over.
    """
    service = _service(start, VIBEVOICE_SERVICE_DRAIN=str(DRAIN))
    assert _ready(service)

    async def three_and_a_fourth() -> tuple[bool, Heard, list[Heard]]:
        open_streams = await _three_streams_and_sigterm(service)
        unready = await asyncio.to_thread(wait_for, lambda: not _ready(service))
        late = await service.listen(text="too late")
        return unready, late, await asyncio.gather(*open_streams)

    unready, late, heard = asyncio.run(three_and_a_fourth())
    service.process.wait(DRAIN / 2)
    assert unready
    assert (late.close_code, late.chunks) == (1013, 0)
    assert [each.close_code for each in heard] == [1000] * 3, service.log
    assert {each.chunks for each in heard} == {len(TEXT) // 2}
    assert sink.roots()["success"] == 4, sink.roots()
    assert sink.total("vibevoice.streaming.requests", status="success") == 4
    assert service.process.returncode == -signal.SIGTERM


def test_what_outlasts_the_drain_is_cut_off_and_said(start: Start, sink: Sink) -> None:
    """A drain shorter than the streams ends in time all the same; the log names the setting."""
    service = _service(start, VIBEVOICE_SERVICE_DRAIN="0.5")

    async def three() -> list[Heard]:
        return await asyncio.gather(*await _three_streams_and_sigterm(service))

    heard = asyncio.run(three())
    service.process.wait(PATIENCE)
    assert all(each.close_code != 1000 for each in heard)
    assert "3 streams are still open 0.5 s after SIGTERM" in service.log
    assert sink.roots()["error/shutdown"] == 3


def test_the_slots_are_exported(start: Start, sink: Sink) -> None:
    """What autoscaling reads: capacity, and requests that work and that wait, from the service's own slots."""
    service = _service(start, VIBEVOICE_SERVICE_CONCURRENCY="2", OTEL_METRIC_EXPORT_INTERVAL="200")

    async def five() -> tuple[bool, list[float]]:
        listeners = [asyncio.create_task(service.listen(text=TEXT)) for _ in range(5)]

        def seen() -> list[float]:
            return [sink.total("vibevoice.service.requests", state=state) for state in ("working", "waiting")]

        found = await asyncio.to_thread(wait_for, lambda: seen() == [2, 3]), seen()
        for each in listeners:
            each.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        return found

    found, seen = asyncio.run(five())
    assert found, seen
    assert sink.total("vibevoice.service.capacity") == 2
    assert wait_for(lambda: sink.total("vibevoice.service.requests") == 0)
