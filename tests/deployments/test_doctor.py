"""Doctor makes what the SDK would make and sends an empty export to each exporter:
what it says is what would happen.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.reliability.harness import Service, free_port
from tests.stack.certificates import self_signed
from vibevoice_otel.commands import doctor, exporters

HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
#: requests lets these win over the certificate that an exporter is given.
NO_BUNDLE = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}
QUIET = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
METHODS = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
}


class Web:
    """An HTTP server that answers each path as told, 404 otherwise."""

    def __init__(
        self, answers: dict[str, int], certificate: tuple[Path, Path] | None = None, body: bytes = b""
    ) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(answers.get(self.path, 404))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Quiet."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A doctor that hangs up."""

        self.server = Server(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.port = self.server.server_port

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What may be at the other end, by the name that the cases below use."""
    where = tmp_path_factory.mktemp("tls")
    pair = self_signed(where)
    every = {f"/v1/{each}": 200 for each in exporters.SIGNALS}
    webs = {
        "http": Web(every), "picky": Web(dict.fromkeys(every, 400)), "guarded": Web(dict.fromkeys(every, 401)),
        "broken": Web(dict.fromkeys(every, 500)), "tls": Web(every, pair),
    }  # fmt: skip
    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool)
    for service in METHODS.values():
        handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    socket_file = where / "otlp.sock"
    found: dict[str, Any] = {name: web.port for name, web in webs.items()}
    found |= {
        "grpc": server.add_insecure_port("127.0.0.1:0"),
        "nobody": free_port(),
        "unix": socket_file,
        "ca": pair[0],
    }
    server.add_insecure_port(f"unix:{socket_file}")
    server.start()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found["silent"] = silent.getsockname()[1]
        yield found
    server.stop(0).wait()
    pool.shutdown()
    for web in webs.values():
        web.close()


def of(environ: dict[str, str], *subjects: str, **options: Any) -> list[doctor.Finding]:
    found = list(doctor.exports(environ, **options))
    return [each for each in found if each.subject in subjects] if subjects else found


#: Endpoint, more variables, level, and what is said. {name} is a port of the fixture.
CASES: dict[str, tuple[str, dict[str, str], str, str]] = {
    "gRPC at the gRPC port": ("http://127.0.0.1:{grpc}", {}, "ok", "an empty export was taken"),
    "HTTP at the HTTP port": ("http://127.0.0.1:{http}", HTTP, "ok", "an empty export was taken"),
    "a Unix socket": ("unix://{unix}", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, "ok", "an empty export was taken"),
    "a receiver that refuses what is empty": ("http://127.0.0.1:{picky}", HTTP, "ok", "an empty export was taken"),
    "TLS with its authority": (
        "https://localhost:{tls}",
        {**HTTP, **NO_BUNDLE, "OTEL_EXPORTER_OTLP_CERTIFICATE": "{ca}"},
        "ok",
        "taken",
    ),
    "protocol set to nothing": ("http://127.0.0.1:{grpc}", {"OTEL_EXPORTER_OTLP_PROTOCOL": ""}, "ok", "was taken"),
    "gRPC at the HTTP port": ("http://127.0.0.1:{http}", {}, "wrong", "HTTP is spoken there, not gRPC. Mend: "),
    "HTTP at the gRPC port": ("http://127.0.0.1:{grpc}", HTTP, "wrong", "gRPC is spoken there, not HTTP. Mend: "),
    "a path that is doubled": ("http://127.0.0.1:{http}/v1/traces", HTTP, "wrong", "404, there is no such path"),
    "TLS against plain text": (
        "https://127.0.0.1:{http}",
        HTTP,
        "wrong",
        "TLS is tried, and none is spoken there. Mend: http://",
    ),
    "plain text against TLS": ("http://127.0.0.1:{tls}", HTTP, "wrong", "TLS is spoken there. Mend: https://"),
    "TLS of an unknown authority": ("https://localhost:{tls}", HTTP, "wrong", "certificate verify failed"),
    "gRPC with TLS against plain text": (
        "https://127.0.0.1:{grpc}",
        {},
        "wrong",
        "TLS is tried, and none is spoken there",
    ),
    "nobody": ("http://127.0.0.1:{nobody}", HTTP, "wrong", "nothing listens there. Mend: start a Collector"),
    "nobody, by gRPC": ("http://127.0.0.1:{nobody}", {}, "wrong", "nothing listens there"),
    "a receiver that never answers": ("http://127.0.0.1:{silent}", HTTP, "wrong", ""),
    "a receiver that never answers gRPC": ("http://127.0.0.1:{silent}", {}, "wrong", ""),
    "a token that is missing": (
        "http://127.0.0.1:{guarded}",
        HTTP,
        "wrong",
        "asks for another token. Mend: OTEL_EXPORTER_OTLP_HEADERS",
    ),
    "a receiver that fails": ("http://127.0.0.1:{broken}", HTTP, "wrong", "500"),
    "quotation marks of an env file": ('"http://127.0.0.1:{http}"', HTTP, "wrong", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_an_endpoint_is_judged_by_what_came_back(case: str, ports: dict[str, Any]) -> None:
    """The level, and the words that say how to mend it."""
    endpoint, more, level, says = CASES[case]
    variables = {
        name: value.format(**ports) for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **more}.items()
    }
    (found,) = of({**QUIET, **variables}, "traces")
    assert (found.level, says in found.says) == (level, True), found.says


@pytest.mark.parametrize(
    ("variables", "subject", "level", "says"),
    [
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http"},
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "wrong",
            "Unsupported OTLP protocol 'http'",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:${PORT}", **HTTP}, "traces", "wrong", ""),
        (
            {"OTEL_TRACES_EXPORTER": ""},
            "OTEL_TRACES_EXPORTER",
            "wrong",
            "is set to nothing: no traces leave the process",
        ),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER", "wrong", "'jaeger' not found"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "OTEL_TRACES_EXPORTER", "note", "none: no traces leave the process"),
        ({"OTEL_PROPAGATORS": "tracecontext,b3"}, "OTEL_PROPAGATORS", "wrong", "Installed are baggage, tracecontext"),
        (
            {"OTEL_TRACES_SAMPLER": "always", "OTEL_TRACES_EXPORTER": "console"},
            "OTEL_TRACES_SAMPLER",
            "note",
            "Using default sampler",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "vibevoice_tail", "OTEL_TRACES_SAMPLER_ARG": "2"},
            "OTEL_TRACES_SAMPLER",
            "note",
            "Every trace is",
        ),
        ({"OTEL_PYTHON_ID_GENERATOR": "xray"}, "OTEL_PYTHON_ID_GENERATOR", "wrong", "'xray' not found"),
        ({"OTEL_CONFIG_FILE": "/no/such.yaml"}, "OTEL_CONFIG_FILE", "wrong", "/no/such.yaml"),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "tcp://10.0.0.1:9464"},
            "OTEL_EXPORTER_PROMETHEUS_PORT",
            "wrong",
            "is no port",
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "note",
            "Prometheus takes no delta temporality",
        ),
    ],
)
def test_a_component_that_cannot_be_made_is_named(
    variables: dict[str, str], subject: str, level: str, says: str
) -> None:
    """By the variable it comes from; whatever it raises is a line of the report."""
    found = of({**QUIET, **variables}, subject)
    assert [(each.level, says in each.says) for each in found] == [(level, True)], found


def test_a_signal_that_is_not_received_is_told(ports: dict[str, Any]) -> None:
    """Traces and metrics arrive; nobody takes the logs that the launcher exports by default."""
    found = of({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports['grpc']}"}, "traces", "metrics", "logs")
    assert [(each.subject, each.level) for each in found] == [("traces", "ok"), ("metrics", "ok"), ("logs", "wrong")]
    assert "takes no logs. Mend: OTEL_LOGS_EXPORTER=none" in found[2].says


def test_a_metrics_port_is_tried_and_a_page_of_ours_is_right(start: Callable[..., Service]) -> None:
    """Free: right. Taken by another program: wrong. By a live service of ours, with a token or without: right."""
    page = {
        **QUIET,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_SERVICE_NAME": "speaker",
    }

    def level(port: int) -> tuple[str, str]:
        (found,) = of({**page, "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}, "metrics", "OTEL_EXPORTER_PROMETHEUS_PORT")
        return found.level, found.says

    free = free_port()
    assert level(free)[0] == level(free)[0] == "ok"
    other = Web({"/metrics": 200}, body=b"up 1\n")
    assert (level(other.port)[0], "taken by another program" in level(other.port)[1]) == ("wrong", True)
    other.close()
    for more in ({}, {"VIBEVOICE_OTEL_METRICS_TOKEN": "t"}):
        service = start(OTEL_METRICS_EXPORTER="prometheus", **more)
        assert level(service.metrics_port) == (
            "ok",
            f"a service that is observed by us serves http://127.0.0.1:{service.metrics_port}/metrics",
        )
        service.stop()


def test_a_configuration_file_is_tried_part_by_part(tmp_path: Path, ports: dict[str, Any]) -> None:
    """Its exporters are sent to, its page is not opened, its propagators and its sampler are made,
    our section is read.
    """
    pytest.importorskip("opentelemetry.configuration", exc_type=ImportError)
    port = free_port()
    span = {"otlp_http": {"endpoint": f"http://127.0.0.1:{ports['http']}/v1/traces"}}
    content = {
        "file_format": "1.0",
        "propagator": {"composite_list": "tracecontext,b3"},
        "tracer_provider": {
            "sampler": {"parent_based": {"root": {"vibevoice_tail": None}}},
            "processors": [{"batch": {"exporter": span}}],
        },
        "meter_provider": {
            "readers": [
                {"pull": {"exporter": {"prometheus/development": {"host": "127.0.0.1", "port": port}}}},
                {"periodic": {"exporter": {"otlp_grpc": {"endpoint": f"http://127.0.0.1:{ports['http']}"}}}},
            ],
            "views": [
                {
                    "selector": {"instrument_name": "*"},
                    "stream": {"aggregation": {"base2_exponential_bucket_histogram": {}}},
                }
            ],
        },
        "instrumentation/development": {"python": {"vibevoice": {"max_stps": 3}}},
    }
    path = tmp_path / "otel.yaml"
    path.write_text(json.dumps(content))
    environ = {"OTEL_CONFIG_FILE": str(path)}
    found = {
        (each.subject, each.level): each.says for each in [*doctor.exports(environ), *doctor.configuration(environ)]
    }
    assert "an empty export was taken" in found["traces", "ok"]
    assert "HTTP is spoken there, not gRPC" in found["metrics", "wrong"]
    assert f"served at http://127.0.0.1:{port}/metrics" in found["metrics", "ok"]
    assert "raises on exponential histograms" in found[f"{path} views", "wrong"]
    assert "inside parent_based" in found[f"{path} sampler", "wrong"]
    assert "b3" in found[f"{path} propagator", "wrong"]
    assert "max_stps is not a setting; the nearest is max_steps" in found["settings", "wrong"]
    several = of(environ, "OTEL_CONFIG_FILE", workers=2)
    assert [each.level for each in several] == ["wrong", "ok"]


def test_other_exporters_are_sent_to_when_asked() -> None:
    """`console` prints: it is made, and sent to with --send alone."""
    environ = {**QUIET, "OTEL_TRACES_EXPORTER": "console"}
    (made,) = of(environ, "traces")
    (sent,) = of(environ, "traces", send=True)
    assert (made.level, "`doctor --send`" in made.says) == ("ok", True)
    assert (sent.level, "an empty export was taken" in sent.says) == ("ok", True)


def test_a_component_that_ends_the_process_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in the child, doctor says so and goes on."""
    found = of({**QUIET, "OTEL_TRACES_EXPORTER": "none", "PYTHONHASHSEED": "no seed"})
    assert [each.level for each in found] == ["wrong"]
    assert "could not be made" in found[0].says


def test_a_propagator_that_nothing_provides_is_told_and_ends_nothing() -> None:
    """OpenTelemetry raises at its import for such a name; the doctor says so and goes on."""
    command = [sys.executable, "-m", "vibevoice_otel.commands.cli", "doctor"]
    environment = {**os.environ, "OTEL_PROPAGATORS": "nonsense"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "OTEL_PROPAGATORS" in done.stdout
