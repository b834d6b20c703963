"""The shipped agent: names and labels as the contract says, nothing private leaves, nothing accepted is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest

from tests.stack.emitter import Emitter, Meters, Request, metrics_to
from tests.stack.fixtures import eventually, need
from tools.stack.collector import Collector
from tools.stack.prometheus import Prometheus
from tools.stack.traces import TraceStore
from vibevoice_otel import semconv

CANARY = "correct horse battery staple"
FIRST_AUDIO_BUCKETS = f'{semconv.FIRST_AUDIO.prometheus}_bucket{{service="contract"}}'
OWN_LABELS = {"job", "instance", "service", "environment"}


@pytest.fixture
def emitter(agent: Collector) -> Iterator[Emitter]:
    made = Emitter(agent.grpc)
    yield made
    made.close()


@pytest.fixture(scope="module")
def recorded(agent: Collector, prometheus: Prometheus) -> Request:
    """A request whose trace was sent, and one value in every instrument, its exemplar naming that trace, scraped."""
    emitter = Emitter(agent.grpc)
    request = emitter.whole()
    assert emitter.flush()
    emitter.close()
    meters = Meters(metrics_to(agent.grpc), service="contract")
    meters.record(request.root.get_span_context())
    assert meters.flush()

    def scraped() -> bool:
        """Exemplars come before the samples of the same scrape, and both one by one."""
        there = {labels["__name__"] for labels, _ in prometheus.query('{service="contract"}')}
        return {suffixed(metric) for metric in semconv.METRICS} <= there and all(
            prometheus.exemplars(f'{metric.prometheus}_bucket{{service="contract"}}')
            for metric in semconv.METRICS
            if metric.instrument == "histogram"
        )

    # Not closed before the scrape: closing exports once more, and an exemplar lives for one export.
    assert eventually(scraped)
    meters.close()
    return request


def suffixed(metric: semconv.Metric) -> str:
    return metric.prometheus + ("_count" if metric.instrument == "histogram" else "")


@pytest.mark.parametrize("metric", semconv.METRICS, ids=lambda metric: metric.prometheus)
def test_every_instrument_has_its_contracted_name_and_labels(
    metric: semconv.Metric, prometheus: Prometheus, recorded: Request
) -> None:
    """Through Collector and Prometheus a series has exactly the name and labels of semconv.py, its service and its
    environment.
    """
    # Also while a scrape of a busy machine's Collector has just failed.
    found = prometheus.query(f'last_over_time({suffixed(metric)}{{service="contract"}}[5m])')
    assert len(found) == 1
    labels, value = found[0]
    assert labels.keys() == {"__name__", *metric.labels, *OWN_LABELS}
    assert {key: labels[key] for key in metric.labels} == {
        a.key.replace(".", "_"): str(a.examples[0]) for a in metric.attributes
    }
    assert (labels["service"], labels["environment"], labels["job"]) == ("contract", "test", "contract")
    assert value == 1


def test_a_histogram_has_an_edge_at_every_objective(prometheus: Prometheus, recorded: Request) -> None:
    """The share of requests above 0.3, 0.45 and 0.5 s is read, not interpolated."""
    edges = {float(labels["le"]) for labels, _ in prometheus.query(f"last_over_time({FIRST_AUDIO_BUCKETS}[5m])")}
    assert {0.3, semconv.SLO_FIRST_AUDIO_SECONDS, semconv.SLOW_FIRST_AUDIO_SECONDS, float("inf")} <= edges


def test_an_exemplar_leads_to_a_trace_that_left(prometheus: Prometheus, recorded: Request, traces: TraceStore) -> None:
    """The exemplar that Prometheus gives for a bucket names a trace, and a span in it, that reached the trace store."""
    found = prometheus.exemplars(FIRST_AUDIO_BUCKETS)
    assert {each["labels"]["trace_id"] for each in found} == {recorded.trace_id}
    spans = eventually(lambda: traces.spans(recorded.trace_id))
    assert found[0]["labels"]["span_id"] in {span.span_id.hex() for span in spans}


@pytest.mark.parametrize(
    "metric", [each for each in semconv.METRICS if each.instrument == "histogram"], ids=lambda metric: metric.prometheus
)
def test_every_histogram_s_exemplar_arrives(metric: semconv.Metric, prometheus: Prometheus, recorded: Request) -> None:
    """The scrape that carries start times (protobuf) carries the exemplars as well."""
    found = prometheus.exemplars(f'{metric.prometheus}_bucket{{service="contract"}}')
    assert {each["labels"]["trace_id"] for each in found} == {recorded.trace_id}


def test_host_metrics_stand_for_the_node_exporter(prometheus: Prometheus) -> None:
    """CPU, memory, disk, filesystem, network and load of the host are there without a node exporter, with an
    environment.
    """
    names = (
        "system_cpu_time_seconds_total",
        "system_memory_usage_bytes",
        "system_filesystem_usage_bytes",
        "system_cpu_load_average_1m",
    )
    for name in (*names, "system_network_io_bytes_total"):
        found = eventually(lambda name=name: prometheus.query(name))
        assert found, name
        assert all(labels["environment"] for labels, _ in found), name


def test_the_agent_tells_about_itself(prometheus: Prometheus, recorded: Request) -> None:
    """What was accepted, refused, queued and sent is scraped, for the alerts on telemetry loss."""
    for name in (
        "otelcol_receiver_accepted_spans_total",
        "otelcol_receiver_refused_spans_total",
        "otelcol_exporter_sent_spans_total",
        "otelcol_exporter_queue_size",
        "otelcol_exporter_queue_capacity",
    ):
        assert eventually(lambda name=name: prometheus.query(name)), name


def test_the_spoken_text_does_not_pass(tmp_path: Path) -> None:
    """A text that slipped by the service's own guard, in any attribute, event or status, is in nothing that leaves the
    agent.
    """
    need("otelcol-vibevoice")
    with TraceStore() as store, Collector("agent", tmp_path, store.endpoint) as agent:
        store.keeps = True
        emitter, quoted = Emitter(agent.grpc), CANARY.replace(" ", "%20")
        request = emitter.request(
            server={
                "url.query": f"voice=a&text={quoted}&cfg=2",
                "url.full": f"ws://localhost/stream?text={quoted}",
                "http.url": f"ws://localhost/stream?TEXT={CANARY}&voice=a",
                "http.target": f"/stream?text={CANARY} & more {CANARY}",
                "gen_ai.input.messages": CANARY,
                "http.route": "/stream",
            }
        )
        request.root.set_attribute(semconv.TEXT.key, CANARY)
        request.root.set_attribute("context", "kept")
        request.root.record_exception(
            ValueError(f"cannot say /stream?text={CANARY}"), {"exception.stacktrace": f"text={CANARY}"}
        )
        request.frame()
        request.finish(error=f"failed on text={CANARY}")
        assert emitter.flush()
        spans = eventually(lambda: store.spans(request.trace_id))
        left = (
            b"".join(each.SerializeToString() for each in store.messages)
            + agent.process.log.read_bytes()
            + urlopen(f"http://{agent.metrics}/metrics").read()
        )
    for word in (CANARY, quoted, "horse", "staple"):
        assert word.encode() not in left
    by_name = {span.name: {a.key: a.value.string_value for a in span.attributes} for span in spans}
    assert by_name["/stream"]["http.route"] == "/stream"
    assert by_name["/stream"]["url.query"].startswith("voice=a&")
    assert by_name[semconv.SYNTHESIZE.name]["context"] == "kept"


@pytest.mark.parametrize("end", ["kill -9", "restart"])
def test_what_was_accepted_survives_an_outage_and_the_agent_s_end(end: str, tmp_path: Path) -> None:
    """Spans acknowledged while the trace store was away, up to the moment when the agent was killed or stopped, all
    arrive, whole.
    """
    need("otelcol-vibevoice")
    with TraceStore() as store, Collector("agent", tmp_path, store.endpoint) as agent:
        store.refuse = grpc.StatusCode.UNAVAILABLE
        emitter = Emitter(agent.grpc)
        wanted = set()
        for _ in range(3):
            for _ in range(20):
                request = emitter.whole()
                assert emitter.flush()
                wanted.add(request.trace_id)
            time.sleep(0.7)  # into several batches, the last of which is not even formed
        for _ in range(5):
            request = emitter.whole()
            assert emitter.flush()
            wanted.add(request.trace_id)
        if end == "kill -9":
            agent.process.kill()
        else:
            agent.stop()
        store.refuse = None
        agent.restart()

        def arrived() -> dict[str, int]:
            """Each span at least once: what was under way when the agent ended is sent again."""
            return {trace_id: len({span.span_id for span in store.spans(trace_id)}) for trace_id in wanted}

        eventually(lambda: arrived() == dict.fromkeys(wanted, 17))
        assert arrived() == dict.fromkeys(wanted, 17)
        emitter.close()


def test_a_full_queue_refuses_and_counts_instead_of_losing_silently(tmp_path: Path) -> None:
    """Past its stated size the queue says no: its sender and a counter show it, and what was accepted is delivered."""
    need("otelcol-vibevoice")
    small = {"COLLECTOR_QUEUE_BYTES": "1048576"}
    with TraceStore() as store, Collector("agent", tmp_path, store.endpoint, small) as agent:
        store.refuse = grpc.StatusCode.UNAVAILABLE
        emitter = Emitter(agent.grpc, timeout=1)
        accepted, refused = set(), 0
        for _ in range(200):
            request = emitter.whole(frames=20)
            if emitter.flush():
                accepted.add(request.trace_id)
            elif agent.counted("otelcol_exporter_enqueue_failed_spans_total"):  # else it was slow, and said nothing
                refused += 1
                if refused == 3:
                    break
        assert accepted
        assert refused == 3

        store.refuse = None
        eventually(lambda: accepted <= set(store.ids()))
        assert accepted <= set(store.ids())
