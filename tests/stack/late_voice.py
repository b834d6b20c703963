"""``python -m tests.stack.late_voice WAY ADDRESS``: a process that is an hour old and hears of a voice for the first
time now.

WAY is ``collector`` (OTLP/gRPC to host:port), ``otlp`` (OTLP/HTTP to a URL) or ``direct`` (a page for Prometheus on
host:port). One request of voice ``early`` was counted an hour ago by the process' clock, one of voice ``late`` now. It
exports once, and again for each line of its standard input, until that ends: an exemplar is on a Collector's page until
the next export alone.
"""

from __future__ import annotations

import sys
import time

_ago = -3600 * 10**9
_now = time.time_ns
time.time_ns = lambda: _now() + _ago  # before the SDK is imported: it reads this clock for the start of every series

from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader  # noqa: E402
from opentelemetry.sdk.resources import Resource  # noqa: E402

from vibevoice_otel import semconv  # noqa: E402
from vibevoice_otel.metrics.instruments import Instruments, Limits  # noqa: E402

TRACE_ID, SPAN_ID = 0xABCDEF, 0x123456
NEVER = 3_600_000  # milliseconds until it exports by itself


def reader(way: str, address: str) -> MetricReader:
    """What carries the series that way."""
    if way == "direct":
        import prometheus_client
        from opentelemetry.exporter.prometheus import PrometheusMetricReader

        host, _, port = address.partition(":")
        prometheus_client.start_http_server(int(port), host)
        return PrometheusMetricReader()
    if way == "otlp":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Http

        return PeriodicExportingMetricReader(Http(endpoint=address), export_interval_millis=NEVER)
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    return PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=address, insecure=True), export_interval_millis=NEVER
    )


def request(instruments: Instruments, voice: str) -> None:
    """One request as the service counts it, with an exemplar."""
    known = {"voice": voice, "cfg": "1.5", "steps": "5"}
    instruments.add(semconv.REQUESTS, 1, {**known, "status": "success"})
    instruments.record(semconv.FIRST_AUDIO, 0.3, {**known, "text_length_range": "short"}, (TRACE_ID, SPAN_ID))


def main(way: str, address: str) -> None:
    global _ago  # noqa: PLW0603 - the clock above
    made = reader(way, address)
    identity = {"service.name": "late", "service.instance.id": "late", "deployment.environment.name": "test"}
    provider = MeterProvider([made], resource=Resource(identity))
    instruments = Instruments(provider, "0", Limits(100, 10_000))
    request(instruments, "early")
    _ago = 0
    request(instruments, "late")
    # An export in the very millisecond of a series' start, which no service makes, leaves no room for the zero.
    time.sleep(1)
    provider.force_flush()
    for _ in sys.stdin:
        provider.force_flush()
    provider.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
