"""``python -m vibevoice_otel.commands.exporters``: makes what the SDK would make from this environment, and sends one
empty export to each.

Run by doctor in a process of its own: a component that raises, hangs or prints costs one line of the report. Each is
made alone, by the SDK's own factories; nothing becomes global, no metrics page is opened, and each export has three
seconds and one attempt.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

SECONDS = 3.0
SIGNALS = ("traces", "metrics", "logs")
#: What a line of findings begins with on the standard output; whatever else is there was printed by a component.
MARK = "finding "
#: Answers that come from a receiver that does not like an export without content.
REACHED = {"400", "INVALID_ARGUMENT"}
REFUSED = {"401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"}
NOTHING = "The launcher instruments nothing at all then"
CONFIGURATION = "OTEL_CONFIG_FILE"

Report = Callable[[str, str, str], None]


class Heard(logging.Handler):
    """Keeps what the SDK logs while a component is made or used."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.retries = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.messages.append(message)
        if "retry" in message.lower():
            self.retries.set()


def main() -> None:
    """Print a line for each finding: level, subject, sentence."""

    def report(level: str, subject: str, says: str) -> None:
        print(MARK + json.dumps([level, subject, says]), flush=True)

    heard = Heard()
    logging.getLogger().addHandler(heard)
    try:
        _examine(report, heard, send_all="--send" in sys.argv)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the launcher meets it too
        report("wrong", "OpenTelemetry", f"{_named(error)}. {NOTHING}")
    report("ok", "", "")  # the last line: nothing was cut off
    os._exit(0)  # exporters' threads and atexit handlers have nothing to do here


def _examine(report: Report, heard: Heard, *, send_all: bool) -> None:
    try:
        # The API looks for the propagators as it is imported, and raises.
        from opentelemetry import propagate  # noqa: F401, PLC0415
    except Exception as error:  # noqa: BLE001
        names = os.environ.get("OTEL_PROPAGATORS", "")
        known = ", ".join(sorted(each.name for each in entry_points(group="opentelemetry_propagator")))
        report(
            "wrong",
            "OTEL_PROPAGATORS",
            f"{names}: {_named(error)}. Nothing of OpenTelemetry can be imported. Installed are {known}",
        )
        return
    from opentelemetry.instrumentation.auto_instrumentation import _load  # noqa: PLC0415

    _load._load_distro().configure()  # its defaults, in this process's environment
    _hurry()
    source = _of_file if os.environ.get(CONFIGURATION) else _of_environment
    for subject, where, make in source(report):
        heard.messages.clear()
        try:
            made = make()
        except Exception as error:  # noqa: BLE001
            report("wrong", where, f"{_named(error)}. {NOTHING}")
            continue
        for message in heard.messages:
            report("note", where, message)
        if made is None or subject not in SIGNALS:
            continue
        if "otlp" in type(made).__module__ or send_all:
            report(*_sent(subject, made, heard))
        else:
            report("ok", subject, f"{type(made).__name__} was made; `doctor --send` sends an empty export to it")


Made = Iterator[tuple[str, str, Callable[[], Any]]]


def _of_environment(report: Report) -> Made:
    """Each component of the environment: what it is, the variable it comes from, and how the SDK makes it."""
    from opentelemetry.sdk import _configuration as sdk  # noqa: PLC0415

    yield "sampler", "OTEL_TRACES_SAMPLER", lambda: sdk._import_sampler(sdk._get_sampler())
    yield "ids", "OTEL_PYTHON_ID_GENERATOR", lambda: sdk._import_id_generator(sdk._get_id_generator())
    for signal in SIGNALS:
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        named = [name.strip() for name in os.environ.get(variable, "").split(",")]
        if named == [""]:
            level, mend = ("note", "") if signal == "logs" else ("wrong", ". Mend: otlp, or none where that is meant")
            report(level, variable, f"is set to nothing: no {signal} leave the process{mend}")
            continue
        if named == ["none"]:
            if signal != "logs":
                report("note", variable, f"none: no {signal} leave the process")
            continue
        for name in named:
            if name == "prometheus" and signal == "metrics":
                host = os.environ.get("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost")
                report(
                    *_page(
                        host, os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"), "OTEL_EXPORTER_PROMETHEUS_PORT"
                    )
                )
            else:
                yield signal, _protocol_variable(signal, name, variable), partial(_exporter, signal, name)


def _protocol_variable(signal: str, name: str, variable: str) -> str:
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    protocol = os.environ.get(own) or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    if name == "otlp" and protocol not in {"grpc", "http/protobuf"}:
        return own if os.environ.get(own) else "OTEL_EXPORTER_OTLP_PROTOCOL"
    return variable


def _exporter(signal: str, name: str) -> Any:
    """An exporter; what would drive it is made too, for it reads variables of its own."""
    from opentelemetry.sdk import _configuration as sdk  # noqa: PLC0415
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    kind = sdk._get_exporter_entry_point(name, signal)  # type: ignore[arg-type]
    (_, factory), *_ = sdk._import_config_components([kind], f"opentelemetry_{signal}_exporter")
    made = factory()
    if signal == "traces":
        BatchSpanProcessor(made)
    elif signal == "logs":
        BatchLogRecordProcessor(made)
    elif isinstance(made, MetricExporter):
        PeriodicExportingMetricReader(made)
    return made


