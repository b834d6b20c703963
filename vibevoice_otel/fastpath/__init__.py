"""The fast path: spans written as OTLP bytes and histograms incremented a block at a time.

It serves where nobody can tell the difference: the SDK's own processors, exporters and aggregations. Everywhere else the plain path
does, which is also the reference that this one is tested against. :func:`attach` is the whole interface.
"""

from __future__ import annotations

from dataclasses import dataclass

from vibevoice_otel.fastpath.histograms import FastMetrics
from vibevoice_otel.fastpath.spans import FastSpans
from vibevoice_otel.metrics.instruments import Instruments
from vibevoice_otel.recording.recorder import Recorder


@dataclass(frozen=True, slots=True)
class FastPath:
    """Both halves, as attached."""

    spans: FastSpans
    metrics: FastMetrics

    def explain(self) -> str:
        """How spans and metrics travel now, or why they take the plain path; a line each, for ``vibevoice-otel doctor``."""
        return f"{self.spans.explain()}\n{self.metrics.explain()}"


def attach(recorder: Recorder, instruments: Instruments) -> FastPath:
    """Let ``recorder``'s spans and ``instruments``' measurements take the fast path wherever it is open."""
    path = FastPath(FastSpans(recorder.emitter.tracer, recorder.on_drop), FastMetrics())
    recorder.emitter.fast = path.spans
    instruments.fast = path.metrics
    return path
