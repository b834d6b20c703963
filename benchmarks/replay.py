"""A model that takes no time: the adapters' own hooks around functions that do nothing, called as upstream's realtime
model calls them.

What remains is the telemetry's own cost, at any pace and for any number of streams.
"""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
from opentelemetry.context import Context
from typing_extensions import Self

from vibevoice_otel import semconv
from vibevoice_otel.adapters import upstream
from vibevoice_otel.adapters.realtime import RealtimeAdapter
from vibevoice_otel.adapters.shared.audio_queue import hook_streamer
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import Asked, Timeline, bound, thread

STEPS = 5  # of the realtime server's default
WINDOW = 6  # frames that upstream makes of each window of text
FRAME_SECONDS = 2 / 15  # 7.5 frames a second
CHUNK = np.linspace(-0.5, 0.5, 3200, dtype=np.float32)  # one frame of 24 kHz audio


# Upstream's classes as far as hooks go.


class Scheduler:
    def set_timesteps(self, steps: int) -> None: ...

    def step(self, model_output: object, timestep: object, sample: object) -> None: ...


class Tokenizer:
    def decode(self, _latent: object) -> np.ndarray[Any, Any]:
        return CHUNK


class Connector:
    def forward(self, latent: object) -> None: ...


class AudioStreamer:
    def __init__(self) -> None:
        self.chunks: deque[np.ndarray[Any, Any]] = deque()

    def put(self, chunk: np.ndarray[Any, Any], _sample: object) -> None:
        self.chunks.append(chunk)


class AudioSampleIterator:
    def __init__(self, streamer: AudioStreamer) -> None:
        self.streamer = streamer

    def __next__(self) -> np.ndarray[Any, Any]:
        return self.streamer.chunks.popleft()


class VibeVoiceStreamingForConditionalGenerationInference:
    ddpm_inference_steps = STEPS
    scheduler = Scheduler()

    @classmethod
    def from_pretrained(cls, _path: str) -> Self:
        return cls()

    def generate(self) -> None: ...

    def set_ddpm_inference_steps(self, steps: int) -> None: ...

    def prepare_inputs_for_generation(self, ids: object) -> None: ...

    def _update_model_kwargs_for_generation(self, outputs: object, kwargs: object) -> None: ...

    def forward_lm(self, ids: object = None) -> None: ...

    def forward_tts_lm(self, ids: object = None) -> None: ...

    def sample_speech_tokens(self, _condition: object, _negative: object, cfg_scale: float = 1.5) -> None:  # noqa: ARG002
        scheduler, steps = self.scheduler, self.ddpm_inference_steps
        scheduler.set_timesteps(steps)
        for index in range(steps):
            scheduler.step(None, index, None)


