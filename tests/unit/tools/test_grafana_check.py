"""``make grafana-check``: it asks a Grafana for every query, and says which failed. The Grafana here answers as the
real API does.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dashboards.boards import BOARDS
from dashboards.dashboard import panels
from tools.grafana import check


class Answering(BaseHTTPRequestHandler):
    """Keeps what was asked; refuses an expression that contains ``broken``."""

    asked: list[tuple[str, Any]]
    broken = "no expression contains this"

    def _answer(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.asked.append((self.path, None))
        self._answer([] if self.path == "/api/datasources" else {"status": "success", "data": [], "traces": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        failed = self.path == "/api/ds/query" and self.broken in body["queries"][0]["expr"]
        self._answer({"results": {"A": {"error": "parse error"} if failed else {"frames": []}}})

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def grafana(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[check.Grafana, type[Answering]]]:
    handler = type("Handler", (Answering,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PROMETHEUS_URL", "http://prometheus:9090")
    monkeypatch.setenv("TEMPO_URL", "http://tempo:3200")
    yield check.Grafana(f"http://127.0.0.1:{server.server_port}"), handler
    server.shutdown()
    server.server_close()


def test_it_loads_and_runs_everything(grafana: tuple[check.Grafana, type[Answering]]) -> None:
    """Both data sources, every dashboard, every variable's, panel's and annotation's query; no variable of ours is left
    in what is asked.
    """
    api, handler = grafana
    sources = check.load(api)
    assert sources == {"prometheus": "prometheus", "tempo": "tempo"}
    count = check.run(api, sources)
    assert not api.failures
    loaded = [body["dashboard"]["uid"] for path, body in handler.asked if path == "/api/dashboards/db"]
    assert sorted(loaded) == sorted(board.uid for board in BOARDS)
    queries = sum(len(panel.targets) for board in BOARDS for panel in panels(board))
    queries += sum(len(board.annotations.list_val) for board in BOARDS)
    assert count == queries + sum(each.type_val == "query" for board in BOARDS for each in board.templating.list_val)
    for path, body in handler.asked:
        if path == "/api/ds/query":
            expression = body["queries"][0]["expr"]
            assert "$" not in re.sub(r'\$__(rate_interval|interval|range)|"[^"$]*\$1"', "", expression)


def test_a_query_that_fails_is_named(grafana: tuple[check.Grafana, type[Answering]]) -> None:
    """With its dashboard, its panel, and what Grafana said."""
    api, handler = grafana
    handler.broken = "vibevoice_playback_underrun_total"
    check.run(api, {"prometheus": "prometheus"})
    assert any(
        each.startswith("VibeVoice / Health: Underruns") and each.endswith("parse error") for each in api.failures
    )


def test_without_an_address_it_says_what_to_give(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And asks nothing."""
    with pytest.raises(SystemExit):
        check.main(["", "--pictures", str(tmp_path)])
    assert "GRAFANA= must be an address" in capsys.readouterr().err


def test_a_grafana_that_is_not_there_fails(tmp_path: Path) -> None:
    """Named, and no picture is taken of nothing."""
    api = check.Grafana("http://127.0.0.1:9")
    assert check.load(api) == {}
    assert any("/api/datasources" in each for each in api.failures)
