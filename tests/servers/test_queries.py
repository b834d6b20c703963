"""The queries of docs/servers.md that leave speech out of the framework's own histograms, in a real Prometheus."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack.fixtures import eventually, need
from tests.upstream.server import Server
from tools.stack.prometheus import Prometheus

from .client import post
from .matrix import SHAPES, SPEECH

pytestmark = pytest.mark.stack
DOCUMENT = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
QUERIES = re.findall(r"^histogram_quantile\(.*\)$", DOCUMENT, re.MULTILINE)
#: The first part of each query's series -> the conventions under which a program has them.
CONVENTIONS = {"http_server_duration_milliseconds": "", "http_server_request_duration_seconds": "http"}
Start = Callable[..., Server]


def test_the_document_has_a_query_for_each_convention() -> None:
    """OpenTelemetry's old names and its stable ones."""
    assert len(QUERIES) == len(CONVENTIONS)
    assert all(any(f"{name}_bucket{{" in query for query in QUERIES) for name in CONVENTIONS)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_query_leaves_speech_out(running: Start, name: str, tmp_path: Path) -> None:
    """It gives one number, and what it reads is every route but speech."""
    need("prometheus")
    (query,) = [query for query in QUERIES if name in query]
    selector = re.search(r"\{[^}]*\}", query)
    assert selector is not None
    flags = ("--web.enable-otlp-receiver",)
    with Prometheus(tmp_path, config="otlp.yml", interval="1s", flags=flags) as prometheus:
        address = f"{prometheus.url}/api/v1/otlp/v1/metrics"
        server = running(
            "openai_threads",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=address,
            OTEL_SEMCONV_STABILITY_OPT_IN=CONVENTIONS[name],
            OTEL_METRIC_EXPORT_INTERVAL="500",
        )

        def routes(series: str) -> list[str | None]:
            return [labels.get("http_target") or labels.get("http_route") for labels, _ in prometheus.query(series)]

        def asked() -> bool:
            asyncio.run(SHAPES["threads"].ask(server.port, "A kumquat falls.", "en-Carter_man", None))
            post(server.port, "/health")
            return {SPEECH, "/health"} <= set(routes(f"{name}_count"))

        assert eventually(asked, 60, 0.5), prometheus.process.tail()
        assert set(routes(f"{name}_count{selector[0]}")) == {"/health"}

        def answers() -> bool:
            asked()
            found = prometheus.query(query)
            return len(found) == 1 and math.isfinite(found[0][1])

        assert eventually(answers, 60, 0.5), prometheus.query(query)
