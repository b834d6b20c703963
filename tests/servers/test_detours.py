"""One listener, one request, whatever way it takes through the program; and what passes through is not kept."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.upstream.server import Server
from tests.upstream.sink import ReceivedSpan, Sink
from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.whole import whole

from .client import post
from .matrix import SPEECH, WAV_HEADER

TEXT = "A kumquat falls. It is late."
UPLOAD = 100 << 20
Start = Callable[..., Server]


def _roots(sink: Sink) -> list[ReceivedSpan]:
    return [each for each in sink.spans() if each.name == semconv.SYNTHESIZE.name]


def test_a_post_that_asks_its_own_websocket(running: Start) -> None:
    """The socket faces a listener, the handler: it is the request. The POST generates nothing by itself, and counts
    nothing.
    """
    server = running("detours")
    before = len(_roots(server.sink))
    answer = post(server.port, "/by-socket", input=TEXT)
    assert answer.status == 200
    server.sink.wait(lambda: len(_roots(server.sink)) > before, 60)
    post(server.port, "/by-socket", input=TEXT)
    server.sink.wait(lambda: len(_roots(server.sink)) > before + 1, 60)
    first, second = _roots(server.sink)[before:]
    assert first.trace_id != second.trace_id
    seconds = (len(answer.body) - WAV_HEADER) / 48_000
    assert first.attributes[semconv.AUDIO_DURATION.key] == pytest.approx(seconds)
    assert not server.sink.holds("kumquat")


def test_a_generation_in_a_spawned_process(running: Start) -> None:
    """The process that generates tells of it once, in the caller's trace where the program passes the context; the one
    that answers has seen no generation and adds none.
    """
    server = running("detours")
    answer = post(server.port, "/spawned", input=TEXT)
    assert answer.status == 200
    server.sink.wait(lambda: whole(server.sink.spans(answer.trace_id)), 60)
    (root,) = [each for each in _roots(server.sink) if each.trace_id == answer.trace_id]
    seconds = (len(answer.body) - WAV_HEADER) / 48_000
    assert root.attributes[semconv.AUDIO_DURATION.key] == pytest.approx(seconds)
    assert semconv.FIRST_AUDIO_LATENCY.key not in root.attributes, "that process has no listener"
    generations = [each for each in server.sink.spans(answer.trace_id) if each.name == semconv.GENERATE.name]
    assert [each.parent_id for each in generations] == [root.span_id]
    assert not server.sink.holds("kumquat")


def test_a_gateway_in_front_of_a_back_end(running: Start) -> None:
    """Each process counts what it faces: the gateway has no model and counts nothing, the back end one request in the
    caller's trace.
    """
    back = running("openai_threads")
    front = running("gateway", BACK_END=f"http://127.0.0.1:{back.port}")
    answer = post(front.port, SPEECH, input=TEXT)
    back.sink.wait(lambda: any(each.trace_id == answer.trace_id for each in _roots(back.sink)), 60)
    (root,) = [each for each in _roots(back.sink) if each.trace_id == answer.trace_id]
    seconds = (len(answer.body) - WAV_HEADER) / 48_000
    assert root.attributes[semconv.AUDIO_DURATION.key] == pytest.approx(seconds)
    front.sink.wait(lambda: bool(front.sink.spans(answer.trace_id)), 60)
    assert not _roots(front.sink)


def test_an_upload_of_100_mb_is_not_kept(running: Start) -> None:
    """The most memory that the process has held grows by less than a fifth of what passed through it."""
    server = running("detours")
    assert _uploaded(server.port, 1 << 20) == 1 << 20
    before = _peak(server.process.pid)
    assert _uploaded(server.port, UPLOAD) == UPLOAD
    assert _peak(server.process.pid) - before < UPLOAD // 5


def _uploaded(port: int, size: int) -> int:
    async def go() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        head = f"POST /upload HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: {size}\r\n"
        writer.write(f"{head}traceparent: {traceparent}\r\n\r\n".encode())
        part = bytes(1 << 20)
        for _ in range(size // len(part)):
            writer.write(part)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        return int(json.loads(answer.partition(b"\r\n\r\n")[2])["bytes"])

    return asyncio.run(go())


def _peak(pid: int) -> int:
    """Bytes of the most resident memory that a process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10
