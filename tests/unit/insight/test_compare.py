"""Two sides compared: false alarms, coverage and power on pairs whose difference is known, and the whole command on a
simulated service.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from tests.unit.insight.comparison import compared
from tests.unit.insight.pairs import EDGES, Truth, more_energy, pair
from tests.unit.insight.simulator import MemorySource, Scrapes, Service, Setting, observe
from vibevoice_otel import semconv
from vibevoice_otel.insight.compare.effect import Effect, Side, TooLittle, effect, quantiles
from vibevoice_otel.insight.compare.report import Answer, Comparison, Labelled, compare
from vibevoice_otel.insight.source import Source, Track

SEEDS = 120


def told(truth: Truth, n: int = 1000, seeds: int = SEEDS) -> dict[str, list[Effect]]:
    """Every figure's effect in each of the seeds' pairs."""
    found: dict[str, list[Effect]] = {"p50": [], "p95": [], "mean": [], "failed": [], "card": [], "energy": []}
    for seed in range(seeds):
        sides = pair(truth, n, seed)
        found["p50"].append(effect(*sides.seconds, scale="ratio", quantile=0.5))
        found["p95"].append(effect(*sides.seconds, scale="ratio", quantile=0.95))
        found["mean"].append(effect(*sides.mean, scale="ratio"))
        found["failed"].append(effect(*sides.failed, scale="difference"))
        found["card"].append(effect(*sides.card, scale="ratio"))
        drawn = compared(sides)
        found["energy"] += [] if drawn is None else [drawn]
    return found


def at_most(count: int, share: float, of: int = SEEDS) -> bool:
    """Whether ``count`` of so many is what a true share of at most ``share`` gives, but once in a thousand."""
    return bool(binom.sf(count - 1, of, share) > 0.001)


@pytest.mark.parametrize(
    "truth", [Truth(), Truth(mix=1.0), Truth(load=0.3)], ids=["equal", "another mix", "uneven load"]
)
def test_equal_sides_are_seldom_called_different(truth: Truth) -> None:
    """At most one in twenty, a change of the mix of requests and an uneven load included."""
    for name, effects in told(truth).items():
        assert at_most(sum(one.p < 0.05 for one in effects), 0.05, max(len(effects), 1)), name


def test_the_naive_comparison_is_fooled_by_the_mix() -> None:
    """Two dashboards' P95 differ by more than 3 % in nine of ten pairs that differ in their mix alone: why strata are
    needed.
    """
    naive = [abs(pair(Truth(mix=1.0), 1000, seed).naive_p95()) > 0.03 for seed in range(SEEDS)]
    assert sum(naive) > 0.8 * SEEDS


@pytest.mark.parametrize("scale", [1.02, 1.10, 0.95])
def test_the_interval_holds_the_true_change(scale: float) -> None:
    """In 95 of 100 pairs, whatever the change."""
    for name, effects in told(Truth(scale=scale)).items():
        if name != "failed":
            true = more_energy(scale) if name == "energy" else scale - 1
            missed = sum(not one.low <= true <= one.high for one in effects)
            assert at_most(missed, 0.05, len(effects)), name


def test_energy_is_not_compared_where_the_mix_asks_more_of_the_cards() -> None:
    """The slow voices asked for more often on B keep its card at work: the idle draw's part differs."""
    assert sum(compared(pair(Truth(mix=1.0), 3000, seed)) is None for seed in range(40)) > 30


def test_a_slower_tail_moves_the_p95_and_not_the_median() -> None:
    """Where the slowest tenth alone is 20 % slower."""
    effects = told(Truth(tail=1.2), n=4000, seeds=40)
    assert sum(one.p < 0.05 and one.change > 0 for one in effects["p95"]) > 30
    assert at_most(sum(one.p < 0.05 for one in effects["p50"]), 0.05, 40)


def test_a_10_percent_change_is_found() -> None:
    """With 3,000 requests a side, in nine of ten pairs and more."""
    effects = told(Truth(scale=1.1), n=3000, seeds=40)["mean"]
    assert sum(one.p < 0.05 and one.change > 0 for one in effects) >= 36


def test_sides_that_share_their_time_share_their_load() -> None:
    """A canary beside its stable: what slows both at once cancels, and the interval narrows."""
    rng = np.random.default_rng(3)
    load = rng.lognormal(0, 0.3, 30)[:, None]
    count = np.full((30, 1), 20.0)
    a = Side((("v",),), load * count * 0.20 * rng.lognormal(0, 0.02, (30, 1)), count)
    b = Side((("v",),), load * count * 0.21 * rng.lognormal(0, 0.02, (30, 1)), count)
    apart, together = effect(a, b, scale="ratio"), effect(a, b, scale="ratio", paired=True)
    assert together.high - together.low < (apart.high - apart.low) / 5
    assert together.low <= 0.05 <= together.high


