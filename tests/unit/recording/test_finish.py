"""Why speech ended: what the generation says of itself, beside what happened around it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastapi import FastAPI

from tests.support.builders import MS, request
from tests.support.pipeline import Pipeline, pipeline
from vibevoice_otel import semconv
from vibevoice_otel.adapters.shared import finish as noted
from vibevoice_otel.recording.finish import decide
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.faults import Faults
from vibevoice_otel.service.settings import ServiceSettings

EOS, PAD, AUDIO = 7, 0, 5
SLOW = "fr-Spk0_man"
MODEL = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[EOS], pad_token_id=PAD))
LEFT = {"cancelled": 15 * MS, "service_closed": None}


def upstream(*cut_off: bool) -> Any:
    return SimpleNamespace(reach_max_step_sample=torch.tensor(cut_off))


def native(*last: int) -> Any:
    return SimpleNamespace(sequences=torch.tensor([[1, each] for each in last]))


@pytest.mark.parametrize(
    ("why", "results", "facts", "reason"),
    [
        ("upstream: over", [upstream(False)], {}, "eos"),
        ("upstream: cut off", [upstream(True)], {}, "length"),
        ("upstream: one of a batch cut off", [upstream(False, True)], {}, "length"),
        ("upstream: one sentence of three cut off", [upstream(False), upstream(True), upstream(False)], {}, "length"),
        ("upstream: the listener left", [upstream(False)], LEFT, "stopped"),
        ("upstream: cut off before the listener left", [upstream(True)], LEFT, "length"),
        ("upstream: the listener left after the end", [upstream(False)], {"cancelled": 32 * MS}, "eos"),
        ("native: over", [native(EOS)], {}, "eos"),
        ("native: over, a batch padded", [native(EOS, PAD)], {}, "eos"),
        ("native: cut off", [native(AUDIO)], {}, "length"),
        ("native: the stream's reader closed it", [native(AUDIO)], {"abandoned": 15 * MS}, "stopped"),
        ("native: over although the listener had left", [native(EOS)], LEFT, "eos"),
        ("the service's time was over", [native(AUDIO)], {"work_error": "TimeoutError"}, "stopped"),
        ("failed", [], {"of_run": {"error": "RuntimeError"}}, "error"),
        ("a result that says nothing", [[torch.zeros(3)]], {}, None),
        ("nothing generated", [], {"of_run": {"start": None, "end": None}}, None),
    ],
)
def test_the_reason(why: str, results: Sequence[Any], facts: dict[str, Any], reason: str | None) -> None:
    """Every row is one way for speech to end; what is not known is absent."""
    timeline, of_run = request(), facts.pop("of_run", {})
    timeline.runs += [copy.copy(timeline.runs[0]) for _ in results[1:]]
    for run, result in zip(timeline.runs, results, strict=False):
        run.ending = noted.ending(MODEL, {}, result)
    for name, value in facts.items():
        setattr(timeline, name, value)
    for name, value in of_run.items():
        setattr(timeline.runs[0], name, value)
    assert decide(timeline) == reason, why


def test_an_answer_that_the_device_still_owes_is_absent() -> None:
    """Nobody waits for a device: a request that is assembled before the copy has arrived has no reason."""
    timeline = request()
    timeline.runs[0].ending = lambda: None
    assert decide(timeline) is None


@pytest.fixture(scope="module")
def observed() -> Iterator[Pipeline]:
    with pipeline(app=FastAPI()) as running:
        yield running


@pytest.fixture(scope="module")
def service(observed: Pipeline) -> StreamingTTSService:
    made = StreamingTTSService(ServiceSettings(faults=Faults(slow_voices={SLOW: 0.1})))
    made.load()
    return made


def reasons(observed: Pipeline) -> list[Any]:
    observed.flush()
    roots = [span.attributes or {} for span in observed.spans() if span.name == semconv.SYNTHESIZE.name]
    observed.spans_of.clear()
    return [root.get(semconv.FINISH_REASON.key) for root in roots]


def test_a_real_model_that_speaks_to_its_end(observed: Pipeline, service: StreamingTTSService) -> None:
    """The embedded service's model ends its own speech."""
    assert list(service.stream("A short text."))
    assert reasons(observed) == ["eos"]


def test_a_real_model_that_is_stopped(observed: Pipeline, service: StreamingTTSService) -> None:
    """Whoever reads the stream closes it after the first chunk."""
    text = "A text that is long enough to be stopped while it is being spoken, far from its end."
    chunks = service.stream(text, voice_key=SLOW)  # half a second a frame: its reader is sure to be in time
    next(chunks)
    chunks.close()
    assert reasons(observed) == ["stopped"]


def test_a_real_model_whose_budget_is_short(
    observed: Pipeline, service: StreamingTTSService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tokens are too few for the text."""
    prepare = service._prepare_inputs
    monkeypatch.setattr(service, "_prepare_inputs", lambda *a: {**prepare(*a), "max_new_tokens": 3})
    assert list(service.stream("A text of more than two frames, without any doubt."))
    assert reasons(observed) == ["length"]
    assert observed.counted(semconv.FINISHED.name, "finish_reason") == {"eos": 1, "stopped": 1, "length": 1}
