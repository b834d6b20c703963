"""OTLP over gRPC, for spans: what the tools' trace store and the tests' receiver listen with."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from typing_extensions import Self

from tools.otlp import Received


class GrpcReceiver(Received, rpc.TraceServiceServicer):
    """Listens once it is made, until ``stop()``.

    Args:
        address: host:port; port 0 takes a free one.
        credentials: for TLS.
        failures: how many requests are first answered UNAVAILABLE.

    Attributes:
        endpoint: host:port.
        refuse: answer this instead of accepting.
    """

    def __init__(
        self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None, failures: int = 0
    ) -> None:
        super().__init__()
        self.refuse: grpc.StatusCode | None = None
        self._failures = failures
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        rpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        listen = self._server.add_insecure_port
        port = self._server.add_secure_port(address, credentials) if credentials else listen(address)
        self.endpoint = f"{address.rpartition(':')[0]}:{port}"
        self._server.start()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the protocol's name
        """OTLP's one call."""
        self.came({key: str(value) for key, value in context.invocation_metadata()})
        if self.refuse is not None:
            context.abort(self.refuse, "told to refuse")
        if self._failures:
            self._failures -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        self.take(request)
        return service.ExportTraceServiceResponse()

    def stop(self) -> int:
        """End the server; what is under way has a second."""
        self._server.stop(1).wait()
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
