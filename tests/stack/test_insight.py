"""Insight against the real Prometheus, filled by promtool with what a simulator of known truth would have been scraped
for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import uvicorn
import websockets
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.stack.fixtures import backfill, eventually, need
from tests.unit.insight.simulator import MemorySource, Scrapes, Service, Setting, observe
from tests.unit.insight.test_capacity import HOST_BOUND, truth, whole
from tools.ports import free_ports
from tools.stack.prometheus import Prometheus
from vibevoice_otel import semconv
from vibevoice_otel.insight import PrometheusSource, capacity, cli, recommend, voices
from vibevoice_otel.insight.compare.report import Labelled, compare
from vibevoice_otel.insight.observations import DCGM
from vibevoice_otel.insight.observations import observe as read_window
from vibevoice_otel.service.app import create_app
from vibevoice_otel.service.settings import ServiceSettings

VOICES = tuple(
    Setting(
        voice=voice,
        cfg=cfg,
        steps=steps,
        text="long",
        failing=0.12 if voice == "de-Spk0_man" else 0.01,
        first=0.15 + 0.008 * int(steps),
        first_cv=0.1,
        factor=0.8 + 0.04 * int(steps),
        underruns=0.2,
        silent=0.1,
    )
    for voice in ("en-Carter_man", "fr-Spk1_woman", "de-Spk0_man", "jp-Spk0_man")
    for cfg in ("1.3", "2.0")
    for steps in ("5", "20")
)
MEMORY = Service(
    rate=0.6, slots=12, base=0.6, memory_base=3, memory_stream=1.7, memory_cv=0.4, hours=3, audio_law="lognormal"
)
# One environment a simulated service, several seeds where coverage is asked for. All in one Prometheus.
PAIR = Service(
    rate=0.3, slots=64, base=0.5, hours=3, limit=None,
    settings=tuple(Setting(voice=f"voice{n}", first=0.15 + 0.02 * n) for n in range(3)),
)  # fmt: skip
SLOWER = tuple(dataclasses.replace(each, first=each.first * 1.1) for each in PAIR.settings)
WORLDS = {
    **{f"memory-{seed}": (MEMORY, seed) for seed in range(4)},
    **{f"queue-{seed}": (Service(rate=0.3, slots=4, base=0.5, memory_stream=0.9, hours=3), seed) for seed in range(4)},
    "voices": (Service(rate=0.3, slots=64, base=0.3, hours=3, limit=None, settings=VOICES), 1),
    "restarted": (Service(rate=0.3, slots=4, base=0.5, memory_stream=0.9, hours=3, restart_at=0.5), 1),
    "stable": (dataclasses.replace(PAIR, instance="stable:9464"), 1),
    "canary": (dataclasses.replace(PAIR, settings=SLOWER, instance="canary:9464"), 2),
    "old": (dataclasses.replace(PAIR, instance="old:9464"), 3),
    "new": (dataclasses.replace(PAIR, settings=SLOWER, instance="new:9464"), 4),
    "watched": (dataclasses.replace(HOST_BOUND, hours=3, kernel_share=None, card="GPU-6c3f8a52", dcgm=0.04), 2),
    "large": (dataclasses.replace(MEMORY, limit=80.0, memory_base=10.0, slots=64, instance="two:9464"), 5),
}


VERSIONS = {"stable": "1.2", "canary": "1.3"}


@dataclass(frozen=True)
class Filled:
    """A Prometheus with all worlds, and the same scrapes to ask directly."""

    url: str
    end: float
    scrapes: dict[str, Scrapes]

    def source(self, environment: str, window: float = 3 * 3600 + 60) -> PrometheusSource:
        return PrometheusSource(self.url, window=window, end=self.end, match={"environment": environment})


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Backfilled once. The last hour is left out: blocks of it could meet the head of the running Prometheus."""
    need("prometheus", "promtool")
    folder: Path = tmp_path_factory.mktemp("insight")
    begin = (time.time() // 15) * 15 - 4.5 * 3600
    scrapes = {name: observe(service, seed, begin) for name, (service, seed) in WORLDS.items()}
    gone = scrapes["voices"]
    for rows in gone.series.values():  # a voice that vanished an hour before the end
        for labels, values in rows.items():
            if dict(labels).get("voice") == "jp-Spk0_man":
                values[-240:] = math.nan
    end = float(next(iter(scrapes.values())).times[-1])
    everything = Scrapes(gone.times)
    _upgrade(scrapes["old"], scrapes["new"])
    for name, version in VERSIONS.items():
        info = {"job": "vibevoice", "instance": WORLDS[name][0].instance, "service_version": version}
        everything.put("target_info", {**info, "environment": name}, np.ones_like(gone.times))
    half = len(gone.times) // 2
    for name, part in (("old", slice(None, half)), ("new", slice(half, None))):
        there = np.full_like(gone.times, np.nan)
        there[part] = 1
        info = {"job": "upgraded", "instance": WORLDS[name][0].instance, "service_version": f"{name}-version"}
        everything.put("target_info", {**info, "environment": name}, there)
    for name, world in scrapes.items():
        for series, rows in world.series.items():
            for labels, values in rows.items():
                own = {} if series in DCGM else {"environment": name}  # another exporter knows nothing of it
                everything.put(series, {**dict(labels), **own}, values)
    backfill(folder, everything.openmetrics())
    with Prometheus(folder) as server:
        yield Filled(server.url, end, scrapes)


def _upgrade(old: Scrapes, new: Scrapes) -> None:
    """Halfway one process goes and another one comes, which counts from zero; both are of one job."""
    half = len(old.times) // 2
    for scrapes, gone in ((old, slice(half, None)), (new, slice(None, half))):
        for rows in scrapes.series.values():
            for labels in list(rows):
                values = rows.pop(labels)
                values = values - np.nan_to_num(values[half - 1]) if scrapes is new else values
                values[gone] = np.nan
                rows[tuple(sorted({**dict(labels), "job": "upgraded"}.items()))] = values


def test_both_ways_to_the_same_scrapes_agree(filled: Filled) -> None:
    """What the real Prometheus answers is what the scrapes hold: totals to the last request, every sample on the grid.
    So the many seeds of the unit tests, asked of the scrapes directly, stand for Prometheus too.
    """
    for world in ("voices", "memory-0", "restarted"):
        real, direct = filled.source(world), MemorySource(filled.scrapes[world])
        by = ("voice", "cfg", "steps", "status")
        assert totals(real, semconv.REQUESTS.prometheus, by) == pytest.approx(
            totals(direct, semconv.REQUESTS.prometheus, by), rel=0.02
        )
        if (
            world != "restarted"
        ):  # there increase() estimates what went by around the restart; elsewhere nothing is estimated
            assert totals(real, semconv.REQUESTS.prometheus, by) == totals(direct, semconv.REQUESTS.prometheus, by)
        buckets = f"{semconv.FIRST_AUDIO.prometheus}_bucket"
        a, b = totals(real, buckets, ("voice", "le")), totals(direct, buckets, ("voice", "le"))
        assert a == pytest.approx(b, rel=0.02)
        seen, known = read_window(real), read_window(direct)
        assert seen is not None
        assert known is not None
        # Where a voice vanished, Prometheus shows its last value five minutes longer.
        apart = 10 if world == "voices" else 0
        assert seen.processes[0].requests.sum() == pytest.approx(known.processes[0].requests.sum(), abs=apart)
        assert seen.processes[0].first_audio.sum(axis=1) == pytest.approx(
            known.processes[0].first_audio.sum(axis=1), abs=apart
        )


def totals(source: PrometheusSource | MemorySource, series: str, by: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    points = source.growth(series, by)
    return {
        tuple(p.labels[name] if name != "le" else str(float(p.labels[name])) for name in by): p.value
        for p in points
        if p.value
    }


@pytest.mark.parametrize(("kind", "slots"), [("memory", 12), ("queue", None)])
def test_capacity_covers_the_truth(filled: Filled, kind: str, slots: int | None) -> None:
    """The interval holds the true number of streams in at least three of four services,
    and the naive rule errs more.
    """
    true = truth(WORLDS[f"{kind}-0"][0])
    answer = min(whole(value) for value in true.values())
    cards = [capacity(filled.source(f"{kind}-{seed}"), concurrency=slots).cards[0] for seed in range(4)]
    assert all(card.binds_first == kind for card in cards)
    assert (
        sum(card.low is not None and card.high is not None and card.low <= answer <= card.high for card in cards) >= 3
    )
    assert sum(abs((card.streams or 0) - answer) for card in cards) < sum(
        abs((card.naive or 0) - answer) for card in cards
    )


def test_what_dcgm_exporter_saw_is_joined_by_the_cards_uuid(filled: Filled) -> None:
    """Its series carry neither the service's job nor its environment, which the question is narrowed to."""
    real, direct = (
        capacity(source, concurrency=4).cards[0]
        for source in (filled.source("watched"), MemorySource(filled.scrapes["watched"]))
    )
    (found,), (known,) = ([each for each in card.limits if each.name == "card"] for card in (real, direct))
    assert found.details["by"] == "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
    assert found.streams == pytest.approx(1 / 0.04, rel=0.02)
    assert found.streams == pytest.approx(known.streams, rel=0.01)
    unwatched = capacity(filled.source("queue-1"), concurrency=4).cards[0]
    assert not [each for each in unwatched.limits if each.name == "card"], "no card of these processes was watched"


def test_a_restart_is_seen_and_bridged(filled: Filled) -> None:
    """Counters that began again are said to have; the answer is that of the same service without a restart."""
    report = capacity(filled.source("restarted"), concurrency=4)
    assert "restarted" in report.notes[0]
    assert report.cards[0].streams == capacity(filled.source("queue-1"), concurrency=4).cards[0].streams
    assert voices(filled.source("restarted")).voices[0].requests == pytest.approx(
        voices(filled.source("queue-1")).voices[0].requests, rel=0.02
    )


def test_mixed_cards_are_answered_apart(filled: Filled) -> None:
    """Cards of 24 and 80 GiB in one store: two answers, the one asked about first."""
    source = PrometheusSource(filled.url, window=3 * 3600 + 60, end=filled.end)
    report = capacity(source, gpu_memory=80 * 2**30)
    assert report.cards[0].card == "80 GiB"
    assert {card.card for card in report.cards} == {"80 GiB", "24 GiB", "no GPU reported"}


def test_voices_are_profiled(filled: Filled) -> None:
    """The failing voice is the one outlier, the vanished one is marked, effects of a step are the true 8 ms."""
    report = voices(filled.source("voices"))
    assert {p.voice: [o.what for o in p.outlier_in] for p in report.voices if p.outlier_in} == {
        "de-Spk0_man": ["errors"]
    }
    assert [p.voice for p in report.voices if p.vanished] == ["jp-Spk0_man"]
    assert report.voices[-1].voice == "de-Spk0_man"
    effect = report.fleet.latency_per_step
    assert effect is not None
    assert effect.low <= 0.008 <= effect.high


def test_settings_are_recommended(filled: Filled) -> None:
    """Twenty steps keep the objective here, with the cfg for a long text."""
    found = recommend(filled.source("voices"), text_length=800, voice="en-Carter_man")
    assert (found.steps, found.cfg, found.meets) == (20, 1.3, True)


def test_the_command_asks_the_real_store(filled: Filled, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """All three questions from the command line, as JSON and as a picture; an environment that is not there has no
    data.
    """
    where = ["--prometheus", filled.url, "--window", "181m", "--at", str(filled.end), "--json"]
    picture = tmp_path / "capacity.png"
    arguments = ["capacity", "--streams", "50", "--gpu-memory", "24GiB", "--plot", str(picture), *where]
    assert cli.main([*arguments, "--environment", "memory-0"]) == 0
    (card,) = json.loads(capsys.readouterr().out)["cards"]
    assert card["verdict"] == "no"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["voices", *where, "--environment", "voices"]) == 0
    assert json.loads(capsys.readouterr().out)["most_stable"]["voice"] != "de-Spk0_man"
    assert cli.main(["recommend", "--text-length", "800", *where, "--environment", "voices"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 20
    assert cli.main(["voices", *where, "--environment", "nowhere"]) == 0
    assert json.loads(capsys.readouterr().out)["voices"] == []


def test_two_versions_are_compared(filled: Filled, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """By a label that target_info alone carries: the answer is that of the scrapes themselves, the slower version is
    worse (3), a version beside itself is not, and before and after by time has its own two sides.
    """
    where = [
        "--prometheus",
        filled.url,
        "--window",
        "181m",
        "--at",
        str(filled.end),
        "--json",
        "--match",
        "job=vibevoice",
    ]
    picture = tmp_path / "compare.png"
    versions = ["--a", "service_version=1.2", "--b", "service_version=1.3", "--plot", str(picture)]
    assert cli.main(["compare", *versions, *where]) == cli.WORSE
    real = {each["name"]: each for each in json.loads(capsys.readouterr().out)["answers"]}
    assert picture.read_bytes().startswith(b"\x89PNG")
    direct = compare(*(Labelled(MemorySource(filled.scrapes[name]), name) for name in VERSIONS), paired=True)
    for answer in direct.answers:
        if answer.effect is not None:
            found = real[answer.name]["effect"]
            assert (found["n_a"], found["n_b"]) == pytest.approx((answer.effect.n_a, answer.effect.n_b), abs=2)
            assert found["change"] == pytest.approx(answer.effect.change, abs=0.005)
    assert real["first audio, median"]["verdict"] == "worse"
    same = ["--a", "service_version=1.2", "--b", "environment=stable"]
    assert cli.main(["compare", *same, *where]) == 0
    capsys.readouterr()
    spans = [f"{filled.end - 3600 * (n + 1)}..{filled.end - 3600 * n}" for n in (1, 0)]
    by_time = ["--before", spans[0], "--after", spans[1], "--environment", "stable"]
    assert cli.main(["compare", *by_time, *where[:2], "--json"]) in {0, cli.CANNOT_BE_TOLD}
    before = json.loads(capsys.readouterr().out)
    assert before["origin_a"]["end"] == pytest.approx(filled.end - 3600)


def test_changes_are_found_and_compared(filled: Filled, capsys: pytest.CaptureFixture[str]) -> None:
    """A new version that came up halfway, with first audio 10 % slower: when, what, and what moved."""
    where = ["--prometheus", filled.url, "--window", "181m", "--at", str(filled.end), "--match", "job=upgraded"]
    assert cli.main(["changes", "--json", *where]) == 0
    (change,) = json.loads(capsys.readouterr().out)["changes"]
    assert (change["label"], change["before"], change["after"]) == ("service_version", "old-version", "new-version")
    assert change["time"] == pytest.approx(filled.end - 1.5 * 3600, abs=60)
    moved = {each["name"]: each["verdict"] for each in change["comparison"]["answers"]}
    assert moved["first audio, median"] == "worse"
    assert cli.main(["changes", *where]) == 0
    shown = capsys.readouterr().out
    assert "service_version old-version -> new-version" in shown
    assert "first audio, median" in shown
    assert cli.main(["changes", "--json", *where[:-2], "--match", "job=vibevoice"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--before", "2d..1d"], "each way to choose has two sides"),
        ([], "which two sides"),
    ],
)
def test_a_comparison_without_two_sides_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says how two sides are chosen."""
    assert cli.main(["compare", *arguments]) == 1
    assert says in capsys.readouterr().err


async def test_the_policy_decides_in_a_running_service(filled: Filled) -> None:
    """A service told of this Prometheus answers steps=auto and cfg=auto with what was measured, says so on its SERVER
    span, and leaves a request that names its own parameters alone.
    """
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(ServiceSettings(auto_parameters=filled.url))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, meter_provider=NoOpMeterProvider())
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert await asyncio.to_thread(eventually, lambda: server.started)
        where = f"ws://127.0.0.1:{port}/stream?voice=en-Carter_man&text={'a' * 210}"
        for _ in range(500):  # the policy may not have looked at the store yet
            asked = await parameters(f"{where}&cfg=auto&steps=auto")
            if asked != (1.5, 5):
                break
            await asyncio.sleep(0.2)
        assert asked == (1.3, 20)
        assert await parameters(f"{where}&cfg=2.5&steps=3") == (2.5, 3)
        for _ in range(20):  # one in twenty is left as it was
            asked = await parameters(f"{where}&cfg=2.5&steps=auto")
            if asked != (2.5, 5):
                break
        assert asked == (2.5, 20)
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 120)
        FastAPIInstrumentor.uninstrument_app(app)
    assert not thread.is_alive()
    assert "vibevoice-policy" not in {t.name for t in threading.enumerate()}
    spans = [dict(s.attributes or {}) for s in exporter.get_finished_spans() if s.kind is SpanKind.SERVER]
    chosen = [s for s in spans if semconv.RECOMMENDATION_STEPS.key in s]
    assert len(chosen) == 2
    assert {s[semconv.RECOMMENDATION_OUTCOME.key] for s in chosen} == {"applied"}
    assert {(s[semconv.RECOMMENDATION_STEPS.key], s[semconv.RECOMMENDATION_CFG.key]) for s in chosen} == {(20, 1.3)}
    assert all("seen to keep up" in str(s[semconv.RECOMMENDATION_REASON.key]) for s in chosen)
    assert sum(semconv.RECOMMENDATION_REASON.key not in s for s in spans) == 1


async def parameters(url: str) -> tuple[float, int]:
    """The cfg and steps that the service says it uses; the listener then leaves."""
    async with websockets.connect(url) as socket:
        async for message in socket:
            if isinstance(message, str) and (log := json.loads(message))["event"] == "backend_request_received":
                return log["data"]["cfg_scale"], log["data"]["inference_steps"]
    raise AssertionError("the service said nothing")
