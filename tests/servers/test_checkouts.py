"""The same promises over real checkouts, with tiny random weights: ``make test-servers SERVERS=folder``."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.upstream.server import Server, serve
from tests.upstream.sink import Sink
from tests.upstream.trees import Tree
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Status

from . import checkouts
from .test_http import SHORT, SPEECH, WAV_HEADER, assert_told, speak

FOLDER = os.environ.get("VIBEVOICE_SERVERS")
pytestmark = [
    pytest.mark.upstream,
    pytest.mark.skipif(not FOLDER, reason="no checkouts: make test-servers SERVERS=folder"),
]
VOICES = ["de-Spk0_man", "en-Emma_woman", "fr-Spk1_woman"]
MEDIUM = "The quick brown fox jumps over the lazy dog while the morning light moves, and then it ends."


@contextmanager
def served(kind: str, app: str, where: Path, **environment: str) -> Iterator[Server]:
    folder = Path(FOLDER or ".").resolve()
    if not checkouts.present(kind, folder):
        pytest.skip(f"no checkout of {kind} in {folder}")
    out = where / "tree"
    made = subprocess.run(
        [sys.executable, str(Path(checkouts.__file__)), kind, str(folder), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    command = (sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", "0")
    with Sink() as sink, serve(Tree(kind, out), sink, where, command=command, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def community(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vibevoice-community/VibeVoice's realtime model behind a server of the OpenAI-compatible shape."""
    with served("community", "shapes.openai_threads:app", tmp_path_factory.mktemp("community")) as running:
        yield running


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("text", [SHORT, MEDIUM], ids=["short", "medium"])
def test_community(community: Server, voice: str, text: str) -> None:
    """One trace in the caller's, counts of the witness, the voice by its file, the audio's seconds by the listener's
    bytes.
    """
    answer, trace, counts = speak(community, SPEECH, input=text, voice=voice)
    assert_told(trace, counts, text, (len(answer.body) - WAV_HEADER) / 48_000)
    assert trace.value(semconv.VOICE) == voice
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None


@pytest.fixture(scope="module")
def realtime_fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """groxaxo/vibevoice-realtimeFASTAPI over microsoft/VibeVoice."""
    pytest.importorskip("pydub")
    with served("realtime-fastapi", "demo.web.app:app", tmp_path_factory.mktemp("realtime")) as running:
        yield running


@pytest.mark.parametrize("voice", VOICES)
def test_realtime_fastapi(realtime_fastapi: Server, voice: str) -> None:
    """A loop over sentences, collected: a generation for each, one request."""
    text = "Good evening, this is one. And this is another one. The third one ends it."
    answer, trace, counts = speak(realtime_fastapi, SPEECH, input=text, voice=voice)
    with wave.open(io.BytesIO(_as_pcm(answer.body))) as heard:
        seconds = heard.getnframes() / heard.getframerate()
    assert counts["generate"] > 1
    assert trace.value(semconv.STATUS) == Status.SUCCESS
    assert len(trace.all(semconv.GENERATE)) == counts["generate"]
    assert len(trace.all(semconv.FRAME)) == counts["sample_speech_tokens"]
    assert len(trace.all(semconv.STEP)) == counts["step"]
    assert trace.value(semconv.AUDIO_DURATION) == pytest.approx(seconds)
    assert trace.value(semconv.VOICE) == voice
    assert trace.value(semconv.TEXT_LENGTH) == len(text)
    assert not any(text[:12] in str(each) for each in trace.spans)


def _as_pcm(body: bytes) -> bytes:
    """Scipy writes float samples, which the wave module does not read: their number alone is of interest."""
    import numpy as np
    import scipy.io.wavfile

    rate, samples = scipy.io.wavfile.read(io.BytesIO(body))
    out = io.BytesIO()
    scipy.io.wavfile.write(out, rate, (samples * 32767).astype(np.int16))
    return out.getvalue()


