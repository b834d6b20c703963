"""What the trace searches ask for is on a real service's spans, though it names no environment, whatever became of its
requests.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from dashboards import queries
from tests.stack.fixtures import eventually, need
from tests.unit.dashboards.test_boards import CARRIED
from tools.stack.collector import Collector
from tools.stack.service import Service
from tools.stack.traces import TraceStore
from vibevoice_otel import semconv

BROKEN = "de-Spk0_man"
#: Status -> what a client asks for.
ASKED = {
    "success": {"text": "One two.", "voice": "en-Carter_man"},
    "error": {"text": "One two.", "voice": BROKEN},
    "rejected": {"text": "   ", "voice": "en-Grace_woman"},
}


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Status -> attributes of the request's span, by TraceQL's names, as they left the agent."""
    need("otelcol-vibevoice")
    folder: Path = tmp_path_factory.mktemp("trace-queries")
    faults = {"VIBEVOICE_SERVICE_FAULTS": json.dumps({"corrupt_voices": [BROKEN]}), "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with TraceStore() as store, Collector("agent", folder, store.endpoint) as agent:
        with Service(folder, agent.grpc, faults) as service:
            for asked in ASKED.values():
                with (
                    suppress(WebSocketException),
                    connect(f"ws://{service.address}/stream?{urllib.parse.urlencode(asked)}", max_size=None) as socket,
                ):
                    list(socket)
            found = eventually(lambda: whole if len(whole := spans(store)) == len(ASKED) else None)
        yield found or spans(store)


def spans(store: TraceStore) -> dict[str, dict[str, Any]]:
    found = {}
    for trace_id in store.ids():
        for batch in (store.as_json(trace_id) or {"batches": ()})["batches"]:
            resource = {f"resource.{each['key']}": each["value"] for each in batch["resource"]["attributes"]}
            for scope in batch["scopeSpans"]:
                for span in scope["spans"]:
                    if span["name"] == semconv.SYNTHESIZE.name:
                        own = {f"span.{each['key']}": each["value"] for each in span["attributes"]}
                        found[own[f"span.{semconv.STATUS.key}"]["stringValue"]] = resource | own
    return found


@pytest.mark.parametrize("status", ASKED)
def test_each_request_carries_what_a_search_asks_for(status: str, requests: dict[str, dict[str, Any]]) -> None:
    """Service, instance and voice of every request, the rejected too; the environment is the one that its
    series have.
    """
    attributes = requests[status]
    assert attributes.keys() >= CARRIED
    assert attributes[f"span.{semconv.VOICE.key}"]["stringValue"] == ASKED[status]["voice"]
    assert attributes[queries.ENVIRONMENT]["stringValue"] == "development"
