"""A program that has not loaded VibeVoice is not one of speech, whatever its paths are called."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.pipeline import pipeline
from vibevoice_otel import deferred, semconv, settings
from vibevoice_otel.settings import Settings


@pytest.mark.parametrize(
    ("routes", "counted"),
    [(settings.DEFAULT_ROUTES, 0), (settings.read({"VIBEVOICE_OTEL_ROUTES": "/stream"}).settings.routes, 1)],
)
def test_a_stream_of_another_program_is_left_alone(
    routes: tuple[str, ...], counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an adapter a WebSocket /stream opens nothing; a route that the operator named does."""
    with pipeline(settings=Settings(routes=routes)) as observed:
        monkeypatch.setattr(deferred.DeferredRecorder, "built", None)
        answer = asyncio.run(observed.ask(b"text=hello"))
        monkeypatch.undo()
        observed.flush()
        assert len(answer.audio) == 6400
        assert sum(observed.counted(semconv.REQUESTS.name, "status").values()) == counted