def _of_file(report: Report) -> Made:
    """Each component of the configuration file, by the factories of opentelemetry-configuration."""
    path = os.environ[CONFIGURATION]
    try:
        from opentelemetry.configuration import (  # noqa: PLC0415
            _logger_provider,
            _meter_provider,
            _propagator,
            _tracer_provider,
            load_config_file,
        )
    except ImportError as error:
        report("wrong", CONFIGURATION, f"{error}. {NOTHING}. Mend: pip install 'vibevoice-otel[config]'")
        return
    try:
        configuration = load_config_file(path)
    except Exception as error:  # noqa: BLE001
        report("wrong", CONFIGURATION, f"{path}: {error}. {NOTHING}")
        return
    report("ok", CONFIGURATION, f"{path}; most OTEL_* variables are not read")
    if configuration.disabled:
        report("wrong", CONFIGURATION, f"{path}: disabled: true, so nothing is recorded")
        return
    yield "propagator", f"{path} propagator", lambda: _propagator.create_propagator(configuration.propagator)
    parts: tuple[tuple[str, Any, Any], ...] = (
        ("traces", configuration.tracer_provider, _tracer_provider._create_span_exporter),
        ("logs", configuration.logger_provider, _logger_provider._create_log_record_exporter),
    )
    for name, provider, make in parts:
        if provider is None:
            report("note", name, f"{path} has no provider of {name}: none leave the process")
            continue
        if getattr(provider, "sampler", None) is not None:
            yield (
                "sampler",
                f"{path} sampler",
                partial(_sampler, _tracer_provider._create_sampler, provider.sampler, report),
            )
        for processor in provider.processors:
            chosen = processor.batch or processor.simple
            if chosen is not None:
                yield name, f"{path} {name}", partial(make, chosen.exporter)
    if configuration.meter_provider is None:
        report("note", "metrics", f"{path} has no meter_provider: no metrics leave the process")
        return
    for reader in configuration.meter_provider.readers:
        page = getattr(reader.pull and reader.pull.exporter, "prometheus_development", None)
        if page is not None:
            report(*_page(page.host or "localhost", str(page.port or 9464), f"{path} metrics"))
            views = configuration.meter_provider.views or []
            if any(
                getattr(v.stream.aggregation, "base2_exponential_bucket_histogram", None) is not None for v in views
            ):
                report("wrong", f"{path} views", "the Prometheus exporter of Python raises on exponential histograms, "
                                                 "and the whole page "
                       "with it. Mend: a periodic reader with an otlp exporter, and a Collector")  # fmt: skip
        elif reader.periodic is not None:
            yield (
                "metrics",
                f"{path} metrics",
                partial(_meter_provider._create_push_metric_exporter, reader.periodic.exporter),
            )


def _sampler(create: Callable[[Any], Any], chosen: Any, report: Report) -> None:
    if getattr(getattr(create(chosen), "_root", None), "vibevoice_tail", False):
        report(
            "wrong",
            f"{os.environ[CONFIGURATION]} sampler",
            "vibevoice_tail inside parent_based: the spans below the first are dropped, and with them what it would "
            "keep later. Mend: sampler: vibevoice_tail: alone, which follows the caller itself",
        )


def _page(host: str, port: str, where: str) -> tuple[str, str, str]:
    """Whether a metrics page can be opened; tried by listening, and released at once."""
    from vibevoice_otel.process.workers import free  # noqa: PLC0415

    if not port.isdigit() or int(port) > 65535:
        return "wrong", where, f"{port!r} is no port. Mend: a number, or unset it for 9464"
    address = f"http://{host}:{port}/metrics"
    if free(host, int(port)):
        return "ok", "metrics", f"served at {address} (without exemplars: only a Collector gives those)"
    if _ours(address) or _ours(address.replace("http", "https", 1)):
        return "ok", "metrics", f"a service that is observed by us serves {address}"
    return (
        "wrong",
        where,
        f"port {port} of {host} is taken by another program, so there is no /metrics. Mend: another port",
    )


def _ours(address: str) -> bool:
    import ssl  # noqa: PLC0415

    unverified = ssl._create_unverified_context()  # noqa: S323 - nothing is sent, and what comes is only searched for a name
    try:
        with urllib.request.urlopen(address, timeout=SECONDS, context=unverified) as answer:  # noqa: S310
            page = answer.read(4_000_000)
            name = os.environ.get("OTEL_SERVICE_NAME", "")  # before its first request a service has no metric of ours
            return b"vibevoice_" in page or (bool(name) and f'service_name="{name}"'.encode() in page)
    except urllib.error.HTTPError as error:
        with error:
            return b"VIBEVOICE_OTEL_METRICS_" in error.read(1000)
    except (OSError, ValueError):
        return False


