"""What a browser on the page reports of its own listening: checked, then a CLIENT span with the id that its requests
already name.

It comes from outside, so it is believed only about itself: it must belong to a request that the page saw arrive, once,
in bounds; it has a span and metrics of its own and touches none of the server's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from vibevoice_otel import semconv
from vibevoice_otel.recording.records import AttributeValue
from vibevoice_otel.sdk.spans import emit_root

if TYPE_CHECKING:
    from vibevoice_otel.metrics.instruments import Instruments
    from vibevoice_otel.page.store import StoredRequest
    from vibevoice_otel.traceparent import Caller

MAX_BYTES = 4096  # of a report
MAX_SECONDS = 3600.0
MAX_OFFSET = 86_400.0
MAX_ERROR = 60.0
MAX_CALLERS = 1000
#: How the listener's side may have ended, and the status that its span gets.
OUTCOMES: dict[str, tuple[semconv.Status, str | None]] = {
    "complete": (semconv.Status.SUCCESS, None),
    "stopped": (semconv.Status.CANCELLED, None),
    "busy": (semconv.Status.REJECTED, semconv.ErrorType.BUSY),
    "error": (semconv.Status.ERROR, semconv.ErrorType.OTHER),
    "dropped": (semconv.Status.ERROR, "connection_lost"),
}


class ReportError(ValueError):
    """A report that is not believed; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Report:
    """A checked report. Times in nanoseconds since 1970 by the server's clock, within ``clock_error`` seconds."""

    started: int
    first_sound: int | None
    ended: int
    outcome: str
    underruns: int
    underrun_seconds: float
    played_seconds: float
    clock_offset: float
    clock_error: float
    close_code: int | None

    @property
    def first_audio(self) -> float | None:
        """Seconds from the click to the first sound."""
        return (self.first_sound - self.started) / 1e9 if self.first_sound is not None else None


def _number(data: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = data.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise ReportError(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)


def check(data: object, at: float) -> Report:
    """The report in ``data``; ``at`` is the server's time now in seconds since 1970.

    Raises:
        ReportError: naming the value and what is allowed.
    """
    if not isinstance(data, dict):
        raise ReportError("the report must be an object")
    offset = _number(data, "clock_offset", -MAX_OFFSET, MAX_OFFSET)
    error = _number(data, "clock_error", 0, MAX_ERROR)
    latest = at + error + 1
    started = _number(data, "started", at - offset - MAX_SECONDS, latest - offset) + offset
    seconds = _number(data, "seconds", 0, min(MAX_SECONDS, latest - started))
    first = _number(data, "first_sound", 0, seconds) if data.get("first_sound") is not None else None
    outcome = data.get("outcome")
    if outcome not in OUTCOMES:
        raise ReportError(f"outcome must be one of {', '.join(OUTCOMES)}")
    code = data.get("close_code")
    started_ns = int(started * 1e9)
    return Report(
        started=started_ns, first_sound=started_ns + int(first * 1e9) if first is not None else None,
        ended=started_ns + int(seconds * 1e9), outcome=outcome, underruns=int(_number(data, "underruns", 0, 100_000)),
        underrun_seconds=_number(data, "underrun_seconds", 0, seconds),
        played_seconds=_number(data, "played_seconds", 0, seconds + 1),
        clock_offset=offset, clock_error=error,
        close_code=int(_number(data, "close_code", 1000, 4999)) if code is not None else None,
    )  # fmt: skip


class Listeners:
    """Turns reports into telemetry.

    Args:
        tracer: spans are made in its name.
        instruments: where the metrics go, None when the operator did not opt in.

    Attributes:
        callers: trace and span id that requests named in their query string, so that only they are ever reported; a
            report takes its entry out.
    """

    def __init__(self, tracer: trace.Tracer, instruments: Instruments | None) -> None:
        self._tracer, self._instruments = tracer, instruments
        self.callers: OrderedDict[int, int] = OrderedDict()

    def expect(self, caller: Caller) -> None:
        """A request came that names ``caller``: a report of it may come."""
        self.callers[caller.trace_id] = caller.span_id
        if len(self.callers) > MAX_CALLERS:
            self.callers.popitem(last=False)

    def record(self, kept: StoredRequest, span_id: int, report: Report) -> dict[str, Any]:
        """Emit the CLIENT span (if the request's trace is kept) and the metrics; returns what the page shows of it."""
        final = kept.final
        status, error = OUTCOMES[report.outcome]
        exported = False
        if final.recording and final.trace_id:
            flags = TraceFlags(TraceFlags.SAMPLED if final.sampled else TraceFlags.DEFAULT)
            context = SpanContext(final.trace_id, span_id, False, flags)
            exported = emit_root(
                self._tracer,
                context,
                semconv.LISTEN.name,
                SpanKind.CLIENT,
                report.started,
                report.ended,
                _attributes(report, final.labels.voice, status, error),
                error if status is not semconv.Status.CANCELLED else None,
            )
        if self._instruments is not None and not final.synthetic:
            voice = {"voice": final.labels.voice}
            if report.first_audio is not None:
                exemplar = (final.trace_id, span_id) if exported and final.sampled else None
                self._instruments.record(semconv.LISTENER_FIRST_AUDIO, report.first_audio, voice, exemplar)
            self._instruments.add(semconv.LISTENER_UNDERRUN, report.underruns, voice)
        return {
            "span": f"{span_id:016x}", "start": report.started - kept.origin, "end": report.ended - kept.origin,
            "first_audio": report.first_audio, "underruns": report.underruns, "played": report.played_seconds,
            "outcome": report.outcome, "clock_offset": report.clock_offset, "clock_error": report.clock_error,
            "exported": exported,
        }  # fmt: skip


def _attributes(report: Report, voice: str, status: semconv.Status, error: str | None) -> dict[str, AttributeValue]:
    values: dict[semconv.Attribute, AttributeValue | None] = {
        semconv.VOICE: voice,
        semconv.STATUS: status.value,
        semconv.ERROR_TYPE: error,
        semconv.CLOSE_CODE: report.close_code,
        semconv.LISTENER_FIRST_AUDIO_LATENCY: report.first_audio,
        semconv.LISTENER_PLAYED: report.played_seconds,
        semconv.LISTENER_UNDERRUNS: report.underruns,
        semconv.LISTENER_UNDERRUN_DURATION: report.underrun_seconds,
        semconv.LISTENER_CLOCK_OFFSET: report.clock_offset,
        semconv.LISTENER_CLOCK_ERROR: report.clock_error,
    }
    return {attribute.key: value for attribute, value in values.items() if value is not None}
