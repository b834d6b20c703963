"""Through two tiers that drop most traces, every exemplar in Prometheus still leads to a trace that was kept."""

from __future__ import annotations

import json
import secrets
from itertools import islice
from pathlib import Path
from urllib.parse import urlencode

from websockets.sync.client import connect

from tests.stack.fixtures import eventually, need
from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from tools.stack.service import Service
from tools.stack.traces import TraceStore
from vibevoice_otel.sampling.share import in_share

SHARE = "0.3"


def trace_ids(count: int, *, inside: bool) -> list[str]:
    """New ids within the share that is kept, or outside it."""
    drawn = iter(lambda: secrets.token_hex(16), "")
    return list(islice((each for each in drawn if in_share(int(each, 16), float(SHARE)) is inside), count))


def test_an_exemplar_never_names_a_trace_that_the_gateway_dropped(tmp_path: Path) -> None:
    """The unmodified service, agent, balancer and two gateways: some traces are dropped, and no exemplar names one of
    them.
    """
    need("otelcol-vibevoice", "prometheus")
    # decision_wait must outlast an export, also on a machine that is busy with other tests.
    # The same objective on both sides, out of reach, so that a slow machine does not make every trace worth keeping.
    gateway = {"GATEWAY_SHARE": SHARE, "GATEWAY_DECISION_WAIT": "8s", "GATEWAY_SLOW_FIRST_AUDIO": "60"}
    settings = {
        "VIBEVOICE_OTEL_TRACE_SHARE": SHARE,
        "VIBEVOICE_OTEL_SLO_FIRST_AUDIO": "60",
        "OTEL_METRIC_EXPORT_INTERVAL": "1500",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with (
        TraceStore() as store,
        Collector("gateway", tmp_path / "gateway-1", store.endpoint, gateway) as first,
        Collector("gateway", tmp_path / "gateway-2", store.endpoint, gateway) as second,
        Collector(
            "gateway-lb", tmp_path / "lb", environment={"GATEWAYS": json.dumps([first.grpc, second.grpc])}
        ) as balancer,
        Collector("agent", tmp_path / "agent", balancer.grpc) as agent,
        Prometheus(tmp_path / "prometheus", {"agent": [agent.metrics]}, interval="1s") as prometheus,
        Service(tmp_path, agent.grpc, settings) as service,
    ):
        sent = [*trace_ids(8, inside=True), *trace_ids(16, inside=False)]
        for trace_id in sent:
            query = urlencode({"text": "One two.", "voice": "en-Carter_man"})
            headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
            with connect(f"ws://{service.address}/stream?{query}", additional_headers=headers, max_size=None) as socket:
                assert [message for message in socket if isinstance(message, bytes)]
        counted = "sum(vibevoice_streaming_requests_total)"
        assert eventually(lambda: [value for _, value in prometheus.query(counted)] == [float(len(sent))]), (
            service.process.tail()
        )
        in_the_share = set(sent[:8])
        named = {each["labels"]["trace_id"] for each in prometheus.exemplars('{__name__=~"vibevoice_.+_bucket"}')}
        eventually(lambda: in_the_share | named <= set(store.ids()))
    kept = set(store.ids()) & set(sent)
    assert in_the_share <= kept
    assert kept < set(sent)
    assert named & kept
    assert not named - kept
