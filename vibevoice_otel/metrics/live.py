"""Gauges of what is going on now, read from the open timelines at each collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vibevoice_otel import semconv
from vibevoice_otel.metrics.instruments import Attributes, Instruments
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Timeline


def voice_of(recorder: Recorder, timeline: Timeline) -> str:
    return recorder.bounds.voice(timeline.used.voice or timeline.asked.voice)


def active(recorder: Recorder) -> Iterable[tuple[float, Attributes]]:
    """Open requests by voice; zero for every voice that has none, else the Collector goes on showing its last number for minutes."""
    counts = dict.fromkeys((*recorder.bounds.voices, semconv.OTHER), 0)
    for timeline in recorder.timelines:
        if not timeline.parts:
            continue  # it has ended, and waits for the recorder
        voice = voice_of(recorder, timeline)
        counts[voice] = counts.get(voice, 0) + 1
    return [(count, {"voice": voice}) for voice, count in counts.items()]


def backlog(recorder: Recorder) -> Iterable[tuple[float, Attributes]]:
    """The largest audio backlog among each voice's open streams, in chunks; no point for a voice with none open."""
    largest: dict[str, int] = {}
    for timeline in recorder.timelines:
        if timeline.backlog is not None:
            voice = voice_of(recorder, timeline)
            largest[voice] = max(largest.get(voice, 0), timeline.backlog())
    return [(chunks, {"voice": voice}) for voice, chunks in largest.items()]


def progress_age(recorder: Recorder) -> Iterable[tuple[float, Attributes]]:
    """Seconds since the least recent open stream made a frame (or arrived); 0 when none is open."""
    at = now()
    ages = [
        (at - max(t.last_progress, *(run.frames[-1] for run in t.runs if run.frames))) / 1e9 for t in recorder.timelines
    ]
    return [(max(ages, default=0.0), {})]


def register(instruments: Instruments, recorder: Recorder, version: str, adapters: Callable[[], Iterable[str]]) -> None:
    """Register the gauges that read live state; ``adapters`` names those whose code has been seen."""
    instruments.observe(semconv.ACTIVE, lambda: active(recorder))
    instruments.observe(semconv.BUFFER_LENGTH, lambda: backlog(recorder))
    instruments.observe(semconv.PROGRESS_AGE, lambda: progress_age(recorder))
    instruments.observe(
        semconv.BUILD_INFO, lambda: [(1, {"version": version, "adapter": "+".join(adapters()) or "none"})]
    )
