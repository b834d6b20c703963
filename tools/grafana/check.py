"""``make grafana-check GRAFANA=url``: our dashboards in a running Grafana.

Loads the data sources (where there are none of ours: PROMETHEUS_URL, TEMPO_URL as Grafana reaches them) and the
dashboards by the HTTP API, runs every variable's and panel's query through it, and takes a picture of each dashboard at
1440 and 2560 pixels with Chromium. GRAFANA_TOKEN is a service account's token where anonymous visitors may not edit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dashboards.__main__ import HERE
from tools.grafana.interpolate import traceql

WIDTHS: Final = (1440, 2560)
PIXELS_A_ROW: Final = 38  # a grid unit and its gap
RANGE_S: Final = 1800
SOURCES: Final = {"prometheus": "PROMETHEUS_URL", "tempo": "TEMPO_URL"}


@dataclass
class Grafana:
    """The HTTP API of a Grafana at ``url``."""

    url: str
    token: str = ""
    failures: list[str] = field(default_factory=list)

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer's JSON; None for a failure, which is remembered."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            self.failures.append(
                f"{path.partition('?')[0]}: {error.code} {error.read().decode(errors='replace')[:200]}"
            )
        except (urllib.error.URLError, ValueError) as error:
            self.failures.append(f"{path.partition('?')[0]}: {error}")
        return None


def dashboards() -> Iterator[dict[str, Any]]:
    for file in sorted((HERE / "generated").glob("*.json")):
        yield json.loads(file.read_text())


def load(grafana: Grafana) -> dict[str, str]:
    """Data sources and dashboards, put there where they are missing. Type -> uid of its data source."""
    present = {each["type"]: each["uid"] for each in reversed(grafana.ask("/api/datasources") or [])}
    for kind, variable in SOURCES.items():
        if kind in present:
            continue
        source = {
            "name": kind.title(),
            "uid": kind,
            "type": kind,
            "access": "proxy",
            "url": os.environ.get(variable, ""),
        }
        if not source["url"]:
            grafana.failures.append(f"there is no data source of type {kind}, and {variable} is not set")
        elif grafana.ask("/api/datasources", source) is not None:
            present[kind] = kind
    for board in dashboards():
        grafana.ask("/api/dashboards/db", {"dashboard": {**board, "id": None}, "overwrite": True})
    return present


def promql(expression: str) -> str:
    """With every variable as All; the data source puts intervals in their place itself."""
    return re.sub(r"\$\{?(?!__)([A-Za-z_]\w*)(?::\w+)?\}?", ".*", expression)


def run(grafana: Grafana, sources: dict[str, str]) -> int:
    """Every variable's, panel's and annotation's query once; how many there were."""
    now, count = int(time.time() * 1000), 0
    window = {"from": str(now - RANGE_S * 1000), "to": str(now)}
    for board in dashboards():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query" and "prometheus" in sources:
                inside = promql(variable["definition"]).removeprefix("label_values(").removesuffix(")")
                metric, _, label = inside.rpartition(",")
                asked = urllib.parse.urlencode({"match[]": metric, "start": now // 1000 - RANGE_S, "end": now // 1000})
                base = f"/api/datasources/uid/{sources['prometheus']}/resources/api/v1/label/{label.strip()}/values"
                count += 1
                grafana.ask(f"{base}?{asked}")
        for mark in board["annotations"]["list"]:
            target = {"refId": "A", "datasource": mark["datasource"], "expr": mark["expr"], "range": True}
            count += _target(grafana, sources, f"{board['title']}: {mark['name']}", target, window)
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                count += _target(grafana, sources, f"{board['title']}: {panel['title']}", target, window)
    return count


def _target(
    grafana: Grafana, sources: dict[str, str], title: str, target: dict[str, Any], window: dict[str, str]
) -> int:
    kind = target["datasource"]["type"]
    if kind not in sources:
        return 0
    if kind == "tempo":
        asked = {"q": traceql(target["query"], {"trace": ("0" * 32,)}), "limit": "20"}
        asked |= {"start": str(int(window["from"]) // 1000), "end": str(int(window["to"]) // 1000)}
        grafana.ask(f"/api/datasources/proxy/uid/{sources[kind]}/api/search?{urllib.parse.urlencode(asked)}")
        return 1
    query = {
        **target,
        "expr": promql(target["expr"]),
        "datasource": {"type": kind, "uid": sources[kind]},
        "intervalMs": 15000,
        "maxDataPoints": 500,
        "exemplar": False,
    }
    answer = grafana.ask("/api/ds/query", {"queries": [query], **window})
    for result in (answer or {}).get("results", {}).values():
        if result.get("error"):
            grafana.failures.append(f"{title}: {result['error']}")
    return 1


def pictures(grafana: Grafana, folder: Path) -> list[Path]:
    """Each dashboard at each width, whole. Raises FileNotFoundError without a Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise FileNotFoundError("chromium is not on PATH")
    taken = []
    for board in dashboards():
        height = 150 + PIXELS_A_ROW * max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in board["panels"])
        for width in WIDTHS:
            file = folder / f"{board['uid']}-{width}.png"
            address = f"{grafana.url}/d/{board['uid']}?from=now-30m&to=now&kiosk"
            with tempfile.TemporaryDirectory() as profile:
                options = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={file}"]
                waits = ["--virtual-time-budget=30000", "--timeout=60000"]
                flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *waits]
                subprocess.run([program, *flags, *options, address], check=False, capture_output=True, timeout=180)
            if file.exists():
                taken.append(file)
            else:
                grafana.failures.append(f"no picture of {board['title']} at {width} pixels")
    return taken


def main(argv: list[str] | None = None) -> int:
    """Load, run, take pictures; 1 when something failed, 2 without an address."""
    parser = argparse.ArgumentParser(prog="make grafana-check GRAFANA=", description=__doc__)
    parser.add_argument("grafana", help="its address, as http://localhost:3000")
    parser.add_argument(
        "--pictures", type=Path, default=Path("out/grafana"), help="folder for the pictures (out/grafana)"
    )
    chosen = parser.parse_args(argv)
    if not re.match(r"https?://", chosen.grafana):
        parser.error("GRAFANA= must be an address, as http://localhost:3000")
    grafana = Grafana(chosen.grafana.rstrip("/"), os.environ.get("GRAFANA_TOKEN", ""))
    sources = load(grafana)
    count = run(grafana, sources)
    chosen.pictures.mkdir(parents=True, exist_ok=True)
    taken = pictures(grafana, chosen.pictures.resolve())
    print(f"{count} queries; pictures: {', '.join(map(str, taken)) or 'none'}")
    for each in grafana.failures:
        print(f"FAILED  {each}")
    return 1 if grafana.failures else 0


if __name__ == "__main__":
    sys.exit(main())