def test_quantiles_of_log_normal_values_do_not_move_with_the_buckets() -> None:
    """A median anywhere within its bucket is read to a thousandth."""
    from scipy.stats import norm

    for median in np.linspace(0.21, 0.39, 19):
        share = norm.cdf(np.log(EDGES[None, :-1] / median) / 0.3)
        cumulative = np.append(share, [[1.0]], axis=1)
        assert quantiles(cumulative, EDGES, 0.5)[0] == pytest.approx(median, rel=1e-3)


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (np.zeros((20, 1)), "nothing on either side"),
        (np.full((20, 1), 0.1), "has 10 requests on both sides"),
        (np.full((3, 1), 50.0), "only 3 blocks"),
    ],
)
def test_too_little_is_said(count: np.ndarray, says: str) -> None:
    """Which kind of data lacks, not a number that looks like an answer."""
    side = Side((("v",),), count * 0.2, count)
    with pytest.raises(TooLittle, match=says):
        effect(side, side, scale="ratio")


def test_no_failure_at_all_is_not_certainty() -> None:
    """Fifty requests without a failure on either side say little of a rate of one in a hundred."""
    count = np.full((10, 1), 5.0)
    found = effect(*[Side((("v",),), np.zeros((10, 1)), count)] * 2, scale="difference")
    assert found.high > 0.01


# ----------------------------------------------------------------------------------------------------------- the answer

VOICES = tuple(Setting(voice=f"voice{n}", first=0.15 + 0.02 * n, share=1.0) for n in range(4))
BEFORE = Service(rate=0.5, hours=2.0, slots=64, limit=None, settings=VOICES)


def asked(after: Service, seed: int = 1, margin: float = 0.03) -> Comparison:
    return held_up(
        *(MemorySource(observe(service, seed + n)) for n, service in enumerate((BEFORE, after))), margin=margin
    )


def held_up(a: Source, b: Source, margin: float = 0.03) -> Comparison:
    return compare(Labelled(a, "before"), Labelled(b, "after"), margin=margin)


def by_name(report: Comparison) -> dict[str, str]:
    return {answer.name: answer.verdict for answer in report.answers}


def test_an_unchanged_service_is_not_called_worse() -> None:
    """Over eight pairs, none of ten figures and four voices; the family's false alarms are at most one in twenty."""
    verdicts = [asked(BEFORE, seed).verdict for seed in range(0, 16, 2)]
    assert verdicts.count("worse") + verdicts.count("better") <= 1


def test_slower_first_audio_is_worse() -> None:
    """First audio 10 % slower for every voice: told, with an interval that holds 10 %; the generation's speed is not
    blamed.
    """
    after = replace(BEFORE, settings=tuple(replace(s, first=s.first * 1.1) for s in VOICES))
    report = asked(after)
    answers = {answer.name: answer for answer in report.answers}
    median = answers["first audio, median"]
    assert report.verdict == median.verdict == "worse"
    assert median.effect is not None
    assert median.effect.low < 0.10 < median.effect.high
    assert answers["real-time factor"].verdict in {"no different", "cannot be told"}


def test_one_voice_alone_is_named() -> None:
    """One of four voices fails in a fifth of its requests: that voice stands out, and no other."""
    after = replace(BEFORE, settings=(replace(VOICES[0], failing=0.2), *VOICES[1:]))
    report = asked(after)
    assert {(voice.voice, voice.name, voice.verdict) for voice in report.voices} == {("voice0", "failed", "worse")}


def test_a_change_of_mix_changes_nothing() -> None:
    """The slow voice is asked for eight times as often: each voice is compared with itself."""
    after = replace(BEFORE, settings=(*VOICES[:3], replace(VOICES[3], share=8.0)))
    assert by_name(asked(after))["first audio, P95"] in {"no different", "cannot be told"}


def test_what_cannot_be_told_says_what_would() -> None:
    """A quiet hour: so many more requests would narrow the interval to the margin."""
    quiet = replace(BEFORE, rate=0.05)
    report = asked(quiet)
    undecided = [
        answer for answer in report.answers if answer.verdict == "cannot be told" and answer.effect is not None
    ]
    assert undecided
    for answer in undecided:
        assert answer.effect is not None
        assert answer.more is not None
        assert answer.more > min(answer.effect.n_a, answer.effect.n_b)


def test_the_report_is_shown_and_is_json() -> None:
    """As a table that names both sides, and as JSON without a number that JSON has not."""
    from rich.console import Console

    from vibevoice_otel.insight import tables
    from vibevoice_otel.insight.cli import plain

    report = asked(replace(BEFORE, settings=tuple(replace(s, first=s.first * 1.1) for s in VOICES)))
    console = Console(record=True, width=140, force_terminal=False)
    tables.show(report, console)
    text = console.export_text()
    assert "B is worse" in text
    assert "first audio, median" in text
    assert json.loads(json.dumps(plain(report), allow_nan=False))["verdict"] == "worse"


# ------------------------------------------------------------------------------------------------------------ the cards

#: Both sides' requests in step, so that their cards are asked for the same.
TIMED = replace(BEFORE, rate=0.3, device=0.2, audio_law="constant")
ENERGY, BY_CLOCK = "energy, a second of audio", "card by its clock, a second of audio"


