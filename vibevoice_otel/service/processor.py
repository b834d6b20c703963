"""Text to model inputs for the random model: bytes are tokens, so nothing need be downloaded."""

from __future__ import annotations

from typing import Any

import torch

from vibevoice_otel.service.voices import Voice

PAD, AUDIO_BOS, AUDIO_EOS, AUDIO, EOS = 256, 257, 258, 259, 260
VOCABULARY = 264


class ByteProcessor:
    """A byte-level tokenizer with the special tokens that VibeVoice needs."""

    def __call__(self, text: str, voice: Voice) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask`` of shape (1, prompt + bytes)."""
        spoken = torch.tensor(list(text.encode("utf-8", errors="replace")), dtype=torch.long)
        ids = torch.cat([voice.prompt, spoken]).unsqueeze(0)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class CheckpointProcessor:
    """A real checkpoint's own processor: its tokenizer and chat template, with one speaker.

    Voices are cloned from recordings, which this service has none of: the model speaks with a voice of its own choice.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, text: str, voice: Voice) -> dict[str, torch.Tensor]:  # noqa: ARG002 - as ByteProcessor's
        """Whatever the checkpoint's processor makes of the text, of shape (1, tokens)."""
        conversation = [{"role": "0", "content": [{"type": "text", "text": text}]}]
        return dict(
            self._processor.apply_chat_template(conversation, return_dict=True, tokenize=True, return_tensors="pt")
        )
