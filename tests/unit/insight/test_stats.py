"""The statistics, against textbook figures and their stated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from vibevoice_otel import semconv
from vibevoice_otel.insight import stats
from vibevoice_otel.insight.capacities import queueing
from vibevoice_otel.insight.stats import Histogram

EDGES = np.array([*semconv.FIRST_AUDIO_BUCKETS, math.inf])


def histogram(values: np.ndarray) -> Histogram:
    counts = np.diff([0, *(int((values <= e).sum()) for e in EDGES)]).astype(float)
    return Histogram(EDGES, counts, float(values.sum()))


def covers(hits: int, trials: int, confidence: float = 0.95) -> bool:
    """Not significantly below the stated confidence."""
    return bool(binomtest(hits, trials, confidence, alternative="less").pvalue > 0.01)


def test_proportion_is_wilsons() -> None:
    """Wilson's interval for 1 of 10 as Newcombe (1998) computes it, and none without a trial."""
    estimate = stats.proportion(1, 10)
    assert estimate is not None
    assert (estimate.low, estimate.high) == (pytest.approx(0.0179, abs=1e-4), pytest.approx(0.4042, abs=1e-4))
    assert stats.proportion(0, 0) is None


def test_rate_is_garwoods() -> None:
    """Garwood's interval for 3 events is 0.619 to 8.767; nothing seen still leaves 3.69 possible; clusters widen it."""
    estimate, none, clustered = stats.rate(3, 1.0), stats.rate(0, 1.0), stats.rate(3, 1.0, dispersion=3.0)
    assert estimate is not None
    assert none is not None
    assert clustered is not None
    assert (estimate.low, estimate.high) == (pytest.approx(0.6187, abs=1e-3), pytest.approx(8.7673, abs=1e-3))
    assert (none.low, none.high) == (0.0, pytest.approx(3.6889, abs=1e-3))
    assert clustered.low < estimate.low
    assert clustered.high > estimate.high
    assert stats.rate(1, 0.0) is None


def test_a_quantile_bounds_the_truth() -> None:
    """The bounds hold the true P95 at least at their stated confidence,
    whatever the distribution within the buckets.
    """
    rng = np.random.default_rng(1)
    truth = 0.2 * math.exp(0.5 * 1.6449)
    hits = 0
    for _ in range(300):
        found = stats.quantile(histogram(rng.lognormal(math.log(0.2), 0.5, 80)), 0.95)
        assert found is not None
        assert found.value is not None
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert covers(hits, 300)


def test_a_quantile_in_the_open_bucket_is_not_invented() -> None:
    """Above the last edge there is no value, only a lower bound."""
    found = stats.quantile(histogram(np.full(100, 45.0)), 0.5)
    assert found == stats.Quantile(None, 30.0, math.inf, 30.0)
    assert stats.quantile(histogram(np.empty(0)), 0.5) is None


def test_few_values_bound_little() -> None:
    """One request cannot bound a P99 from above."""
    found = stats.quantile(histogram(np.array([0.2])), 0.99)
    assert found is not None
    assert found.high == math.inf


def test_the_share_above_an_edge_is_exact() -> None:
    """The objective is an edge: nothing is interpolated. Between edges the whole bucket counts as late."""
    values = np.array([0.1, 0.44, 0.45, 0.451, 0.7])
    assert histogram(values).above(0.45) == 2
    assert histogram(values).above(0.47) == 2
    assert histogram(values).above(0.43) == 4


def test_histograms_with_other_edges_are_not_added() -> None:
    """Adding what was counted against different bounds is refused."""
    with pytest.raises(ValueError, match="different bucket edges"):
        histogram(np.ones(3)) + Histogram(np.array([1.0, math.inf]), np.array([1.0, 0.0]), 1.0)


def test_bucket_variance_is_close_to_the_sample_variance() -> None:
    """Midpoints less Sheppard's correction, about the exact mean."""
    values = np.random.default_rng(2).lognormal(math.log(0.25), 0.4, 5000)
    assert histogram(values).variance() == pytest.approx(values.var(), rel=0.1)


def test_stratified_excess_sees_through_a_confounder() -> None:
    """A voice that only gets harder texts is no outlier; one that is worse at like texts is."""
    confounded = [
        (50.0, 500.0, 10.0, 100.0),
        (1.0, 100.0, 50.0, 5000.0),
    ]  # 10 % on hard texts, 1 % on easy ones, for both
    ratio, p = stats.stratified_excess(confounded)
    assert ratio == pytest.approx(1.0, abs=0.05)
    assert p > 0.3
    ratio, p = stats.stratified_excess([(100.0, 500.0, 10.0, 100.0), (4.0, 100.0, 50.0, 5000.0)])
    assert ratio > 2
    assert p < 0.01


def test_stratified_excess_is_exact_for_few_events() -> None:
    """With a handful of events it is Fisher's exact test: 3 of 10 against 0 of 10 has one-sided p = 0.105."""
    assert stats.stratified_excess([(3.0, 10.0, 0.0, 10.0)]) == (math.inf, pytest.approx(0.10526, abs=1e-4))
    assert stats.stratified_excess([(0.0, 10.0, 0.0, 10.0)]) == (1.0, 1.0)


