"""Gauges of what is going on now, read from the open timelines at each collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vibevoice_otel import semconv
from vibevoice_otel.metrics.instruments import Attributes, Instruments
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Timeline


def voice_of(recorder: Recorder, timeline: Timeline) -> str:
    return recorder.bounds.voice(timeline.used.voice or timeline.asked.voice)


def active(recorder: Recorder) -> Iterable[tuple[float, Attributes]]:
    """Open requests by voice; zero for every voice that has none, else the Collector goes on showing its last number
    for minutes.
    """
    counts = dict.fromkeys((*recorder.bounds.voices, semconv.OTHER), 0)
    for timeline in recorder.timelines:
        if not timeline.parts:
            continue  # it has ended, and waits for the recorder
        voice = voice_of(recorder, timeline)
        counts[voice] = counts.get(voice, 0) + 1
    return [(count, {"voice": voice}) for voice, count in counts.items()]


class Backlog:
    """The largest audio backlog among each voice's open streams, in chunks; zero for a voice whose streams have all
    ended.

    Without that zero a Collector shows the last backlog for minutes after the stream.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._voices: set[str] = set()  # that have had a stream with an audio queue; bounded as the label is

    def __call__(self) -> Iterable[tuple[float, Attributes]]:
        largest = dict.fromkeys(self._voices, 0)
        for timeline in self._recorder.timelines:
            if timeline.backlog is not None:
                voice = voice_of(self._recorder, timeline)
                largest[voice] = max(largest.get(voice, 0), timeline.backlog())
        self._voices.update(largest)
        return [(chunks, {"voice": voice}) for voice, chunks in largest.items()]


def progress_age(recorder: Recorder) -> Iterable[tuple[float, Attributes]]:
    """Seconds since the least recent open stream made a frame (or arrived); 0 when none is open."""
    at = now()
    latest = [max([t.last_progress, *(run.frames[-1] for run in t.runs if run.frames)]) for t in recorder.timelines]
    return [((at - min(latest, default=at)) / 1e9, {})]


@dataclass(frozen=True, slots=True)
class Running:
    """What tells what this process runs, each asked at every collection; what it does not tell is no label.

    Args:
        version: of this package.
        adapters: names those whose code has been seen.
        service_version: the resource's.
        drivers: versions of the drivers of the cards in use.
    """

    version: str
    adapters: Callable[[], Iterable[str]]
    service_version: Callable[[], str | None] = lambda: None
    drivers: Callable[[], Iterable[str]] = tuple


def build_info(recorder: Recorder, running: Running) -> dict[str, str]:
    """The labels of ``vibevoice.build_info``: one set, whatever runs, so that an instance has one series."""
    models = recorder.models.there()
    told: dict[semconv.Attribute, list[str | None]] = {
        semconv.M_SERVICE_VERSION: [running.service_version()],
        semconv.GEN_AI_MODEL: [each.name for each in models],
        semconv.MODEL_REVISION: [each.revision for each in models],
        semconv.M_DRIVER_VERSION: list(running.drivers()),
    }
    known = {label.key: "+".join(dict.fromkeys(value for value in values if value)) for label, values in told.items()}
    return {
        semconv.M_VERSION.key: running.version,
        semconv.M_ADAPTER.key: "+".join(running.adapters()) or "none",
        **{key: value for key, value in known.items() if value},
    }


def register(instruments: Instruments, recorder: Recorder, running: Running) -> None:
    """Register the gauges that read live state."""
    instruments.observe(semconv.ACTIVE, lambda: active(recorder))
    instruments.observe(semconv.BUFFER_LENGTH, Backlog(recorder))
    instruments.observe(semconv.SERIES, lambda: [(instruments.limits.series[0], {})])
    instruments.observe(semconv.SERIES_LIMIT, lambda: [(instruments.limits.series[1], {})])
    instruments.observe(semconv.PROGRESS_AGE, lambda: progress_age(recorder))
    instruments.observe(semconv.BUILD_INFO, lambda: [(1, build_info(recorder, running))])
