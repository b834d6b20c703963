"""Voice profiles against voices of known error rates, latencies and effects of cfg and steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.unit.insight.simulator import MemorySource, Scrapes, Service, Setting, observe, scrape, simulate
from vibevoice_otel import semconv
from vibevoice_otel.insight.profiles import VoicesReport, voices
from vibevoice_otel.insight.stats import Estimate

NAMES = ("en-Carter_man", "en-Mike_man", "de-Spk0_man", "fr-Spk1_woman", "in-Samuel_man", "jp-Spk0_man")
ROOMY = Service(rate=0.25, slots=64, base=0.3, hours=3, limit=None)


def service(change: dict[str, dict[str, float]] | None = None, base: Service = ROOMY, **common: float) -> Service:
    """Voices alike but for ``change``; each at two cfg and three steps. first audio = 0.15 + 0.006 steps + 0.02 (cfg -
    1.3).
    """
    settings = tuple(
        Setting(
            voice=name,
            cfg=cfg,
            steps=steps,
            **{
                "failing": 0.02,
                "first": 0.15 + 0.006 * int(steps) + 0.02 * (float(cfg) - 1.3),
                **common,
                **(change or {}).get(name, {}),
            },
        )
        for name in NAMES
        for cfg in ("1.3", "2.3")
        for steps in ("5", "10", "20")
    )
    return dataclasses.replace(base, settings=settings)


def ask(what: Service, seed: int) -> VoicesReport:
    return voices(MemorySource(observe(what, seed)))


def covers(hits: int, trials: int) -> bool:
    return bool(binomtest(hits, trials, 0.95, alternative="less").pvalue > 0.01)


def holds(estimate: Estimate | None, truth: float) -> bool:
    assert estimate is not None
    return estimate.low <= truth <= estimate.high


def test_intervals_cover_the_truth() -> None:
    """Error shares, underrun rates and the effects of a step and of cfg lie in their intervals as often as stated.

    (Over 360 voices: 94.4, 98.6, 94.7, 95.0 and 98.6 %.)
    """
    what = service(underruns=0.3)
    hits = dict.fromkeys(("failed", "underruns", "step", "cfg", "odds"), 0)
    for seed in range(20):
        for p in ask(what, seed).voices:
            hits["failed"] += holds(p.error_share, 0.02)
            hits["underruns"] += holds(p.underruns, 0.3)
            hits["step"] += holds(p.sensitivity.latency_per_step, 0.006)
            hits["cfg"] += holds(p.sensitivity.latency_per_cfg, 0.02)
            hits["odds"] += holds(p.sensitivity.failure_odds_per_cfg, 1.0)
    assert all(covers(count, 20 * len(NAMES)) for count in hits.values()), hits


def test_alike_voices_name_no_outlier() -> None:
    """Where all voices are alike, at most one report in twenty names an outlier."""
    alarms = sum(any(p.outlier_in for p in ask(service(), seed).voices) for seed in range(20))
    assert binomtest(alarms, 20, 0.05, alternative="greater").pvalue > 0.01, alarms


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"failing": 0.15}, "errors"),
        ({"first": 0.45}, "late first audio"),
        ({"underruns": 3.0}, "underruns"),
        ({"silent": 4.0}, "defective frames"),
    ],
)
def test_a_bad_voice_is_named_for_what_it_is(change: dict[str, float], what: str) -> None:
    """One voice that is truly worse is found, alone and in that respect alone."""
    bad = service({"de-Spk0_man": change}, underruns=0.2, silent=0.1)
    found = {p.voice: [o.what for o in p.outlier_in] for p in ask(bad, 1).voices if p.outlier_in}
    assert found == {"de-Spk0_man": [what]}


def test_harder_texts_make_no_outlier() -> None:
    """A voice that only speaks long texts, slower for everyone, is compared with long texts alone."""

    def texts(name: str) -> tuple[tuple[str, float, float], ...]:
        return (("long", 0.42, 1.0),) if name == NAMES[0] else (("long", 0.42, 0.2), ("short", 0.2, 0.8))

    settings = tuple(Setting(voice=n, text=t, first=f, share=s) for n in NAMES for t, f, s in texts(n))
    report = ask(dataclasses.replace(ROOMY, settings=settings), 2)
    carter = next(p for p in report.voices if p.voice == NAMES[0])
    late = {p.voice: p.late_share.value for p in report.voices if p.late_share}
    assert late[carter.voice] > 2 * max(v for n, v in late.items() if n != carter.voice)
    assert not carter.outlier_in


def test_the_most_stable_voice_has_evidence() -> None:
    """A clearly better voice is named as surely the best; among equals the doubt is said."""
    better = service({"fr-Spk1_woman": {"failing": 0.001}}, dataclasses.replace(ROOMY, hours=8), failing=0.06)
    best = ask(better, 1).most_stable
    assert best is not None
    assert best.voice == "fr-Spk1_woman"
    assert best.probability > 0.95
    assert not best.not_separable_from
    assert "failed or late" in best.evidence
    assert "P95" in best.evidence
    equal = ask(service(), 1).most_stable
    assert equal is not None
    assert equal.probability < 0.95
    assert equal.not_separable_from


def test_luck_does_not_rank_first() -> None:
    """A voice with 25 clean requests does not outrank one with 1,500 at 0.2 % errors."""
    settings = (
        Setting(voice="lucky", share=0.014, failing=0.0),
        *(Setting(voice=n, share=1.0, failing=0.002 if n == "proven" else 0.05) for n in ("proven", "a", "b", "c")),
    )
    report = ask(dataclasses.replace(ROOMY, hours=8, settings=settings), 3)
    lucky = next(p for p in report.voices if p.voice == "lucky")
    assert 20 <= lucky.requests < 60
    assert lucky.error_share is not None
    assert lucky.error_share.value == 0
    assert report.voices[0].voice == "proven"
    assert lucky.rank is not None
    assert lucky.rank > 1


def test_too_few_requests_are_not_ranked() -> None:
    """Below twenty requests a voice is listed, with its counts, but neither ranked nor compared."""
    what = service()
    rng = np.random.default_rng(1)
    report = voices(MemorySource(scrape(what, simulate(what, rng, 40), rng, 1_700_000_000.0)))
    assert report.most_stable is None
    assert all(p.rank is None and not p.outlier_in for p in report.voices)
    assert "too few" in " ".join(report.notes)


def test_one_request() -> None:
    """A single request gives a profile without an upper bound for its quantiles, and no ranking."""
    rng = np.random.default_rng(1)
    (p,) = voices(MemorySource(scrape(ROOMY, simulate(ROOMY, rng, 1), rng, 1_700_000_000.0))).voices
    assert p.requests == 1
    assert p.rank is None
    assert p.p95 is not None
    assert p.p95.high == np.inf


def test_no_data_is_said() -> None:
    """An empty store, and voices that nobody asked for, are told apart."""
    empty = voices(MemorySource(Scrapes(np.arange(10) * 15.0 + 1_700_000_000.0)))
    assert not empty.voices
    assert "No speech request" in empty.notes[0]
    rng = np.random.default_rng(1)
    idle = voices(MemorySource(scrape(ROOMY, simulate(ROOMY, rng, 0), rng, 1_700_000_000.0)))
    assert not idle.voices
    assert "none was asked" in idle.notes[0]


def test_gaps_and_cut_off_speech() -> None:
    """Shares of the requests that count, with their intervals; a voice without such series, from an older service, has
    none.
    """
    scrapes = observe(service(), 1)
    up = np.linspace(0, 1, len(scrapes.times))
    for labels, growth in (({"result": "good"}, 180), ({"result": "bad"}, 20)):
        scrapes.put(semconv.CONTINUITY_SLI.prometheus, {"voice": NAMES[0], **labels}, up * growth)
    for labels, growth in (({"finish_reason": "eos"}, 190), ({"finish_reason": "length"}, 10)):
        scrapes.put(semconv.FINISHED.prometheus, {"voice": NAMES[0], **labels}, up * growth)
    profiles = {p.voice: p for p in voices(MemorySource(scrapes)).voices}
    mine = profiles[NAMES[0]]
    assert holds(mine.gap_share, 0.1)
    assert holds(mine.cut_off, 0.05)
    assert (profiles[NAMES[1]].gap_share, profiles[NAMES[1]].cut_off) == (None, None)


def test_a_vanished_voice_is_kept_and_said() -> None:
    """A voice that left within the window still counts, and is marked as gone."""
    scrapes = observe(service(), 1)
    for rows in scrapes.series.values():
        for labels, values in rows.items():
            if dict(labels).get("voice") == "jp-Spk0_man":
                values[len(values) // 2 :] = np.nan
    report = voices(MemorySource(scrapes))
    gone = {p.voice: p.requests for p in report.voices if p.vanished}
    assert list(gone) == ["jp-Spk0_man"]
    assert gone["jp-Spk0_man"] > 100
    assert "jp-Spk0_man: spoke within the window but is no longer reported" in " ".join(report.notes)


def test_labels_that_stand_for_many_are_left_out_of_effects() -> None:
    """A cfg or steps of ``other`` counts as requests but cannot be placed on a scale."""
    settings = tuple(Setting(voice="a", cfg=c, steps=s) for c, s in (("other", "5"), ("other", "10"), ("1.5", "other")))
    report = ask(dataclasses.replace(ROOMY, settings=settings), 1)
    (p,) = report.voices
    assert p.requests > 100
    assert p.sensitivity.latency_per_step is None
    assert p.sensitivity.failure_odds_per_cfg is None
    assert semconv.OTHER in p.settings[-1]
