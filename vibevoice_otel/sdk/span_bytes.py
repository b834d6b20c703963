"""The fast path of spans: a batch's records to bytes to the operator's receivers, or word that the plain path must
serve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanContext

from vibevoice_otel import semconv
from vibevoice_otel.otlp.encode import Encoded, Trace, of_block, of_operation
from vibevoice_otel.otlp.request import EncodedRequest, Envelope
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.sdk import decode, support
from vibevoice_otel.sdk.capability import Unknown
from vibevoice_otel.sdk.exporters import adopt
from vibevoice_otel.sdk.support import SenderProcessor

logger = logging.getLogger(__name__)


class FastSpans:
    """Writes spans as OTLP bytes while the provider's processors are all known.

    The chain is looked at again whenever a processor has been added, so one that comes later gets its spans from then
    on.

    Args:
        tracer: the recorder's.
        on_drop: told (what, reason, count) of spans that are lost.
    """

    def __init__(self, tracer: trace.Tracer, on_drop: Callable[[str, str, int], None]) -> None:
        self._tracer = tracer
        self._on_drop = on_drop
        self._senders: dict[Any, SenderProcessor] = {}  # by the processor whose exporter they copy
        self._seen: tuple[tuple[object, ...], object] | None = None  # what the decision below was made from
        self._targets: tuple[SenderProcessor, ...] = ()
        self._envelope: Envelope | None = None
        self._max_text: int | None = None
        self._refusal: str | None = None
        self._broken: str | None = None

    def emit(self, batch: Batch, own: SpanContext) -> bool:
        """Write and queue every record of ``batch`` but vibevoice.synthesize, which is the SDK's own span.

        ``own`` is the context of vibevoice.synthesize. False when the plain path must emit the batch; nothing has been
        queued then.
        """
        if not self._engaged():
            return False
        if not own.trace_flags.sampled or not self._targets:
            return True  # no known processor would export it
        try:
            pieces = self._encode(batch, own)
        except Exception as error:
            self._broken = f"a record could not be written ({type(error).__name__}: {error})"
            logger.warning("%s; spans are made one by one from now on", self._broken, exc_info=True)
            return False
        assert self._envelope is not None
        for sender in self._targets:
            sender.put(self._envelope, pieces)
        return True

    def _encode(self, batch: Batch, own: SpanContext) -> list[Encoded]:
        state = ",".join(f"{key}={value}" for key, value in own.trace_state.items())
        shared = Trace(own.trace_id.to_bytes(16, "big"), state.encode(), own.span_id, self._max_text)
        pieces = [of_operation(op, shared) for op in batch.operations if op.span is not semconv.SYNTHESIZE]
        for block in batch.blocks:
            pieces.extend(of_block(block, shared))
        return pieces

    def _engaged(self) -> bool:
        if self._broken is not None:
            return False
        try:
            now = support.inside(self._tracer)
            members = support.processors(now.chain)
        except Unknown as reason:
            self._seen, self._refusal = None, str(reason)
            return False
        # Tuples and resources are replaced, never changed, so their identity tells.
        if self._seen is None or self._seen[0] is not members or self._seen[1] is not now.resource:
            self._seen = (members, now.resource)
            try:
                self._decide(now, members)
            except Unknown as reason:
                self._refusal = str(reason)
        return self._refusal is None

    def _decide(self, now: support.Inside, members: tuple[object, ...]) -> None:
        self._refusal = None
        support.check_limits(now)
        senders = {
            processor: self._senders.get(processor)
            or SenderProcessor(adopt(exporter), interval, self._on_drop, self._by(processor, now))
            for processor, exporter, interval in support.exporters(members)
        }
        self._envelope = support.envelope(now.resource, now.scope, now.max_text)
        self._max_text = now.max_text
        self._targets = tuple(senders.values())
        for processor in senders.keys() - self._senders.keys():
            self._senders[processor] = senders[processor]
            now.chain.add_span_processor(senders[processor])
        self._seen = (support.processors(now.chain), now.resource)

    def _by(self, processor: SpanProcessor, now: support.Inside) -> Callable[[EncodedRequest, Exception], bool]:
        """What delivers a request whose exporter no longer takes bytes: as objects, to the processor that the exporter
        is in.
        """

        def deliver(request: EncodedRequest, error: Exception) -> bool:
            if self._broken is None:
                self._broken = f"an exporter takes no bytes any more ({type(error).__name__}: {error})"
                logger.warning("%s; spans are made one by one from now on, none is lost", self._broken)
            for span in decode.spans(request.payload, now.resource, now.scope):
                processor.on_end(span)
            return True

        return deliver

    def close(self, timeout: float) -> None:
        """Send what is queued, within ``timeout`` seconds, and leave the provider as it was."""
        self._broken, self._targets = "it is closed", ()
        senders, self._senders = self._senders, {}
        for sender in senders.values():
            support.remove(support.inside(self._tracer).chain, sender)
            sender.shutdown(timeout)

    def explain(self) -> str:
        """One sentence for ``vibevoice-otel doctor``: how spans travel, or why they are made one by one."""
        if self._engaged():
            where = (
                ", ".join(sender.exporter.name for sender in self._targets) or "nowhere (the provider has no processor)"
            )
            return f"spans: written a block at a time and sent by {where}"
        return f"spans: made one by one, because {self._broken or self._refusal}"
