"""``make tempo-check TEMPO_URL=http://...``: a real Tempo finds the traces that it should by every TraceQL expression
of the dashboards.

It sends requests of its own (services ``tempo-check-*``) and asks for them: with and without
deployment.environment.name, for one voice, several and all, odd characters included, late, failed, rejected. It prints
what it found of what it sent; 0 when nothing is missing and nothing else was found.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode

from dashboards import queries
from tools.grafana.interpolate import Chosen, traceql
from vibevoice_otel import semconv

MS: Final = 1_000_000
ODD: Final = 'it\'s (1+1)/2 [x|y].* {a}^$ "ü" \\ &%#'
VOICES: Final = ("en-Ann", "en-Bob", ODD)
ENVIRONMENTS: Final = (None, "production")
#: How a request ended -> seconds to its first audio.
OUTCOMES: Final[dict[str, float | None]] = {"success": 0.2, "late": 2.5, "error": None, "rejected": None}
SEARCHABLE_S: Final = 90.0
RUN: Final = secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class Sent:
    """One request that was sent."""

    trace_id: str
    environment: str | None
    voice: str
    outcome: str


def service(environment: str | None) -> str:
    return f"tempo-check-{RUN}-{environment or 'none'}"


def send(endpoint: str) -> list[Sent]:
    """A request of each environment, voice and outcome, with a frame and its steps, to OTLP/gRPC at host:port."""
    sent = []
    for environment in ENVIRONMENTS:
        identity = {"service.name": service(environment), "service.instance.id": RUN}
        if environment:
            identity["deployment.environment.name"] = environment
        provider = TracerProvider(resource=Resource(identity), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=10)))
        tracer = provider.get_tracer(semconv.SCOPE)
        for voice in VOICES:
            for outcome, latency in OUTCOMES.items():
                sent.append(Sent(_request(tracer, voice, outcome, latency), environment, voice, outcome))
        if not provider.force_flush():
            raise ConnectionError(f"no OTLP/gRPC receiver at {endpoint} took the spans")
        provider.shutdown()
    return sent


def _request(tracer: trace.Tracer, voice: str, outcome: str, latency: float | None) -> str:
    start = time.time_ns() - 5_000 * MS
    failed = outcome in {"error", "rejected"}
    attributes: dict[str, Any] = {
        semconv.VOICE.key: voice,
        semconv.STATUS.key: "success" if outcome == "late" else outcome,
    }
    if latency is not None:
        attributes |= {semconv.FIRST_AUDIO_LATENCY.key: latency, semconv.CFG.key: 1.5, semconv.STEPS.key: 3}
    root = tracer.start_span(semconv.SYNTHESIZE.name, start_time=start, attributes=attributes)
    if failed:
        root.set_attribute(semconv.ERROR_TYPE.key, "busy")
        root.set_status(Status(StatusCode.ERROR, "busy"))
    if latency is not None:
        inside = trace.set_span_in_context(root)
        frame = tracer.start_span(semconv.FRAME.name, inside, start_time=start, attributes={semconv.FRAME_INDEX.key: 0})
        for index in range(3):
            step = tracer.start_span(
                semconv.STEP.name,
                trace.set_span_in_context(frame),
                start_time=start + index * 10 * MS,
                attributes={semconv.STEP_INDEX.key: index},
            )
            step.end(start + (index * 10 + index + 1) * MS)
        frame.end(start + 100 * MS)
    root.end(start + 3_000 * MS)
    return format(root.get_span_context().trace_id, "032x")


def found(url: str, expression: str) -> dict[str, list[dict[str, Any]]]:
    """Trace id -> spans that Tempo's search gives. Raises urllib.error.HTTPError for an expression that Tempo
    refuses.
    """
    now = int(time.time())
    window = {"q": expression, "limit": "200", "spss": "100", "start": str(now - 1800), "end": str(now + 60)}
    with urllib.request.urlopen(f"{url}/api/search?{urllib.parse.urlencode(window)}", timeout=30) as answer:
        traces = json.load(answer).get("traces") or []
    return {
        each["traceID"].rjust(32, "0"): [span for spans in each.get("spanSets", ()) for span in spans["spans"]]
        for each in traces
    }


CHOICES: Final[dict[str, Chosen]] = {
    "all": {},
    "one voice": {"voice": VOICES[:1]},
    "two voices": {"voice": VOICES[:2]},
    "an odd voice": {"voice": (ODD,)},
    "an odd voice and another": {"voice": (ODD, VOICES[0])},
    "one environment": {"environment": ("production",)},
}
EXPRESSIONS: Final = {
    "Requests": (queries.TRACES, frozenset(OUTCOMES)),
    "Late requests": (queries.SLOW_TRACES, frozenset({"late"})),
    "Failed requests": (queries.FAILED_TRACES, frozenset({"error", "rejected"})),
}


def cases(sent: list[Sent]) -> Iterator[tuple[str, str, set[str]]]:
    """What is asked, the expression, and the traces that it should find."""
    for environment in ENVIRONMENTS:
        for choice, variables in CHOICES.items():
            chosen: dict[str, Any] = {**variables, "service": (service(environment),), "instance": (RUN,)}
            # A service that names no environment is found under each.
            for title, (expression, outcomes) in EXPRESSIONS.items():
                wanted = {
                    each.trace_id
                    for each in sent
                    if each.environment == environment
                    and each.outcome in outcomes
                    and (variables.get("voice") is None or each.voice in (variables["voice"] or ()))
                }
                asked = f"{title}, {choice}, environment {environment or 'not named'}"
                yield asked, traceql(expression, chosen), wanted


def main() -> int:
    """Send, ask, print; 1 when anything is missing or too much, 2 without a Tempo."""
    url = os.environ.get("TEMPO_URL", "").rstrip("/")
    if not url:
        sys.stderr.write(
            "TEMPO_URL= must name a Tempo, as http://localhost:3200 (its OTLP in TEMPO_OTLP, by default port 4317)\n"
        )
        return 2
    endpoint = os.environ.get("TEMPO_OTLP") or f"{urllib.parse.urlsplit(url).hostname}:4317"
    sent = send(endpoint)
    everything = traceql(queries.TRACES, {"instance": (RUN,)})
    deadline = time.monotonic() + SEARCHABLE_S
    while len(found(url, everything)) < len(sent) and time.monotonic() < deadline:
        time.sleep(1)
    wrong = 0
    for asked, expression, wanted in cases(sent):
        try:
            got = set(found(url, expression))
        except urllib.error.HTTPError as error:
            print(f"REFUSED  {asked}: {error.read().decode()[:200]}\n         {expression}")
            wrong += 1
            continue
        wrong += got != wanted
        print(
            f"{'ok     ' if got == wanted else 'WRONG  '}  {asked}: {len(got & wanted)} of {len(wanted)}, "
            f"{len(got - wanted)} others"
        )
    late = next(each for each in sent if each.outcome == "late")
    steps = found(url, traceql(queries.STEPS_OF_TRACE, {"trace": (late.trace_id,)})).get(late.trace_id, [])
    wrong += len(steps) != 3
    slowest = max((int(step["durationNanos"]) / MS for step in steps), default=0)
    print(
        f"{'ok     ' if len(steps) == 3 else 'WRONG  '}  Diffusion steps of a trace: {len(steps)} of 3, the slowest "
        f"{slowest:g} ms"
    )
    print(f"{len(sent)} requests sent; {wrong} expressions wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