def _sent(signal: str, exporter: Any, heard: Heard) -> tuple[str, str, str]:
    """Send an export without content."""
    heard.messages.clear()
    heard.retries.clear()
    sending = ThreadPoolExecutor(1).submit(exporter.export, _nothing(signal))
    until = time.monotonic() + SECONDS + 0.5
    while not sending.done() and not heard.retries.is_set() and time.monotonic() < until:
        wait([sending], 0.02)
    kind = (
        "grpc"
        if "grpc" in type(exporter).__module__
        else "http/protobuf"
        if "http" in type(exporter).__module__
        else ""
    )
    endpoint = str(getattr(exporter, "_endpoint", ""))
    target = re.sub(r"//[^/@]*@", "//", endpoint)
    name = f"OTLP ({kind}) to {target}" if kind else type(exporter).__name__
    result = (sending.exception() or sending.result()) if sending.done() else None
    said = " ".join(heard.messages)
    answers = set(re.findall(r"(?:code: (?:StatusCode\.)?|StatusCode\.)(\w+)", said))
    if getattr(result, "name", "") == "SUCCESS" or answers & REACHED:
        return "ok", signal, f"{name}: an empty export was taken"
    why = _named(result) if isinstance(result, BaseException) else said or f"no answer in {SECONDS:g} s"
    return (
        "wrong",
        signal,
        f"{name}: {_mend(signal, kind, endpoint, exporter, answers, why)}",
    )


def _nothing(signal: str) -> Any:
    if signal != "metrics":
        return ()
    from opentelemetry.sdk.metrics.export import MetricsData  # noqa: PLC0415

    return MetricsData(resource_metrics=[])


def _mend(signal: str, kind: str, endpoint: str, exporter: Any, answers: set[str], why: str) -> str:
    """What came back, in words that say how to mend it."""
    encrypted = endpoint.startswith("https") if kind != "grpc" else not getattr(exporter, "_insecure", True)
    spoken = spoken_at(endpoint)
    variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    untaken = " Mend: OTEL_LOGS_EXPORTER=none" if signal == "logs" else ""
    remedies = (
        (
            spoken == "nobody",
            "nothing listens there. Mend: start a Collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        (
            encrypted and spoken in {"http", "grpc"},
            "TLS is tried, and none is spoken there. Mend: http:// in the endpoint",
        ),
        (not encrypted and spoken == "tls", "TLS is spoken there. Mend: https:// in the endpoint"),
        (
            kind == "grpc" and spoken == "http",
            "HTTP is spoken there, not gRPC. Mend: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or the gRPC port (4317)",
        ),
        (
            kind == "http/protobuf" and spoken == "grpc",
            "gRPC is spoken there, not HTTP. Mend: OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or the HTTP port (4318)",
        ),
        (
            "404" in answers,
            (
                f"404, there is no such path. Mend: OTEL_EXPORTER_OTLP_ENDPOINT without a path (/v1/{signal} is "
                f"appended), or {variable} with it (nothing is appended)"
            ),
        ),
        ("UNIMPLEMENTED" in answers, f"the receiver there takes no {signal}.{untaken}"),
        (
            bool(answers & REFUSED),
            "the receiver there asks for another token. Mend: OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20TOKEN",
        ),
    )
    return next((words for applies, words in remedies if applies), why[:300])


def spoken_at(endpoint: str) -> str:
    """What is spoken at an endpoint: nobody, http, grpc, tls, or nothing where that cannot be told."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not parts.hostname or parts.scheme == "unix":
            return ""
        with socket.create_connection((parts.hostname, port), timeout=1) as connection:
            connection.settimeout(1)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n")
            answer = connection.recv(200)
    except (ValueError, TimeoutError):
        return ""
    except ConnectionResetError:
        return "tls"
    except OSError:
        return "nobody"
    if answer.startswith(b"HTTP/1"):
        return "tls" if b"HTTPS" in answer else "http"
    if answer[:1] == b"\x15" or not answer:  # a TLS alert, or a hang-up at once
        return "tls"
    return "grpc" if answer[3:4] == b"\x04" else ""  # a SETTINGS frame of HTTP/2


def _hurry() -> None:
    """Bound the exporters' own patience; a value that cannot be read is left for them to stumble over."""
    for name in ("OTEL_EXPORTER_OTLP_TIMEOUT", *(f"OTEL_EXPORTER_OTLP_{each.upper()}_TIMEOUT" for each in SIGNALS)):
        text = os.environ.get(name)
        with suppress(ValueError):
            if (name == "OTEL_EXPORTER_OTLP_TIMEOUT" and not text) or (text and float(text) > SECONDS):
                os.environ[name] = f"{SECONDS:g}"


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".rstrip(":. ")


def findings(lines: Sequence[str]) -> list[tuple[str, str, str]]:
    """The findings among the lines that the process printed."""
    return [tuple(json.loads(line[len(MARK) :])) for line in lines if line.startswith(MARK)]


if __name__ == "__main__":
    main()
