"""Make a runnable tree out of an upstream checkout: its code as it is, tiny random weights, a tokenizer and voice
presets.

    python tests/upstream/make_tiny.py CHECKOUT OUT [VOICE ...]

OUT then holds demo/ and vibevoice/ (copies of the checkout's files, not a byte changed),
demo/voices/streaming_model/*.pt and model/. From OUT, ``MODEL_PATH=model MODEL_DEVICE=cpu uvicorn demo.web.app:app``
serves noise in upstream's own way on a CPU. Nothing is downloaded and the checkout itself is left as it was.

The weights are random except for one circuit that gives speech a length that follows its text: the first layer of the
speech language model attends evenly to all that it has read and so knows how many text and how many speech tokens there
were; the end-of-speech classifier reads that balance and fires at the first frame past ``FRAMES_PER_TOKEN`` x text
tokens + ``FRAMES_BEYOND``, whatever the noise of the diffusion.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

VOICES = ("de-Spk0_man", "en-Carter_man", "en-Emma_woman", "fr-Spk1_woman")
LM_PROMPT, TTS_PROMPT = 49, 148  # tokens of a real preset
FRAMES_PER_TOKEN = 1.25  # above 6/5, the ratio at which text is read, so that speech never ends before its text
FRAMES_BEYOND = 0.7
HIDDEN, HEADS, LATENT = 64, 4, 16
TEXT_CHANNEL, SPEECH_CHANNEL, BALANCE_CHANNEL = 0, 1, 2
CORPUS = (
    "The quick brown fox jumps over the lazy dog while the morning light moves across the hills.",
    "Speech is made frame by frame, and each frame takes a few steps of diffusion before it is heard.",
    "Good evening, this is a short text; here is a longer one that goes on for a while, and then it ends.",
)


def expected_frames(text_tokens: int) -> tuple[int, int]:
    """Frames heard and frames computed for ``text_tokens`` tokens: upstream always finishes a window of six."""
    threshold = FRAMES_PER_TOKEN * text_tokens + FRAMES_BEYOND
    heard = int(threshold) + 1
    return heard, -(-heard // 6) * 6


def make_tokenizer(where: Path) -> None:
    """A byte-level BPE of a few hundred tokens in Qwen2's file layout. Its folder's name must contain 'qwen'."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    where.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(where / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 8192,
    }
    (where / "tokenizer_config.json").write_text(json.dumps(settings))


def _acoustic_settings() -> dict[str, Any]:
    return {
        "vae_dim": LATENT, "fix_std": 0.5, "std_dist_type": "gaussian", "causal": True, "mixer_layer": "depthwise_conv",
        "encoder_n_filters": 2, "decoder_n_filters": 2, "encoder_ratios": [8, 5, 5, 4, 2, 2],
        "encoder_depths": "1-1-1-1-1-1-1",
    }  # fmt: skip


def _decoder_settings(layers: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": 512, "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    }  # fmt: skip


def _head_settings() -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "head_layers": 1,
        "latent_size": LATENT,
        "speech_vae_dim": LATENT,
        "ddpm_num_inference_steps": 5,
    }


def _plant_end_of_speech(model: Any) -> None:
    """Write the counting circuit (see above) into the speech language model and the end-of-speech classifier."""
    import torch

    with torch.no_grad():
        types = model.model.tts_input_types.weight  # row 0: speech, row 1: text
        types.mul_(0.1)
        types[0, SPEECH_CHANNEL] = 50.0
        types[1, TEXT_CHANNEL] = 50.0
        kept = (TEXT_CHANNEL, SPEECH_CHANNEL, BALANCE_CHANNEL)
        for source in (model.model.acoustic_connector.fc2, model.model.language_model.layers[-1].mlp.down_proj):
            source.weight[list(kept)] = 0.0  # nothing else may write where the circuit reads
            if source.bias is not None:
                source.bias[list(kept)] = 0.0
        model.model.language_model.embed_tokens.weight[:, list(kept)] = 0.0
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight[list(kept)] = 0.0
            layer.mlp.down_proj.weight[list(kept)] = 0.0
        for layer in model.model.tts_language_model.layers:
            layer.self_attn.o_proj.weight[list(kept)] = 0.0
            layer.mlp.down_proj.weight[list(kept)] = 0.0
        attention = model.model.tts_language_model.layers[0].self_attn
        width = HIDDEN // HEADS
        for projection in (attention.q_proj, attention.k_proj):  # head 0 looks at everything alike
            projection.weight[:width] = 0.0
            projection.bias[:width] = 0.0
        attention.v_proj.weight[0] = 0.0
        attention.v_proj.bias[0] = 0.0
        attention.v_proj.weight[0, SPEECH_CHANNEL] = 1.0
        attention.v_proj.weight[0, TEXT_CHANNEL] = -FRAMES_PER_TOKEN
        attention.o_proj.weight[BALANCE_CHANNEL, 0] = 1000.0
        classifier = model.tts_eos_classifier
        classifier.fc1.weight.zero_()
        classifier.fc1.bias.zero_()
        classifier.fc2.weight.zero_()
        classifier.fc1.weight[0, BALANCE_CHANNEL] = 1000.0
        classifier.fc2.weight[0, 0] = 1000.0
        classifier.fc2.bias.fill_(-1e-6)