class Model:
    """One stream of the model. Streams of one model share its (hooked) classes: :meth:`another`."""

    def __init__(self, classes: SimpleNamespace | None = None) -> None:
        self.cfg = 1.5
        self._classes = classes or _classes()
        self.scheduler = self._classes.DPMSolverMultistepScheduler()
        self.model = self._classes.VibeVoiceStreamingForConditionalGenerationInference()
        self.model.scheduler = self.scheduler
        self.tokenizer = self._classes.VibeVoiceAcousticTokenizerModel()
        self.connector = self._classes.SpeechConnector()
        self.begin()

    @classmethod
    def observed(cls) -> Model:
        """With every hook of the realtime adapter in place."""
        classes = _classes()
        recorder: Any = SimpleNamespace(on_drop=lambda *_: None)
        hooks, module = Hooks("benchmark", recorder.on_drop, thread), classes
        upstream._scheduler(hooks, module)  # type: ignore[arg-type]
        upstream._tokenizers(hooks, module)  # type: ignore[arg-type]
        upstream.hook_connector(hooks, classes.SpeechConnector)
        hook_streamer(hooks, module)  # type: ignore[arg-type]
        RealtimeAdapter(recorder)._model(module)  # type: ignore[arg-type]
        return cls(classes)

    def another(self) -> Model:
        return Model(self._classes)

    def begin(self) -> None:
        """A request begins on this thread."""
        self._frames = 0
        self.streamer = self._classes.AudioStreamer()
        self._iterator = self._classes.AudioSampleIterator(self.streamer)

    def frame(self, steps: int = STEPS) -> None:
        """Upstream's order of calls: at each sixth frame a window of text, then the frame, its audio, and the passes
        that follow.
        """
        model = self.model
        if self._frames % WINDOW == 0:
            self.window()
        self._frames += 1
        model.ddpm_inference_steps = steps
        model.sample_speech_tokens(None, None, cfg_scale=self.cfg)
        self.streamer.put(self.tokenizer.decode(None), 0)
        self.connector.forward(None)
        self.passes()
        self.passes()

    def window(self) -> None:
        """Both language models read the next words."""
        self.model.prepare_inputs_for_generation(None)
        self.model.forward_lm(ids=None)
        self.passes()

    def passes(self) -> None:
        """One pass of the speech model."""
        model = self.model
        model.prepare_inputs_for_generation(None)
        model.forward_tts_lm(ids=None)
        model._update_model_kwargs_for_generation(None, None)

    def chunk(self) -> np.ndarray[Any, Any]:
        """The next chunk of audio, as the worker thread takes it from the queue."""
        taken: np.ndarray[Any, Any] = self._iterator.__next__()
        return taken


def _classes() -> SimpleNamespace:
    """Classes of their own for each model, so that hooks in one leave the others bare."""
    named = {
        "DPMSolverMultistepScheduler": Scheduler, "VibeVoiceAcousticTokenizerModel": Tokenizer,
        "SpeechConnector": Connector, "AudioStreamer": AudioStreamer, "AudioSampleIterator": AudioSampleIterator,
        "VibeVoiceStreamingForConditionalGenerationInference": VibeVoiceStreamingForConditionalGenerationInference,
    }  # fmt: skip
    # All that a hook replaces stands in the class itself, as upstream's does; a hook on an inherited function costs a
    # little more.
    return SimpleNamespace(
        __name__="replay",
        **{
            name: type(name, (), {k: v for k, v in vars(kind).items() if k != "__dict__"})
            for name, kind in named.items()
        },
    )


def open_request(recorder: Recorder, steps: int = STEPS, voice: str = "en-Carter_man", cfg: float = 1.5) -> Timeline:
    """A request that has arrived, been accepted and prepared."""
    timeline = recorder.open(
        "work", context=Context(), asked=Asked(voice=voice, cfg=str(cfg), steps=str(steps), text_length=120)
    )
    used = timeline.used
    used.voice, used.cfg, used.steps, used.model = voice, cfg, steps, "replay"
    timeline.accepted = now()
    timeline.work_start = now()
    timeline.note(semconv.QUEUE, timeline.accepted, timeline.work_start)
    for span in (semconv.MODEL_LOAD, semconv.VOICE_LOAD, semconv.PREPROCESS):
        timeline.note(span, now(), now(), **{semconv.CACHE.key: semconv.Cache.HIT})
    timeline.runs[0].start = now()
    return timeline


def deliver(timeline: Timeline, model: Model) -> None:
    """One frame taken from the queue and sent."""
    chunk = model.chunk()
    started = now()
    timeline.sent(started, now(), len(chunk) * 2)


def close_request(recorder: Recorder, timeline: Timeline) -> None:
    """The audio has ended and the service closes the socket."""
    timeline.runs[0].end = now()
    timeline.work_end = timeline.service_closed = now()
    timeline.close_code = 1000
    timeline.web_closed = now()
    recorder.release(timeline, "work")


def speak(recorder: Recorder, model: Model, frames: int, steps: int = STEPS) -> None:
    """One whole request on the calling thread, as fast as it goes."""
    timeline = open_request(recorder, steps)
    with bound(timeline):
        model.begin()
        for _ in range(frames):
            model.frame(steps)
            deliver(timeline, model)
    close_request(recorder, timeline)
