"""The speech service behind the socket: load, voices, preparation, and a generator of audio chunks for each request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vibevoice_otel.service import voices
from vibevoice_otel.service.faults import pause
from vibevoice_otel.service.model import StreamingVibeVoice, inject, random_model, schedule
from vibevoice_otel.service.processor import VOCABULARY, byte_inputs, checkpoint_inputs
from vibevoice_otel.service.settings import ServiceSettings
from vibevoice_otel.service.streamer import AudioSampleIterator, AudioStreamer
from vibevoice_otel.service.voices import Voice

logger = logging.getLogger(__name__)
SAMPLE_RATE = 24_000
#: Speech is about 15 characters a second; the random model speaks for as long as real speech of the text would take.
CHARACTERS_PER_FRAME = 2
MIN_FRAMES = 4
MAX_FRAMES = 7500
RANDOM = "random"
RANDOM_NOTICE = (
    "the model has random weights: it makes noise, not speech (VIBEVOICE_SERVICE_MODEL takes a real checkpoint)"
)
CHECKPOINT_NOTICE = (
    "a checkpoint speaks with a voice of its own: the voices are names only, for there are no recordings to clone "
    "them from"
)
#: Seconds that a generation which outlived its request's time is waited for.
LAST_WAIT = 1.0
Log = Callable[..., None]


class StreamingTTSService:
    """Loads the model once and streams speech for any number of threads.

    Attributes:
        voice_presets: name of each voice to where its prompt comes from.
        default_voice_key: the voice for a request that names none, or an unknown one.
        notice: what a listener's log says of the model.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.model_path = settings.model if settings.model != RANDOM else "random-vibevoice"
        self.device = settings.device
        self.inference_steps = settings.steps
        self.model: StreamingVibeVoice | None = None
        self.processor: Any = None  # a checkpoint's own; None where bytes are tokens
        self.voice_presets: dict[str, str] = {name: f"random:{name}" for name in voices.NAMES}
        self.default_voice_key = settings.voice
        self.is_random = settings.model == RANDOM
        self.notice = RANDOM_NOTICE if self.is_random else CHECKPOINT_NOTICE
        self._voice_cache: dict[str, Voice] = {}
        self._scheduler: Any = None
        self._loading = threading.Lock()
        self._voice_locks = {name: threading.Lock() for name in self.voice_presets}  # a slow voice holds up no other

    def load(self) -> None:
        """Make the model ready: cold the first time, at once after. Safe to call from any thread."""
        with self._loading:
            if self.model is not None:
                return
            pause(self.settings.faults.load_delay)
            import diffusers  # noqa: PLC0415 - slow to import, and only a loaded model needs it

            self._scheduler = diffusers.DPMSolverMultistepScheduler
            if self.is_random:
                torch.set_num_threads(1)  # a second thread only thrashes on a model this small
                model = random_model(self.settings.seed, self.settings.faults)
            else:
                self.processor, model = self._checkpoint()
            logger.warning(self.notice)
            self.model = model.to(self.device)

    def _checkpoint(self) -> tuple[Any, StreamingVibeVoice]:
        from transformers import AutoProcessor  # noqa: PLC0415 - heavy, and only for a checkpoint

        path = self.settings.model
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        model: StreamingVibeVoice = StreamingVibeVoice.from_pretrained(path, dtype=dtype).eval()
        inject(model, self.settings.faults)
        if model.config.vocab_size == VOCABULARY:  # a random model that was saved to disk
            return None, model
        return AutoProcessor.from_pretrained(path), model

    def _ensure_voice_cached(self, key: str) -> Voice:
        with self._voice_locks[key]:
            if key not in self._voice_cache:
                self._voice_cache[key] = voices.load(key, self.settings.faults)
            return self._voice_cache[key]

    def _get_voice_resources(self, requested_key: str | None) -> tuple[str, Voice]:
        key = requested_key if requested_key in self.voice_presets else self.default_voice_key
        return key, self._ensure_voice_cached(key)

    def _prepare_inputs(self, text: str, resources: Voice) -> dict[str, Any]:
        pause(self.settings.faults.preprocess_delay)
        if self.processor is None:
            made = byte_inputs(text.strip(), resources)
            length = schedule(made["input_ids"].shape[1], frames_of(text))
        else:
            made = checkpoint_inputs(self.processor, text.strip())
            length = {"max_new_tokens": MAX_FRAMES}
        return {**{name: value.to(self.device) for name, value in made.items()}, **length}

    def _run_generation(
        self,
        inputs: dict[str, Any],
        audio_streamer: AudioStreamer,
        errors: list[BaseException],
        cfg_scale: float,
        steps: int,
        voice: str,
        stop_event: threading.Event,
    ) -> None:
        """The generation thread: errors are left in ``errors`` for the reader, which always learns of the end."""
        assert self.model is not None
        try:
            if self.is_random:
                # One scheduler a request: it keeps its position, so two threads must not share one. A checkpoint's
                # generation configuration names its own, made by generate for each call.
                inputs = {
                    **inputs,
                    "noise_scheduler": self._scheduler(
                        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
                    ),
                }
            self.model.stream(
                audio_streamer, stop_event, voice, **inputs, num_diffusion_steps=steps, guidance_scale=cfg_scale
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader must hear of it
            logger.warning("%s failed: %s", threading.current_thread().name, type(error).__name__)
            errors.append(error)
        finally:
            audio_streamer.end()

    def stream(
        self,
        text: str,
        cfg_scale: float = 1.5,
        inference_steps: int | None = None,
        voice_key: str | None = None,
        log_callback: Log | None = None,
        stop_event: threading.Event | None = None,
        deadline: float | None = None,
    ) -> Generator[NDArray[np.float32], None, None]:
        """Float32 chunks of shape (samples,), at 24 kHz, as they are made.

        The body runs on whichever thread takes the first chunk; generation has a thread of its own, which has ended
        when this has.

        Raises:
            TimeoutError: at ``deadline`` (time.monotonic()).
            Exception: whatever the model raised.
        """
        if not text.strip():
            return
        log = log_callback or (lambda _event, **_data: None)
        self.load()
        voice, resources = self._get_voice_resources(voice_key)
        steps = inference_steps if inference_steps is not None else self.settings.steps
        inputs = self._prepare_inputs(text, resources)
        streamer = AudioStreamer(deadline)
        errors: list[BaseException] = []
        stop = stop_event or threading.Event()
        thread = threading.Thread(
            target=self._run_generation,
            args=(inputs, streamer, errors, cfg_scale, steps, voice, stop),
            name="vibevoice-generation",
            daemon=True,
        )
        thread.start()
        samples = 0
        try:
            for tensor in AudioSampleIterator(streamer):
                chunk: NDArray[np.float32] = tensor.to(torch.float32).numpy().reshape(-1)
                samples += chunk.size
                log("model_progress", generated_sec=samples / SAMPLE_RATE, chunk_sec=chunk.size / SAMPLE_RATE)
                yield chunk
        finally:
            stop.set()
            # A model that hangs must not hold its reader for longer than the request's time.
            thread.join(None if deadline is None else max(LAST_WAIT, deadline - time.monotonic()))
            if thread.is_alive():
                logger.error(
                    "a generation goes on %g s after its request's time was over and slows the others: restart "
                    "the process if it never ends", LAST_WAIT,
                )  # fmt: skip
        if errors:
            log("generation_error", message=type(errors[0]).__name__)  # the type alone: the message may quote the text
            raise errors[0]

    def chunk_to_pcm16(self, chunk: NDArray[np.float32]) -> bytes:
        """PCM16, little-endian; what is not a number is silence."""
        return (np.nan_to_num(np.clip(chunk, -1.0, 1.0)) * 32767.0).astype("<i2").tobytes()


def frames_of(text: str) -> int:
    """Frames that speech of this text takes, at about 15 characters a second."""
    return max(MIN_FRAMES, min(MAX_FRAMES, -(-len(text.strip()) // CHARACTERS_PER_FRAME)))
