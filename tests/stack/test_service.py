"""The unmodified service under the launcher, through the real Collector into the real Prometheus."""

from __future__ import annotations

import json
import secrets
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.stack.fixtures import eventually
from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from tools.stack.service import Service
from tools.stack.traces import TraceStore
from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.whole import whole

NAME = "end-to-end"
CANARY = "zanzibar quokka rendezvous"
BROKEN, SLOW = "de-Spk0_man", "fr-Spk0_man"
#: What a service without a GPU and without a listener's browser must give; what needs a GPU must be absent, not zero.
PRESENT = (
    semconv.REQUESTS, semconv.FIRST_AUDIO, semconv.INFERENCE, semconv.BUFFER_LENGTH, semconv.ACTIVE,
    semconv.MODEL_LOAD_DURATION,
    semconv.VOICE_LOAD_DURATION, semconv.PREPROCESS_DURATION, semconv.QUEUE_DURATION, semconv.DECODE_DURATION,
    semconv.PREFILL_DURATION,
    semconv.FIRST_AUDIO_PART, semconv.FIRST_AUDIO_SLI, semconv.AUDIO_PRODUCED, semconv.GENERATE_BUSY, semconv.RTF,
    semconv.UNDERRUN,
    semconv.LEADING_SILENCE_SECONDS, semconv.DEFECTIVE_FRAMES, semconv.PROGRESS_AGE, semconv.ERRORS, semconv.BUILD_INFO,
)  # fmt: skip
NEEDS_GPU = (
    *(m for m in semconv.METRICS if semconv.M_DEVICE in m.attributes),
    semconv.MEMORY_INCREASE,
    semconv.MEMORY_DECREASE,
)


@dataclass
class Sent:
    """What the client did, to be compared with what the telemetry says."""

    trace_ids: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    chunks: Counter[str] = field(default_factory=Counter)  # by trace id

    def speak(self, service: Service, voice: str, text: str, cfg: float = 1.5, steps: int = 5) -> None:
        trace_id = secrets.token_hex(16)
        query = urllib.parse.urlencode({"text": text, "voice": voice, "cfg": cfg, "steps": steps})
        headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        with connect(f"ws://{service.address}/stream?{query}", additional_headers=headers, max_size=None) as socket:
            try:
                for message in socket:
                    self.chunks[trace_id] += isinstance(message, bytes)
            except ConnectionClosed:
                pass  # a failed request closes with a code that says so
        self.trace_ids.append(trace_id)
        self.statuses["error" if voice == BROKEN else "success"] += 1


@pytest.fixture(scope="module")
def sent(
    tmp_path_factory: pytest.TempPathFactory, agent: Collector, prometheus: Prometheus, traces: TraceStore
) -> Iterator[Sent]:
    """Nine requests or more of several voices, cfg and steps, two of which fail, answered and scraped."""
    sent = Sent()
    folder: Path = tmp_path_factory.mktemp("service")
    environment = {
        "OTEL_METRIC_EXPORT_INTERVAL": "1500",  # longer than this test's scrape interval, as it must be
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "VIBEVOICE_SERVICE_FAULTS": json.dumps({"corrupt_voices": [BROKEN], "slow_voices": {SLOW: 0.05}}),
    }
    with Service(folder, agent.grpc, environment, NAME) as service:
        for cfg, steps in ((1.5, 5), (2.0, 3), (1.3, 10)):
            for voice in ("en-Carter_man", "en-Emma_woman"):
                sent.speak(service, voice, f"{CANARY}, said once.", cfg, steps)
        sent.speak(
            service, SLOW, f"{CANARY}, said slowly and long enough to be scraped more than once while it is being said."
        )
        for _ in range(2):
            sent.speak(service, BROKEN, CANARY)
        # An exemplar lives for one export: where every scrape that would have read one was late, another request makes
        # the next.
        bucket = f'vibevoice_first_audio_latency_seconds_bucket{{service="{NAME}"}}'
        assert eventually(lambda: prometheus.exemplars(bucket) or sent.speak(service, "en-Carter_man", CANARY), pause=2)
        total = f'sum(vibevoice_streaming_requests_total{{service="{NAME}"}})'
        arrived = eventually(lambda: [value for _, value in prometheus.query(total)] == [float(len(sent.trace_ids))])
        assert arrived, service.process.tail()
        yield sent


def come(traces: TraceStore, trace_id: str) -> list[Span]:
    """The trace once it has come in whole."""
    assert eventually(lambda: whole(traces.traces().get(trace_id, ())))
    return traces.spans(trace_id)


def of_service(metric: semconv.Metric, suffix: str = "") -> str:
    return f'{metric.prometheus}{suffix}{{service="{NAME}"}}'


