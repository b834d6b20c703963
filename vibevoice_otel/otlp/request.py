"""One encoded ExportTraceServiceRequest, and what can send it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vibevoice_otel.otlp import wire
from vibevoice_otel.otlp.encode import Encoded


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """An ExportTraceServiceRequest as bytes, and the number of spans in it."""

    payload: bytes
    spans: int

    def __len__(self) -> int:
        return self.spans

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name: gRPC serializes a request by it
        return self.payload


@dataclass(frozen=True, slots=True)
class Envelope:
    """The resource and the scope that all our spans share, as protobuf.

    Args:
        resource: ResourceSpans.resource, a whole field.
        resource_schema: ResourceSpans.schema_url, a whole field.
        scope: ScopeSpans.scope, a whole field.
        scope_schema: ScopeSpans.schema_url, a whole field.
    """

    resource: bytes
    resource_schema: bytes
    scope: bytes
    scope_schema: bytes

    def wrap(self, pieces: Sequence[Encoded]) -> EncodedRequest:
        """One ExportTraceServiceRequest of ``pieces``."""
        inner = len(self.scope) + sum(len(piece.payload) for piece in pieces) + len(self.scope_schema)
        scope_spans = b"\x12" + wire.varint(inner)
        outer = len(self.resource) + len(scope_spans) + inner + len(self.resource_schema)
        # Joined once: to copy a megabyte for each layer would cost more than all that went into it.
        parts = [
            b"\x0a" + wire.varint(outer),
            self.resource,
            scope_spans,
            self.scope,
            *(piece.payload for piece in pieces),
        ]
        request = b"".join([*parts, self.scope_schema, self.resource_schema])
        return EncodedRequest(request, sum(piece.count for piece in pieces))


class ByteExporter(Protocol):
    """Sends one request."""

    name: str

    def send(self, request: EncodedRequest) -> bool:
        """Whether the receiver took it, after the exporter's own retries.

        Raises:
            Exception: when the exporter cannot send bytes (any more); a receiver's refusal is False.
        """
        ...

    def shutdown(self) -> None: ...