def make_streaming_model(where: Path) -> Any:
    """Tiny weights for the realtime model, saved as upstream loads them; returns the model (float32, on the CPU)."""
    import torch

    configuration = importlib.import_module("vibevoice.modular.configuration_vibevoice_streaming")
    modeling = importlib.import_module("vibevoice.modular.modeling_vibevoice_streaming_inference")
    torch.manual_seed(7)
    config = configuration.VibeVoiceStreamingConfig(
        acoustic_tokenizer_config=_acoustic_settings(),
        decoder_config=_decoder_settings(layers=3),
        diffusion_head_config=_head_settings(),
        tts_backbone_num_hidden_layers=2,
    )
    model = modeling.VibeVoiceStreamingForConditionalGenerationInference(config).eval()
    make_audible(model)
    _plant_end_of_speech(model)
    model.save_pretrained(where)
    tokenizer = where / "qwen-tiny"
    make_tokenizer(tokenizer)
    (where / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "speech_tok_compress_ratio": 3200,
                "db_normalize": True,
                "language_model_pretrained_name": str(tokenizer.resolve()),
            }
        )
    )
    return model


def make_audible(model: Any) -> None:
    """Give the random acoustic decoder a voice: finite scale factors, and an output near a quarter of full scale."""
    import torch

    with torch.no_grad():
        model.model.speech_scaling_factor.fill_(1.0)
        model.model.speech_bias_factor.fill_(0.0)
        for name, parameter in model.model.acoustic_tokenizer.named_parameters():
            if name.startswith("decoder.") and parameter.dim() > 1:
                parameter.normal_(std=(2.0 / parameter[0].numel()) ** 0.5)
        for parameter in model.model.prediction_head.parameters():
            if parameter.dim() > 1 and not parameter.abs().any():
                parameter.normal_(std=0.05)
        heard = model.model.acoustic_tokenizer.decode(torch.randn(1, LATENT, 8))
        last = model.model.acoustic_tokenizer.decoder.head
        for parameter in last.parameters():
            parameter.mul_(0.25 / heard.abs().max().clamp(min=1e-9))


def make_preset(model: Any, seed: int) -> dict[str, Any]:
    """What a voice file holds: the four prefilled outputs of the prompt, with their key and value caches."""
    import torch
    from transformers.cache_utils import DynamicCache
    from transformers.modeling_outputs import BaseModelOutputWithPast

    generator = torch.Generator().manual_seed(seed)

    def prefilled(tokens: int, layers: int) -> Any:
        cache = DynamicCache()
        for layer in range(layers):
            shape = (1, HEADS, tokens, HIDDEN // HEADS)
            keys, values = (0.1 * torch.randn(shape, generator=generator) for _ in range(2))
            if layer == 0:  # the circuit's head: the prompt weighs FRAMES_BEYOND speech tokens less
                values[:, 0, :, 0] = -FRAMES_BEYOND * HIDDEN**0.5 / tokens
            cache.update(keys, values, layer)
        hidden = torch.randn((1, tokens, HIDDEN), generator=generator)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=cache)

    lower, upper = len(model.model.language_model.layers), len(model.model.tts_language_model.layers)
    return {
        "lm": prefilled(LM_PROMPT, lower),
        "tts_lm": prefilled(TTS_PROMPT, upper),
        "neg_lm": prefilled(1, lower),
        "neg_tts_lm": prefilled(1, upper),
    }


def make_tree(checkout: Path, out: Path, voices: tuple[str, ...] = VOICES) -> None:
    """Build OUT (see the module's text). ``vibevoice`` must not have been imported from elsewhere before.

    Raises:
        FileNotFoundError: CHECKOUT holds no realtime server (demo/web/app.py and vibevoice/).
    """
    for needed in ("demo/web/app.py", "vibevoice/modular/modeling_vibevoice_streaming_inference.py"):
        if not (checkout / needed).is_file():
            raise FileNotFoundError(f"{checkout} is no checkout of the realtime server: it has no {needed}")
    shutil.copytree(checkout / "vibevoice", out / "vibevoice", dirs_exist_ok=True)
    shutil.copytree(checkout / "demo" / "web", out / "demo" / "web", dirs_exist_ok=True)
    shutil.copy(checkout / "demo" / "vibevoice_realtime_demo.py", out / "demo")
    sys.path.insert(0, str(out))
    import torch

    model = make_streaming_model(out / "model")
    presets = out / "demo" / "voices" / "streaming_model"
    presets.mkdir(parents=True, exist_ok=True)
    for seed, voice in enumerate(voices):
        torch.save(make_preset(model, seed), presets / f"{voice}.pt")
    # Three ways for a voice to fail: unreadable, readable but useless to the processor, and useless only to the
    # generation thread.
    (presets / "zz-Corrupt_man.pt").write_bytes(b"not a voice")
    broken = make_preset(model, 99)
    torch.save({**broken, "tts_lm": None}, presets / "zz-Headless_man.pt")
    torch.save({key: value for key, value in broken.items() if key != "neg_lm"}, presets / "zz-Broken_man.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description="Tiny weights for an unmodified VibeVoice realtime server.")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("voices", nargs="*", default=VOICES)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    make_tree(arguments.checkout.resolve(), arguments.out.resolve(), tuple(arguments.voices))
    sys.stdout.write(f"{arguments.out}\n")


if __name__ == "__main__":
    main()
