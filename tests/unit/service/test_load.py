"""Many requests at once, waiting, being turned away, taking too long, leaving: and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import websockets

from vibevoice_otel.service.engine import frames_of

from .harness import TEXT, Running, generations, running, wait_until

pytestmark = pytest.mark.serial

LONG = "A sentence that goes on. " * 40  # 500 frames


@pytest.fixture(scope="module")
def wide() -> Iterator[Running]:
    yield from running(concurrency=8)


@pytest.fixture(scope="module")
def narrow() -> Iterator[Running]:
    yield from running(concurrency=1, queue=1)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Running]:
    yield from running(concurrency=1, queue=1, timeout=0.6)


async def test_eight_at_once_are_all_heard_and_leave_nothing(wide: Running) -> None:
    """Each of eight concurrent requests gets its own text's frames; then threads, open files and the event loop's tasks
    are as before.
    """
    await asyncio.gather(
        *(wide.ask("Hi.", steps=1) for _ in range(8))
    )  # the worker threads, which a pool keeps, are there now
    process = psutil.Process()
    gc.collect()
    before = set(threading.enumerate()), process.num_fds()
    texts = [TEXT[: 10 + 2 * n] for n in range(8)]
    answers = await asyncio.gather(
        *(wide.ask(text, voice=voice, steps=2) for text, voice in zip(texts, wide.service.voice_presets, strict=False))
    )
    assert [answer.code for answer in answers] == [1000] * 8
    assert [len(answer.chunks) for answer in answers] == [frames_of(text) for text in texts]
    assert all(answer.samples.any() for answer in answers)
    gc.collect()
    wait_until(lambda: process.num_fds() <= before[1], 3, f"{process.num_fds()} open files, before {before[1]}")
    new = set(threading.enumerate()) - before[0]
    assert {thread for thread in new if not thread.name.startswith("vibevoice-worker")} == set()
    pool = [thread for thread in threading.enumerate() if thread.name.startswith("vibevoice-worker")]
    assert len(pool) <= 8 + 4, "the pool grows as it likes, to its size and no further"
    assert generations() == []


async def test_the_queue_is_first_come_first_served_and_then_busy(narrow: Running) -> None:
    """One works, one waits and is served, the third is told backend_busy and closed with 1013 at once."""
    async with websockets.connect(narrow.url(TEXT * 3)) as first:
        while not isinstance(await first.recv(), bytes):
            pass
        waiting = asyncio.create_task(narrow.ask())
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        busy = await narrow.ask()
        assert time.perf_counter() - started < 1
        assert (busy.code, busy.events) == (1013, ["backend_busy"])
        assert not waiting.done()
    answer = await waiting
    assert (answer.code, len(answer.chunks)) == (1000, frames_of(TEXT))


async def test_many_who_come_at_once_never_exceed_the_limits(narrow: Running) -> None:
    """Of six that come together exactly one works and one waits."""
    answers = await asyncio.gather(*(narrow.ask() for _ in range(6)))
    assert sorted(answer.code or 0 for answer in answers) == [1000, 1000, 1013, 1013, 1013, 1013]


async def test_a_listener_who_leaves_ends_the_generation(narrow: Running) -> None:
    """The generation thread ends within a frame's time, the slot is free, and the event loop never stood still."""
    async with websockets.connect(narrow.url(LONG)) as connection:
        while not isinstance(await connection.recv(), bytes):
            pass
        assert len(generations()) == 1
    took = wait_until(lambda: not generations(), 2, "the end of the generation")
    assert took < 0.5  # a frame takes about 30 ms here; the machine may be busy
    assert (await narrow.ask("Hi.")).code == 1000


async def test_a_listener_who_leaves_while_waiting_gives_up_his_place(narrow: Running) -> None:
    """His place in the queue is free at once, not when his turn would have come."""
    async with websockets.connect(narrow.url(LONG)) as working:
        while not isinstance(await working.recv(), bytes):
            pass
        async with websockets.connect(narrow.url()) as waiting:
            await waiting.recv()
            assert (await narrow.ask()).code == 1013
        await asyncio.sleep(0.1)
        next_one = asyncio.create_task(narrow.ask("Hi."))
        await asyncio.sleep(0.1)
    assert (await next_one).code == 1000


