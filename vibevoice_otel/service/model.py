"""transformers' VibeVoice, streaming: each frame goes into the audio queue as soon as it is decoded.

The random model is the real architecture at about a thousandth of its size: the same generation loop, diffusion
scheduler and acoustic decoder. It makes noise, not speech.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

try:
    from transformers import VibeVoiceConfig, VibeVoiceForConditionalGeneration
except ImportError as missing:  # transformers is there, but older than its VibeVoice
    raise ImportError(
        "the service needs transformers 5.20 or later, which has VibeVoice: pip install 'vibevoice-otel[service]'"
    ) from missing

from vibevoice_otel.service import processor as tokens
from vibevoice_otel.service.faults import Faults, pause
from vibevoice_otel.service.streamer import AudioStreamer

#: Peak that the random decoder's output is scaled to, about the loudness of speech.
RANDOM_PEAK = 0.3


class StreamingVibeVoice(VibeVoiceForConditionalGeneration):  # type: ignore[misc]
    """VibeVoice that puts every decoded frame into the calling thread's audio streamer."""

    def __init__(self, config: VibeVoiceConfig) -> None:
        super().__init__(config)
        self._thread = threading.local()
        self.faults = Faults()
        self.gain = 1.0

    def stream(self, streamer: AudioStreamer, stop: threading.Event, voice: str, **inputs: Any) -> None:
        """Generate on the calling thread until done, or until ``stop`` is set (noticed before the next frame)."""
        self._thread.streamer, self._thread.frame, self._thread.voice = streamer, 0, voice
        try:
            self.generate(**inputs, stopping_criteria=StoppingCriteriaList([_Stop(stop)]), return_dict_in_generate=True)
        finally:
            self._thread.streamer = None

    def _decode_audio_latent(self, audio_latent: Any, diffusion_mask: Any, batch_size: int, acoustic_cache: Any) -> Any:
        output = super()._decode_audio_latent(audio_latent, diffusion_mask, batch_size, acoustic_cache)
        output.audio.mul_(self.gain)
        streamer = getattr(self._thread, "streamer", None)
        if streamer is not None:
            self._stream_frame(streamer, output.audio)
        return output

    def _stream_frame(self, streamer: AudioStreamer, audio: torch.Tensor) -> None:
        faults, frame = self.faults, self._thread.frame
        self._thread.frame = frame + 1
        if faults.hang_at_frame == frame:
            pause(faults.hang_seconds)
        if faults.fail_at_frame == frame:
            raise RuntimeError("fault: the model failed")
        if faults.silent:
            audio = torch.zeros_like(audio)
        if frame in faults.nan_frames:  # in what is heard alone: the model goes on from what it decoded
            audio = torch.full_like(audio, float("nan"))
        if frame == 0:
            pause(faults.first_audio_delay)
        streamer.put(audio)

    def delay_of_step(self) -> float:
        return self.faults.step_delay + self.faults.slow_voices.get(getattr(self._thread, "voice", ""), 0.0)


class _Stop(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ARG002 - generate's
        return torch.full((input_ids.shape[0],), self._stop.is_set(), dtype=torch.bool, device=input_ids.device)


class Schedule(LogitsProcessor):  # type: ignore[misc]
    """Makes a random model speak for ``frames`` frames: audio_bos, frames x audio, audio_eos, eos."""

    def __init__(self, prompt_length: int, frames: int) -> None:
        self._prompt, self._frames = prompt_length, frames

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        made = input_ids.shape[1] - self._prompt
        after = {0: tokens.AUDIO_BOS, self._frames + 1: tokens.AUDIO_EOS}
        token = after.get(made, tokens.AUDIO if made <= self._frames else tokens.EOS)
        forced = torch.full_like(scores, float("-inf"))
        forced[:, token] = 0.0
        return forced


def schedule(prompt_length: int, frames: int) -> dict[str, Any]:
    """The arguments of ``generate`` that make the random model speak for ``frames`` frames."""
    return {"logits_processor": LogitsProcessorList([Schedule(prompt_length, frames)]), "max_new_tokens": frames + 3}


def random_config() -> VibeVoiceConfig:
    """The real architecture with about 1.5 million parameters.

    The audio tokenizers' layer scale and initial range are those of a network that was trained from, 1e-6 and 0.01,
    raised: through so many layers, an untrained decoder's output would be of the order of 1e-9.
    """
    audio = {
        "hidden_size": 16,
        "num_filters": 1,
        "depths": (1,) * 7,
        "layer_scale_init_value": 0.1,
        "initializer_range": 0.15,
    }
    return VibeVoiceConfig(
        text_config={
            "model_type": "qwen2", "vocab_size": tokens.VOCABULARY, "hidden_size": 128, "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 65536,
            "tie_word_embeddings": True,
        },
        diffusion_head_config={"hidden_size": 128, "latent_size": 16, "num_hidden_layers": 4, "intermediate_size": 256,
                               "frequency_embedding_size": 64},
        semantic_model_config={"model_type": "vibevoice_acoustic_tokenizer_encoder", **audio},
        audio_config={"model_type": "vibevoice_acoustic_tokenizer", **audio},
        pad_token_id=tokens.PAD, eos_token_id=tokens.EOS, audio_bos_token_id=tokens.AUDIO_BOS,
        audio_eos_token_id=tokens.AUDIO_EOS, audio_token_id=tokens.AUDIO,
    )  # fmt: skip


def random_model(seed: int, faults: Faults) -> StreamingVibeVoice:
    """A random model whose output is scaled, once and by a factor near 1, to the loudness of speech."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: StreamingVibeVoice = StreamingVibeVoice(random_config()).eval()
        latent = torch.randn(1, 16, model.config.audio_config.hidden_size)
        with torch.no_grad():
            peak = float(model.model.audio_tower.decode(latent).audio.abs().max())
    model.gain = RANDOM_PEAK / peak if peak > 0 else 1.0
    inject(model, faults)
    return model


def inject(model: StreamingVibeVoice, faults: Faults) -> None:
    """Put the faults into the real parts: a pre-hook of the diffusion head, the language model and the acoustic decoder
    sleeps.
    """
    model.faults = faults
    inner = model.model
    if faults.step_delay or faults.slow_voices:
        inner.diffusion_head.register_forward_pre_hook(lambda *_: pause(model.delay_of_step()))
    if faults.lm_delay:
        inner.language_model.register_forward_pre_hook(lambda *_: pause(faults.lm_delay))
    if faults.decode_delay:
        inner.audio_tower.decoder.register_forward_pre_hook(lambda *_: pause(faults.decode_delay))
