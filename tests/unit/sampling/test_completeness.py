"""Metrics are complete under every sampler, and an exemplar names an exported span or nothing."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    DEFAULT_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)

from tests.support.pipeline import caller, pipeline
from vibevoice_otel.sampling.sampler import TailSampler
from vibevoice_otel.settings import Settings

GOOD, BAD = 30, 10
SAMPLERS = {
    "traceidratio 1 %": TraceIdRatioBased(0.01),
    "traceidratio 50 %": TraceIdRatioBased(0.5),
    "always_off": ALWAYS_OFF,
    "parentbased_always_on": DEFAULT_ON,
    "parentbased traceidratio 1 %": ParentBasedTraceIdRatio(0.01),
    "parentbased of tail": ParentBased(TailSampler(0.0)),
    "tail 0": TailSampler(0.0),
    "tail 50 %": TailSampler(0.5),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
@pytest.mark.parametrize("called", [None, True, False], ids=["no caller", "caller sampled", "caller not sampled"])
def test_counts_equal_requests(sampler: Sampler, called: bool | None) -> None:
    """40 requests, a quarter failing: each is counted once by status, latency and objective, whatever is sampled."""
    queries = ([b"text=a"] * 3 + [b"text=a&fail=1"]) * 10
    with pipeline(sampler, Settings(slo_first_audio=3600.0)) as service:
        service.run(*queries, headers=caller(sampled=called) if called is not None else ())
        assert service.counted("vibevoice.streaming.requests", "status") == {"success": GOOD, "error": BAD}
        assert sum(service.counted("vibevoice.first_audio.latency", "voice").values()) == GOOD
        assert service.counted("vibevoice.first_audio.slo", "result") == {"good": GOOD, "bad": BAD}
        exported = {(s.get_span_context().trace_id, s.get_span_context().span_id) for s in service.spans()}  # type: ignore[union-attr]
        named = {
            (exemplar.trace_id, exemplar.span_id)
            for name in ("vibevoice.first_audio.latency", "vibevoice.queue.duration", "vibevoice.real_time_factor")
            for point in service.points(name)
            for exemplar in point.exemplars
            if exemplar.trace_id
        }
        assert named <= exported
        if sampler is DEFAULT_ON and called is not False:
            assert named, "where everything is sampled there are exemplars"