async def test_a_request_that_takes_too_long_ends(impatient: Running) -> None:
    """At the timeout the listener is told, the socket closes with 1011, and the generation ends."""
    started = time.perf_counter()
    answer = await impatient.ask(LONG)
    assert 0.6 <= time.perf_counter() - started < 3
    assert answer.code == 1011
    assert answer.events[-2:] == ["backend_error", "backend_stream_complete"]
    assert "longer than the service allows" in answer.data("backend_error")["message"]
    assert answer.chunks, "the audio until then was sent"
    wait_until(lambda: not generations(), 2, "the end of the generation")


async def test_time_in_the_queue_counts(impatient: Running) -> None:
    """Who waits through the whole of his time is told so, and never works."""
    first = asyncio.create_task(impatient.ask(LONG))
    await asyncio.sleep(0.02)
    second = await impatient.ask(LONG)
    await first
    assert second.code == 1011
    assert not second.chunks or len(second.chunks) < 30
    wait_until(lambda: not generations(), 2, "the end of the generation")


async def test_a_listener_who_reads_nothing_is_cut_off(impatient: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full socket cannot hold a slot beyond the request's time, however fast the audio comes."""
    sent, ended = [0], threading.Event()

    def without_end(*args: Any, **kwargs: Any) -> Iterator[np.ndarray]:
        try:
            while True:
                sent[0] += 1
                yield np.zeros(100_000, np.float32)
        finally:
            ended.set()

    monkeypatch.setattr(impatient.service, "stream", without_end)
    async with websockets.connect(impatient.url(), max_queue=1, close_timeout=0.1, compression=None):
        await asyncio.sleep(0.4)
        blocked_at = sent[0]
        await asyncio.sleep(0.1)
        assert sent[0] == blocked_at, "the socket never filled: the test proves nothing"
        assert await asyncio.to_thread(ended.wait, 2)
    monkeypatch.undo()
    assert (await impatient.ask("Hi.", steps=1)).code == 1000


def test_load_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads that load at once build one model; later loads return at once."""
    from vibevoice_otel.service import engine

    built: list[int] = []
    original = engine.random_model
    monkeypatch.setattr(engine, "random_model", lambda *args: (built.append(1), original(*args))[1])
    service = engine.StreamingTTSService(engine.ServiceSettings())
    threads = [threading.Thread(target=service.load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]
    service.load()
    assert built == [1]


def test_a_slow_voice_holds_up_no_other() -> None:
    """A voice that is in the cache, or loads fast, does not wait for one that loads slowly."""
    from vibevoice_otel.service.engine import StreamingTTSService
    from vibevoice_otel.service.faults import Faults
    from vibevoice_otel.service.settings import ServiceSettings

    service = StreamingTTSService(ServiceSettings(faults=Faults(voice_delay={"en-Carter_man": 2.0})))
    slow = threading.Thread(target=service._ensure_voice_cached, args=("en-Carter_man",))
    slow.start()
    service._ensure_voice_cached("en-Emma_woman")
    assert slow.is_alive()
    slow.join()
    assert set(service._voice_cache) == {"en-Carter_man", "en-Emma_woman"}


#: What the service itself asks of OpenTelemetry's API, as any application may: its slots as gauges, under names of
#: semconv, and the trace that it names in a request's last message.
API_USED = {
    "gauges.py": {"from opentelemetry.metrics import CallbackOptions, Observation, get_meter"},
    "session.py": {"from opentelemetry import propagate"},
}


def test_the_service_knows_nothing_of_the_instrumentation() -> None:
    """Its modules import no part of the package that observes, and nothing of OpenTelemetry but API_USED."""
    from vibevoice_otel import service

    sources = list(Path(service.__file__).parent.glob("*.py"))
    assert len(sources) > 8
    for source in sources:
        imports = {
            line.strip() for line in source.read_text().splitlines() if line.lstrip().startswith(("from ", "import "))
        }
        assert {line for line in imports if "opentelemetry" in line} == API_USED.get(source.name, set())
        for line in imports:
            if "vibevoice_otel" in line and source.name != "gauges.py":
                assert re.search(r"vibevoice_otel(\.service\b|\.insight\b| import service)", line), (
                    f"{source.name}: {line}"
                )