def metered(card: str, watts: float = 300.0, service: Service = TIMED, seed: int = 1, instance: str = "") -> Scrapes:
    """A service whose card draws 80 W, and ``watts`` more for each generation."""
    scrapes = observe(service, seed)
    busy = np.sum(list(scrapes.series[semconv.GENERATE_BUSY.prometheus].values()), axis=0)
    joules = 5e6 + 80 * (scrapes.times - scrapes.times[0]) + watts * busy
    for name in {service.instance, instance or service.instance}:
        labels = {"job": "vibevoice", "instance": name, "hw_id": card, "hw_type": "gpu", "device_id": "0"}
        scrapes.put(semconv.HW_ENERGY.prometheus, labels, joules)
    return scrapes


def answers(a: Source, b: Source) -> dict[str, Answer]:
    return {answer.name: answer for answer in held_up(a, b).answers}


def test_energy_of_two_cards_is_compared() -> None:
    """B's card draws 10 % more while it works; what it idles at is the same, so all in all it is less."""
    found = answers(MemorySource(metered("GPU-a")), MemorySource(metered("GPU-b", watts=330.0)))[ENERGY].effect
    assert found is not None
    busy = found.a - 80 / 3  # 0.3 requests of 10 s a second ask for 3 s of audio
    assert found.a == pytest.approx(300 * 0.5 + 80 / 3, rel=0.05)
    assert found.low < 0.1 * busy / found.a < found.high
    assert found.low > 0


def test_seconds_of_the_card_are_compared_by_its_clock() -> None:
    """A fifth of a second for a second of audio; a tenth more is told, and the host's clock is not among it."""
    slower = replace(TIMED, device=0.22)
    found = answers(MemorySource(observe(TIMED, 1)), MemorySource(observe(slower, 2)))[BY_CLOCK]
    assert found.effect is not None
    assert found.effect.a == pytest.approx(0.2, rel=0.01)
    assert found.effect.low <= 0.1 + 1e-9
    assert found.effect.high >= 0.1 - 1e-9
    assert found.verdict == "worse"


def test_what_the_host_timed_is_left_out_with_its_audio() -> None:
    """Half of B's steps were timed by the host: half of its audio counts, and nothing has become better."""
    scrapes = observe(TIMED, 1)
    of = "clock", str(semconv.Clock.DEVICE)
    for metric in (semconv.INFERENCE, semconv.DECODE_DURATION):
        for suffix in ("_sum", "_count"):
            rows = scrapes.series.get(metric.prometheus + suffix, {})
            for labels in [each for each in rows if of in each]:
                rows[labels] = rows[labels] / 2
                if suffix == "_count":
                    scrapes.put(metric.prometheus + suffix, {**dict(labels), "clock": "host"}, rows[labels])
    found = answers(MemorySource(observe(TIMED, 1)), MemorySource(scrapes))[BY_CLOCK].effect
    assert found is not None
    assert found.change == pytest.approx(0, abs=1e-9)


class OneVoice(MemorySource):
    """A side that is one voice of its processes."""

    def growths(self, series: str, by: Sequence[str], blocks: int) -> list[Track]:
        rows = self._scrapes.series.get(series, {})
        mine = {labels: values for labels, values in rows.items() if ("voice", "voice0") in labels}
        return MemorySource(Scrapes(self._scrapes.times, {series: mine}), self._window).growths(series, by, blocks)


TWO = replace(TIMED, instance="two:9464")


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (metered("GPU-a"), metered("GPU-a", seed=2), "both sides ran on the same card"),
        (metered("GPU-a"), observe(TIMED, 2), "only one side's processes report energy"),
        (metered("GPU-a"), metered("GPU-b", service=replace(TIMED, rate=0.2)), "work: the idle draw would decide"),
        (metered("GPU-a"), metered("GPU-b", instance="other:9464"), "other processes share the cards"),
        (metered("GPU-a"), metered("GPU-b").merge(observe(TWO, 2)), "not every process reports its card's energy"),
    ],
)  # fmt: skip
def test_energy_that_is_not_compared_says_why(a: Scrapes, b: Scrapes, why: str) -> None:
    """In one line; nothing else of the comparison waits for it."""
    found = answers(MemorySource(a), MemorySource(b))
    assert why in found[ENERGY].why
    assert found[ENERGY].effect is None
    assert found["real-time factor"].effect is not None


def test_a_side_that_is_a_part_of_its_processes_has_no_energy_of_its_own() -> None:
    """One voice of four: the card's joules are those of all."""
    assert "besides those compared" in answers(OneVoice(metered("GPU-a")), MemorySource(metered("GPU-b")))[ENERGY].why


def test_without_a_card_there_is_no_word_of_it() -> None:
    """Neither figure, nor a reason."""
    assert not {ENERGY, BY_CLOCK} & by_name(asked(BEFORE)).keys()


def test_wrong_margins_are_refused() -> None:
    """The message says what is allowed."""
    source = Labelled(MemorySource(observe(replace(BEFORE, hours=0.2), 1)), "a")
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        compare(source, source, margin=1.5)
