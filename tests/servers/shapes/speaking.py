"""What every shape does with the model: load it and its voices, make inputs, run generate. No shape knows that it is
observed.
"""

import copy
import os
import struct
from pathlib import Path

import numpy as np
import torch
from vibevoice.modular.modeling_vibevoice_streaming_inference import VibeVoiceStreamingForConditionalGenerationInference
from vibevoice.processor.vibevoice_streaming_processor import VibeVoiceStreamingProcessor

SAMPLE_RATE = 24_000
VOICES = Path(os.environ.get("VOICES", "demo/voices/streaming_model"))


class Speaker:
    def __init__(self, steps=5):
        path = os.environ["MODEL_PATH"]
        self.processor = VibeVoiceStreamingProcessor.from_pretrained(path)
        self.model = VibeVoiceStreamingForConditionalGenerationInference.from_pretrained(
            path, torch_dtype=torch.float32, device_map="cpu", attn_implementation="sdpa"
        )
        self.model.eval()
        scheduler = self.model.model.noise_scheduler
        self.model.model.noise_scheduler = scheduler.from_config(scheduler.config, algorithm_type="sde-dpmsolver++")
        self.model.set_ddpm_inference_steps(num_steps=steps)
        self.voices = {}

    def voice(self, name):
        if name not in self.voices:
            self.voices[name] = torch.load(VOICES / f"{name}.pt", map_location="cpu", weights_only=False)
        return copy.deepcopy(self.voices[name])

    def inputs(self, text, prompt):
        return self.processor.process_input_with_cached_prompt(
            text=text, cached_prompt=prompt, padding=True, return_tensors="pt", return_attention_mask=True
        )

    def generate(self, inputs, prompt, streamer, stop=None):
        return self.model.generate(
            **inputs,
            max_new_tokens=None,
            cfg_scale=1.25,
            tokenizer=self.processor.tokenizer,
            generation_config={"do_sample": False},
            verbose=False,
            audio_streamer=streamer,
            stop_check_fn=stop,
            all_prefilled_outputs=prompt,
        )


def pcm16(chunk):
    return (np.clip(chunk.float().numpy().reshape(-1), -1.0, 1.0) * 32767).astype(np.int16).tobytes()


def wav_header(rate=SAMPLE_RATE):
    """Of a stream whose length is not known."""
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    return b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00" + fmt + b"data\xff\xff\xff\xff"
