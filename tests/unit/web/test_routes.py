"""One definition of a speech request: where its text is hidden it is recorded, and its trace adopted, too."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from tests.support.pipeline import pipeline, speaking_app
from vibevoice_otel import semconv
from vibevoice_otel.routes import SpeechRoutes


@pytest.mark.parametrize(
    ("path", "speech"),
    [
        ("/stream", True),
        ("/tts/stream", True),
        ("/upstream", False),
        ("/stream/", False),
        ("/", False),
        ("", False),
        ("/streams", False),
    ],
)
def test_a_prefix_makes_no_difference(path: str, speech: bool) -> None:
    """Whole segments count, from the end."""
    assert (path in SpeechRoutes(["/stream"])) is speech


@pytest.mark.parametrize("how", ["as it is", "behind root_path", "mounted"])
def test_a_speech_request_is_recorded_under_any_prefix(how: str) -> None:
    """Behind a proxy's prefix and in a mounted application there is one request with its first audio, and no text in
    the URL.
    """
    app = speaking_app()
    if how == "mounted":
        outer = FastAPI()
        outer.mount("/tts", app)
        app = outer
    place = {
        "as it is": {},
        "behind root_path": {"path": "/proxy/stream", "root_path": "/proxy"},
        "mounted": {"path": "/tts/stream"},
    }[how]
    with pipeline(app=app) as observed:
        answer = asyncio.run(observed.ask(b"text=heliotrope", **place))  # type: ignore[arg-type]
        observed.flush()
        assert answer.error is None
        assert answer.audio
        assert observed.counted(semconv.REQUESTS.name, "status") == {"success": 1}
        assert sum(observed.counted(semconv.FIRST_AUDIO.name, "voice").values()) == 1
        assert not any("heliotrope" in str(span.attributes) for span in observed.spans())
