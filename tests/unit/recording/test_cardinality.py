"""Whatever clients send, the number of series stays within the settings and the sums stay exact."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from vibevoice_otel import semconv
from vibevoice_otel.metrics.from_spans import FromSpans
from vibevoice_otel.metrics.instruments import Instruments, Limits
from vibevoice_otel.recording.labels import Bounds
from vibevoice_otel.recording.records import Batch, Labels, Operation
from vibevoice_otel.semconv import Status
from vibevoice_otel.settings import Settings

VOICES = [f"en-Voice{n}_woman" for n in range(25)]
ODD = [
    "", " ", "other", "voice\n", 'quo"te', "back\\slash", "日本語", "\u202e", "\x00", "a" * 10_000, "{}",
    "en-Voice0_woman ", "EN-VOICE0_WOMAN",
    "\ud800",
]  # fmt: skip
CFGS: list[float | None] = [math.nan, math.inf, -math.inf, -1.0, -0.0, 0.0, 1e308, 5e-324, 10.04, 10.06, 1.25, None]
STEPS: list[int | None] = [0, -1, -(2**63), 2**63, 10**30, 50, 51, None]


class Page:
    """A metrics page with the service's instruments."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bounds = Bounds(settings)
        self.registry = CollectorRegistry()  # of its own: no other test's series are on the page
        self.reader = PrometheusMetricReader(registry=self.registry)
        self.provider = MeterProvider([self.reader])
        instruments = Instruments(self.provider, "0", Limits(settings.max_attribute_sets, settings.max_series))
        self.sink = FromSpans(instruments, self.bounds.step_labels(), 0.45)
        self.sent = 0

    def request(self, voice: str, cfg: float | None, steps: int | None, status: Status) -> None:
        """One finished request, labelled as the assembler labels it."""
        labels = Labels(self.bounds.voice(voice), self.bounds.cfg(cfg), self.bounds.steps(steps), "short")
        root = Operation(semconv.SYNTHESIZE, 0, 10**9, 2, 1, {semconv.REAL_TIME_FACTOR.key: 0.5})
        first = Operation(semconv.FIRST_CHUNK, 0, 10**8, 3, 2)
        self.sent += 1
        operations = [first, root] if self.sent % 10 == 0 else [root]
        self.sink.consume(
            Batch(
                request=self.sent, trace_id=1, root_id=2, server_id=1, sampled=False, recording=False, labels=labels,
                operations=operations, blocks=[], final=True, status=status,
            )
        )  # fmt: skip

    def scrape(self) -> tuple[Counter[str], dict[str, float]]:
        """Series by metric name, and the sum of each name's values."""
        names: Counter[str] = Counter()
        sums: dict[str, float] = {}
        for line in generate_latest(self.registry).decode().splitlines():
            if line.startswith("vibevoice_"):
                name = line.split("{")[0].split(" ")[0]
                names[name] += 1
                sums[name] = sums.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
        return names, sums

    def close(self) -> None:
        self.provider.shutdown()


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Any:
    made = Page(getattr(request, "param", Settings()))
    yield made
    made.close()


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_random_requests(page: Page, count: int) -> None:
    """Random voices, cfg and steps, NaN, infinities, huge, negative, Unicode and empty among them: bounded series,
    exact sums.
    """
    page.bounds.learn_voices(VOICES)
    chance = random.Random(7)
    statuses: Counter[Status] = Counter()
    for n in range(count):
        voice = chance.choice((chance.choice(VOICES), chance.choice(ODD), f"v{n}"))
        cfg = chance.choice((chance.choice(CFGS), chance.uniform(-1, 20), chance.choice((1.3, 1.5, 2.0))))
        steps = chance.choice((chance.choice(STEPS), chance.randint(-5, 10_000), 5))
        status = chance.choice(list(Status))
        statuses[status] += 1
        page.request(voice, cfg, steps, status)
    names, sums = page.scrape()
    requests = semconv.REQUESTS.prometheus
    assert names[requests] <= page.settings.max_attribute_sets
    assert sum(names.values()) <= page.settings.max_series
    assert sums[requests] == count
    assert sums[f"{semconv.FIRST_AUDIO.prometheus}_count"] == count // 10
    assert sums[f"{semconv.FIRST_AUDIO.prometheus}_sum"] == pytest.approx(count / 100)
    text = generate_latest(page.registry).decode()
    assert "otel_metric_overflow" in text, "the overflow series says that labels were lost"
    print(f"{names[requests]} series of {requests}, {sum(names.values())} in all")


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.soak)])
def test_all_valid_combinations(page: Page, every: int) -> None:
    """25 voices by every valid cfg (0.0 to 10.0) by every tenth (or every) valid number of steps (1 to 50), 12,625
    (126,250) combinations, each once: the page stays within the default bounds, and no request is lost.
    """
    page.bounds.learn_voices(VOICES)
    count = 0
    for voice in VOICES:
        for tenth in range(101):
            for steps in range(1, 51, every):
                page.request(voice, tenth / 10, steps, Status.SUCCESS)
                count += 1
    names, sums = page.scrape()
    requests = semconv.REQUESTS.prometheus
    assert names[requests] <= page.settings.max_attribute_sets
    assert sum(names.values()) <= page.settings.max_series
    assert sums[requests] == count == 126_250 // every
    assert sums[f"{semconv.FIRST_AUDIO.prometheus}_count"] == count // 10
    print(f"{count} combinations: {names[requests]} series of {requests}, {sum(names.values())} in all")


@pytest.mark.parametrize("page", [Settings(max_attribute_sets=50, max_series=2000)], indirect=True)
def test_all_valid_combinations_with_small_limits(page: Page) -> None:
    """25 voices by all valid cfg by steps against limits of 50 sets and 2,000 series: neither is passed, no request is
    lost.
    """
    page.bounds.learn_voices(VOICES)
    count = 0
    for voice in VOICES:
        for tenth in range(10, 31):
            for steps in (5, 10, 20):
                page.request(voice, tenth / 10, steps, Status.SUCCESS)
                count += 1
    names, sums = page.scrape()
    assert names[semconv.REQUESTS.prometheus] <= 50
    assert sum(names.values()) <= 2000
    assert sums[semconv.REQUESTS.prometheus] == count


@pytest.mark.parametrize("names", [[f"voice{n}" for n in range(1000)], ["x" * 100_000]])
def test_a_services_list_is_bounded_too(names: list[str]) -> None:
    """No more voices than the setting get a label of their own."""
    bounds = Bounds(Settings())
    bounds.learn_voices(names)
    assert len(bounds.voices) <= Settings().max_voices
