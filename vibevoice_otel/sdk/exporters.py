"""The operator's own OTLP exporter, made to send bytes that are encoded already.

A copy of the exporter runs the exporter's own code: endpoint, headers, TLS, compression, timeout, retry, request size limit and
self-metrics are therefore what the operator configured, in every release. Only the call that would encode spans is answered with
the bytes at hand. Where that code is not as known, :func:`adopt` refuses, and spans go the ordinary way.
"""

from __future__ import annotations

import copy
import inspect
import sys
import threading
import types
from typing import Any, Protocol

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

HTTP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
GRPC = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
GRPC_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_ENCODE = "encode_spans"


class Refused(Exception):  # noqa: N818 - not an error: the plain path serves
    """The exporter cannot send encoded bytes; the message says why."""


class EncodedRequest:
    """Stands where the exporter's code expects spans, then their message: it has a length, and serializes to bytes."""

    def __init__(self, payload: bytes, spans: int) -> None:
        self._payload = payload
        self._spans = spans

    def __len__(self) -> int:
        return self._spans

    def SerializePartialToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return self._payload

    SerializeToString = SerializePartialToString


class ByteExporter(Protocol):
    """Sends one ExportTraceServiceRequest."""

    name: str

    def send(self, request: EncodedRequest) -> bool:
        """Whether the receiver took it, after the exporter's own retries."""
        ...

    def shutdown(self) -> None: ...


def adopt(exporter: SpanExporter) -> ByteExporter:
    """A sender of encoded bytes to where ``exporter`` sends.

    Raises:
        Refused: when it is not an OTLP exporter of the SDK, or one whose insides are not as known.
    """
    kind = type(exporter)
    where = f"{kind.__module__}.{kind.__qualname__}"
    try:
        if where == f"{HTTP}.OTLPSpanExporter":
            return _Http(exporter)
        if where == f"{GRPC}.OTLPSpanExporter":
            return _Grpc(exporter)
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused(f"the insides of {where} are not as known ({error})") from error
    raise Refused(f"{where} is not the SDK's OTLP exporter")


class _Http:
    def __init__(self, exporter: Any) -> None:
        self.name = f"OTLP over HTTP to {exporter._endpoint}"
        self._exporter = copy.copy(exporter)
        _own_connections(self._exporter)
        export = type(exporter).export
        if _ENCODE not in export.__code__.co_names:
            raise TypeError(f"export does not call {_ENCODE}")
        # The exporter's own function, in whose view encoding gives back what it is given.
        view = {**vars(sys.modules[type(exporter).__module__]), _ENCODE: lambda request: request}
        self._export = types.FunctionType(
            export.__code__, view, export.__name__, export.__defaults__, export.__closure__
        )

    def send(self, request: EncodedRequest) -> bool:
        return bool(self._export(self._exporter, request) is SpanExportResult.SUCCESS)

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _own_connections(exporter: Any) -> None:
    """Give the copy a session of its own: requests' is not made for two threads. A session of the operator's own class is shared."""
    import requests  # noqa: PLC0415 - the exporter needs it, so it is there

    if hasattr(exporter, "_client"):  # from 1.45 on: exporter > client > transport > session
        client = exporter._client = copy.copy(exporter._client)
        client._shutdown_event = threading.Event()
        transport = client._transport = copy.copy(client._transport)
        holder = transport
    else:
        exporter._shutdown_in_progress = threading.Event()
        holder = exporter
    if type(holder._session) is requests.Session:
        holder._session = copy.deepcopy(holder._session)


class _EncodedStub:
    """The trace service's stub, for requests that are bytes already."""

    def __init__(self, channel: Any) -> None:
        self.Export = channel.unary_unary(
            GRPC_METHOD, request_serializer=EncodedRequest.SerializeToString, response_deserializer=None
        )


class _Grpc:
    def __init__(self, exporter: Any) -> None:
        kind = type(exporter)
        for needed in ("_translate_data", "_count_data", "_initialize_channel_and_stub", "_export"):
            if not inspect.isfunction(getattr(kind, needed, None)):
                raise TypeError(f"no {needed}")
        if "_stub" not in kind._initialize_channel_and_stub.__code__.co_names:
            raise TypeError("the channel is not made with _stub")
        self.name = f"OTLP over gRPC to {exporter._endpoint}"
        clone = copy.copy(exporter)
        clone._shutdown_in_progress = threading.Event()
        clone._stub = _EncodedStub
        clone._translate_data = lambda request: request
        clone._initialize_channel_and_stub()  # a channel of its own, with the operator's credentials, options and compression
        self._exporter = clone

    def send(self, request: EncodedRequest) -> bool:
        return bool(self._exporter._export(request) is SpanExportResult.SUCCESS)

    def shutdown(self) -> None:
        self._exporter.shutdown()