@pytest.mark.parametrize("metric", PRESENT, ids=lambda metric: metric.prometheus)
def test_every_series_that_needs_no_gpu_is_there(metric: semconv.Metric, prometheus: Prometheus, sent: Sent) -> None:
    """Exact name, exact labels, from an unmodified service; live state was there while a stream was open."""
    name = of_service(metric, "_count" if metric.instrument == "histogram" else "")
    found = prometheus.query(f"max_over_time({name}[5m])")
    assert found
    for labels, _ in found:
        told = labels.keys() - {"__name__", "job", "instance", "service", "environment"}
        assert {*metric.labels} - {each.key.replace(".", "_") for each in metric.when_known} <= told <= {*metric.labels}
        assert (labels["service"], labels["environment"], labels["job"]) == (NAME, "test", NAME)


@pytest.mark.parametrize("metric", NEEDS_GPU, ids=lambda metric: metric.prometheus)
def test_what_needs_a_gpu_is_absent_without_one(metric: semconv.Metric, prometheus: Prometheus, sent: Sent) -> None:
    """No GPU: no series, rather than a zero that looks like an idle card."""
    name = metric.prometheus + ("_count" if metric.instrument == "histogram" else "")
    assert not prometheus.query(f'{name}{{service="{NAME}"}}')


def test_counts_are_the_requests_that_were_sent(prometheus: Prometheus, sent: Sent) -> None:
    """Requests by status, first audios and frames in Prometheus are exactly what the client sent and received."""

    # Whatever a scrape of a busy machine's Collector missed, its next one has.
    def by_status() -> dict[str, float]:
        found = prometheus.query(f"sum by (status) ({of_service(semconv.REQUESTS)})")
        return {labels["status"]: value for labels, value in found if value}

    def first_audios() -> list[float]:
        return [value for _, value in prometheus.query(f"sum({of_service(semconv.FIRST_AUDIO, '_count')})")]

    heard = sum(1 for trace_id in sent.trace_ids if sent.chunks[trace_id])
    eventually(lambda: by_status() == dict(sent.statuses) and first_audios() == [heard])
    assert by_status() == dict(sent.statuses)
    assert first_audios() == [heard]
    for cfg, steps in ((1.5, 5), (2.0, 3), (1.3, 10)):
        look = f'vibevoice_inference_duration_seconds_count{{service="{NAME}", cfg="{cfg}", voice="en-Emma_woman"}}'
        found = eventually(lambda look=look, steps=steps: len(each := prometheus.query(look)) == steps and each)
        assert found
        per_step = {labels["step_index"]: value for labels, value in found}
        assert set(per_step) == {str(index) for index in range(steps)}
        assert len(set(per_step.values())) == 1


def test_an_exemplar_of_first_audio_leads_to_the_request_s_trace(
    prometheus: Prometheus, sent: Sent, traces: TraceStore
) -> None:
    """Prometheus' exemplar names a request that the client sent, whose trace left the Collector whole, with the latency
    of its bucket.
    """
    found = prometheus.exemplars(of_service(semconv.FIRST_AUDIO, "_bucket"))
    assert found
    for exemplar in found:
        trace_id = exemplar["labels"]["trace_id"]
        assert trace_id in sent.trace_ids
        spans = come(traces, trace_id)
        (chunk,) = (span for span in spans if span.name == semconv.FIRST_CHUNK.name)
        assert chunk.span_id.hex() == exemplar["labels"]["span_id"]
        assert (chunk.end_time_unix_nano - chunk.start_time_unix_nano) / 1e9 == pytest.approx(
            float(exemplar["value"]), abs=1e-6
        )
        assert float(exemplar["value"]) <= float(exemplar["seriesLabels"]["le"])


def test_every_request_is_one_whole_trace(sent: Sent, traces: TraceStore) -> None:
    """Each request left the Collector as one trace: SERVER, synthesize, and as many frames as the client got chunks."""
    for trace_id in sent.trace_ids:
        spans = come(traces, trace_id)
        names = Counter(span.name for span in spans)
        assert names[semconv.SYNTHESIZE.name] == 1
        assert sum(1 for span in spans if span.kind == 2) == 1
        assert names[semconv.FRAME.name] == sent.chunks[trace_id]


def test_the_spoken_text_is_nowhere(agent: Collector, prometheus: Prometheus, sent: Sent, traces: TraceStore) -> None:
    """The text is in no span, metric, label or log of the pipeline."""
    everything = (
        b"".join(each.SerializeToString() for each in traces.messages)
        + agent.process.log.read_bytes()
        + prometheus.process.log.read_bytes()
    )
    everything += urlopen(f"http://{agent.metrics}/metrics").read()
    everything += json.dumps(prometheus.get("series", **{"match[]": "{__name__=~'.+'}"})).encode()
    assert len(traces.messages) > 0
    for word in CANARY.split():
        assert word.encode() not in everything
