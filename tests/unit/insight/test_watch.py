"""A policy takes back what does harm, and seldom what does none: the rule on simulated truths, and the whole way of a
request.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scipy.stats import binom

from tests.unit.insight.harm import ALPHA, TRUTHS, Truth, taken_back
from tests.unit.insight.simulator import MemorySource, observe
from tests.unit.insight.test_recommendation import SERVICE, VOICE
from vibevoice_otel import semconv, wiring
from vibevoice_otel.insight import policy as policies
from vibevoice_otel.insight.policy import Decision, Policy
from vibevoice_otel.insight.watch import MAX_SETTINGS, Evidence, Watch, harms
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.records import Batch, Labels, Operation
from vibevoice_otel.recording.timeline import current
from vibevoice_otel.recording.told import Told
from vibevoice_otel.semconv import Harm, Status
from vibevoice_otel.settings import Settings

SEEDS = 60
HARMLESS = [truth for truth in TRUTHS if truth.name.startswith(("no harm", "everything half"))]


@pytest.mark.parametrize("truth", HARMLESS, ids=lambda truth: truth.name)
def test_what_does_no_harm_is_seldom_taken_back(truth: Truth) -> None:
    """Looked at after every request: at most 2.5 % of runs, an outage and a setting that does good included."""
    alarms = sum(taken_back(truth, 0.2, 4000, seed) is not None for seed in range(SEEDS))
    assert binom.sf(alarms - 1, SEEDS, ALPHA) > 0.001


@pytest.mark.parametrize(
    ("name", "control", "requests"),
    [("loops in 20 % instead of 0.5 %", 0.05, 3000), ("late in 15 % instead of 3 %", 0.2, 3000)]
)  # fmt: skip
def test_what_does_harm_is_taken_back(name: str, control: float, requests: int) -> None:
    """In nine of ten runs."""
    (truth,) = [each for each in TRUTHS if each.name == name]
    assert sum(taken_back(truth, control, requests, seed) is not None for seed in range(SEEDS)) >= 0.9 * SEEDS


def test_the_capital_is_a_fair_bet() -> None:
    """Whatever the capital is, its mean after one more event is the same where changing does no harm, and less where it
    does good.
    """
    for control in (0.05, 0.2, 0.5):
        for share in (1 - control, (1 - control) * 0.9):
            up, down = Evidence(control), Evidence(control)
            up.happened(changed=True)
            down.happened(changed=False)
            mean = share * up.value + (1 - share) * down.value
            assert mean == pytest.approx(1) if share == 1 - control else mean < 1


def batch(status: Status = Status.SUCCESS, **more: object) -> Batch:
    """The final batch of a request; ``more`` are the root span's attributes, dots written as two underscores."""
    attributes = {f"vibevoice.{key.replace('__', '.')}": value for key, value in more.items()}
    root = Operation(semconv.SYNTHESIZE, 0, 1, 1, 0, attributes)  # type: ignore[arg-type]
    return Batch(1, 1, 1, 0, True, True, Labels("v", "1.5", "5", "short"), [root], [], True, status=status)


@pytest.mark.parametrize(
    ("ended", "found"),
    [
        (batch(first_audio__latency=0.2, playback__gap=0.0, finish_reason="eos"), []),
        (batch(first_audio__latency=0.5), [Harm.LATE]),
        (batch(first_audio__latency=0.2, speech__suspect="loop"), [Harm.LOOP]),
        (batch(first_audio__latency=0.2, speech__suspect="cut,clipping"), [Harm.CUT, Harm.DEFECT]),
        (batch(first_audio__latency=0.2, finish_reason="length"), [Harm.CUT]),
        (batch(first_audio__latency=0.2, frames__nan=2), [Harm.DEFECT]),
        (batch(first_audio__latency=0.2, playback__gap=0.3), [Harm.GAP]),
        (batch(Status.ERROR), [Harm.FAILED, Harm.LATE]),
        (batch(Status.CANCELLED), []),
    ],
)
def test_what_counts_as_harm(ended: Batch, found: list[Harm]) -> None:
    """Finish reasons, checks of the speech, failures, gaps and late first audio; a listener who left is no harm."""
    assert harms(ended, 0.45) == found


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = wiring.recorder(Settings(), TracerProvider(shutdown_on_exit=False), [Told()])
    yield made
    made.shutdown()


def serve(recorder: Recorder, policy: Policy, *, loses: bool) -> Decision:
    """One request of the policy's; where its setting was applied and does harm it fails."""
    timeline = recorder.open("work", context=Context())
    token = current.set(timeline)
    try:
        decision = policy.decide(VOICE, 800)
    finally:
        current.reset(token)
    if loses and decision.steps is not None:
        timeline.work_error = "RuntimeError"
    else:
        timeline.cancelled = timeline.opened  # the listener left: no harm
    recorder.release(timeline, "work")
    return decision


