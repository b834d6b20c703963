"""Sixteen numbers to 3,200 samples: a sine whose loudness follows the latent's spread."""

import math

import torch

SAMPLES = 3200


class VibeVoiceTokenizerStreamingCache:
    def __init__(self):
        self.phase = 0.0


class VibeVoiceAcousticTokenizerModel:
    device = torch.device("cpu")

    @torch.no_grad()
    def decode(self, latents, cache=None, sample_indices=None, use_cache=False, debug=False):
        loudness = 0.1 + 0.3 * torch.tanh(latents.abs().mean())
        ramp = torch.arange(SAMPLES, dtype=torch.float32) / 24_000
        start = cache.phase if cache is not None else 0.0
        if cache is not None:
            cache.phase += SAMPLES / 24_000
        return (loudness * torch.sin(2 * math.pi * 220 * (ramp + start))).reshape(1, 1, SAMPLES)
