"""Text to model inputs. A checkpoint has a processor of its own; the random model's tokens are bytes: nothing need be
downloaded.
"""

from __future__ import annotations

from typing import Any

import torch

from vibevoice_otel.service.voices import Voice

PAD, AUDIO_BOS, AUDIO_EOS, AUDIO, EOS = 256, 257, 258, 259, 260
VOCABULARY = 264


def byte_inputs(text: str, voice: Voice) -> dict[str, torch.Tensor]:
    """A byte is a token, behind the special tokens that VibeVoice needs: ``input_ids`` and ``attention_mask`` of shape
    (1, prompt + bytes).
    """
    spoken = torch.tensor(list(text.encode("utf-8", errors="replace")), dtype=torch.long)
    ids = torch.cat([voice.prompt, spoken]).unsqueeze(0)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def checkpoint_inputs(processor: Any, text: str) -> dict[str, torch.Tensor]:
    """Whatever a real checkpoint's own ``processor`` (its tokenizer and chat template) makes of the text, with one
    speaker, of shape (1, tokens).

    Voices are cloned from recordings, which this service has none of: the model speaks with a voice of its own choice.
    """
    conversation = [{"role": "0", "content": [{"type": "text", "text": text}]}]
    return dict(processor.apply_chat_template(conversation, return_dict=True, tokenize=True, return_tensors="pt"))
