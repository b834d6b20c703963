"""Listeners who leave, who are slow, who stop reading: nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from urllib.parse import urlencode

import numpy as np
import psutil
import pytest

from tools.ports import free_port

from .harness import Service, Sink, wait_for

Start = Callable[..., Service]
UPGRADE = (
    "GET /stream?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def connect(service: Service, **query: object) -> socket.socket:
    """A WebSocket whose buffers are small and which reads only when it is told to."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", service.port))
    connection.sendall(UPGRADE.format(query=urlencode(query)).encode())
    return connection


def server(service: Service) -> psutil.Process:
    pid = json.loads(service.get("/healthz"))["pid"]
    return psutil.Process(int(pid))


def timelines(service: Service) -> int:
    """Timelines that are still in the service's memory, open or not."""
    return int(service.get("/alive?kind=Timeline"))


def settled(service: Service, sockets: int, threads: int) -> bool:
    """Sockets are closed, the threads that served them have ended, and of no request anything is open or kept (one that
    has just ended may be in the recorder's hands).
    """
    process = server(service)
    return (
        process.num_fds() <= sockets + 2
        and process.num_threads() <= threads + 1
        and service.scraped("vibevoice_streaming_active") == 0
        and timelines(service) <= 2
    )


def rest(service: Service, process: psutil.Process, memory: int, threads: int, files: int) -> float:
    """MiB more than before, once all else is given back."""
    assert wait_for(lambda: settled(service, files, threads)), (
        f"{process.num_fds()} files, {files} before, {process.num_threads()} threads, {threads} before, "
        f"{timelines(service)} timelines"
    )
    return (process.memory_info().rss - memory) / 2**20


def listeners_who_leave(start: Start, count: int) -> float:
    """``count`` connections that open and leave at once; returns MiB grown."""
    service = start(OTEL_METRICS_EXPORTER="prometheus")
    asyncio.run(_leave(service, 100))
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == 100)
    process = server(service)
    memory, threads, files = process.memory_info().rss, process.num_threads(), process.num_fds()
    asyncio.run(_leave(service, count))
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == 100 + count)
    grown = rest(service, process, memory, threads, files)
    print(f"{count} connections: {grown:.1f} MiB more")
    return grown


async def _leave(service: Service, count: int) -> None:
    turn = asyncio.Semaphore(20)

    async def one() -> None:
        async with turn:
            await service.listen(until=1, chunks=50, pace=0.02)

    await asyncio.gather(*(one() for _ in range(count)))


def test_listeners_who_leave(start: Start) -> None:
    """1,000 connections that open and leave: each is counted; no memory, thread, socket or timeline of them stays."""
    assert listeners_who_leave(start, 1000) < 12


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_thousands_of_listeners_who_leave(start: Start) -> None:
    """The same with 5,000: growth is not in proportion."""
    assert listeners_who_leave(start, 5000) < 24


def slow_readers(start: Start, count: int, seconds: float) -> None:
    port = free_port()
    # Our listeners answer no pings; by default uvicorn would end them after 40 s.
    patient = (sys.executable, "-m", "uvicorn", "speaker:app", "--port", str(port), "--ws-ping-interval", "3600")
    service = start(command=patient, port=port, OTEL_METRICS_EXPORTER="prometheus")
    service.speak(20)
    process = server(service)
    memory, threads, files = process.memory_info().rss, process.num_threads(), process.num_fds()
    # More than the sockets' buffers hold (a few MiB), or the service would be done with them at once.
    slow = [connect(service, text="slow", chunks=5000, pace=0.001) for _ in range(count)]
    stopped = connect(service, text="stopped", chunks=100_000, pace=0)
    until, heard, others = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until or not heard:
        for connection in slow:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                heard += len(connection.recv(2048))
        assert service.speak(1)[0].chunks == 3, "others are served meanwhile"
        others += 1
        time.sleep(0.05)
    assert wait_for(lambda: service.scraped("vibevoice_streaming_active") >= count), "who reads slowly is still there"
    for connection in (*slow, stopped):
        connection.close()
    made = 20 + others + count + 1
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == made), "each is counted once"
    grown = rest(service, process, memory, threads, files)
    print(
        f"{count} slow readers and one who stopped, {seconds:.0f} s: {grown:.1f} MiB more; {others} others served "
        "meanwhile"
    )
    assert grown < 24


def test_slow_readers_and_one_who_stopped(start: Start) -> None:
    """Fifty who read little by little and one who reads nothing: others are served, and all is given back when they are
    gone.
    """
    slow_readers(start, 50, 3.0)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_fifty_slow_readers(start: Start) -> None:
    """The same for a minute."""
    slow_readers(start, 50, 60.0)


@pytest.mark.soak
@pytest.mark.timeout(4200)
def test_an_hour_at_50_streams(start: Start, sink: Sink) -> None:
    """An hour of 50 streams at a time: the resident memory's slope over the second half is flat (VIBEVOICE_SOAK_SECONDS
    shortens it).

    Flat is below 10 MiB an hour over the hour's second half, that is 5 MiB; a shorter run sees the allocator's own ups
    and downs steeper, and is allowed accordingly more.
    """
    seconds = float(os.environ.get("VIBEVOICE_SOAK_SECONDS", "3600"))
    service = start(OTEL_METRICS_EXPORTER="prometheus")
    sink.keeps = False
    process = server(service)
    samples: list[tuple[float, float]] = []
    count, began = 0, time.monotonic()
    threads = files = 0
    while time.monotonic() - began < seconds:
        heard = service.speak(200, together=50, chunks=20, pace=0.02)
        assert all(each.chunks == 20 for each in heard), "every listener has all his audio"
        count += len(heard)
        samples.append((time.monotonic() - began, process.memory_info().rss / 2**20))
        if len(samples) == 3:
            threads, files = process.num_threads(), process.num_fds()
    late = np.array([sample for sample in samples if sample[0] > seconds / 2])
    assert len(late) >= 10, "too few samples for a slope"
    slope = float(np.polyfit(late[:, 0] / 3600, late[:, 1], 1)[0])
    rest(service, process, 0, threads, files)
    print(
        f"{count} requests in {seconds:.0f} s, {samples[0][1]:.0f} to {samples[-1][1]:.0f} MiB, slope {slope:+.1f} MiB "
        "an hour"
    )
    assert wait_for(lambda: service.scraped("vibevoice_streaming_requests_total") == count)
    assert slope < 10 * max(1.0, 3600 / seconds) ** 0.5
