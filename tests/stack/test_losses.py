"""What is lost is told: a service whose Collector was away for a while, the shipped rules, a real Prometheus."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tests.reliability.harness import Service
from tests.stack.fixtures import eventually, need
from tests.stack.test_alerts import sped_up
from tools.stack.collector import Collector
from tools.stack.prometheus import RULES, Prometheus
from tools.stack.traces import TraceStore


def test_spans_lost_in_an_outage_raise_their_alert(tmp_path: Path) -> None:
    """The Collector dies under load and returns: each request is in Prometheus, each span came or is counted as lost
    there, and VibeVoiceTelemetryDropped fires for the service with what was lost and why. Before the outage it is
    silent.
    """
    need("otelcol-vibevoice", "prometheus")
    rules = tmp_path / "prometheus" / "rules"
    rules.mkdir(parents=True)
    for file in RULES.glob("*.yml"):
        (rules / file.name).write_text(sped_up(file.read_text()))
    with (
        TraceStore(limit=10_000) as store,
        Collector("agent", tmp_path / "agent", store.endpoint) as agent,
        Prometheus(tmp_path / "prometheus", {"agent": [agent.metrics]}, interval="1s") as prometheus,
    ):
        service = Service(
            SimpleNamespace(endpoint=f"http://{agent.http}"),  # type: ignore[arg-type]
            {
                "OTEL_BSP_MAX_QUEUE_SIZE": "128",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
                "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS": "healthz",
            },
        )
        try:

            def total(name: str) -> float:
                return sum(value for _, value in prometheus.query(f'{name}{{service="speaker"}}'))

            def fired() -> list[dict[str, str]]:
                """Labels of the alert, now or before: it ends some time after what it tells of."""
                alert = 'ALERTS{alertname="VibeVoiceTelemetryDropped", alertstate="firing"}'
                return [labels for labels, _ in prometheus.query(f"last_over_time({alert}[1h])")]

            def came() -> int:
                return sum(len({span.span_id for span in store.spans(trace_id)}) for trace_id in store.ids())

            service.speak(20)
            assert eventually(lambda: total("vibevoice_streaming_requests_total") == 20)
            assert not fired()
            agent.process.kill()
            service.speak(400)
            agent.restart()
            service.speak(20)
            assert eventually(lambda: total("vibevoice_streaming_requests_total") == 440), prometheus.process.tail()
            made, lost = 3 * 440, 'vibevoice_telemetry_dropped_total{what="spans", service="speaker"}'

            def accounted() -> int:
                return came() + int(sum(value for _, value in prometheus.query(lost)))

            assert eventually(lambda: accounted() == made), (accounted(), made)
            labels = eventually(fired)
            assert labels
            assert {(each["service_name"], each["what"]) for each in labels} == {("speaker", "spans")}
            assert {each["reason"] for each in labels} <= {"queue_full", "export_failed"}
            reasons = sorted(each["reason"] for each in labels)
            print(f"440 requests, {made} spans, {came()} came, {made - came()} counted as lost; fired for {reasons}")
        finally:
            service.close()
