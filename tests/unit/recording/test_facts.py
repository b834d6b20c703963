"""Small facts that whole traces do not show: ids, notes, the start-up, and the caller's context."""

from __future__ import annotations

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.sdk.trace import IdGenerator, RandomIdGenerator, TracerProvider

from vibevoice_otel import semconv, wiring
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.ids import GeneratorIds, RandomIds, source
from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.recording.warmup import Startup
from vibevoice_otel.settings import Settings


class Sevens(IdGenerator):
    def generate_span_id(self) -> int:
        return 7

    def generate_trace_id(self) -> int:
        return 7


def test_ids_are_the_operator_s_generator_s() -> None:
    """The SDK's own generator, and none, are replaced by numpy's; another one is asked for each id."""
    assert isinstance(source(None), RandomIds)
    assert isinstance(source(RandomIdGenerator()), RandomIds)
    chosen = source(Sevens())
    assert isinstance(chosen, GeneratorIds)
    assert chosen.take(3).tolist() == [7, 7, 7]


def test_a_note_says_what_went_wrong() -> None:
    """Dots of a key are written as two underscores; the error's type is kept."""
    timeline = Timeline(1, Anchor.take(), 0)
    timeline.note(semconv.VOICE_LOAD, 1, 2, "ValueError", vibevoice__cache="miss")
    (note,) = timeline.notes
    assert (note.attributes, note.error_type) == ({"vibevoice.cache": "miss"}, "ValueError")


def test_nothing_starts_up_until_an_application_does() -> None:
    """One that is told ready twice does not hide the next one's start."""
    startup = Startup()
    assert not startup.going_on
    startup.begun()
    assert startup.going_on
    startup.done()
    startup.done()
    assert not startup.going_on
    startup.begun()
    assert startup.going_on


def test_a_request_lives_in_its_caller_s_context() -> None:
    """What stands in it beside the span, baggage say, is there for the work too."""
    recorder = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False))
    timeline = recorder.open("work", context=baggage.set_baggage("tenant", "acme", Context()))
    assert baggage.get_baggage("tenant", timeline.context) == "acme"
    recorder.release(timeline, "work")
    recorder.shutdown()
