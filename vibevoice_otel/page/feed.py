"""What the browser is told as it happens: newline-delimited JSON messages, paced, so that looking costs the service
little.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from opentelemetry import trace

from vibevoice_otel.page import memory, rows
from vibevoice_otel.page.store import Store
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.recording.timeline import Timeline

TICK_SECONDS = 0.1  # a growing trace
SHARE = 0.05  # of one processor, at most, for each browser that watches a trace grow
STATUS_SECONDS = 0.25  # tiles and the list
MEMORY_SECONDS = 2.0
PATIENCE_SECONDS = 15.0  # for a request that was announced and has not arrived


def message(kind: str, **values: Any) -> bytes:
    return json.dumps({"type": kind, **values}, separators=(",", ":"), allow_nan=False, default=str).encode() + b"\n"


def trace_id(timeline: Timeline) -> str:
    """32 hex digits; "" when the request has no trace."""
    if timeline.context is None:
        return ""
    context = trace.get_current_span(timeline.context).get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def phase(timeline: Timeline) -> str:
    """What an open request is doing, in the page's words."""
    latest_first = {
        "closing": timeline.work_end,
        "leaving": timeline.web_closed if timeline.work_start is not None else None,
        "speaking": timeline.first_send,
        "generating": timeline.generate_start,
        "preparing": timeline.work_start,
        "waiting": timeline.accepted,
    }
    return next((word for word, at in latest_first.items() if at is not None), "arriving")


class Feed:
    """Reads the store and the open timelines for as many browsers as ask.

    Args:
        recorder: whose open requests are shown.
        store: whose finished ones are.
    """

    def __init__(self, recorder: Recorder, store: Store) -> None:
        self._recorder, self._store = recorder, store
        self._memory: tuple[float, list[dict[str, Any]]] = (0.0, [])

    # ----------------------------------------------------------------------------------------------------- all requests

    async def status(self) -> AsyncIterator[bytes]:
        """First every finished request, then changes, the open ones, and memory. Never ends."""
        sent: dict[int, dict[str, Any]] = {}
        version, before = -1, None
        while True:
            if version != self._store.version:
                version = self._store.version
                current = {each["number"]: each for each in self._store.summaries()}
                fresh = [each for number, each in current.items() if sent.get(number) is not each]
                gone = [number for number in sent if number not in current]
                sent = current
                for first in range(0, max(1, len(fresh)), 100):
                    yield message("requests", fresh=fresh[first : first + 100], gone=gone)
            live = {"active": self._active(), "memory": self._memory_now()}
            if live["active"] or live != before:
                before = live
                yield message("live", at=time.time() * 1000, **live)
            await asyncio.sleep(STATUS_SECONDS)

    def _active(self) -> list[dict[str, Any]]:
        at = now()
        return [
            {
                "trace": trace_id(each), "number": each.request,
                "voice": self._recorder.bounds.voice(each.used.voice or each.asked.voice),
                "phase": phase(each), "seconds": (at - each.opened) / 1e9,
                "backlog": each.backlog() if each.backlog is not None else 0,
            }
            for each in self._recorder.timelines
        ]  # fmt: skip

    def _memory_now(self) -> list[dict[str, Any]]:
        if time.monotonic() - self._memory[0] >= MEMORY_SECONDS:
            self._memory = (time.monotonic(), memory.read())
        return self._memory[1]

    # ------------------------------------------------------------------------------------------------------ one request

    async def request(self, key: str) -> AsyncIterator[bytes]:
        """One request's rows, growing while it is made; the last message is ``done``, or ``gone`` when there is no such
        request.

        ``settled`` rows are final, and hold with the ``open`` or ``done`` message that follows them. ``open`` rows
        stand for everything after them and are replaced by the next message.
        """
        settled = 0  # batches sent
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            timeline = next((t for t in self._recorder.timelines if key in {str(t.request), trace_id(t)}), None)
            kept = self._store.find(key)
            if kept is not None and kept.summary is not None:
                for part in self._settled(kept.batches[settled:], kept.origin):
                    yield part
                    await asyncio.sleep(0)
                yield message("done", summary=kept.summary, omitted=kept.omitted)
                return
            if timeline is None and (kept is None and time.monotonic() > deadline):
                yield message("gone")
                return
            spent = time.thread_time()
            batch = self._recorder.peek(timeline) if timeline is not None else None
            batches = kept.batches[:] if kept is not None else []
            # A batch that has been made and is not in the store yet is in neither: the next tick shows both.
            if timeline is not None and batch is not None and batch.earlier == len(batches):
                for part in self._open(timeline, batch, batches[settled:]):
                    yield part
                settled = len(batches)
            spent = time.thread_time() - spent
            await asyncio.sleep(max(TICK_SECONDS, spent / SHARE))

    def _open(self, timeline: Timeline, batch: Batch, fresh: Sequence[Batch]) -> list[bytes]:
        origin = timeline.anchor.to_wall(timeline.opened)
        return [
            *self._settled(fresh, origin),
            message(
                "open", phase=phase(timeline), number=timeline.request, trace=trace_id(timeline), origin=origin / 1e6,
                rows=list(rows.encode(batch, origin)), sends=rows.sends(batch, origin),
                parts=batch.first_audio_parts, backlog=timeline.backlog() if timeline.backlog is not None else 0,
            ),
        ]  # fmt: skip

    @staticmethod
    def _settled(batches: Sequence[Batch], origin: int) -> Iterator[bytes]:
        for batch in batches:
            yield from (message("settled", rows=[part]) for part in rows.encode(batch, origin))
            table = rows.sends(batch, origin)
            if table or batch.first_audio_parts:
                yield message("settled", rows=[], sends=table, parts=batch.first_audio_parts, origin=origin / 1e6)
