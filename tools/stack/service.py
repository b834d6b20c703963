"""The embedded service under the launcher, unmodified, sending OTLP."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlencode

from tools.ports import free_ports
from tools.stack.process import Process, Running


class Service(Running):
    """A running ``opentelemetry-instrument python -m vibevoice_otel.service``.

    Args:
        folder: receives the log.
        otlp: host:port of an OTLP/gRPC receiver.
        environment: further OTEL_*, VIBEVOICE_OTEL_* and VIBEVOICE_SERVICE_* variables.
        name: service.name.
        port: where to listen; a free one by default.
    """

    def __init__(
        self,
        folder: Path,
        otlp: str,
        environment: dict[str, str] | None = None,
        name: str = "vibevoice",
        port: int | None = None,
    ) -> None:
        self.port = port or free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        settings = {
            "OTEL_SERVICE_NAME": name,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{otlp}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            # Logs go to the terminal, with trace and span id; no log store is part of this stack.
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_PYTHON_LOG_CORRELATION": "true",
            "OTEL_METRIC_EXPORT_INTERVAL": "15000",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        launcher = Path(sys.executable).parent / "opentelemetry-instrument"
        command = [str(launcher), sys.executable, "-m", "vibevoice_otel.service", "--port", str(self.port)]
        self.process = Process("service", command, folder, settings, f"http://{self.address}/config")

    def stop(self) -> int:
        return self.process.stop()


def speak(
    address: str,
    text: str = "One request, followed from its histogram to its trace.",
    voice: str = "en-Carter_man",
    headers: dict[str, str] | None = None,
) -> int:
    """One request to host:port as a listener makes it; returns the number of audio chunks. Raises what websockets
    raises.

    Args:
        address: the service's host:port.
        text: what is spoken.
        voice: by which voice.
        headers: further ones of the handshake, such as a traceparent.
    """
    from websockets.sync.client import connect  # noqa: PLC0415 - the service's own dependency

    address = f"ws://{address}/stream?{urlencode({'text': text, 'voice': voice})}"
    with connect(address, max_size=None, additional_headers=headers, open_timeout=60) as socket:
        return sum(isinstance(message, bytes) and bool(message) for message in socket)
