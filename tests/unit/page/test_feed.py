"""What the browser is told while a request is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.support.builders import assembly, finish, request, tree
from vibevoice_otel import wiring
from vibevoice_otel.page import feed
from vibevoice_otel.page.feed import Feed
from vibevoice_otel.page.store import Store
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.settings import Settings


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(feed, "STATUS_SECONDS", 0.01)


@pytest.fixture
def watched() -> tuple[Recorder, Feed]:
    store = Store(10, 1_000_000)
    recorder = wiring.recorder(Settings(), TracerProvider(), sinks=[store])
    return recorder, Feed(recorder, store)


def frame(timeline: Timeline) -> None:
    """A frame as the hooks note it: entry, base, one step, one decode, one send."""
    timeline.runs[0].start = timeline.generate_start or now()
    timeline.runs[0].frames.append(now())
    timeline.runs[0].bases.append(now())
    timeline.runs[0].steps.append(now())
    start = now()
    timeline.runs[0].leaves[Leaf.DECODE].extend((start, now()))
    timeline.sends.extend((now(), now(), 6400))


async def until(messages: AsyncIterator[bytes], kind: str) -> dict[str, Any]:
    async for line in messages:
        message = json.loads(line)
        if message["type"] == kind:
            return message
    raise AssertionError(f"no {kind}")


def kinds(message: dict[str, Any]) -> list[str]:
    return sorted(kind for part in message["rows"] for kind in part["kind"])


async def four_frames(recorder: Recorder, seen: Feed) -> tuple[Timeline, AsyncIterator[bytes]]:
    """An open request that a browser has seen four frames of, and what it is told next."""
    timeline = recorder.open("web")
    for _ in range(4):
        frame(timeline)
    messages = seen.request(str(timeline.request))
    assert kinds(await until(messages, "open")).count("frame") == 4
    return timeline, messages


def test_a_look_leaves_the_request_as_it_is() -> None:
    """However often a browser looks, the records that are finished, and so every metric, are the same to the letter."""
    untouched, looked = request(frames=3), request(frames=3)
    work = assembly(looked)
    for at in (5_000_000, 20_000_000, 35_000_000):
        peeked = work.peek(at)
        assert peeked is not None
        assert not peeked.final
    assert looked.web_closed is not None
    assert tree(work.finish(end=looked.web_closed)) == tree(finish(untouched))


async def test_a_trace_grows_and_then_settles(watched: tuple[Recorder, Feed]) -> None:
    """While it is open the rows so far are shown, each time anew; once it has ended they are final."""
    recorder, seen = watched
    timeline = recorder.open("web")
    timeline.accepted = now()
    messages = seen.request(str(timeline.request))
    assert (await until(messages, "open"))["phase"] == "waiting"
    timeline.work_start = now()
    frame(timeline)
    frame(timeline)
    growing = await until(messages, "open")
    assert kinds(growing).count("frame") == 2
    frame(timeline)
    while kinds(growing).count("frame") < 3:
        growing = await until(messages, "open")
    assert len(growing["sends"]) == 3
    recorder.release(timeline, "web")
    rows, done = [], None
    async for line in messages:
        message = json.loads(line)
        if message["type"] == "settled":
            rows.extend(kinds(message))
        done = message
    assert sorted(rows) == kinds(growing)
    assert done is not None
    assert done["type"] == "done"
    assert done["summary"]["frames"] == 3


async def test_a_drained_stream_is_sent_once(watched: tuple[Recorder, Feed]) -> None:
    """Of a long stream only what is new is sent again: what was drained is settled and stays."""
    recorder, seen = watched
    timeline, messages = await four_frames(recorder, seen)
    recorder._drain_long_streams()
    settled = await until(messages, "settled")
    while "frame" not in kinds(settled):
        settled = await until(messages, "settled")
    assert kinds(settled).count("frame") == 3
    assert kinds(await until(messages, "open")).count("frame") == 1
    for _ in range(3):
        frame(timeline)
    recorder._drain_long_streams()  # while the browser is slow to take the last message
    assert kinds(await until(messages, "settled")).count("frame") == 3
    assert kinds(await until(messages, "open")).count("frame") == 1
    recorder.shutdown()


async def test_no_frame_is_missing_between_the_recorder_and_the_store(watched: tuple[Recorder, Feed]) -> None:
    """What is drained and not yet delivered is in neither: nothing is told until it is in the store."""
    recorder, seen = watched
    timeline, messages = await four_frames(recorder, seen)
    batch = recorder._open[timeline].drain()
    growing = asyncio.ensure_future(until(messages, "open"))
    await asyncio.sleep(0.1)
    assert not growing.done()
    recorder._deliver(batch)
    assert kinds(await growing).count("frame") == 1
    recorder.shutdown()


async def test_an_announced_request_is_waited_for_and_an_unknown_one_is_gone(
    watched: tuple[Recorder, Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser asks for its trace before its socket has arrived; of one that never comes it is told so."""
    recorder, seen = watched
    later = asyncio.ensure_future(until(seen.request("1"), "open"))
    await asyncio.sleep(0.05)
    recorder.open("web")
    assert (await later)["number"] == 1
    monkeypatch.setattr(feed, "PATIENCE_SECONDS", 0.0)
    assert [json.loads(line)["type"] async for line in seen.request("f" * 32)] == ["gone"]
    recorder.shutdown()


async def test_the_list_is_told_what_changed(watched: tuple[Recorder, Feed]) -> None:
    """First everything, then each finished request once, and the open ones as they are."""
    recorder, seen = watched
    recorder.bounds.learn_voices(["en-Carter_man"])
    messages = seen.status()
    assert (await until(messages, "requests"))["fresh"] == []
    timeline = recorder.open("web")
    timeline.asked.voice = "en-Carter_man"
    live = await until(messages, "live")
    while not live["active"]:
        live = await until(messages, "live")
    assert (live["active"][0]["voice"], live["active"][0]["number"]) == ("en-Carter_man", 1)
    recorder.release(timeline, "web")
    assert [each["number"] for each in (await until(messages, "requests"))["fresh"]] == [1]
    recorder.shutdown()


async def test_a_voice_that_nobody_has_is_not_shown(watched: tuple[Recorder, Feed]) -> None:
    """A client may put anything there, the spoken text too."""
    recorder, seen = watched
    timeline = recorder.open("web")
    timeline.asked.voice = "my secret words"
    assert (await until(seen.status(), "live"))["active"][0]["voice"] == "other"
    recorder.shutdown()
