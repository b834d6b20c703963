"""``vibevoice-otel probe``: a synthetic request every minute against any service, so that alerts see when nobody
speaks.

It measures from outside, so it also sees what the service cannot say: that it is gone. W3C baggage marks its requests
(``vibevoice.synthetic=true``); the service puts them in traces and in no series, so that they are in no objective. Put
``opentelemetry-instrument`` before the command and it exports ``vibevoice_probe_*`` and a CLIENT span, the parent of
the service's trace.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from types import FrameType
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import SpanKind, StatusCode

from vibevoice_otel import __version__, semconv
from vibevoice_otel.recording.outcome import of_close
from vibevoice_otel.recording.playback import Playback
from vibevoice_otel.semconv import ErrorType, Status

TEXT = "This is a check."
SYNTHETIC_BAGGAGE = "vibevoice.synthetic=true"
BYTES_PER_SECOND = 2 * semconv.SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended for its client. Times in seconds; ``first_audio`` is None when none came."""

    status: Status
    first_audio: float | None = None
    audio_seconds: float = 0.0
    close_code: int | None = None
    error_type: str | None = None
    worst_gap: float | None = None  # the longest silence that this client heard, playing at once

    def __str__(self) -> str:
        heard = (
            f"first audio after {self.first_audio:.3f} s, {self.audio_seconds:.1f} s of audio, worst gap "
            f"{self.worst_gap or 0:.3f} s"
            if self.first_audio is not None
            else "no audio"
        )
        return f"{self.status}: {heard}" + (f" ({self.error_type})" if self.error_type else "")


