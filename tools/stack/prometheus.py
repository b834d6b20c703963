"""Prometheus from the shipped configuration, with this run's targets beside it."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools import toolchain
from tools.ports import free_ports
from tools.stack.process import Process, Running
from tools.toolchain.recipes import ROOT

CONFIG = ROOT / "deploy" / "prometheus"
RULES = ROOT / "dashboards" / "rules"
#: As compose starts it.
FEATURES = ("exemplar-storage", "created-timestamp-zero-ingestion")
RETENTION = "32d"


class Api:
    """Questions to a Prometheus at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an API answer. Raises urllib.error.HTTPError for a bad query."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an instant query gives now."""
        return [(item["metric"], float(item["value"][1])) for item in self.get("query", query=expression)["result"]]

    def exemplars(self, expression: str, seconds: float = 600) -> list[dict[str, Any]]:
        """Exemplars of the last ``seconds``: seriesLabels, labels (trace_id, span_id), value."""
        now = time.time()
        found = self.get("query_exemplars", query=expression, start=str(now - seconds), end=str(now + 5))
        return [{"seriesLabels": series["seriesLabels"], **each} for series in found for each in series["exemplars"]]


class Prometheus(Running, Api):
    """A running Prometheus; ``url`` is its base address.

    Args:
        folder: receives the configuration, the targets, the data and the log.
        targets: name of a file in deploy/prometheus/targets (without .yml) -> host:port list. What is not named has no
            target.
        config: file in deploy/prometheus.
        interval: scrape and evaluation interval in place of the shipped 15 s, for tests that cannot wait that long.
        features: what --enable-feature asks for.
        flags: further command-line flags.
        replace: texts of the configuration to replace, as an address that it names.
        port: where to listen; a free one by default.
    """

    def __init__(
        self,
        folder: Path,
        targets: dict[str, list[str]] | None = None,
        config: str = "prometheus.yml",
        interval: str | None = None,
        features: tuple[str, ...] = FEATURES,
        flags: tuple[str, ...] = (),
        replace: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        (folder / "targets").mkdir(parents=True, exist_ok=True)
        self._targets = folder / "targets"
        for name, addresses in (targets or {}).items():
            self.target(name, addresses)
        text = (CONFIG / config).read_text()
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        if interval is not None:
            text = text.replace("_interval: 15s", f"_interval: {interval}").replace(
                "scrape_timeout: 10s", f"scrape_timeout: {interval}"
            )
        (folder / "prometheus.yml").write_text(text)
        if RULES.is_dir() and not (folder / "rules").exists():
            (folder / "rules").symlink_to(RULES)
        self.address = f"127.0.0.1:{port or free_ports(1)[0]}"
        Api.__init__(self, f"http://{self.address}")
        command = [
            str(toolchain.require("prometheus")),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--enable-feature={','.join(features)}",
            "--log.level=warn",
            *flags,
        ]
        self.process = Process("prometheus", command, folder, ready=f"{self.url}/-/ready")

    def target(self, name: str, addresses: list[str]) -> None:
        """Replace the targets of one file; Prometheus notices by itself."""
        # JSON is YAML.
        (self._targets / f"{name}.yml").write_text(json.dumps([{"targets": addresses}]))

    def stop(self) -> int:
        return self.process.stop()
