"""Nothing lost when the process ends: what ended is exported, what is open ends as error, shutdown, once."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Callable

import pytest

from tools.ports import free_port

from .harness import Service, Sink, wait_for

Start = Callable[..., Service]


#: Seconds for a process to notice a signal and to be gone.
MARGIN = 1.5
#: No export comes due in a test's time.
LATE = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}


def _end_with_open_requests(service: Service, end: Callable[[], object]) -> None:
    """Two requests that ended, two that are speaking when the end comes."""

    async def scene() -> None:
        await asyncio.gather(service.listen(text="a"), service.listen(text="b"))
        # By a fifth chunk the server has long seen the end of the first two.
        speaking = await service.speaking(2, after=5, text="c", chunks=1000, pace=0.05)
        await asyncio.to_thread(end)
        await asyncio.gather(*speaking)

    asyncio.run(scene())


def _all_arrived(service: Service, sink: Sink) -> None:
    assert sink.roots() == {"success": 2, "error/shutdown": 2}, service.log
    assert sink.total("vibevoice.streaming.requests", status="success") == 2
    assert sink.total("vibevoice.streaming.requests", status="error") == 2
    assert sink.total("vibevoice.errors", error_type="shutdown") == 2
    servers = [span for span in sink.spans() if span.kind == 2 and span.name.endswith("/stream")]
    assert len(servers) == 4
    assert len({span.span_id for span in sink.spans()}) == len(sink.spans())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_exports_all(start: Start, sink: Sink, how: int) -> None:
    """SIGTERM and SIGINT: two ended requests and two open ones arrive, in spans and in metrics, each once, though no
    export was due.
    """
    service = start(**LATE)
    _end_with_open_requests(service, lambda: service.stop(how))
    _all_arrived(service, sink)


def test_uvicorns_own_shutdown_exports_all(start: Start, sink: Sink) -> None:
    """The same where no signal comes: the program stops uvicorn itself, and then ends."""
    port = free_port()
    program = (sys.executable, "stopping.py", str(port))
    service = start(command=program, port=port, **LATE)

    def stop() -> None:
        service.post("/stop", "")
        assert service.process.wait(30) == 0, service.log

    _end_with_open_requests(service, stop)
    _all_arrived(service, sink)


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_a_signal_to_the_parent_exports_all_of_its_workers(start: Start, sink: Sink, server: str) -> None:
    """SIGTERM to a parent of two workers: what either worker had ended or open arrives, each once."""
    port = free_port()
    if server == "uvicorn":
        command = (sys.executable, "-m", "uvicorn", "speaker:app", "--port", str(port), "--workers", "2")
    else:
        if importlib.util.find_spec("gunicorn") is None:
            pytest.skip("gunicorn is not installed")
        worker = ("-k", "uvicorn_worker.UvicornWorker", "-w", "2", "--graceful-timeout", "10")
        command = (sys.executable, "-m", "gunicorn", "speaker:app", *worker, "-b", f"127.0.0.1:{port}")
    service = start(command=command, port=port, **LATE)
    pids: set[str] = set()
    assert wait_for(lambda: pids.add(service.get("/healthz")) or len(pids) == 2), service.log  # type: ignore[func-returns-value]
    _end_with_open_requests(service, lambda: service.stop(signal.SIGTERM))
    _all_arrived(service, sink)


@pytest.mark.serial
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["down", "slow"])
def test_a_dead_collector_does_not_hold_the_end(start: Start, sink: Sink, state: str, how: signal.Signals) -> None:
    """With the Collector down, or answering after a minute, SIGTERM ends the process within the setting's time and a
    second or two; and so does Ctrl-C, after which the SDK's own handlers of the exit run.
    """
    service = start(
        OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_METRIC_EXPORT_INTERVAL="60000", VIBEVOICE_OTEL_SHUTDOWN_TIMEOUT="2"
    )
    service.speak(2)
    if state == "down":
        sink.close()
    else:
        sink.delay = 60
    took = service.stop(how)
    assert took < 2 + 3, service.log
    assert (service.process.returncode == -signal.SIGTERM) == (how == signal.SIGTERM), "as without us"
    assert ("the last export has not ended within 2 s" in service.log) == (how == signal.SIGINT)


@pytest.mark.serial
@pytest.mark.parametrize("hangs", ["pool", "collector", "both"])
def test_a_wedged_pool_does_not_hold_the_end(start: Start, sink: Sink, hangs: str) -> None:
    """Every worker thread of the event loop's pool hangs, or the Collector, or both: SIGTERM ends the process within
    uvicorn's own second plus the setting, and what had ended arrives where the Collector takes it.
    """
    port = free_port()
    command = (sys.executable, "-m", "uvicorn", "speaker:app", "--port", str(port), "--timeout-graceful-shutdown", "1")
    service = start(command=command, port=port, VIBEVOICE_OTEL_SHUTDOWN_TIMEOUT="2", **LATE)
    service.speak(2)
    if hangs != "collector":
        service.wedge(40, threads=2 * ((os.cpu_count() or 1) + 4))
    if hangs != "pool":
        sink.delay = 60
    took = service.stop(signal.SIGTERM)
    assert took < 1 + 2 + MARGIN, service.log
    if hangs == "pool":
        assert sink.roots() == {"success": 2}, service.log
        assert sink.total("vibevoice.streaming.requests", status="success") == 2


def test_kill_9_loses_one_interval_at_most(start: Start, sink: Sink) -> None:
    """What has ended is exported by the intervals alone, and kill -9 takes none of it back; the next start counts from
    zero and works.
    """
    service = start(OTEL_BSP_SCHEDULE_DELAY="300", OTEL_METRIC_EXPORT_INTERVAL="300")
    service.speak(3)
    assert wait_for(lambda: sink.roots()["success"] == 3), service.log
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 3), service.log
    service.stop(signal.SIGKILL)
    again = start(port=service.port)
    again.speak(2)
    assert wait_for(lambda: sink.roots()["success"] == 5)
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 5), (
        "two instances, their sums apart"
    )
    assert len({instance for instance, _ in sink.series("vibevoice.streaming.requests")}) == 2
