"""The operator's own OTLP exporter, made to send bytes that are encoded already.

A copy of the exporter's inner client sends them: endpoint, headers, TLS, compression, timeout and retry are what the
operator configured, in every release. Where that client is unsupported, :func:`adopt` refuses, and spans go the
ordinary way.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from vibevoice_otel.otlp.request import ByteExporter, EncodedRequest
from vibevoice_otel.otlp.sender import MAX_REQUEST_BYTES
from vibevoice_otel.sdk.capability import Capability, Unknown

GRPC_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def adopt(exporter: SpanExporter) -> ByteExporter:
    """A sender of encoded bytes to where ``exporter`` sends.

    Raises:
        Unknown: when it is not an OTLP exporter of the SDK, or one whose internals are unsupported.
    """
    kind = type(exporter)
    where = f"{kind.__module__}.{kind.__qualname__}"
    known: dict[str, tuple[Capability, Callable[[SpanExporter], ByteExporter]]] = {
        "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter": (HTTP_BYTES, _Http),
        "opentelemetry.exporter.otlp.proto.grpc.trace_exporter.OTLPSpanExporter": (GRPC_BYTES, _Grpc),
    }
    if where not in known:
        raise Unknown(f"{where} is not the SDK's OTLP exporter")
    capability, sender = known[where]
    if not capability.works():
        raise Unknown(f"unsupported internals of {where}")
    try:
        return sender(exporter)
    except (AttributeError, TypeError, ValueError) as error:
        raise Unknown(f"unsupported internals of {where} ({error})") from error


class _Http:
    """Bytes by the exporter's own HTTP client, over connections of its own: a requests session is not made for two
    threads.
    """

    def __init__(self, exporter: Any) -> None:
        import requests  # noqa: PLC0415 - the exporter needs it, so it is there

        self.name = f"OTLP over HTTP to {exporter._endpoint}"
        if 0 < exporter._max_request_size < MAX_REQUEST_BYTES:
            raise Unknown(f"the exporter's requests are limited to {exporter._max_request_size} bytes")
        self._client = copy.copy(exporter._client)
        self._client._shutdown_event = threading.Event()
        self._session: requests.Session | None = None
        transport = self._client._transport
        # urllib3's pool (SDK 1.45.0) serves any thread, and a session of the operator's own class is the operator's to
        # share.
        if type(transport).__name__ != "Urllib3HTTPTransport" and type(transport._session) is requests.Session:
            self._client._transport = copy.copy(transport)
            self._session = self._client._transport._session = copy.deepcopy(transport._session)

    def send(self, request: EncodedRequest) -> bool:
        return bool(self._client.export(request.payload).success)

    def shutdown(self) -> None:
        self._client._shutdown_event.set()
        if self._session is not None:
            self._session.close()


class _EncodedStub:
    """The trace service's stub, for requests that are bytes already."""

    def __init__(self, channel: Any) -> None:
        self.Export = channel.unary_unary(
            GRPC_METHOD, request_serializer=EncodedRequest.SerializeToString, response_deserializer=None
        )


class _Grpc:
    def __init__(self, exporter: Any) -> None:
        self.name = f"OTLP over gRPC to {exporter._endpoint}"
        clone = copy.copy(exporter)
        clone._shutdown_in_progress = threading.Event()
        clone._stub = _EncodedStub
        clone._translate_data = lambda request: request
        # a channel of its own, with the operator's credentials, options, compression
        clone._initialize_channel_and_stub()
        self._exporter = clone

    def send(self, request: EncodedRequest) -> bool:
        return bool(self._exporter._export(request) is SpanExportResult.SUCCESS)

    def shutdown(self) -> None:
        self._exporter.shutdown()


def probe_http() -> None:
    """Send bytes by an exporter of the SDK whose session answers itself.

    Raises:
        Exception: when other bytes, or none, reach the session.
    """
    import requests  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415 - loaded where it exports
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    bodies = []

    class Answering(requests.Session):
        def send(self, request: requests.PreparedRequest, **_kwargs: Any) -> requests.Response:
            bodies.append(request.body)
            answer = requests.Response()
            answer.status_code = 200
            return answer

    exporter = OTLPSpanExporter(_NOWHERE, session=Answering(), compression=Compression.NoCompression)
    _prove(_Http(exporter), bodies)


def probe_grpc() -> None:
    """Send bytes by an exporter of the SDK whose stub answers itself; no connection is made.

    Raises:
        Exception: when other bytes, or none, reach the stub.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    bodies = []
    exporter = OTLPSpanExporter(_NOWHERE, insecure=True)
    adopted = _Grpc(exporter)
    try:
        if not isinstance(adopted._exporter._client, _EncodedStub):
            raise Unknown("the channel is not made with _stub")
        adopted._exporter._client.Export = lambda request, **_: bodies.append(request.SerializeToString())
        _prove(adopted, bodies)
    finally:
        exporter.shutdown()
        adopted.shutdown()


def _prove(adopted: ByteExporter, bodies: list[Any]) -> None:
    if adopted.send(EncodedRequest(b"probe", 1)) is not True or bodies != [b"probe"]:
        raise Unknown("what is sent as bytes arrives otherwise")


#: Port 9 is the discard service's; nothing is sent there.
_NOWHERE = "http://127.0.0.1:9/v1/traces"
_PLAIN = "spans are handed to the exporter as objects, which costs about four times the CPU"
HTTP_BYTES = Capability("encoded spans by the HTTP exporter", probe_http, _PLAIN)
GRPC_BYTES = Capability("encoded spans by the gRPC exporter", probe_grpc, _PLAIN)
