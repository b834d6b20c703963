"""Keeps or drops whole traces once their outcome is known, in this process, for traces that ``vibevoice_tail`` only
recorded.

A trace is held from its first span's start until none of its spans is open. The first sign of trouble (a span with
status error, a first audio beyond the objective, a playback that ran dry) decides: what is held goes out at once, and
all that follows straight through. Without a sign it is dropped. So nothing is ever half kept, and what has been
promised by an exemplar is never taken back.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags

from vibevoice_otel import failures, forking, semconv
from vibevoice_otel.recording import outcome

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from vibevoice_otel.recording.records import Batch

#: Verdicts on traces that are over, for spans that come after all.
REMEMBERED = 4096
#: A batch processor's queue is short; kept traces are fed to it no faster than it empties.
PACE_SECONDS = 0.01


@dataclass(slots=True)
class _Trace:
    """What is known of a trace whose spans are not all over."""

    kept: bool | None  # None: not decided
    crowded_out: bool = False  # dropped for want of room, not for its outcome
    open: int = 0
    spans: list[ReadableSpan] = field(default_factory=list)


class TailProcessor(SpanProcessor):
    """Holds ended spans that were recorded but not sampled, and hands kept ones to ``targets`` as sampled.

    Args:
        targets: the processors that export, asked for whenever there is something to hand over. They ignore unsampled
            spans, so they see each kept span once.
        slow: seconds of first-audio latency beyond which a trace is kept.
        limit: spans that are held at most, and traces that are not over; beyond, the oldest undecided (or the oldest at
            all) is dropped and counted.
        on_drop: told (what, reason, count) of spans that were lost for want of room.
        room: spans that a target takes right now; None when that cannot be known.
    """

    def __init__(
        self,
        targets: Callable[[], Sequence[SpanProcessor]],
        *,
        slow: float,
        limit: int,
        on_drop: Callable[[str, str, int], None],
        room: Callable[[SpanProcessor], int | None] = lambda _target: None,
    ) -> None:
        self._targets = targets
        self._room = room
        self.resume(slow=slow, limit=limit, on_drop=on_drop)
        forking.begin(self._reset)

    def resume(self, *, slow: float, limit: int, on_drop: Callable[[str, str, int], None]) -> None:
        """Decide again, after :meth:`pause`; the arguments as to the constructor. An SDK takes no processor back."""
        self._slow, self._limit, self._on_drop = slow, limit, on_drop
        self._stopped = False

    def pause(self, timeout: float) -> None:
        """Hand over what has been kept, within ``timeout`` seconds, forget the rest, and let every span pass."""
        self.shutdown()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        self._on_drop = lambda _what, _reason, _count: None
        self._reset()

    def _reset(self) -> None:
        """Empty, without a thread; after a fork what the parent holds is the parent's to export."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._verdicts: OrderedDict[int, bool] = OrderedDict()
        self._held = 0
        self._leaving: deque[ReadableSpan] = deque()
        self._handing = 0  # spans that the thread has taken and not yet handed over
        self._thread: threading.Thread | None = None

    # ----------------------------------------------------------------------------------------------- what the SDK calls

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        del parent_context  # the span knows its parent
        context = span.get_span_context()
        if context.trace_flags.sampled or self._stopped:
            return
        lost = 0
        with self._lock:
            known = self._traces.get(context.trace_id)
            if known is None:
                known = self._traces[context.trace_id] = _Trace(self._expected(context.trace_id, span))
                if len(self._traces) > self._limit:  # spans that are never ended hold theirs for ever
                    oldest, crowded = next(iter(self._traces.items()))
                    lost = crowded.open + len(crowded.spans)
                    self._over(oldest, crowded)
            known.open += 1
        if lost:
            self._on_drop("spans", "tail_buffer_full", lost)

    def _expected(self, trace_id: int, span: ReadableSpan) -> bool | None:
        """The verdict on spans that come after their trace was over: they must not be kept without what they
        belong to.
        """
        verdict = self._verdicts.get(trace_id)
        if verdict is None and span.parent is not None and not span.parent.is_remote:
            return False
        if verdict is False and (span.parent is None or span.parent.is_remote):
            return None  # another request in the caller's trace
        return verdict

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None or context.trace_flags.sampled:
            return
        lost = 0
        with self._lock:
            known = self._traces.get(context.trace_id)
            if known is None:
                return  # began before we were there
            known.open -= 1
            if known.kept is None:
                known.spans.append(span)
                self._held += 1
                if span.status.status_code is StatusCode.ERROR:
                    self._keep(known)
                elif self._held > self._limit:
                    lost = self._make_room()
            elif known.kept:
                self._leave((span,))
            elif known.crowded_out:
                lost = 1
            if known.open <= 0:
                self._over(context.trace_id, known)
        if lost:
            self._on_drop("spans", "tail_buffer_full", lost)

    def force_flush(self, timeout_millis: int | None = 30_000) -> bool:
        """Hand over what has been kept, and have it exported; False when the time ran out. What is undecided stays."""
        deadline = time.monotonic() + (30_000 if timeout_millis is None else timeout_millis) / 1000
        with self._changed:
            orphaned = list(self._leaving) if self._thread is None else []
            if orphaned:
                self._leaving.clear()
        if orphaned:
            self._hand(orphaned)
        with self._changed:
            done = self._changed.wait_for(
                lambda: not self._leaving and not self._handing, max(0.0, deadline - time.monotonic())
            )
        for target in self._targets():
            left = max(0.0, deadline - time.monotonic())
            done = target.force_flush(int(left * 1000)) and done
        return done

    def shutdown(self) -> None:
        """Take no more. Idempotent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # --------------------------------------------------------------------------------------------------------- verdicts

    def consume(self, batch: Batch) -> None:
        """Decides whether the trace is kept, as far as ``batch`` tells, and marks it sampled; the first of the sinks.

        Keeping is final. An exemplar of the batch's metrics, which are recorded after it, may then name a span.
        """
        if not batch.recording or batch.sampled:
            return
        with self._lock:
            known = self._traces.get(batch.trace_id)
            if known is None:
                return
            if known.kept is None and self._told(batch):
                self._keep(known)
            batch.sampled = known.kept is True

    def _told(self, batch: Batch) -> bool:
        first = batch.operation(semconv.FIRST_CHUNK)
        return (
            (batch.final and outcome.failed(batch.status, batch.error_type))
            or batch.underruns > 0
            or (first is not None and first.seconds > self._slow)
        )

    def _keep(self, known: _Trace) -> None:
        known.kept = True
        self._leave(known.spans)
        self._held -= len(known.spans)
        known.spans = []

    def _over(self, trace_id: int, known: _Trace) -> None:
        del self._traces[trace_id]
        self._held -= len(known.spans)
        self._verdicts[trace_id] = known.kept is True
        self._verdicts.move_to_end(trace_id)
        while len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)

    def _make_room(self) -> int:
        """Drop the oldest undecided trace whole; returns how many spans that were."""
        for known in self._traces.values():
            if known.kept is None and known.spans:
                lost = len(known.spans)
                known.kept, known.crowded_out, known.spans = False, True, []
                self._held -= lost
                return lost
        return 0

    # ------------------------------------------------------------------------------------------------- on their way out

    def _leave(self, spans: Sequence[ReadableSpan]) -> None:
        self._leaving.extend(spans)
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._hand_over, name="vibevoice-otel-tail", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is ending; the last flush does it
                self._thread = None
        self._changed.notify_all()
        excess = len(self._leaving) - self._limit
        if excess > 0:
            for _ in range(excess):
                self._leaving.popleft()
            self._on_drop("spans", "queue_full", excess)

    def _hand_over(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._leaving or self._stopped)
                if self._stopped and not self._leaving:
                    return
                spans = [self._leaving.popleft() for _ in range(min(128, len(self._leaving)))]
                self._handing = len(spans)
            try:
                self._hand(spans)
            except Exception as error:  # noqa: BLE001 - counted each time, told once
                failures.failed(self._on_drop, "the export of kept traces", error, "spans", "tail_error", len(spans))
            with self._changed:
                self._handing = 0
                self._changed.notify_all()

    def _hand(self, spans: Sequence[ReadableSpan]) -> None:
        kept = [as_sampled(span) for span in spans]
        for target in self._targets():
            for _ in range(1000):  # a stuck exporter holds us for ten seconds, then its own queue drops and counts
                room = self._room(target)
                if self._stopped or room is None or room >= len(kept):
                    break
                time.sleep(PACE_SECONDS)
            for span in kept:
                target.on_end(span)


def as_sampled(span: ReadableSpan) -> ReadableSpan:
    """The same span with the sampled flag, without which no exporter takes it."""
    own = span.get_span_context()
    assert own is not None
    flags = TraceFlags(own.trace_flags | TraceFlags.SAMPLED)
    context = SpanContext(own.trace_id, own.span_id, own.is_remote, flags, own.trace_state)
    return ReadableSpan(
        name=span.name, context=context, parent=span.parent, resource=span.resource, attributes=span.attributes,
        events=span.events,
        links=span.links, kind=span.kind, instrumentation_info=None, status=span.status, start_time=span.start_time,
        end_time=span.end_time, instrumentation_scope=span.instrumentation_scope,
    )  # fmt: skip
