"""Gauges of what is going on now."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from vibevoice_otel import wiring
from vibevoice_otel.metrics.live import Backlog, progress_age
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
    assert recorder.flush()
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