def watched(control: float = 0.05) -> tuple[Policy, list[float]]:
    """A policy that knows what to recommend, and what its next draws are."""
    draws: list[float] = []
    source = MemorySource(observe(SERVICE, 1))
    policy = Policy(lambda: source, default=(5, 1.5), control=control, chance=lambda: draws.pop(0) if draws else 1.0)
    policy.update()
    return policy, draws


def test_a_setting_that_does_harm_is_taken_back_and_said(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """The request's records tell the policy on the recorder's thread; the span, a metric and a log line say which
    setting, by what evidence, and what to do.
    """
    policy, draws = watched()
    policies._LIVE.clear()
    policies._LIVE.add(policy)
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    served = 0
    with caplog.at_level(logging.WARNING, "vibevoice_otel.insight.watch"):
        while not policy.watch.taken_back and served < 400:
            draws.append(0.01 if served % 20 == 0 else 0.9)
            served += 1
            assert serve(recorder, policy, loses=True).steps == (None if served % 20 == 1 else 10)
            if served % 20 == 0:
                assert recorder.flush(60.0)
    assert recorder.flush(60.0)
    ((setting, back),) = policy.watch.taken_back.items()
    assert (setting, back.harm) == ((10, 1.5), Harm.FAILED)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "steps=10 cfg=1.5 is taken back: failures: " in said
    assert "0 of " in said
    assert "service's own setting until this process restarts" in said
    with provider.get_tracer("t").start_as_current_span("server"):
        assert serve(recorder, policy, loses=True) == Decision(
            None, None, f"steps 10 with cfg 1.5 was taken back: {back.why}"
        )
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes[semconv.RECOMMENDATION_OUTCOME.key] == "taken_back"
    assert "failures" in str(span.attributes[semconv.RECOMMENDATION_REASON.key])
    (point,) = policies._taken_back(None)  # type: ignore[arg-type]
    assert (point.value, dict(point.attributes or {})) == (1, {"cfg": "1.5", "steps": "10", "harm": "failed"})


def test_a_share_is_left_and_a_harmless_setting_stays(recorder: Recorder) -> None:
    """One request in twenty is left, whatever is applied, and the span says so;
    the service's own setting is not drawn.
    """
    policy, draws = watched()
    for served in range(60):
        draws.append(0.049 if served % 20 == 0 else 0.05)
        decision = serve(recorder, policy, loses=False)
        assert (decision.steps is None) == (served % 20 == 0)
        assert "left as it was: 5%" in decision.reason or decision.steps == 10
    assert recorder.flush(60.0)
    assert not policy.watch.taken_back
    same = Policy(lambda: MemorySource(observe(SERVICE, 1)), default=(10, 1.5), chance=lambda: 0.0)
    same.update()
    assert same.decide(VOICE, 800).steps == 10


def test_probes_and_warm_ups_are_no_evidence() -> None:
    """Nor are requests that a profiler slowed."""
    watch = Watch()
    watch.draw(10, 1.5)
    for name in ("synthetic", "warm_up", "profiled"):
        ended = batch(Status.ERROR)
        setattr(ended, name, True)
        for _ in range(500):
            watch._ended((10, 1.5), True, ended)
    assert watch.taken_back == {}


def test_nothing_grows_with_requests_or_settings(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """A request keeps its own trial and leaves with it; past the bound a setting is not applied; unobserved requests
    are said once.
    """
    policy, _ = watched()
    timeline = recorder.open("work", context=Context())
    token = current.set(timeline)
    policy.decide(VOICE, 800)
    current.reset(token)
    gone = weakref.ref(timeline.used.on_end)
    recorder.release(timeline, "work")
    del timeline
    assert recorder.flush(60.0)
    serve(recorder, policy, loses=False)  # the recorder's thread may hold the last request while it waits for another
    assert recorder.flush(60.0)
    gc.collect()
    assert gone() is None
    watch = Watch(chance=lambda: 1.0)
    with caplog.at_level(logging.WARNING, "vibevoice_otel.insight.watch"):
        applied = [watch.draw(steps, 1.5)[0] == "applied" for steps in range(2, 2 + MAX_SETTINGS + 3)]
    assert applied == [True] * MAX_SETTINGS + [False] * 3
    assert len([record for record in caplog.records if "unwatched" in record.getMessage()]) == 1


def test_settings_together_keep_the_rate() -> None:
    """What all settings of a process may spend adds up to less than the stated share."""
    watch = Watch(alpha=0.05)
    for steps in range(MAX_SETTINGS):
        watch.draw(steps, 1.5)
    assert sum(1 / trial._enough for trial in watch._trials.values()) < 0.05


@pytest.mark.parametrize("control", [0, 0.001, 0.6, float("nan")])
def test_a_share_that_leaves_none_is_refused(control: float) -> None:
    """A share is always left."""
    with pytest.raises(ValueError, match="control"):
        Watch(control)
