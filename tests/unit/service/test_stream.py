"""One request over a real WebSocket: audio, log messages, parameters, and what the interface shares with the upstream
server.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import websockets

from vibevoice_otel.service import voices
from vibevoice_otel.service.engine import frames_of
from vibevoice_otel.service.faults import Faults

from .harness import TEXT, Running, generations, running, wait_until

SAMPLES_PER_FRAME = 3200


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    yield from running()


def get(service: Running, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}{path}", timeout=60) as response:
        return json.load(response)


async def test_a_text_is_heard_frame_by_frame(service: Running) -> None:
    """Every frame of the text's length comes as one message of 3200 PCM16 samples, sounding, unclipped, and with 1000
    at the end.
    """
    answer = await service.ask(voice="en-Emma_woman")
    assert answer.code == 1000
    assert [len(chunk) for chunk in answer.chunks] == [2 * SAMPLES_PER_FRAME] * frames_of(TEXT)
    loudness = answer.samples.astype(float) / 32768
    assert 0.02 < loudness.std() < 0.3
    assert np.abs(loudness).max() < 0.99


async def test_a_last_message_sums_up_where_the_operator_wants_it() -> None:
    """Off it is not there (the next test); on it comes last, with times that agree with the listener's own."""
    with Running(summary=True) as service:
        began = time.perf_counter()
        answer = await service.ask()
        took = time.perf_counter() - began
    assert answer.events[-1] == "backend_summary"
    told = answer.data("backend_summary")
    assert told["audio_sec"] == pytest.approx(len(answer.samples) / 24_000)
    assert answer.first_audio is not None
    assert 0 < told["first_audio"] <= min(answer.first_audio, told["total"])
    assert told["total"] <= took
    assert told["traceparent"] is None, "nothing observes this service"


async def test_the_log_messages_are_upstreams(service: Running) -> None:
    """A listener is told in upstream's words and order, with upstream's fields."""
    answer = await service.ask(voice="en-Emma_woman", cfg="2.0", steps="3")
    frames = frames_of(TEXT)
    later = ["model_progress"] * (frames - 1)
    assert answer.events == [
        "backend_request_received",
        "model_progress",
        "backend_first_chunk_sent",
        *later,
        "backend_stream_complete",
    ]
    assert answer.data("backend_request_received") == {
        "text_length": len(TEXT), "cfg_scale": 2.0, "inference_steps": 3, "voice": "en-Emma_woman",
    }  # fmt: skip
    progress = [log["data"]["generated_sec"] for log in answer.logs if log["event"] == "model_progress"]
    assert progress == pytest.approx([(n + 1) * SAMPLES_PER_FRAME / 24_000 for n in range(frames)])
    assert all(log["type"] == "log" and log["timestamp"] for log in answer.logs)


def test_config_lists_upstreams_voices_and_says_that_the_model_makes_noise(service: Running) -> None:
    """GET /config has all 25 voices, the default among them, and is honest about random weights."""
    config = get(service, "/config")
    assert config["voices"] == sorted(voices.NAMES)
    assert len(config["voices"]) == 25
    assert config["default_voice"] == "en-Carter_man"
    assert "noise, not speech" in config["notice"]
    assert "noise, not speech" in get(service, "/")["notice"]
    assert get(service, "/healthz") == {"ok": True, "model_loaded": True}


async def test_an_unknown_voice_is_replaced_and_told(service: Running) -> None:
    """The default voice speaks, and the listener learns which one he asked for and which he got."""
    answer = await service.ask(voice="en-Nobody_man")
    assert answer.code == 1000
    assert answer.data("voice_replaced") == {"asked": "en-Nobody_man", "used": "en-Carter_man"}
    assert len(answer.chunks) == frames_of(TEXT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("cfg", value) for value in ("nan", "inf", "-1", "much", "11")),
        *(("steps", value) for value in ("0", "101", "1e400", "2.5", "nan", "x" * 100)),
    ],
)
async def test_a_parameter_that_is_not_valid_is_replaced_and_told(service: Running, name: str, value: str) -> None:
    """No cfg or steps that upstream turns into silence gets through."""
    answer = await service.ask("Hi", **{name: value})
    default = {"cfg": 1.5, "steps": 5}[name]
    assert answer.data("parameter_replaced") == {"parameter": name, "asked": value[:64], "used": default}
    assert answer.data("backend_request_received")["cfg_scale"] == 1.5
    assert answer.data("backend_request_received")["inference_steps"] == 5
    assert answer.samples.any()


async def test_steps_are_the_requests_own(service: Running) -> None:
    """One request's steps are not the next one's default."""
    await service.ask("Hi.", steps="2")
    answer = await service.ask("Hi.")
    assert answer.data("backend_request_received")["inference_steps"] == 5


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
async def test_an_empty_text_is_no_work(service: Running, text: str) -> None:
    """Nothing is generated and the stream ends well."""
    answer = await service.ask(text)
    assert (answer.code, answer.chunks) == (1000, [])
    assert answer.events == ["backend_request_received", "backend_stream_complete"]


async def test_a_text_beyond_the_limit_is_refused(service: Running) -> None:
    """It is told why, and closed with 1009, before any work."""
    answer = await service.ask("a" * 2001)
    assert (answer.code, answer.events, answer.chunks) == (1009, ["backend_error"], [])
    assert "2000 characters" in answer.data("backend_error")["message"]


@pytest.mark.parametrize("text", ["…", "¿Qué?", "日本語のテキスト", "🚆" * 5, "a\x00b"])
async def test_any_script_is_spoken(service: Running, text: str) -> None:
    """The tokenizer knows every character."""
    assert (await service.ask(text)).samples.any()


async def test_uvicorns_log_has_no_text(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Uvicorn logs each WebSocket's path; what the listener wants spoken is not in it, nor in any line of ours."""
    with caplog.at_level(logging.INFO):
        await service.ask("confidential words")
    assert any("/stream" in record.getMessage() for record in caplog.records), (
        "uvicorn logged no path: the test proves nothing"
    )
    assert "confidential" not in caplog.text


async def test_the_second_chunk_does_not_wait_for_the_last(service: Running) -> None:
    """Audio streams: the first frame is heard while a later one is still being made, which here takes seconds."""
    model = service.service.model
    assert model is not None
    model.faults = Faults(hang_at_frame=3, hang_seconds=3.0)
    try:
        async with websockets.connect(service.url("A sentence that goes on. " * 4)) as connection:
            while not isinstance(await connection.recv(), bytes):
                pass
            assert generations()
    finally:
        model.faults = Faults()
    wait_until(lambda: not generations(), 60, "the end of the generation")
