"""Where a Tempo or a Grafana is reachable: the same promises with the real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from tests.stack.emitter import Emitter
from tests.stack.fixtures import eventually, need
from tools.grafana import tempo_check
from tools.stack.collector import Collector
from vibevoice_otel import semconv


def given(variable: str) -> str:
    url = os.environ.get(variable, "").rstrip("/")
    if not url:
        pytest.skip(
            f"{variable} is not set: no package registry has a binary of it (docker compose up, then "
            f"{variable}=http://localhost:...)"
        )
    return url


def answer(url: str) -> Any:
    try:
        with urlopen(url, timeout=5) as response:
            return json.load(response)
    except (URLError, ValueError):
        return None


def test_a_trace_through_the_agent_is_found_in_tempo(tmp_path: Path) -> None:
    """By its id, whole, by Tempo's API (TEMPO_URL; its OTLP at TEMPO_OTLP, by default port 4317 of the same host)."""
    url = given("TEMPO_URL")
    need("otelcol-vibevoice")
    endpoint = os.environ.get("TEMPO_OTLP") or f"{urlsplit(url).hostname}:4317"
    with Collector("agent", tmp_path, endpoint) as agent:
        emitter = Emitter(agent.grpc)
        request = emitter.whole()
        assert emitter.flush()
        found = eventually(lambda: answer(f"{url}/api/traces/{request.trace_id}"), 60, 1)
        emitter.close()
    assert found
    names = [span["name"] for batch in found["batches"] for scope in batch["scopeSpans"] for span in scope["spans"]]
    assert len(names) == 17
    assert semconv.SYNTHESIZE.name in names


def test_tempo_finds_what_the_dashboards_ask_for() -> None:
    """Every TraceQL expression, with and without an environment, for one voice, several, all and an odd one
    (TEMPO_URL).
    """
    given("TEMPO_URL")
    assert tempo_check.main() == 0


def test_grafana_has_its_data_sources_and_dashboards() -> None:
    """As provisioned: three data sources that answer, and the repository's dashboards (GRAFANA_URL)."""
    url = given("GRAFANA_URL")
    sources = {each["uid"] for each in answer(f"{url}/api/datasources") or ()}
    assert sources >= {"prometheus", "tempo", "alertmanager"}
    for uid in ("prometheus", "tempo"):
        health = answer(f"{url}/api/datasources/uid/{uid}/health")
        assert health is not None, uid
        assert health["status"] == "OK", health
    assert answer(f"{url}/api/search?type=dash-db&query=")
