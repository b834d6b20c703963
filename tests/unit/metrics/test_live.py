"""Gauges of what is going on now."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from vibevoice_otel import __version__, semconv, wiring
from vibevoice_otel.metrics.live import Backlog, Running, build_info, progress_age
from vibevoice_otel.recording.clock import now
from vibevoice_otel.settings import Settings


def test_the_backlog_of_a_stream_that_ended_is_zero() -> None:
    """From the first stream of a voice on there is a point for it, so that no Collector shows its last backlog for
    minutes.
    """
    recorder = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False))
    recorder.bounds.learn_voices(["en-Ann", "en-Bob"])
    backlog = Backlog(recorder)
    assert list(backlog()) == []
    timeline = recorder.open("work", context=Context())
    timeline.used.voice, timeline.backlog = "en-Ann", lambda: 3
    assert list(backlog()) == [(3, {"voice": "en-Ann"})]
    recorder.release(timeline, "work")
    assert recorder.flush(60.0)
    assert list(backlog()) == [(0, {"voice": "en-Ann"})]
    recorder.shutdown()


def test_the_oldest_progress_is_the_arrival_until_a_frame_is_made() -> None:
    """No stream: 0. A stream without a frame: since it arrived. A stream with frames: since its last one."""
    recorder = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False))
    assert list(progress_age(recorder)) == [(0.0, {})]
    timeline = recorder.open("work", context=Context(), opened=now() - 5_000_000_000)
    timeline.last_progress = timeline.opened
    [(waited, _)] = progress_age(recorder)
    assert 5 <= waited < 60
    timeline.runs[-1].frames.append(now())
    [(waited, _)] = progress_age(recorder)
    assert waited < 5
    recorder.release(timeline, "work")
    recorder.shutdown()


def test_what_runs_is_one_set_of_labels_and_only_what_is_known() -> None:
    """Before a model, a GPU or a version is known there is no label for it; afterwards all stand on one series."""
    recorder = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False))
    assert build_info(recorder, Running("1", list)) == {"version": "1", "adapter": "none"}

    class Model:
        config = SimpleNamespace(_name_or_path="org/model", _commit_hash="abc")

    models = [Model(), Model()]
    for model in models:
        recorder.models.of(model)
    running = Running("1", lambda: ["web", "realtime"], lambda: "1.3", lambda: ["550.54.15"])
    assert build_info(recorder, running) == {
        "version": "1",
        "adapter": "web+realtime",
        "service.version": "1.3",
        "gen_ai.request.model": "org/model",
        "vibevoice.model.revision": "abc",
        "hw.driver_version": "550.54.15",
    }
    assert set(build_info(recorder, running)) == {each.key for each in semconv.BUILD_INFO.attributes}
    recorder.shutdown()


def test_the_resource_tells_the_services_version() -> None:
    """What the operator set as service.version stands on vibevoice.build_info; without it there is no such label."""
    for attributes in ({"service.version": "1.3"}, {}):
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], Resource(attributes), shutdown_on_exit=False)
        with contextlib.ExitStack() as stack:
            wiring.build(Settings(), None, provider, lambda: ["realtime"], stack=stack)
            told = reader.get_metrics_data()
        assert told is not None
        (points,) = [
            metric.data.data_points
            for metric in told.resource_metrics[0].scope_metrics[0].metrics
            if metric.name == semconv.BUILD_INFO.name
        ]
        (point,) = points
        assert point.attributes == {"version": __version__, "adapter": "realtime", **attributes}