@pytest.fixture(scope="module")
def openai_realtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vibevoice-realtime-openai-api over microsoft/VibeVoice: collected, on the event loop."""
    where = tmp_path_factory.mktemp("openai")
    environment = {
        "VIBEVOICE_MODEL_PATH": str(where / "tree" / "model"), "VIBEVOICE_DEVICE": "cpu",
        "MODELS_DIR": ".",  # a preset in the machine's temporary folder would be an upload, which names no voice
    }  # fmt: skip
    with served("openai-realtime", "vibevoice_realtime_openai_api:app", where, **environment) as running:
        yield running


@pytest.mark.parametrize("voice", ["en-Davis_man", "en-Emma_woman", "en-Mike_man"])
@pytest.mark.parametrize("text", [SHORT, MEDIUM], ids=["short", "medium"])
def test_openai_realtime(openai_realtime: Server, voice: str, text: str) -> None:
    """One trace in the caller's, counts of the witness, the voice by its file, and how long the loop stood still."""
    short_name = voice.removeprefix("en-").partition("_")[0]
    answer, trace, counts = speak(openai_realtime, SPEECH, input=text, voice=short_name, response_format="wav")
    assert_told(trace, counts, text, (len(answer.body) - WAV_HEADER) / 48_000)
    assert trace.value(semconv.VOICE) == voice
    assert (trace.value(semconv.CFG), trace.value(semconv.STEPS)) == (1.25, 5)
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None
    assert trace.value(semconv.EVENT_LOOP_BLOCKED) is not None


@pytest.mark.parametrize("encoding", ["mp3", "opus", "flac", "aac"])
def test_openai_realtime_encoded(openai_realtime: Server, encoding: str) -> None:
    """An encoder stands between the model and the listener: seconds come from the model's samples, first audio from
    the encoder's bytes.
    """
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg")
    _, plain, _ = speak(openai_realtime, SPEECH, input=SHORT, voice="Emma", response_format="pcm")
    answer, trace, counts = speak(openai_realtime, SPEECH, input=SHORT, voice="Emma", response_format=encoding)
    assert answer.body
    assert_told(trace, counts, SHORT, plain.value(semconv.AUDIO_DURATION))
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None
    assert trace.value(semconv.UNDERRUNS) is None


@pytest.fixture(scope="module")
def long_form_fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """groxaxo/VibeVoice-FastAPI: the long-form model, on the event loop."""
    pytest.importorskip("pydantic_settings")
    pytest.importorskip("soundfile")
    where = tmp_path_factory.mktemp("longform")
    environment = {
        "VIBEVOICE_MODEL_PATH": str(where / "tree" / "model"), "VIBEVOICE_DEVICE": "cpu", "VIBEVOICE_DTYPE": "float32",
        "VIBEVOICE_INFERENCE_STEPS": "5", "VIBEVOICE_ATTN_IMPLEMENTATION": "eager",
        "VOICES_DIR": str(where / "tree" / "voices"),
        "MAX_GENERATION_LENGTH": "60", "OPENAI_VOICE_MAPPING": '{"alloy": "en-Alice_woman"}',
    }  # fmt: skip
    with served("long-form-fastapi", "api.main:app", where, **environment) as running:
        yield running


def test_long_form_fastapi(long_form_fastapi: Server) -> None:
    """POST /v1/audio/speech generates on the event loop: one request, its frames and steps, and how long the loop stood
    still.
    """
    answer, trace, counts = speak(
        long_form_fastapi, SPEECH, input=SHORT, voice="alloy", model="tts-1", response_format="wav"
    )
    assert len(answer.body) > 10_000
    assert len(trace.all(semconv.GENERATE)) == counts["generate"] == 1
    assert len(trace.all(semconv.FRAME)) == counts["sample_speech_tokens"] > 0
    assert len(trace.all(semconv.STEP)) == counts["step"]
    assert trace.value(semconv.EVENT_LOOP_BLOCKED) is not None
    assert trace.value(semconv.FIRST_AUDIO_LATENCY) is not None
    assert not any(SHORT[:12] in str(each) for each in trace.spans)
