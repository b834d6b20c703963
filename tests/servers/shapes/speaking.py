"""What every shape does with the model: load it and its voices, make inputs, run generate. No shape knows that it is
observed.
"""

import copy
import os
import struct
import threading
from pathlib import Path

import numpy as np
import torch
from fastapi import HTTPException
from fastapi.responses import StreamingResponse
from vibevoice.modular.modeling_vibevoice_streaming_inference import VibeVoiceStreamingForConditionalGenerationInference
from vibevoice.modular.streamer import AudioStreamer
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
        self.one_at_a_time = threading.Lock()  # a model holds one generation's state

    def voice(self, name):
        name = name.removeprefix("cut-")
        if name not in self.voices:
            self.voices[name] = torch.load(VOICES / f"{name}.pt", map_location="cpu", weights_only=False)
        return copy.deepcopy(self.voices[name])

    def inputs(self, text, prompt):
        return self.processor.process_input_with_cached_prompt(
            text=text, cached_prompt=prompt, padding=True, return_tensors="pt", return_attention_mask=True
        )

    def generate(self, inputs, prompt, streamer, stop=None):
        with self.one_at_a_time:
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


class Work:
    """A generation on a plain thread, into an AudioStreamer; begun when it is made."""

    def __init__(self, speaker, text, voice):
        prompt = speaker.voice(voice)
        inputs = speaker.inputs(text, prompt)
        self.streamer = AudioStreamer(batch_size=1, stop_signal=None, timeout=None)
        self._failures, self._stop = [], threading.Event()

        def work():
            try:
                speaker.generate(inputs, prompt, self.streamer, self._stop.is_set)
            except Exception as failure:
                self._failures.append(failure)
                self.streamer.end()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def parts(self):
        """PCM as it is made; then what the generation raised."""
        try:
            for chunk in self.streamer.get_stream(0):
                yield pcm16(chunk)
        finally:
            self.stop()
            self._thread.join()
        self.check()

    def stop(self):
        self._stop.set()

    def check(self):
        if self._failures:
            raise self._failures[0]


def pcm16(chunk):
    return (np.clip(chunk.float().numpy().reshape(-1), -1.0, 1.0) * 32767).astype(np.int16).tobytes()


def wav_header(rate=SAMPLE_RATE):
    """Of a stream whose length is not known."""
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    return b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00" + fmt + b"data\xff\xff\xff\xff"


def admit(voice):
    """Refuse before any work, as a server does: the voice ``refuse-429`` is that of a caller beyond the limit."""
    if voice.startswith("refuse-"):
        raise HTTPException(int(voice.removeprefix("refuse-")), "refused")


class CutShort(StreamingResponse):
    """Returns after two parts without the last message: the body ends early, and nothing is raised."""

    async def stream_response(self, send):
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sent = 0
        async for part in self.body_iterator:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            sent += 1
            if sent == 2:
                return


def streamed(parts, media_type, voice):
    """The answer that streams ``parts``; the voice ``cut-NAME`` has its body cut short."""
    return (CutShort if voice.startswith("cut-") else StreamingResponse)(parts, media_type=media_type)
