"""Alertmanager from the shipped configuration."""

from __future__ import annotations

from pathlib import Path

from tools import toolchain
from tools.ports import free_ports
from tools.stack.process import Process, Running
from tools.toolchain.recipes import ROOT

CONFIG = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"


class Alertmanager(Running):
    """A running Alertmanager; ``url`` is its base address.

    Args:
        folder: receives the data and the log.
        port: where to listen; a free one by default.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{port or free_ports(1)[0]}"
        self.url = f"http://{self.address}"
        command = [
            str(toolchain.require("alertmanager")),
            f"--config.file={CONFIG}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",  # alone
            "--log.level=warn",
        ]
        self.process = Process("alertmanager", command, folder, ready=f"{self.url}/-/ready")

    def stop(self) -> int:
        return self.process.stop()
