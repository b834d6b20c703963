"""The fast path: spans written as OTLP bytes and histograms incremented a block at a time.

It is used where every processor, exporter and aggregation is the SDK's own. Everywhere else
the plain path does, which is also the reference that this one is tested against. :func:`path` and :func:`explain` are
the whole interface.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import trace

from vibevoice_otel import semconv

if TYPE_CHECKING:
    from collections.abc import Callable

    from vibevoice_otel.sdk.histograms import FastMetrics
    from vibevoice_otel.sdk.span_bytes import FastSpans

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FastPath:
    """Both halves, as attached."""

    spans: FastSpans
    metrics: FastMetrics


def path(tracer: trace.Tracer, on_drop: Callable[[str, str, int], None]) -> FastPath | None:
    """The fast path for ``tracer``'s spans and for measurements, taken wherever it is open.

    None, with one warning, where this SDK release has not even the names that it is built on. ``on_drop`` is told
    (what, reason, count) of spans that are lost.
    """
    try:
        from vibevoice_otel.sdk.histograms import FastMetrics  # noqa: PLC0415 - a release may have moved what they import
        from vibevoice_otel.sdk.span_bytes import FastSpans  # noqa: PLC0415
    except ImportError as error:
        logger.warning(
            "unsupported opentelemetry-sdk internals (%s): the public API makes spans and measurements one by one, "
            "which costs more CPU. A newer vibevoice-otel may support this release.", error,
        )  # fmt: skip
        return None
    made = FastPath(FastSpans(tracer, on_drop), FastMetrics())
    made.metrics.ready()
    return made


def explain(provider: trace.TracerProvider | None = None) -> str:
    """How spans and metrics would travel in this process, or why they take the plain path; a line each, for
    ``vibevoice-otel doctor``.

    Args:
        provider: the tracer provider; the global one by default.
    """
    try:
        from vibevoice_otel.sdk.histograms import FastMetrics  # noqa: PLC0415
        from vibevoice_otel.sdk.span_bytes import FastSpans  # noqa: PLC0415
    except ImportError as error:
        return (
            f"spans and metrics: made one by one by the public API: unsupported opentelemetry-sdk internals ({error})"
        )
    tracer = trace.get_tracer(semconv.SCOPE, "", provider, semconv.SCHEMA_URL)
    spans = FastSpans(tracer, lambda _what, _reason, _count: None)
    return f"{spans.explain()}\n{FastMetrics().explain()}"
