"""Tempo from the shipped configuration, where there is a binary of it: no package registry has one."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from tools.ports import free_ports
from tools.stack.process import Process, Running
from tools.toolchain.recipes import ROOT

CONFIG = ROOT / "deploy" / "tempo" / "tempo.yaml"
DATA = "/var/tempo"


class Tempo(Running):
    """A running Tempo: ``endpoint`` takes OTLP/gRPC, ``url`` is its API.
    Raises FileNotFoundError when none is on PATH.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("tempo")
        if program is None:
            raise FileNotFoundError("tempo is not on PATH")
        folder.mkdir(parents=True, exist_ok=True)
        http, grpc, inside = free_ports(3)
        self.endpoint, self.url = f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        # The shipped file with this run's addresses and folders; Tempo has no other way to be told them.
        config = yaml.safe_load(CONFIG.read_text().replace(DATA, str(folder)))
        config["server"] |= {"http_listen_address": "127.0.0.1", "http_listen_port": http, "grpc_listen_port": inside}
        config["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = self.endpoint
        (folder / "tempo.yaml").write_text(yaml.safe_dump(config))
        command = [program, f"-config.file={folder / 'tempo.yaml'}"]
        self.process = Process("tempo", command, folder, ready=f"{self.url}/ready")

    def stop(self) -> int:
        return self.process.stop()