def test_discoveries_are_benjamini_hochbergs() -> None:
    """The worked example of Benjamini and Hochberg (1995): four of fifteen."""
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    assert stats.discoveries(p) == [True] * 4 + [False] * 11
    assert stats.discoveries([]) == []


def test_the_prior_learns_how_alike_voices_are() -> None:
    """Voices that are alike pull strongly, voices that differ hardly."""
    rng = np.random.default_rng(3)
    n = np.full(20, 400.0)
    alike = stats.beta_prior(rng.binomial(400, 0.02, 20).tolist(), n.tolist())
    apart = stats.beta_prior(rng.binomial(400, rng.beta(1, 9, 20)).tolist(), n.tolist())
    assert sum(alike) > 200
    assert sum(apart) < 40
    assert alike[0] / sum(alike) == pytest.approx(0.02, abs=0.01)


def test_logistic_recovers_the_odds_and_survives_separation() -> None:
    """Coverage of a known odds ratio; and a setting that never failed gives a finite answer."""
    rng = np.random.default_rng(4)
    design = np.array([[1.0, x] for x in (-1.0, 0.0, 1.0)])
    hits = 0
    for _ in range(200):
        bad = rng.binomial(300, 1 / (1 + np.exp(-(-3 + 0.5 * design[:, 1]))))
        found = stats.logistic(design, bad.astype(float), np.full(3, 300.0))
        assert found is not None
        hits += abs(found[0][1] - 0.5) < 1.96 * found[1][1]
    assert covers(hits, 200)
    found = stats.logistic(design, np.array([0.0, 0.0, 20.0]), np.full(3, 50.0))
    assert found is not None
    assert np.isfinite(found[0]).all()
    assert found[0][1] > 1
    assert stats.logistic(np.ones((3, 2)), np.ones(3), np.full(3, 9.0)) is None


def test_weighted_line_knows_when_it_knows_nothing() -> None:
    """Settings that cannot be told apart give no effect."""
    same = np.array([[1.0, 5.0], [1.0, 5.0]])
    assert stats.weighted_line(same, np.ones(2), np.ones(2)) is None
    found = stats.weighted_line(np.array([[1.0, 5.0], [1.0, 10.0]]), np.array([0.2, 0.25]), np.full(2, 1e-6))
    assert found is not None
    assert found[0][1] == pytest.approx(0.01)


def one(value: float) -> np.ndarray:
    return np.array([value])


def test_blocking_and_waiting_are_erlangs() -> None:
    """Erlang's B and C for two erlangs on four lines: 0.0952 and 0.1739; a single line waits with chance rho."""
    slots, flat = np.array([4]), one(0.0)
    assert queueing.blocking(one(2.0), one(1.0), one(1.0), flat, slots)[0] == pytest.approx(0.0952, abs=1e-4)
    chance, rho = queueing.waiting(one(2.0), one(1.0), one(1.0), flat, slots)
    assert (chance[0], rho[0]) == (pytest.approx(0.1739, abs=1e-4), 0.5)
    chance, _ = queueing.waiting(one(0.7), one(1.0), one(1.0), flat, np.array([1]))
    assert chance[0] == pytest.approx(0.7)
    chance, _ = queueing.waiting(one(1.2), one(1.0), one(1.0), flat, np.array([1]))
    assert chance[0] == 1.0


def test_mean_wait_is_pollaczek_khinchines_for_one_slot() -> None:
    """With one slot the formula is exact: M/D/1 at half load waits half a service time on average,
    M/M/1 a whole one.
    """
    wait = queueing.mean_wait(one(0.5), one(1.0), one(1.0), one(0.0), np.array([1]), np.array([0.5, 1.0]))
    assert wait.tolist() == pytest.approx([0.5, 1.0])


def test_slots_that_share_a_card_are_one_server() -> None:
    """Two slots, each half as fast when both work, wait no less than one fast server's overflow: the birth-death chain
    by hand.
    """
    # states 0, 1, 2+ with rates lambda = 0.5, mu = 1 in all states: p_n = 0.5^(n+1), so P(n >= 2) = 0.25
    chance, rho = queueing.waiting(one(0.5), one(1.0), one(0.0), one(1.0), np.array([2]))
    assert (chance[0], rho[0]) == (pytest.approx(0.25), 0.5)
    free = queueing.at_work(one(0.5), one(1.0), one(0.0), one(1.0), np.array([2]))
    assert free[:, 0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_late_share_is_the_exact_tail_of_a_memoryless_queue() -> None:
    """M/M/4 with a fixed first-audio time: P(wait > t) = C exp(-(4 mu - lambda) t)."""
    rate, service, limit, own = 0.3, 5.0, 0.45, 0.2
    chance, _ = queueing.waiting(one(rate), one(service), one(1.0), one(0.0), np.array([4]))
    expected = chance[0] * math.exp(-(4 / service - rate) * (limit - own))
    found = queueing.late_share(
        one(rate), one(service), one(1.0), one(0.0), np.array([4]), one(1.0), (one(math.log(own)), one(1e-3)), limit
    )
    assert found[0] == pytest.approx(expected, rel=1e-3)
