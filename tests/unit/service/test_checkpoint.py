"""``--model PATH``: a checkpoint in transformers' own format, with its own processor, through the same code."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, VibeVoiceAcousticTokenizerFeatureExtractor, VibeVoiceProcessor

from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.faults import Faults
from vibevoice_otel.service.model import StreamingVibeVoice, random_config, random_model
from vibevoice_otel.service.settings import ServiceSettings

SPECIAL = ("<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
TEMPLATE = (
    "{% for message in messages %}Speaker {{ message['role'] }}:"
    "{% for part in message['content'] %} {{ part['text'] }}{% endfor %}{% endfor %}<|vision_start|>"
)


def processor() -> VibeVoiceProcessor:
    """A real VibeVoice processor over a tokenizer of single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0])
    return VibeVoiceProcessor(VibeVoiceAcousticTokenizerFeatureExtractor(), fast, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, saved as transformers saves a model."""
    config = random_config()
    config.text_config.vocab_size = config.vocab_size = 256 + len(SPECIAL)
    config.pad_token_id = config.eos_token_id = 256
    config.audio_bos_token_id, config.audio_eos_token_id, config.audio_token_id = 257, 258, 259
    torch.manual_seed(0)
    model = StreamingVibeVoice(config).eval()
    model.generation_config.noise_scheduler_class = "DPMSolverMultistepScheduler"
    model.generation_config.noise_scheduler_config = {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
    }
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def service(checkpoint: Path) -> StreamingTTSService:
    service = StreamingTTSService(ServiceSettings(model=str(checkpoint)))
    service.load()
    return service


def test_the_checkpoints_own_processor_prepares_the_text(service: StreamingTTSService, checkpoint: Path) -> None:
    """Its chat template and tokenizer are used, with one speaker, and the service says that the voices are
    names only.
    """
    assert type(service.processor) is type(processor())
    _, resources = service._get_voice_resources("en-Emma_woman")
    inputs = service._prepare_inputs("Hello.", resources)
    tokenizer = processor().tokenizer
    assert tokenizer.decode(inputs["input_ids"][0]) == "Speaker 0: Hello.<|vision_start|>"
    assert service.model_path == str(checkpoint)
    assert "noise" not in service.notice
    assert "no recordings" in service.notice


def test_a_checkpoint_speaks_until_it_is_stopped(service: StreamingTTSService) -> None:
    """The model decides how long it speaks; a set stop event ends it within a frame or two."""
    assert service.model is not None
    always_speak = torch.full((service.model.config.vocab_size,), -1e4)
    always_speak[service.model.config.audio_token_id] = 1e4
    handle = service.model.lm_head.register_forward_hook(lambda module, args, output: output + always_speak)
    stop = threading.Event()
    chunks: list[np.ndarray] = []
    try:
        for chunk in service.stream("Hello.", stop_event=stop):
            chunks.append(chunk)
            if len(chunks) == 10:
                stop.set()
    finally:
        handle.remove()
    assert 10 <= len(chunks) <= 14
    assert all(chunk.shape == (3200,) and np.isfinite(chunk).all() and chunk.any() for chunk in chunks)


def test_a_random_model_that_was_saved_comes_back(tmp_path: Path) -> None:
    """The random model as a checkpoint on disk keeps its byte tokenizer and speaks as long as a text takes."""
    random_model(0, Faults()).save_pretrained(tmp_path)
    service = StreamingTTSService(ServiceSettings(model=str(tmp_path)))
    assert len(list(service.stream("Hello, hello."))) == 7


def test_a_checkpoint_that_is_not_there_is_an_error_every_time(tmp_path: Path) -> None:
    """Nothing half-loaded stays behind: the next request tries again and fails the same way."""
    service = StreamingTTSService(ServiceSettings(model=str(tmp_path / "nowhere")))
    for _ in range(2):
        with pytest.raises((OSError, ValueError)):
            list(service.stream("Hello."))
        assert service.model is None
