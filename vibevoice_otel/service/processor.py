"""Text to model inputs for the random model: bytes are tokens, so nothing need be downloaded."""

from __future__ import annotations

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
    """A real checkpoint's own processor. Its text speaks as ``Speaker 0``; voice cloning from recordings is not offered here."""

    def __init__(self, processor: object) -> None:
        self._processor = processor

    def __call__(self, text: str, voice: Voice) -> dict[str, torch.Tensor]:
        del voice
        return dict(self._processor(text=f"Speaker 0: {text}", return_tensors="pt"))  # type: ignore[operator]
