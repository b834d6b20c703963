"""From a real request to its span and series."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fastapi import FastAPI

from tests.support.builders import finish, request
from tests.support.pipeline import pipeline
from vibevoice_otel import semconv
from vibevoice_otel.recording.checks.judge import Judge
from vibevoice_otel.recording.checks.pace import ENOUGH
from vibevoice_otel.service.engine import StreamingTTSService
from vibevoice_otel.service.settings import ServiceSettings
from vibevoice_otel.settings import Settings

LOOKED_INTO = (
    semconv.AUDIO_SILENCE,
    semconv.AUDIO_CLIPPED,
    semconv.AUDIO_OFFSET,
    semconv.AUDIO_REPEATED,
    semconv.AUDIO_LEVEL,
)


@pytest.mark.parametrize("switch", [True, False])
def test_the_audio_of_a_real_model_is_looked_into_where_the_operator_wants_it(switch: bool) -> None:
    """With the switch on the span says what the audio holds; without it there is none of that, and no thread."""
    with pipeline(app=FastAPI(), settings=Settings(audio_checks=switch)) as observed:
        service = StreamingTTSService(ServiceSettings())
        assert list(service.stream("A short text, spoken once."))
        observed.flush()
        (root,) = (dict(span.attributes or {}) for span in observed.spans() if span.name == semconv.SYNTHESIZE.name)
    assert [attribute.key in root for attribute in LOOKED_INTO] == [switch] * len(LOOKED_INTO)


@pytest.mark.parametrize("switch", [True, False])
def test_loudness_has_a_switch_of_its_own(switch: bool) -> None:
    """Off by default; on, the span says how loud the speech is."""
    pytest.importorskip("pyloudnorm", reason="needs the extra [loudness]")
    assert not Settings().audio_loudness
    with pipeline(app=FastAPI(), settings=Settings(audio_checks=True, audio_loudness=switch)) as observed:
        service = StreamingTTSService(ServiceSettings())
        assert list(service.stream("A short text, spoken once."))
        observed.flush()
        (root,) = (dict(span.attributes or {}) for span in observed.spans() if span.name == semconv.SYNTHESIZE.name)
    assert (semconv.AUDIO_LOUDNESS.key in root) == switch
    if switch:
        assert -70 < float(str(root[semconv.AUDIO_LOUDNESS.key])) < 0


def judged(judge: Judge, samples: int) -> Any:
    """The mark on a request of 120 characters with so many samples of audio."""
    timeline = request()
    timeline.asked.text_length, timeline.audio_samples = 120, [samples // 2] * 2
    batch = finish(timeline)
    judge.consume(batch)
    root = batch.operation(semconv.SYNTHESIZE)
    assert root is not None
    return root.attributes.get(semconv.SUSPECT.key)


@pytest.mark.parametrize("of", [{}, {"final": False}, {"synthetic": True}, {"warm_up": True}])
def test_only_what_a_listener_waited_for_is_marked(of: dict[str, Any]) -> None:
    """A request with a minute of silence, once it is over; not a probe's, and not one of the start-up."""
    batch = dataclasses.replace(finish(request()), **of)
    root = batch.operation(semconv.SYNTHESIZE)
    assert root is not None
    root.attributes[semconv.AUDIO_SILENCE.key] = 60.0
    Judge().consume(batch)
    assert root.attributes.get(semconv.SUSPECT.key) == (None if of else semconv.Suspect.SILENCE.value)


def test_a_request_far_from_its_voice_s_pace_is_marked() -> None:
    """After 50 requests of 8 s: one of 24 s is a loop, one of 3 s is cut, one of 8 s neither."""
    judge = Judge()
    assert [judged(judge, 192_000) for _ in range(ENOUGH)] == [None] * ENOUGH
    assert [judged(judge, samples) for samples in (576_000, 72_000, 192_000)] == ["loop", "cut", None]
