"""The Collector, from one of the shipped configurations, addressed by environment alone."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tools import toolchain
from tools.ports import free_ports
from tools.stack.process import Process, Running
from tools.toolchain.recipes import ROOT

CONFIGS = ROOT / "collector"


class Collector(Running):
    """A running Collector and where to reach it.

    Args:
        config: file name in collector/ without .yaml: agent, gateway-lb or gateway.
        folder: where its log and its disk queue go; start again with the same one to find the queue again.
        traces: host:port that takes its traces by OTLP/gRPC.
        environment: further settings of the configuration (docs/pipeline.md).
        overlays: files merged over the configuration, in order.
    """

    def __init__(
        self,
        config: str,
        folder: Path,
        traces: str = "127.0.0.1:9",
        environment: dict[str, str] | None = None,
        overlays: tuple[Path, ...] = (),
    ) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(5)
        self._ports = dict(zip(("grpc", "http", "metrics", "telemetry", "health"), ports, strict=True))
        self._environment = {
            "COLLECTOR_OTLP_GRPC": self.grpc,
            "COLLECTOR_OTLP_HTTP": self.http,
            "COLLECTOR_METRICS": self.metrics,
            "COLLECTOR_TELEMETRY_HOST": "127.0.0.1",
            "COLLECTOR_TELEMETRY_PORT": str(self._ports["telemetry"]),
            "COLLECTOR_HEALTH": f"127.0.0.1:{self._ports['health']}",
            "COLLECTOR_STORAGE": str(folder / "queue"),
            "TRACES_ENDPOINT": traces,
            **(environment or {}),
        }
        self._files = [CONFIGS / f"{config}.yaml", *overlays]
        self.process = self._start()

    grpc = property(lambda self: f"127.0.0.1:{self._ports['grpc']}", doc="OTLP/gRPC receiver, host:port.")
    http = property(lambda self: f"127.0.0.1:{self._ports['http']}", doc="OTLP/HTTP receiver, host:port.")
    metrics = property(
        lambda self: f"127.0.0.1:{self._ports['metrics']}", doc="The services' series for Prometheus, host:port."
    )
    telemetry = property(
        lambda self: f"127.0.0.1:{self._ports['telemetry']}", doc="The Collector's series about itself, host:port."
    )

    def _start(self) -> Process:
        command = [str(toolchain.require("otelcol-vibevoice")), *(f"--config={file}" for file in self._files)]
        return Process(
            self.config, command, self.folder, self._environment, f"http://127.0.0.1:{self._ports['health']}/"
        )

    def counted(self, name: str) -> float:
        """Sum over the labels of one of the Collector's own counters; 0 while it has none."""
        with urllib.request.urlopen(f"http://{self.telemetry}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def restart(self) -> None:
        """Start it again at the same addresses with the same disk queue; it must have ended."""
        self.process = self._start()

    def stop(self) -> int:
        return self.process.stop()
