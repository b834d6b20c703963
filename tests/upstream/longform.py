"""A program that speaks once with the long-form model of the PyPI package, tiny and random. Prints what it saw as JSON.

    python tests/upstream/longform.py FOLDER FRAMES STEPS      (FOLDER takes the weights and the tokenizer)

Its language model always chooses the diffusion token, so that it makes FRAMES frames and stops at the longest length.
"""

from __future__ import annotations

import collections
import json
import sys
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

SCRIPT = "Speaker 1: Good evening, this is a short text.\nSpeaker 2: And this is the answer to it."
CONSTANT_CHANNEL = 0


def make_model(where: Path) -> None:
    """Save tiny weights whose every hidden state has one constant channel, which the head turns into the diffusion
    token.
    """
    import torch
    from make_tiny import HIDDEN, _acoustic_settings, _decoder_settings, _head_settings, make_audible, make_tokenizer
    from vibevoice.modular.configuration_vibevoice import VibeVoiceConfig
    from vibevoice.modular.modeling_vibevoice_inference import VibeVoiceForConditionalGenerationInference
    from vibevoice.modular.modular_vibevoice_text_tokenizer import VibeVoiceTextTokenizerFast

    torch.manual_seed(7)
    tokenizer_folder = where / "qwen-tiny"
    make_tokenizer(tokenizer_folder)
    tokenizer = VibeVoiceTextTokenizerFast.from_pretrained(tokenizer_folder)
    acoustic = _acoustic_settings()
    semantic = {key: value for key, value in acoustic.items() if not key.startswith("decoder")} | {
        "std_dist_type": "none",
        "fix_std": 0,
    }
    config = VibeVoiceConfig(
        acoustic_tokenizer_config=acoustic,
        semantic_tokenizer_config=semantic,
        decoder_config=_decoder_settings(layers=2),
        diffusion_head_config=_head_settings(),
        tie_word_embeddings=False,
    )
    model = VibeVoiceForConditionalGenerationInference(config).eval()
    make_audible(model)
    with torch.no_grad():
        language = model.model.language_model
        language.embed_tokens.weight[:, CONSTANT_CHANNEL] = 50.0
        for layer in language.layers:
            layer.self_attn.o_proj.weight[CONSTANT_CHANNEL] = 0.0
            layer.mlp.down_proj.weight[CONSTANT_CHANNEL] = 0.0
        for connector in (model.model.acoustic_connector, model.model.semantic_connector):
            connector.fc2.bias[CONSTANT_CHANNEL] = 25.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokenizer.speech_diffusion_id, CONSTANT_CHANNEL] = 1.0
    assert config.decoder_config.hidden_size == HIDDEN
    model.save_pretrained(where)
    (where / "preprocessor_config.json").write_text(
        json.dumps({"language_model_pretrained_name": str(tokenizer_folder.resolve())})
    )


def main(where: Path, frames: int, steps: int) -> None:
    make_model(where)
    import numpy as np
    from counting import Witness
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from vibevoice.modular.modeling_vibevoice_inference import VibeVoiceForConditionalGenerationInference
    from vibevoice.processor.vibevoice_processor import VibeVoiceProcessor

    from vibevoice_otel.instrumentor import VibeVoiceInstrumentor

    spans, reader, provider = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor = VibeVoiceInstrumentor()
    model_class = VibeVoiceForConditionalGenerationInference
    before = dict(vars(model_class))
    instrumentor.instrument(tracer_provider=provider, meter_provider=MeterProvider([reader]), skip_dep_check=True)

    processor = VibeVoiceProcessor.from_pretrained(str(where))
    model = model_class.from_pretrained(str(where), attn_implementation="eager").eval()
    model.set_ddpm_inference_steps(steps)
    voices = [0.1 * np.sin(np.linspace(0, 900, 24_000, dtype=np.float32)) for _ in range(2)]
    witness = Witness()
    threading.setprofile(witness)
    sys.setprofile(witness)
    inputs = processor(
        text=[SCRIPT], voice_samples=[voices], padding=True, return_tensors="pt", return_attention_mask=True
    )
    output = model.generate(
        **inputs,
        max_new_tokens=frames,
        cfg_scale=1.3,
        tokenizer=processor.tokenizer,
        generation_config={"do_sample": False},
        verbose=False,
    )
    sys.setprofile(None)
    assert instrumentor.recorder is not None
    instrumentor.recorder.flush()
    data: Any = reader.get_metrics_data()
    counts: collections.Counter[str] = collections.Counter()
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                counts[metric.name] += sum(int(getattr(point, "count", 0)) for point in metric.data.data_points)
    missing = [point.where for point in instrumentor.hook_points if not point.found]
    instrumentor.uninstrument()
    speech = output.speech_outputs[0]
    report = {
        "samples": 0 if speech is None else int(speech.numel()),
        "characters": len(SCRIPT),
        "calls": witness.calls(),
        "metrics": dict(counts),
        "missing": missing,
        "left": [name for name, value in vars(model_class).items() if before.get(name) is not value],
        "spans": [
            {
                "name": span.name,
                "trace": span.context.trace_id,
                "id": span.context.span_id,
                "parent": span.parent.span_id if span.parent else None,
                "start": span.start_time,
                "end": span.end_time,
                "attributes": dict(span.attributes or {}),
            }
            for span in spans.get_finished_spans()
        ],
    }
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]))
