"""The conventions of generative AI beside our own names, where ``OTEL_SEMCONV_STABILITY_OPT_IN`` has
``gen_ai_latest_experimental``.

What the revision semconv.GEN_AI_REVISION defines and nothing else. It knows no operation for speech, so the operation
is ``generate_content``; its time to first token is of tokens, and audio handed to a listener is none. Our own names
stay as they are, and no dashboard reads these.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry.metrics import Meter

from vibevoice_otel import semconv
from vibevoice_otel.metrics.instruments import NO_TRACE, exemplar_context
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.semconv import Status

VARIABLE = "OTEL_SEMCONV_STABILITY_OPT_IN"
OPT_IN = "gen_ai_latest_experimental"
OPERATION, PROVIDER = "generate_content", "vibevoice"
#: Requests whose duration is the service's: one that was refused did no work, and one that the listener left ended when
#: he left.
COUNTED = (Status.SUCCESS, Status.ERROR, Status.TIMEOUT)


def opted_in(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the operator asks for the conventions of generative AI."""
    return OPT_IN in {value.strip() for value in environ.get(VARIABLE, "").split(",")}


class GenAi:
    """The sink that puts their attributes on vibevoice.synthesize and records their duration of a request.

    Args:
        meter: ours.
    """

    def __init__(self, meter: Meter) -> None:
        metric = semconv.GEN_AI_REQUEST_DURATION
        self._duration = meter.create_histogram(
            metric.name, metric.unit, metric.brief, explicit_bucket_boundaries_advisory=list(metric.buckets)
        )

    def consume(self, batch: Batch) -> None:
        root = batch.operation(semconv.SYNTHESIZE)
        if root is None:
            return
        common: dict[str, str] = {semconv.GEN_AI_OPERATION.key: OPERATION, semconv.GEN_AI_PROVIDER.key: PROVIDER}
        root.attributes.update(common)
        if batch.synthetic or batch.warm_up or batch.profiled or batch.status not in COUNTED:
            return
        model = root.attributes.get(semconv.GEN_AI_MODEL.key)
        if isinstance(model, str):
            common[semconv.GEN_AI_MODEL.key] = model
        if batch.error_type is not None:
            common[semconv.ERROR_TYPE.key] = batch.error_type
        context = exemplar_context(batch.trace_id, root.span_id) if batch.sampled else NO_TRACE
        self._duration.record(root.seconds, common, context=context)
