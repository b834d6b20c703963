"""What one writes first: every operation a start_as_current_span around it, every duration a Histogram.record. The same
spans as ours.
"""

from __future__ import annotations

import time
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider

from benchmarks.replay import STEPS, WINDOW, Model
from vibevoice_otel import semconv


class Naive:
    """Speaks as benchmarks.replay.speak does, with a span around everything."""

    def __init__(self, tracer_provider: trace.TracerProvider, meter_provider: MeterProvider) -> None:
        self._tracer = tracer_provider.get_tracer("naive", "0", None)
        meter = meter_provider.get_meter("naive")
        self._histograms: dict[str, Any] = {
            metric.name: meter.create_histogram(
                metric.name, metric.unit, metric.brief, explicit_bucket_boundaries_advisory=list(metric.buckets)
            )
            for metric in semconv.METRICS
            if metric.instrument == "histogram"
        }
        self._counter = meter.create_counter(semconv.REQUESTS.name)
        self._model = Model()

    def step(self, scheduler: Any, index: int, shared: dict[str, str]) -> None:
        """One diffusion step, observed: what the hot path benchmark compares."""
        started = time.perf_counter()
        with self._tracer.start_as_current_span(semconv.STEP.name, attributes={semconv.STEP_INDEX.key: index}):
            scheduler.step(None, index, None)
            self._histograms[semconv.INFERENCE.name].record(
                time.perf_counter() - started, {**shared, "step_index": str(index)}
            )

    def speak(self, frames: int, steps: int = STEPS) -> None:
        tracer, model, record = self._tracer, self._model, self._histograms
        shared = {"voice": "en-Carter_man", "cfg": "1.5", "steps": str(steps), "clock": "host"}
        voice = {"voice": "en-Carter_man"}
        opened = time.perf_counter()
        attributes = {
            semconv.VOICE.key: "en-Carter_man",
            semconv.CFG.key: 1.5,
            semconv.STEPS.key: steps,
            semconv.TEXT_LENGTH.key: 120,
        }
        with tracer.start_as_current_span(semconv.SYNTHESIZE.name, context=Context(), attributes=attributes) as root:
            for span, metric in (
                (semconv.QUEUE, semconv.QUEUE_DURATION),
                (semconv.MODEL_LOAD, semconv.MODEL_LOAD_DURATION),
                (semconv.VOICE_LOAD, semconv.VOICE_LOAD_DURATION),
                (semconv.PREPROCESS, semconv.PREPROCESS_DURATION),
            ):
                started = time.perf_counter()
                with tracer.start_as_current_span(span.name, attributes={semconv.CACHE.key: "hit"}):
                    record[metric.name].record(time.perf_counter() - started, {**voice, "cache": "hit"})
            with tracer.start_as_current_span(semconv.GENERATE.name):
                model.begin()
                for number in range(frames):
                    if number % WINDOW == 0:
                        started = time.perf_counter()
                        with tracer.start_as_current_span(
                            semconv.PREFILL.name, attributes={semconv.WINDOW_INDEX.key: number // WINDOW}
                        ):
                            model.window()
                            record[semconv.PREFILL_DURATION.name].record(
                                time.perf_counter() - started, {**voice, "clock": "host"}
                            )
                    with tracer.start_as_current_span(
                        semconv.FRAME.name, attributes={semconv.FRAME_INDEX.key: number, semconv.FRAME_STEPS.key: steps}
                    ):
                        model.scheduler.set_timesteps(steps)
                        for index in range(steps):
                            self.step(model.scheduler, index, shared)
                        started = time.perf_counter()
                        with tracer.start_as_current_span(semconv.DECODE.name):
                            chunk = model.tokenizer.decode(None)
                            record[semconv.DECODE_DURATION.name].record(
                                time.perf_counter() - started, {**voice, "clock": "host"}
                            )
                        model.streamer.put(chunk, 0)
                        with tracer.start_as_current_span(semconv.CONNECTOR.name):
                            model.connector.forward(None)
                        for branch in ("positive", "negative"):
                            with tracer.start_as_current_span(
                                semconv.LM_FORWARD.name, attributes={semconv.LM_BRANCH.key: branch}
                            ):
                                model.passes()
                    chunk = model.chunk()
                    float(chunk.min()), float(chunk.max())
                    if number == 0:
                        record[semconv.FIRST_AUDIO.name].record(
                            time.perf_counter() - opened, {**voice, "text_length_range": "medium"}
                        )
            root.set_attributes(
                {semconv.STATUS.key: "success", semconv.FRAMES.key: frames, semconv.AUDIO_DURATION.key: frames / 7.5}
            )
        self._counter.add(1, {**voice, "status": "success"})
