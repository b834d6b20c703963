"""VictoriaMetrics: a store that takes Prometheus' remote write and answers its queries by MetricsQL."""

from __future__ import annotations

from pathlib import Path

from tools import toolchain
from tools.ports import free_ports
from tools.stack.process import Process, Running
from tools.stack.prometheus import Api


class Victoria(Running, Api):
    """A running VictoriaMetrics; ``url`` is its base address, ``write`` takes remote write.

    Args:
        folder: receives the data and the log.

    Raises:
        FileNotFoundError: it is not built.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        address = f"127.0.0.1:{free_ports(1)[0]}"
        Api.__init__(self, f"http://{address}")
        self.write = f"{self.url}/api/v1/write"
        command = [
            str(toolchain.require("victoria-metrics")),
            f"-httpListenAddr={address}",
            f"-storageDataPath={folder / 'data'}",
            "-retentionPeriod=31d",
            # By default what is younger than 30 s is not shown; a test asks at once.
            "-search.latencyOffset=0s",
            "-loggerLevel=WARN",
        ]
        self.process = Process("victoria-metrics", command, folder, ready=f"{self.url}/health")

    def stop(self) -> int:
        return self.process.stop()
