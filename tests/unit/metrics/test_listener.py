"""Which requests count for what their listener felt, and under which series."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support.builders import MS, add_frame, finish, request
from tests.support.metrics import by_name
from tests.support.pipeline import pipeline
from vibevoice_otel import semconv
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import Metric

PLAYED = 17  # ms: the first send of builders.request() returns; its two frames last until 283 ms


class Derived:
    """What instruments say after these batches."""

    def __init__(self, *batches: Batch) -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        sink = FromSpans(Instruments(provider, "0", Limits(2000, 50_000)), ("0", "1"), 0.45)
        for batch in batches:
            sink.consume(batch)
        self.metrics = by_name(reader)
        provider.shutdown()

    def points(self, metric: Metric) -> list[Any]:
        return self.metrics.get(metric.name, [])

    def slo(self) -> dict[str, float]:
        return {point.attributes["result"]: point.value for point in self.points(semconv.CONTINUITY_SLI)}

    def gaps(self) -> list[float]:
        return [point.sum for point in self.points(semconv.GAP)]


def late(milliseconds: int, **ends: object) -> Timeline:
    """A request whose third frame comes so long after its second has been played."""
    t = request()
    add_frame(t, 277 * MS + milliseconds * MS, 2)  # sent 7 ms after its beginning
    t.runs[0].end = t.work_end = t.service_closed = t.web_closed = (290 + milliseconds) * MS
    for name, value in ends.items():
        setattr(t if hasattr(type(t), name) else t.runs[0], name, value)
    return t


def cancelled(at: int) -> Timeline:
    t = request()
    t.cancelled, t.service_closed, t.work_end = at * MS, None, (at + 1) * MS
    t.runs[0].end = t.web_closed = (at + 1) * MS
    return t


@pytest.mark.parametrize(
    ("why", "timeline", "slo", "gap"),
    [
        ("a stream in time", request(), {"good": 1, "bad": 0}, 0.0),
        ("a gap within the limit", late(99), {"good": 1, "bad": 0}, 0.1),
        ("a gap above it", late(120), {"good": 0, "bad": 1}, 0.12),
        ("left while audio played", cancelled(200), {"good": 0, "bad": 0}, None),
        ("left in a silence within the limit", cancelled(330), {"good": 0, "bad": 0}, None),
        ("left after a silence above the limit", cancelled(483), {"good": 0, "bad": 1}, 0.2),
        ("failed after a gap", late(300, error="RuntimeError"), {"good": 0, "bad": 1}, 0.3),
    ],
)
def test_which_requests_count(why: str, timeline: Timeline, slo: dict[str, float], gap: float | None) -> None:
    """The counter of the objective and the histogram of the worst gap count the same requests."""
    found = Derived(finish(timeline))
    assert found.slo() == slo, why
    assert found.gaps() == ([pytest.approx(gap, abs=2e-3)] if gap is not None else []), why


def test_a_failure_before_audio_does_not_count() -> None:
    """It is in the success objective; here nothing was heard that could have had a gap. Both results are there, at
    zero.
    """
    t = request(frames=0)
    t.runs[0].error = "RuntimeError"
    found = Derived(finish(t))
    assert found.slo() == {"good": 0, "bad": 0}
    assert found.gaps() == []


def test_the_edges_make_c50_c100_c200_exact() -> None:
    """Gaps of 0, 40, 90, 150 and 900 ms: the cumulative counts at the edges are the shares that operators compare."""
    found = Derived(*(finish(each) for each in (request(), late(40), late(90), late(150), late(900))))
    (point,) = found.points(semconv.GAP)
    within = dict(zip(point.explicit_bounds, [sum(point.bucket_counts[: i + 1]) for i in range(8)], strict=False))
    assert (within[0.0], within[0.05], within[0.1], within[0.2], within[1.0]) == (1, 2, 3, 4, 5)


def test_every_bucket_of_the_worst_gap_has_an_exemplar() -> None:
    """Each of the eight buckets, when a request fell into it, leads to that request's trace."""
    gaps = (0, 10, 40, 90, 150, 400, 900, 2000)
    found = Derived(*(finish(late(each) if each else request()) for each in gaps))
    (point,) = found.points(semconv.GAP)
    assert list(point.bucket_counts) == [1] * 8
    edges = [*point.explicit_bounds, float("inf")]
    assert len({next(i for i, edge in enumerate(edges) if e.value <= edge) for e in point.exemplars}) == 8


def test_lengths_and_durations() -> None:
    """A request of 12 characters and two frames: its text, audio, duration and the one interval between its
    two sends.
    """
    found = Derived(finish(request()))
    sums = {
        m: [(p.count, p.sum, dict(p.attributes)) for p in found.points(m)]
        for m in (semconv.TEXT_LENGTHS, semconv.AUDIO_SECONDS, semconv.REQUEST_DURATION, semconv.CHUNK_INTERVAL)
    }
    voice = {"voice": "en-Carter_man"}
    assert sums[semconv.TEXT_LENGTHS] == [(1, 12.0, voice)]
    assert sums[semconv.AUDIO_SECONDS] == [(1, pytest.approx(0.2667, abs=1e-4), voice)]
    assert sums[semconv.REQUEST_DURATION] == [(1, pytest.approx(0.032), {**voice, "text_length_range": "short"})]
    assert sums[semconv.CHUNK_INTERVAL] == [(1, pytest.approx(0.010), voice)]
    assert [point.value for point in found.points(semconv.CHARACTERS)] == [12]


def test_new_histograms_carry_the_voice_alone() -> None:
    """Other labels would multiply series; the request's duration has the range of the text's length too."""
    for metric in (
        semconv.GAP,
        semconv.UNDERRUN_SECONDS,
        semconv.CHUNK_INTERVAL,
        semconv.AUDIO_SECONDS,
        semconv.TEXT_LENGTHS,
    ):
        assert metric.labels == ("voice",)
    assert semconv.REQUEST_DURATION.labels == ("voice", "text_length_range")


@pytest.mark.parametrize("chosen", ["base2_exponential_bucket_histogram", "explicit_bucket_histogram", None])
def test_a_default_that_takes_the_bounds_away_is_told(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With exponential histograms by default C100 is an estimate: one warning names the setting and the way out."""
    if chosen is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", chosen)
    with pipeline() as observed:
        observed.run(b"text=hello")
    exponential = chosen is not None and chosen.startswith("base2")
    assert caplog.text.count("takes the bounds of all histograms away") == int(exponential)
