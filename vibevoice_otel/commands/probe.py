"""``vibevoice-otel probe``: a synthetic request every minute against any service, so that alerts see when nobody
speaks.

It measures from outside, so it also sees what the service cannot say: that it is gone. W3C baggage marks its requests
(``vibevoice.synthetic=true``); the service puts them in traces and in no series, so that they are in no objective. Put
``opentelemetry-instrument`` before the command and it exports ``vibevoice_probe_*`` and a CLIENT span, the parent of
the service's trace. Over a WebSocket or by HTTP, as the address says.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import SpanKind, StatusCode

from vibevoice_otel import __version__, semconv
from vibevoice_otel.commands import clients
from vibevoice_otel.commands.clients import Client, Outcome
from vibevoice_otel.semconv import Status

TEXT = "This is a check."
SYNTHETIC_BAGGAGE = "vibevoice.synthetic=true"


class Probe:
    """Speaks to one service and records what came of it.

    Args:
        url: address of its stream: ws:// or wss:// with any query parameters that it needs, http:// or https://.
        text: what to say; the same each time, so that runs compare.
        timeout: seconds after which a request has failed.
        headers: sent with each request, for a service that asks for a token.
        tracer_provider, meter_provider: the global ones by default.
        baggage: members of W3C baggage that mark its requests.
        voice: asked for; None leaves the choice to the address, or to the service.
        client: asks at ``url``; by default as the scheme has it.
    """

    def __init__(
        self,
        url: str,
        text: str = TEXT,
        timeout: float = 30.0,
        headers: dict[str, str] | None = None,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        baggage: tuple[str, ...] = (SYNTHETIC_BAGGAGE,),
        voice: str | None = None,
        client: Client | None = None,
    ) -> None:
        self._baggage = baggage
        parts = urlsplit(url)
        self._asked = voice
        self._voice = voice or parse_qs(parts.query).get("voice", [None])[-1]
        self._text = text
        self._client = client or clients.client(url)
        self._timeout = timeout
        self._headers = headers or {}
        self._target = {semconv.M_TARGET.key: parts.netloc.rpartition("@")[2]}
        self._tracer = trace.get_tracer(semconv.SCOPE, __version__, tracer_provider, semconv.SCHEMA_URL)
        meter = metrics.get_meter(semconv.SCOPE, __version__, meter_provider, semconv.SCHEMA_URL)
        requests = semconv.PROBE_REQUESTS
        self._requests = meter.create_counter(requests.name, requests.unit, requests.brief)
        self._latency, self._gap = (
            meter.create_histogram(each.name, each.unit, each.brief, explicit_bucket_boundaries_advisory=each.buckets)
            for each in (semconv.PROBE_FIRST_AUDIO, semconv.PROBE_GAP)
        )
        for status in Status:  # else increase() misses the first failure
            self._requests.add(0, {**self._target, semconv.M_STATUS.key: status.value})

    def once(self) -> Outcome:
        """One request; never raises for what the service or the network does."""
        with self._tracer.start_as_current_span(semconv.PROBE.name, kind=SpanKind.CLIENT) as span:
            headers = dict(self._headers)
            propagate.inject(headers)
            headers["baggage"] = ",".join(filter(None, [headers.get("baggage"), *self._baggage]))
            outcome = asyncio.run(clients.speak(self._client, self._text, self._asked, headers, self._timeout))
            self._annotate(span, outcome)
            self._requests.add(1, {**self._target, semconv.M_STATUS.key: outcome.status.value})
            if outcome.first_audio is not None:
                self._latency.record(outcome.first_audio, self._target)
            if outcome.worst_gap is not None:
                self._gap.record(outcome.worst_gap, self._target)
        return outcome

    def _annotate(self, span: trace.Span, outcome: Outcome) -> None:
        values = {
            semconv.VOICE_REQUESTED: self._voice,
            semconv.STATUS: outcome.status.value,
            semconv.ERROR_TYPE: outcome.error_type,
            semconv.FIRST_AUDIO_LATENCY: outcome.first_audio,
            semconv.AUDIO_DURATION: outcome.audio_seconds,
            semconv.WORST_GAP: outcome.worst_gap,
            semconv.CLOSE_CODE: outcome.close_code,
            semconv.SYNTHETIC: True,
        }
        span.set_attributes({attribute.key: value for attribute, value in values.items() if value is not None})
        if outcome.status is not Status.SUCCESS:
            span.set_status(StatusCode.ERROR, outcome.error_type)


def main(argv: list[str] | None = None) -> int:
    """Probe until told to stop, or once; with --once 0 when audio came, else 1."""
    parser = argparse.ArgumentParser(
        prog="vibevoice-otel probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    clients.add_options(parser)
    parser.add_argument("--voice", help="the voice to ask for")
    parser.add_argument(
        "--every", type=clients.seconds(1, 86_400), default=60.0, metavar="SECONDS", help="how often (60)"
    )
    parser.add_argument(
        "--timeout",
        type=clients.seconds(1, 86_400),
        default=30.0,
        metavar="SECONDS",
        help="when a request has failed (30)",
    )
    parser.add_argument("--text", default=TEXT, help=f"what to say ({TEXT!r})")
    parser.add_argument("--once", action="store_true", help="one request; the exit code says whether audio came")
    chosen = parser.parse_args(argv)
    try:
        import h11  # noqa: F401, PLC0415 - only to say at once what is missing
        import websockets  # noqa: F401, PLC0415
    except ModuleNotFoundError as missing:
        print(f"error: the probe needs {missing.name}: pip install 'vibevoice-otel[service]'", file=sys.stderr)
        return 2
    probe = Probe(
        chosen.url, chosen.text, chosen.timeout, dict(chosen.header), voice=chosen.voice,
        client=clients.chosen_client(chosen),
    )  # fmt: skip
    if chosen.once:
        outcome = probe.once()
        print(outcome)
        return 0 if outcome.status is Status.SUCCESS else 1
    return _run(probe, chosen.every)


def _run(probe: Probe, every: float) -> int:
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        print("note: nothing is exported: put opentelemetry-instrument before the command", file=sys.stderr)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    due = time.monotonic()
    while not stopped.is_set():
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), probe.once(), flush=True)
        due = max(due + every, time.monotonic())  # a slow request delays the next one, it does not pile up
        stopped.wait(due - time.monotonic())
    return 0
