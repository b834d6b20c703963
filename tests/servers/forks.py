"""A program that speaks with a fork's model: ``python -m tests.servers.forks TREE FORK``. Prints what was seen as JSON.

A fork is the double of upstream's package made over: copied under another package (vvembed), below relative imports,
with its model class renamed, subclassed by a program, or in the shape of transformers' own realtime port.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

MODEL = "VibeVoiceStreamingForConditionalGenerationInference"
RENAMED = "VibeVoiceStreamingForConditionalInference"
MODULE = "modular/modeling_vibevoice_streaming_inference.py"
TEXT = "Good evening, this is a short text."
BASED = f"""from transformers import PretrainedConfig, PreTrainedModel

class {MODEL}(PreTrainedModel):
    config_class = PretrainedConfig
"""


def make(tree: Path, fork: str) -> str:
    """Write the fork's package into ``tree``; returns its name."""
    package = {
        "vvembed": "vvembed",
        "relative": "nodes/src/vibevoice",
        "renamed": "fusion",
        "windowed": "ported",
        "subclass": "base",
    }[fork]
    out = tree / package
    shutil.copytree(tree / "vibevoice", out, dirs_exist_ok=True)
    name = package.replace("/", ".")
    for file in out.rglob("*.py"):
        text = file.read_text().replace("from vibevoice.", f"from {name}.")
        if fork == "relative":
            text = text.replace(f"from {name}.", "from ." if file.parent == out else "from ..")
        if fork == "renamed":
            text = text.replace(MODEL, RENAMED)
        file.write_text(text)
    file = out / MODULE
    model = RENAMED if fork == "renamed" else MODEL
    text = file.read_text().replace(f"class {model}:\n", BASED.replace(MODEL, model), 1)
    changes = {
        "        self.config = config "
        "or": "        super().__init__(PretrainedConfig())\n        self.path = config or",
        '        self.device = torch.device("cpu")\n': "",
    }
    if (
        fork == "windowed"
    ):  # no method for a frame, which begins with the scheduler's timesteps; the speech model's pass is forward
        changes |= {"forward_tts_lm": "forward", "sample_speech_tokens": "_diffuse", "def generate(": "def _sample("}
        text += "\n    def generate(self, *args, **kwargs):\n        return self._sample(*args, **kwargs)\n"
    for old, new in changes.items():
        text = text.replace(old, new) if old != "def generate(" else text.replace(old, new, 1)
    file.write_text(text)
    if fork == "subclass":
        (out / "mine.py").write_text(
            f"from base.modular.modeling_vibevoice_streaming_inference import {MODEL}\n\n\nclass Mine({MODEL}):\n"
            "    def generate(self, *args, **kwargs):\n        return super().generate(*args, **kwargs)\n\n"
            "    def sample_speech_tokens(self, *args, **kwargs):\n        return super().sample_speech_tokens(*args, "
            "**kwargs)\n"
        )
    return name


def speak(tree: Path, fork: str) -> dict[str, Any]:
    name = make(tree, fork)
    sys.path.insert(0, str(tree))
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from vibevoice_otel.instrumentor import VibeVoiceInstrumentor

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(tracer_provider=provider, meter_provider=MeterProvider(), skip_dep_check=True)

    import torch

    calls = {"sample_speech_tokens": 0, "_diffuse": 0, "step": 0, "decode": 0}

    def witness(frame: Any, event: str, _argument: Any) -> None:
        if (
            event == "call"
            and frame.f_code.co_name in calls
            and str(tree) in frame.f_code.co_filename
            and "mine" not in frame.f_code.co_filename
        ):
            calls[frame.f_code.co_name] += 1

    module = importlib.import_module(f"{name}.{MODULE.removesuffix('.py').replace('/', '.')}")
    streaming = importlib.import_module(f"{name}.modular.streamer")
    processing = importlib.import_module(f"{name}.processor.vibevoice_streaming_processor")
    classes = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and re.match("VibeVoiceStreamingFor", each.__name__)
    ]
    kind = importlib.import_module("base.mine").Mine if fork == "subclass" else classes[0]
    model, processor = kind(), processing.VibeVoiceStreamingProcessor.from_pretrained("x")
    model.set_ddpm_inference_steps(num_steps=5)
    sys.setprofile(witness)
    prompt = {part: torch.zeros(1, length, 16) for part, length in (("tts_lm", 148), ("neg_lm", 1))}
    for _ in range(2):
        streamer = streaming.AudioStreamer(batch_size=1)
        inputs = processor.process_input_with_cached_prompt(text=TEXT, cached_prompt=prompt)
        model.generate(**inputs, cfg_scale=1.25, audio_streamer=streamer, all_prefilled_outputs=prompt)
        for _chunk in streamer.get_stream(0):
            pass
    sys.setprofile(None)
    recorder = instrumentor.recorder
    assert recorder is not None
    recorder.flush()
    names = [span.name for span in spans.get_finished_spans()]
    points = [point.where for point in instrumentor.hook_points if point.found]
    roots = [dict(span.attributes or {}) for span in spans.get_finished_spans() if span.name == "vibevoice.synthesize"]
    return {"spans": {each: names.count(each) for each in set(names)}, "calls": calls, "points": points, "roots": roots}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(speak(Path(sys.argv[1]).resolve(), sys.argv[2])) + "\n")