class Probe:
    """Speaks to one service and records what came of it.

    Args:
        url: ws:// or wss:// address of its stream, with any query parameters that it needs.
        text: what to say; the same each time, so that runs compare.
        timeout: seconds after which a request has failed.
        headers: sent with each request, for a service that asks for a token.
        baggage: members of W3C baggage that mark its requests.
        tracer_provider, meter_provider: the global ones by default.
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
    ) -> None:
        self._baggage = baggage
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._voice = query.get("voice")
        self._url = urlunsplit(parts._replace(query=urlencode({**query, "text": text})))
        self._timeout = timeout
        self._headers = headers or {}
        self._target = {semconv.M_TARGET.key: parts.netloc.rpartition("@")[2]}
        self._tracer = trace.get_tracer(semconv.SCOPE, __version__, tracer_provider, semconv.SCHEMA_URL)
        meter = metrics.get_meter(semconv.SCOPE, __version__, meter_provider, semconv.SCHEMA_URL)
        requests, latency = semconv.PROBE_REQUESTS, semconv.PROBE_FIRST_AUDIO
        self._requests = meter.create_counter(requests.name, requests.unit, requests.brief)
        self._latency = meter.create_histogram(
            latency.name, latency.unit, latency.brief, explicit_bucket_boundaries_advisory=latency.buckets
        )
        gap = semconv.PROBE_GAP
        self._gap = meter.create_histogram(
            gap.name, gap.unit, gap.brief, explicit_bucket_boundaries_advisory=gap.buckets
        )
        for status in Status:  # else increase() misses the first failure
            self._requests.add(0, {**self._target, semconv.M_STATUS.key: status.value})

    def once(self) -> Outcome:
        """One request; never raises for what the service or the network does."""
        with self._tracer.start_as_current_span(semconv.PROBE.name, kind=SpanKind.CLIENT) as span:
            played = Playback()
            outcome = self._speak(played)
            outcome = replace(outcome, worst_gap=played.worst_gap if played.started else None)
            self._annotate(span, outcome)
            self._requests.add(1, {**self._target, semconv.M_STATUS.key: outcome.status.value})
            if outcome.first_audio is not None:
                self._latency.record(outcome.first_audio, self._target)
            if outcome.worst_gap is not None:
                self._gap.record(outcome.worst_gap, self._target)
        return outcome

    def _speak(self, played: Playback) -> Outcome:
        import websockets  # noqa: PLC0415 - belongs to the service extra
        from websockets.sync.client import connect  # noqa: PLC0415

        headers = dict(self._headers)
        propagate.inject(headers)
        headers["baggage"] = ",".join(filter(None, [headers.get("baggage"), *self._baggage]))
        first, received, began = None, 0, time.perf_counter()
        try:
            with connect(self._url, additional_headers=headers, open_timeout=self._timeout, max_size=None) as socket:
                try:
                    while True:
                        message = socket.recv(max(0.0, began + self._timeout - time.perf_counter()))
                        if isinstance(message, bytes) and message:
                            first = first if first is not None else time.perf_counter() - began
                            received += len(message)
                            at = time.perf_counter_ns()
                            played.play((at, at, len(message)))
                except websockets.ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else None
        except TimeoutError:
            return Outcome(Status.TIMEOUT, first, received / BYTES_PER_SECOND, None, "TimeoutError")
        except (OSError, websockets.WebSocketException) as failure:
            return Outcome(Status.ERROR, first, received / BYTES_PER_SECOND, None, type(failure).__name__)
        return Outcome(*_judge(first, received, code))

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


def _judge(
    first: float | None, received: int, code: int | None
) -> tuple[Status, float | None, float, int | None, str | None]:
    """The fields of an Outcome whose socket was closed with ``code`` (None: it broke)."""
    seconds = received / BYTES_PER_SECOND
    status, error_type = (Status.ERROR, ErrorType.CLIENT_DISCONNECT) if code is None else of_close(code)
    if status is not Status.SUCCESS:
        return status, first, seconds, code, error_type
    if first is None:
        return Status.ERROR, first, seconds, code, ErrorType.NO_AUDIO
    return Status.SUCCESS, first, seconds, code, None


def url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no ws:// or wss:// address (for example ws://localhost:8000/stream)"
        )
    return text if parts.path else urlunsplit(parts._replace(path="/stream"))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 1 <= value <= 86_400):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: allowed are 1 to 86400 seconds")
    return value


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("a header is NAME: VALUE (for example 'Authorization: Bearer TOKEN')")
    return name.strip(), value.strip()


def main(argv: list[str] | None = None) -> int:
    """Probe until told to stop, or once; with --once 0 when audio came, else 1."""
    parser = argparse.ArgumentParser(
        prog="vibevoice-otel probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "url", type=url, help="the service's stream, ws://host:port/stream, with any parameters (?voice=en-Carter_man)"
    )
    parser.add_argument("--every", type=_seconds, default=60.0, metavar="SECONDS", help="how often (60)")
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="SECONDS", help="when a request has failed (30)"
    )
    parser.add_argument("--text", default=TEXT, help=f"what to say ({TEXT!r})")
    parser.add_argument(
        "--header",
        type=header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent along; may be repeated",
    )
    parser.add_argument("--once", action="store_true", help="one request; the exit code says whether audio came")
    chosen = parser.parse_args(argv)
    try:
        import websockets  # noqa: F401, PLC0415 - only to say at once what is missing
    except ModuleNotFoundError:
        print("error: the probe needs websockets: pip install 'vibevoice-otel[service]'", file=sys.stderr)
        return 2
    probe = Probe(chosen.url, chosen.text, chosen.timeout, dict(chosen.header))
    if chosen.once:
        outcome = probe.once()
        print(outcome)
        return 0 if outcome.status is Status.SUCCESS else 1
    return _run(probe, chosen.every)


def _run(probe: Probe, every: float) -> int:
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        print("note: nothing is exported: put opentelemetry-instrument before the command", file=sys.stderr)
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    due = time.monotonic()
    while not stopped.is_set():
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), probe.once(), flush=True)
        due = max(due + every, time.monotonic())  # a slow request delays the next one, it does not pile up
        stopped.wait(due - time.monotonic())
    return 0
