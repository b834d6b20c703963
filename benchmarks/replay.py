"""A model that takes no time: the project's own hooks around functions that do nothing, called in the order a real model calls them.

What remains is the telemetry's own cost, at any pace and for any number of streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from opentelemetry.context import Context

from vibevoice_otel import semconv
from vibevoice_otel.adapters.audio import note_chunk
from vibevoice_otel.adapters.diffusion import hook_scheduler
from vibevoice_otel.adapters.hooks import Hooks
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Asked, Leaf, Timeline, bound, thread, timed

STEPS = 5  # of the realtime server's default
FRAME_SECONDS = 2 / 15  # 7.5 frames a second
CHUNK = np.linspace(-0.5, 0.5, 3200, dtype=np.float32)  # one frame of 24 kHz audio


class Scheduler:
    """Upstream's scheduler as far as hooks go."""

    def set_timesteps(self, steps: int) -> None: ...

    def step(self, model_output: object, timestep: object, sample: object) -> None: ...


class Model:
    """The calls of one frame, in upstream's order. ``hooked`` ones are replaced as the adapters replace them."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.decode: Callable[[], Any] = _nothing
        self.positive: Callable[[], Any] = _nothing
        self.negative: Callable[[], Any] = _nothing
        self.prefill: Callable[[], Any] = _nothing
        self.sample: Callable[[], Any] = _nothing

    @classmethod
    def observed(cls) -> Model:
        """With every hook in place."""
        model = cls()
        own = type("Scheduler", (Scheduler,), {})
        hook_scheduler(Hooks("benchmark", lambda *_: None), own)
        model.scheduler = own()
        model.decode = timed(Leaf.DECODE, _nothing)
        model.positive = timed(Leaf.LM_POSITIVE, _nothing)
        model.negative = timed(Leaf.LM_NEGATIVE, _nothing)
        model.prefill = timed(Leaf.PREFILL, _nothing)
        model.sample = _note_frame
        return model

    def frame(self, steps: int = STEPS) -> None:
        self.sample()
        scheduler = self.scheduler
        scheduler.set_timesteps(steps)
        for index in range(steps):
            scheduler.step(None, index, None)
        self.decode()
        self.positive()
        self.negative()


def _nothing() -> None: ...


def _note_frame() -> None:
    timeline = thread.timeline
    if timeline is not None:
        timeline.frames.append(now())


def open_request(recorder: Recorder, steps: int = STEPS, voice: str = "en-Carter_man", cfg: float = 1.5) -> Timeline:
    """A request that has arrived, been accepted and prepared."""
    timeline = recorder.open("work", context=Context(), asked=Asked(voice=voice, cfg=str(cfg), steps=str(steps), text_length=120))
    used = timeline.used
    used.voice, used.cfg, used.steps, used.model, used.adapter = voice, cfg, steps, "replay", "benchmark"
    timeline.accepted = now()
    timeline.work_start = now()
    timeline.note(semconv.QUEUE, timeline.accepted, timeline.work_start)
    for span in (semconv.MODEL_LOAD, semconv.VOICE_LOAD, semconv.PREPROCESS):
        timeline.note(span, now(), now(), **{semconv.CACHE.key: semconv.Cache.HIT})
    timeline.generate_start = now()
    return timeline


def deliver(timeline: Timeline) -> None:
    """One frame handed over and sent."""
    at = now()
    timeline.puts.append(at)
    timeline.last_progress = at
    note_chunk(timeline, CHUNK)
    sent = now()
    timeline.sends.extend((at, sent, CHUNK.nbytes // 2))
    if timeline.first_send is None:
        timeline.first_send = sent


def close_request(recorder: Recorder, timeline: Timeline) -> None:
    """The audio has ended and the service closes the socket."""
    timeline.generate_end = now()
    timeline.work_end = timeline.service_closed = now()
    timeline.close_code = 1000
    timeline.web_closed = now()
    recorder.release(timeline, "work")


def speak(recorder: Recorder, model: Model, frames: int, steps: int = STEPS) -> None:
    """One whole request on the calling thread, as fast as it goes."""
    timeline = open_request(recorder, steps)
    with bound(timeline):
        model.prefill()
        for _ in range(frames):
            model.frame(steps)
            deliver(timeline)
    close_request(recorder, timeline)
