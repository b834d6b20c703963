"""The fast path: spans written as OTLP bytes and histograms incremented a block at a time.

It serves where nobody can tell the difference: the SDK's own processors, exporters and aggregations. Everywhere else the plain path
does, which is also the reference that this one is tested against. :func:`attach` and :func:`explain` are the whole interface.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import trace

from vibevoice_otel import semconv

if TYPE_CHECKING:
    from vibevoice_otel.metrics.instruments import Instruments
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.sdk.histograms import FastMetrics
    from vibevoice_otel.sdk.span_bytes import FastSpans

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FastPath:
    """Both halves, as attached."""

    spans: FastSpans
    metrics: FastMetrics

    def explain(self) -> str:
        """How spans and metrics travel now, or why they take the plain path; a line each."""
        return f"{self.spans.explain()}\n{self.metrics.explain()}"


def attach(recorder: Recorder, instruments: Instruments) -> FastPath | None:
    """Let ``recorder``'s spans and ``instruments``' measurements take the fast path wherever it is open.

    None, with one warning, where this SDK release has not even the names that it is built on.
    """
    try:
        from vibevoice_otel.sdk.histograms import FastMetrics  # noqa: PLC0415 - a release may have moved what they import
        from vibevoice_otel.sdk.span_bytes import FastSpans  # noqa: PLC0415
    except ImportError as error:
        logger.warning("this OpenTelemetry SDK is not as known (%s); spans and measurements are made one by one", error)
        return None
    path = FastPath(FastSpans(recorder.emitter.tracer, recorder.on_drop), FastMetrics())
    path.metrics.ready()
    recorder.emitter.fast = path.spans
    instruments.fast = path.metrics
    return path


def explain(provider: trace.TracerProvider | None = None) -> str:
    """How spans and metrics would travel in this process, a line each, for ``vibevoice-otel doctor``.

    Args:
        provider: the tracer provider; the global one by default.
    """
    try:
        from vibevoice_otel.sdk.histograms import FastMetrics  # noqa: PLC0415
        from vibevoice_otel.sdk.span_bytes import FastSpans  # noqa: PLC0415
    except ImportError as error:
        return f"spans and metrics: made one by one, because this OpenTelemetry SDK is not as known ({error})"
    tracer = trace.get_tracer(semconv.SCOPE, "", provider, semconv.SCHEMA_URL)
    return FastPath(FastSpans(tracer, lambda _what, _reason, _count: None), FastMetrics()).explain()
