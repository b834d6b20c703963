"""The 25 voices of the upstream realtime server, by its names. Without its recordings, each is a random prompt of its
own.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vibevoice_otel.service.faults import Faults, pause

if TYPE_CHECKING:
    import torch

NAMES = (
    "de-Spk0_man", "de-Spk1_woman", "en-Carter_man", "en-Davis_man", "en-Emma_woman", "en-Frank_man", "en-Grace_woman",
    "en-Mike_man",
    "fr-Spk0_man", "fr-Spk1_woman", "in-Samuel_man", "it-Spk0_woman", "it-Spk1_man", "jp-Spk0_man", "jp-Spk1_woman",
    "kr-Spk0_woman",
    "kr-Spk1_man", "nl-Spk0_man", "nl-Spk1_woman", "pl-Spk0_man", "pl-Spk1_woman", "pt-Spk0_woman", "pt-Spk1_man",
    "sp-Spk0_woman", "sp-Spk1_man",
)  # fmt: skip
PROMPT_TOKENS = 48


class CorruptVoiceError(RuntimeError):
    """A voice's prompt could not be read."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice's prompt: token ids of shape (PROMPT_TOKENS,), bytes of the tokenizer's alphabet."""

    name: str
    prompt: torch.Tensor


def load(name: str, faults: Faults) -> Voice:
    """Make the voice's prompt; the same name always gives the same one.

    Raises:
        CorruptVoiceError: when a fault says so.
    """
    import torch  # noqa: PLC0415 - slow to import, and the settings need the names alone

    pause(faults.voice_delay.get(name, 0.0))
    if name in faults.corrupt_voices:
        raise CorruptVoiceError(f"voice prompt {name} is corrupt")
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return Voice(name, torch.randint(0, 256, (PROMPT_TOKENS,), generator=generator))
