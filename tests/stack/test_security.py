"""TLS and bearer tokens, as the overlays set them, on every hop."""

from __future__ import annotations

import ssl
import urllib.error
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import psutil
import pytest

from tests.stack.emitter import Emitter
from tests.stack.fixtures import eventually, need
from tools.stack.collector import CONFIGS, Collector
from tools.stack.traces import TraceStore

TOKEN = "a-token-of-this-test"


def overlays(*names: str) -> tuple[Path, ...]:
    return tuple(CONFIGS / "overlays" / f"{name}.yaml" for name in names)


def test_every_hop_with_tls_and_token(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """Service to agent to gateway to store works with the certificate and the token, and is refused without either, by
    every door: OTLP by gRPC and HTTP, and the series for Prometheus.
    """
    need("otelcol-vibevoice")
    cert, key = certificate
    served = {"COLLECTOR_CERT": str(cert), "COLLECTOR_KEY": str(key), "COLLECTOR_TOKEN": TOKEN}
    onward = {"TRACES_CA": str(cert), "TRACES_TOKEN": TOKEN}
    fast = {"GATEWAY_DECISION_WAIT": "1s", "GATEWAY_SHARE": "1"}
    agent_overlays = overlays(
        "server-tls",
        "server-tls-http",
        "server-token",
        "server-token-http",
        "server-token-metrics",
        "traces-tls",
        "traces-token",
        "metrics-tls",
    )
    with (
        TraceStore() as store,
        Collector(
            "gateway", tmp_path / "gateway", store.endpoint, {**served, **fast}, overlays("server-tls", "server-token")
        ) as gateway,
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
            "no TLS at the gateway": Emitter(gateway.grpc, headers={"authorization": f"Bearer {TOKEN}"}, timeout=2),
            "no token at the gateway": Emitter(gateway.grpc, timeout=2, **trusted),
        }
        for why, emitter in refused.items():
            emitter.whole()
            assert not emitter.flush(), why

        context = ssl.create_default_context(cafile=cert)

        def asked(address: str, token: str | None, body: bytes | None = None, **how: ssl.SSLContext) -> int:
            headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
            try:
                return int(urlopen(Request(address, body, headers), timeout=60, **how).status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        doors = {f"{agent.http}/v1/traces": b"{}", f"{agent.metrics}/metrics": None}
        for door, body in doors.items():
            assert asked(f"https://{door}", TOKEN, body, context=context) == 200, door
            for token in ("wrong", None):
                assert asked(f"https://{door}", token, body, context=context) == 401, door
            with pytest.raises(urllib.error.URLError):
                asked(f"https://{door}", TOKEN, body)  # an unknown authority
            assert asked(f"http://{door}", TOKEN, body) == 400, "TLS is asked for"
    assert TOKEN not in agent.process.log.read_text() + gateway.process.log.read_text()


def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """COLLECTOR_CLIENT_CA: the receiver and the series for Prometheus ask for the other's certificate too."""
    need("otelcol-vibevoice")
    cert, key = certificate
    served = {"COLLECTOR_CERT": str(cert), "COLLECTOR_KEY": str(key), "COLLECTOR_CLIENT_CA": str(cert)}
    with Collector(
        "agent", tmp_path / "agent", environment=served, overlays=overlays("server-tls", "metrics-tls")
    ) as agent:
        pem = cert.read_bytes()
        for own, admitted in (({}, False), ({"private_key": key.read_bytes(), "certificate_chain": pem}, True)):
            emitter = Emitter(
                agent.grpc,
                insecure=False,
                credentials=grpc.ssl_channel_credentials(pem, **own),
                timeout=60 if admitted else 2,
            )
            emitter.whole()
            assert emitter.flush() is admitted
            context = ssl.create_default_context(cafile=cert)
            if admitted:
                context.load_cert_chain(cert, key)
                assert urlopen(f"https://{agent.metrics}/metrics", context=context).status == 200
            else:
                with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
                    urlopen(f"https://{agent.metrics}/metrics", context=context)


@pytest.mark.parametrize("config", ["agent", "gateway-lb", "gateway"])
def test_a_collector_listens_on_localhost_alone(config: str, tmp_path: Path) -> None:
    """Told loopback addresses (which the defaults are: test_configs), the real program opens no socket
    anywhere else.
    """
    need("otelcol-vibevoice")
    with Collector(config, tmp_path) as collector:
        listening = [
            each.laddr
            for each in psutil.Process(collector.process.pid).net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 3
        assert {address.ip for address in listening} == {"127.0.0.1"}
