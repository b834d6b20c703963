"""TLS and bearer tokens, as the overlays set them, on every hop."""

from __future__ import annotations

import ssl
import urllib.error
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import pytest

from tests.stack.emitter import Emitter
from tests.stack.fixtures import eventually, need
from tools.stack.collector import CONFIGS, Collector
from tools.stack.traces import TraceStore

TOKEN = "a-token-of-this-test"


def overlays(*names: str) -> tuple[Path, ...]:
    return tuple(CONFIGS / "overlays" / f"{name}.yaml" for name in names)


def test_every_hop_with_tls_and_token(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """Service to agent to gateway to store works with the certificate and the token, and is refused without either, by every door."""
    need("otelcol-vibevoice")
    cert, key = certificate
    served = {"COLLECTOR_CERT": str(cert), "COLLECTOR_KEY": str(key), "COLLECTOR_TOKEN": TOKEN}
    onward = {"TRACES_CA": str(cert), "TRACES_TOKEN": TOKEN}
    fast = {"GATEWAY_DECISION_WAIT": "1s", "GATEWAY_SHARE": "1"}
    agent_overlays = overlays(
        "server-tls", "server-tls-http", "server-token", "server-token-http", "traces-tls", "traces-token", "metrics-tls"
    )
    with (
        TraceStore() as store,
        Collector("gateway", tmp_path / "gateway", store.endpoint, {**served, **fast}, overlays("server-tls", "server-token")) as gateway,
        Collector("agent", tmp_path / "agent", gateway.grpc, {**served, **onward}, agent_overlays) as agent,
    ):
        trusted = {"insecure": False, "credentials": grpc.ssl_channel_credentials(cert.read_bytes())}
        admitted = Emitter(agent.grpc, headers={"authorization": f"Bearer {TOKEN}"}, **trusted)
        request = admitted.whole()
        assert admitted.flush()
        assert eventually(lambda: len(store.spans(request.trace_id)) == 17)

        refused = {
            "a wrong token": Emitter(agent.grpc, headers={"authorization": "Bearer wrong"}, timeout=2, **trusted),
            "no token": Emitter(agent.grpc, timeout=2, **trusted),
            "no TLS": Emitter(agent.grpc, headers={"authorization": f"Bearer {TOKEN}"}, timeout=2),
        }
        for why, emitter in refused.items():
            emitter.whole()
            assert not emitter.flush(), why

        with pytest.raises(urllib.error.URLError):
            urlopen(f"https://{agent.http}/v1/traces", data=b"{}")  # an unknown authority
        context = ssl.create_default_context(cafile=cert)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urlopen(Request(f"https://{agent.http}/v1/traces", b"{}", {"Content-Type": "application/json"}), context=context)
        assert urlopen(f"https://{agent.metrics}/metrics", context=context).status == 200
    assert TOKEN not in agent.process.log.read_text() + gateway.process.log.read_text()
