"""The truth about failure: every way that a request can end, on the request's span, the SERVER span and the metrics."""

from __future__ import annotations

import asyncio
import json

import pytest

from .conftest import ERROR_STATUS, Running
from .test_trace import assert_well_formed


def _faults(**faults: object) -> dict[str, str]:
    return {"VIBEVOICE_SERVICE_FAULTS": json.dumps(faults)}


def _check(running: Running, trace, status: str, error_type: str | None, *, server_error: bool) -> None:
    assert_well_formed(trace)
    for span in (trace.root, trace.server):
        assert span.attributes["vibevoice.status"] == status
        assert span.attributes.get("error.type") == error_type
        assert (span.status == ERROR_STATUS) == server_error
    assert running.total("vibevoice_streaming_requests_total", status=status) >= 1
    if error_type is not None:
        assert running.total("vibevoice_errors_total", error_type=error_type) >= 1


def test_failure_in_the_generation_thread(start) -> None:
    """An exception in the model is the request's error, though it happened on another thread."""
    running = start(**_faults(fail_at_frame=2))
    answer, trace = running.speak(text="Hello there, this fails.")
    assert answer.chunks == 2
    _check(running, trace, "error", "RuntimeError", server_error=True)
    (generate,) = trace.named("vibevoice.generate")
    assert generate.status == ERROR_STATUS
    assert generate.attributes["error.type"] == "RuntimeError"


def test_a_corrupt_voice(start) -> None:
    """One voice fails, the others speak; the failure is that voice's."""
    running = start(**_faults(corrupt_voices=["fr-Spk0_man"]))
    _, trace = running.speak(text="Hello", voice="fr-Spk0_man")
    _check(running, trace, "error", "CorruptVoiceError", server_error=True)
    assert trace.named("vibevoice.voice.load")[0].status == ERROR_STATUS
    assert running.total("vibevoice_streaming_requests_total", voice="fr-Spk0_man", status="error") == 1
    _, trace = running.speak(text="Hello", voice="en-Emma_woman")
    _check(running, trace, "success", None, server_error=False)


def test_not_a_number(start) -> None:
    """Audio that is not a number is an error, though the socket closed as if all were well."""
    running = start(**_faults(nan_frames=[1]))
    answer, trace = running.speak(text="Hello")
    assert answer.close_code == 1000
    _check(running, trace, "error", "nan_audio", server_error=True)
    assert trace.root.attributes["vibevoice.frames.nan"] == 1
    assert [f.attributes.get("vibevoice.frame.defect") for f in trace.named("vibevoice.frame")][:3] == [
        None,
        "nan",
        None,
    ]
    assert running.total("vibevoice_frames_defective_total", kind="nan") == 1


def test_silence(start) -> None:
    """A request whose every frame is silent failed its listener."""
    running = start(**_faults(silent=True))
    _, trace = running.speak(text="Hello")
    _check(running, trace, "error", "silent_audio", server_error=True)
    assert trace.root.attributes["vibevoice.leading_silence"] == trace.root.attributes["vibevoice.audio.duration"]


def test_the_services_time_limit(start) -> None:
    """A request that the service gave up on is a timeout, not an error."""
    running = start(**_faults(hang_at_frame=1, hang_seconds=1.5), VIBEVOICE_SERVICE_TIMEOUT="1")
    answer, trace = running.speak(text="Hello")
    assert answer.close_code == 1011
    _check(running, trace, "timeout", "TimeoutError", server_error=True)


def test_a_listener_who_leaves(start) -> None:
    """Leaving in mid-stream is cancelled: no error, and what the model still did for nobody is stated."""
    running = start(**_faults(step_delay=0.02))
    answer, trace = running.speak(
        on_chunk=lambda n: n < 2, text="A long enough text, so that the listener leaves in the middle of it."
    )
    assert answer.chunks == 2
    _check(running, trace, "cancelled", None, server_error=False)
    assert running.total("vibevoice_errors_total") == 0


