"""The metrics are the spans: every count and sum on /metrics equals what the exported trace says."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict_openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from vibevoice_otel import semconv

from .conftest import Running, Trace

HISTOGRAMS = {
    "vibevoice_inference_duration_seconds": "vibevoice.diffusion.step",
    "vibevoice_decode_duration_seconds": "vibevoice.decode",
    "vibevoice_prefill_duration_seconds": "vibevoice.prefill",
    "vibevoice_first_audio_latency_seconds": "vibevoice.first_chunk",
    "vibevoice_queue_duration_seconds": "vibevoice.queue",
    "vibevoice_model_load_duration_seconds": "vibevoice.model.load",
    "vibevoice_voice_load_duration_seconds": "vibevoice.voice.load",
    "vibevoice_preprocess_duration_seconds": "vibevoice.preprocess",
}


@pytest.fixture(scope="module")
def measured(start) -> tuple[Running, list[Trace]]:
    """A fresh service after six known requests, and all its traces."""
    running = start(fresh=True)
    for voice, steps, cfg in (("en-Emma_woman", 5, 1.5), ("en-Emma_woman", 3, 2.0), ("de-Spk0_man", 5, 1.5)):
        running.speak(text="A short one.", voice=voice, steps=steps, cfg=cfg)
        running.speak(
            text="A longer one, of more than fifty characters, to be in the range above.",
            voice=voice,
            steps=steps,
            cfg=cfg,
        )
    return running, running.wait_for_traces(6)


@pytest.mark.parametrize("series", HISTOGRAMS)
def test_every_histogram_is_its_spans(measured: tuple[Running, list[Trace]], series: str) -> None:
    """Count and sum of each histogram equal the number and durations of the spans that it comes from."""
    running, traces = measured
    durations = [ms / 1000 for trace in traces for ms in trace.durations(HISTOGRAMS[series])]
    assert running.total(f"{series}_count") == len(durations) > 0
    assert running.total(f"{series}_sum") == pytest.approx(sum(durations), rel=1e-9)


def test_steps_by_voice_index_cfg_and_steps(measured: tuple[Running, list[Trace]]) -> None:
    """Each label set of the step histogram counts the steps that it names."""
    running, traces = measured
    for trace in traces:
        facts = trace.root.attributes
        labels = {
            "voice": str(facts["vibevoice.voice"]),
            "cfg": f"{facts['vibevoice.cfg']:.1f}",
            "steps": str(facts["vibevoice.steps"]),
        }
        same = [
            t for t in traces if all(t.root.attributes[f"vibevoice.{k}"] == facts[f"vibevoice.{k}"] for k in labels)
        ]
        for index in range(int(facts["vibevoice.steps"])):  # type: ignore[call-overload]
            expected = sum(
                s.attributes["vibevoice.step.index"] == index for t in same for s in t.named("vibevoice.diffusion.step")
            )
            assert (
                running.total(
                    "vibevoice_inference_duration_seconds_count", step_index=str(index), clock="host", **labels
                )
                == expected
            )


def test_requests_start_at_zero_for_every_voice_and_status(measured: tuple[Running, list[Trace]]) -> None:
    """A voice's first failure must be an increase, so its series are there before it."""
    running, _ = measured
    samples = running.samples("vibevoice_streaming_requests_total")
    seen = {(dict(key)["voice"], dict(key)["status"]) for key in samples}
    assert len({voice for voice, _ in seen} - {"other"}) == 25
    assert {status for _, status in seen} == {s.value for s in semconv.Status}
    assert sum(samples.values()) == running.total("vibevoice_streaming_requests_total", status="success") == 6


def test_every_series_is_there_before_the_first_request(start) -> None:
    """A fresh process whose first request fails shows an increase from zero, not a new series at one."""
    running = start(fresh=True)
    samples = running.samples("vibevoice_streaming_requests_total")
    assert len({dict(key)["voice"] for key in samples}) == 25
    assert set(samples.values()) == {0.0}


def test_first_audio_parts_add_up(measured: tuple[Running, list[Trace]]) -> None:
    """The stacked parts are the latency."""
    running, _ = measured
    assert running.total("vibevoice_first_audio_part_seconds_sum") == pytest.approx(
        running.total("vibevoice_first_audio_latency_seconds_sum"), rel=1e-9
    )


def test_audio_seconds_and_real_time(measured: tuple[Running, list[Trace]]) -> None:
    """Audio produced and generation time are the traces' own."""
    running, traces = measured
    audio = sum(float(str(t.root.attributes["vibevoice.audio.duration"])) for t in traces)
    busy = sum(t.durations("vibevoice.generate")[0] for t in traces) / 1000
    assert running.total("vibevoice_audio_produced_seconds_total") == pytest.approx(audio, rel=1e-9)
    assert running.total("vibevoice_generate_busy_seconds_total") == pytest.approx(busy, rel=1e-9)
    assert running.total("vibevoice_real_time_factor_count") == len(traces)


def test_the_contract_without_a_gpu(measured: tuple[Running, list[Trace]]) -> None:
    """Every contract series that needs no GPU is there with exactly its labels; those that need one are absent, not
    zero.
    """
    running, _ = measured
    text = running.metrics()
    families = {family.name: family for family in prometheus_text(text)}
    for metric in semconv.METRICS:
        if ".gpu." in metric.name or ".kernel." in metric.name or ".step.memory" in metric.name:
            assert metric.prometheus not in text, f"{metric} needs a GPU"
    for metric in (
        semconv.REQUESTS,
        semconv.FIRST_AUDIO,
        semconv.INFERENCE,
        semconv.ACTIVE,
        semconv.DECODE_DURATION,
        semconv.RTF,
    ):
        samples = families[metric.prometheus.removesuffix("_total")].samples
        names = {k for k in samples[0].labels if not k.startswith("otel_scope")} - {"le"}
        assert names == set(metric.labels), metric


def test_a_strict_parser_accepts_the_page(measured: tuple[Running, list[Trace]]) -> None:
    """Content-negotiated OpenMetrics parses strictly."""
    import urllib.request

    running, _ = measured
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.metrics_port}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        assert "openmetrics" in response.headers["Content-Type"]
        families = list(strict_openmetrics(response.read().decode()))
    names = {family.name for family in families}
    assert "vibevoice_first_audio_latency_seconds" in names
    info = next(f for f in families if f.name == "target")
    assert info.samples[0].labels["service_name"] == "e2e"
