"""Each fault shows where it belongs, and failures are told truthfully."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from vibevoice_otel.service.engine import StreamingTTSService, frames_of
from vibevoice_otel.service.faults import Faults
from vibevoice_otel.service.model import inject
from vibevoice_otel.service.settings import ServiceSettings

from .harness import TEXT, Running, generations, running, wait_until

pytestmark = pytest.mark.serial

CARTER, EMMA = "en-Carter_man", "en-Emma_woman"


@pytest.fixture(scope="module")
def faulty() -> Iterator[Running]:
    yield from running(faults={"corrupt_voices": (EMMA,)})


@pytest.fixture
def set_faults(faulty: Running) -> Iterator[Any]:
    """Faults that live in the model, for one test (the others are the service's from its start)."""
    model = faulty.service.model
    assert model is not None

    def put(**faults: Any) -> None:
        model.faults = Faults(**faults)

    yield put
    model.faults = Faults()


async def test_a_failing_generation_is_told(faulty: Running, set_faults: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Frames before the failure are heard; then generation_error, as upstream, and 1011, unlike it."""
    set_faults(fail_at_frame=3)
    with caplog.at_level(logging.ERROR):
        answer = await faulty.ask("private words, long enough")
    assert answer.code == 1011
    assert len(answer.chunks) == 3
    assert answer.events[-3:] == ["generation_error", "backend_error", "backend_stream_complete"]
    assert answer.data("generation_error") == {"message": "RuntimeError"}
    assert "a request failed: RuntimeError" in caplog.text
    assert "_stream_frame" in caplog.text, "where it failed is in the log"
    assert "private" not in caplog.text
    assert not generations()


async def test_a_corrupt_voice_is_told_and_no_other_is_touched(faulty: Running) -> None:
    """The voice's own error, before any generation; the next voice speaks."""
    answer = await faulty.ask(voice=EMMA)
    assert (answer.code, answer.chunks) == (1011, [])
    assert answer.events == ["backend_request_received", "backend_error", "backend_stream_complete"]
    assert answer.data("backend_error") == {"message": "CorruptVoiceError"}
    assert (await faulty.ask(voice=CARTER)).code == 1000


def test_a_nan_frame_is_one_frame(faulty: Running, set_faults: Any) -> None:
    """Frame 1 is not a number, its neighbours sound; on the wire it is silence."""
    set_faults(nan_frames=(1,))
    chunks = list(faulty.service.stream(TEXT))
    assert [bool(np.isnan(chunk).all()) for chunk in chunks] == [n == 1 for n in range(frames_of(TEXT))]
    assert all(np.isfinite(chunk).all() for n, chunk in enumerate(chunks) if n != 1)
    assert not any(faulty.service.chunk_to_pcm16(chunks[1]))


def test_silence_is_silence(faulty: Running, set_faults: Any) -> None:
    """Every frame is made, none sounds."""
    set_faults(silent=True)
    chunks = list(faulty.service.stream(TEXT))
    assert len(chunks) == frames_of(TEXT)
    assert not any(chunk.any() for chunk in chunks)


def test_a_hanging_model_holds_its_reader_no_longer_than_its_time(faulty: Running, set_faults: Any) -> None:
    """stream() raises TimeoutError at the deadline though the generation hangs,
    and the thread ends when the hang does.
    """
    set_faults(hang_at_frame=2, hang_seconds=2.0)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="longer than the service allows"):
        list(faulty.service.stream(TEXT, deadline=started + 0.5))
    assert 0.5 <= time.monotonic() - started < 1.9
    assert generations()
    wait_until(lambda: not generations(), 5, "the end of the generation")


def _seconds_per_call(service: StreamingTTSService, part: torch.nn.Module) -> list[float]:
    """How long each call of a part took during one short request, hooks of the part itself included."""
    times: list[float] = []
    original = part.__call__

    class Timed(type(part)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                times.append(time.perf_counter() - started)

    kind = type(part)
    part.__class__ = Timed
    try:
        list(service.stream("Hi.", inference_steps=2))
    finally:
        part.__class__ = kind
    return times


@pytest.mark.parametrize(
    ("fault", "part"),
    [("step_delay", "diffusion_head"), ("lm_delay", "language_model"), ("decode_delay", "audio_tower.decoder")],
)
def test_a_delay_is_inside_its_own_part(fault: str, part: str) -> None:
    """Every call of the slowed part takes the delay longer, and no call of the others does."""
    service = StreamingTTSService(ServiceSettings())
    service.load()
    assert service.model is not None
    inject(service.model, Faults(**{fault: 0.05}))
    for name in ("diffusion_head", "language_model", "audio_tower.decoder"):
        times = _seconds_per_call(service, service.model.model.get_submodule(name))
        assert times
        if name == part:
            assert min(times) >= 0.05
        else:
            assert sorted(times)[len(times) // 2] < 0.05


def test_delays_outside_the_model_are_inside_their_own_part() -> None:
    """Loading, a voice, the preparation: each takes its own delay, once."""
    service = StreamingTTSService(
        ServiceSettings(faults=Faults(load_delay=0.11, voice_delay={CARTER: 0.07}, preprocess_delay=0.05))
    )
    for call, delay, again in (
        (service.load, 0.11, 0.0),
        (lambda: service._ensure_voice_cached(CARTER), 0.07, 0.0),
        (lambda: service._ensure_voice_cached(EMMA), 0.0, 0.0),
        (lambda: service._prepare_inputs("Hi.", service._voice_cache[CARTER]), 0.05, 0.05),
    ):
        for expected in (delay, again):
            started = time.perf_counter()
            call()
            took = time.perf_counter() - started
            assert took >= expected
            if expected == 0.0 and call != service.load:
                assert took < 0.05


def test_a_slow_reader_fills_the_queue(faulty: Running) -> None:
    """The audio queue is a real one: it grows while nobody reads."""
    stream = faulty.service.stream(TEXT)
    next(stream)
    frame = stream.gi_frame  # type: ignore[attr-defined]
    queue = frame.f_locals["streamer"].audio_queues[0]
    wait_until(
        lambda: queue.qsize() == frames_of(TEXT), 5, "every later frame and the end, in the queue"
    )  # one frame less, one end more
    assert len(list(stream)) == frames_of(TEXT) - 1
    assert not generations()


def test_a_generator_that_is_closed_early_leaves_nothing(faulty: Running) -> None:
    """Closing stream() stops the generation within a frame and joins its thread."""
    stream = faulty.service.stream(TEXT * 20)
    next(stream)
    assert generations()
    stream.close()  # type: ignore[attr-defined]
    assert not generations()


def test_voices_differ_and_are_the_same_each_time(faulty: Running) -> None:
    """From one seed a voice always says a text the same way, and two voices differently."""

    def say(voice: str) -> np.ndarray:
        torch.manual_seed(7)
        return np.concatenate(list(faulty.service.stream("The same text.", voice_key=voice)))

    first = say(CARTER)
    assert np.array_equal(first, say(CARTER))
    assert np.abs(first - say("sp-Spk1_man")).max() > 1e-3


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("cfg", [0.1, 1.5, 10.0])
def test_audio_is_finite_sounding_and_unclipped(faulty: Running, steps: int, cfg: float) -> None:
    """At every allowed cfg and number of steps."""
    audio = np.concatenate(list(faulty.service.stream(TEXT, cfg_scale=cfg, inference_steps=steps)))
    assert np.isfinite(audio).all()
    assert audio.std() > 0.01
    assert np.abs(audio).max() < 0.95


def test_pcm_is_little_endian_and_bounded(faulty: Running) -> None:
    """PCM16 clips what is too loud and knows no NaN."""
    pcm = faulty.service.chunk_to_pcm16(np.array([0.0, 1.0, -1.0, 2.0, np.nan, np.inf], dtype=np.float32))
    assert np.frombuffer(pcm, dtype="<i2").tolist() == [0, 32767, -32767, 32767, 0, 32767]