def test_busy(start) -> None:
    """A refusal for want of a place is rejected, with the voice asked for;
    the one who was served is not touched by it.
    """
    running = start(**_faults(step_delay=0.02), VIBEVOICE_SERVICE_CONCURRENCY="1", VIBEVOICE_SERVICE_QUEUE="0")
    running.speak(text="warm up")

    async def two() -> tuple:
        speaking = asyncio.Event()
        first = asyncio.create_task(
            running.ask(
                lambda _: speaking.set() is None, text="The first one takes its time to speak. " * 2,
                voice="en-Emma_woman",
            )
        )  # fmt: skip
        await speaking.wait()
        second = await running.ask(text="The second one.", voice="de-Spk0_man")
        return await first, second

    before = set(running.traces())
    first, second = asyncio.run(two())
    assert (first.close_code, second.close_code) == (1000, 1013)
    traces = running.wait_for_traces(len(before) + 2, but=before)
    rejected = next(t for t in traces if t.root.attributes["vibevoice.status"] == "rejected")
    _check(running, rejected, "rejected", "busy", server_error=True)
    assert not rejected.named("vibevoice.generate")
    assert running.total("vibevoice_streaming_requests_total", voice="de-Spk0_man", status="rejected") == 1


def test_empty_text(service: Running) -> None:
    """Nothing to say is refused, not failed."""
    _, trace = service.speak(text="   ")
    _check(service, trace, "rejected", "empty_text", server_error=False)


def test_an_unknown_voice_and_unusable_parameters(service: Running) -> None:
    """What was asked for stands beside what was used; the labels are those of what spoke."""
    _, trace = service.speak(text="Hello", voice="en-Nobody", cfg="nan", steps="-3")
    facts = trace.root.attributes
    assert (facts["vibevoice.voice"], facts["vibevoice.voice.requested"]) == ("en-Carter_man", "other"), (
        "what a client writes stays out"
    )
    assert (facts["vibevoice.cfg"], facts["vibevoice.cfg.requested"]) == (1.5, "nan")
    assert (facts["vibevoice.steps"], facts["vibevoice.steps.requested"]) == (5, "-3")
    assert "en-Nobody" not in service.metrics()


def test_two_at_once_one_fails(start) -> None:
    """Two requests on two threads, one with a corrupt voice: each has its own outcome."""
    running = start(**_faults(corrupt_voices=["fr-Spk0_man"]))
    before = set(running.traces())

    async def both() -> None:
        await asyncio.gather(
            running.ask(text="This one fails.", voice="fr-Spk0_man"),
            running.ask(text="This one speaks.", voice="kr-Spk1_man"),
        )

    asyncio.run(both())
    outcomes = {
        str(t.root.attributes["vibevoice.voice"]): t.root.attributes["vibevoice.status"]
        for t in running.wait_for_traces(len(before) + 2, but=before)
    }
    assert outcomes == {"fr-Spk0_man": "error", "kr-Spk1_man": "success"}


SLOWED = {
    "step_delay": "vibevoice.diffusion.step",
    "decode_delay": "vibevoice.decode",
    "lm_delay": "vibevoice.lm.forward",
    "queue_delay": "vibevoice.queue",
    "preprocess_delay": "vibevoice.preprocess",
}


def _least(running: Running) -> dict[str, float]:
    """The shortest span of each kind over five requests, in milliseconds: what the part itself takes, whatever else the
    machine does.
    """
    traces = [running.speak(text="Hello there.")[1] for _ in range(5)]
    return {
        name: min(ms for trace in traces for ms in trace.durations(name))
        for name in {*SLOWED.values(), "vibevoice.semantic_encode"}
    }


@pytest.mark.serial
@pytest.mark.parametrize("fault", SLOWED)
def test_a_slowed_part_lengthens_its_own_spans_and_no_others(start, service: Running, fault: str) -> None:
    """20 ms more in one part are 20 ms more in each of its spans; every other kind stays as it was."""
    running = start(**_faults(**{fault: 0.02}))
    running.speak(text="warm up")
    slow, healthy = _least(running), _least(service)
    for name, shortest in slow.items():
        growth = shortest - healthy[name]
        if name == SLOWED[fault]:
            # uvloop's timers count whole milliseconds, from the beginning of the loop's turn that set them.
            assert shortest >= 20 - 1
            assert growth == pytest.approx(20, abs=6), name
        else:
            assert growth < 6, f"{name} grew {growth:.1f} ms though only {fault} was set"
