"""What a minute of audio takes: totals as simulated, voices by the seconds that they generated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.insight.simulator import MemorySource, Scrapes, Service, Setting, observe
from vibevoice_otel import semconv
from vibevoice_otel.insight.cost import Prices, cost

TWO = (Setting(voice="plain"), Setting(voice="slow", factor=2.0))
SERVICE = Service(rate=0.2, hours=2.0, slots=64, limit=None, settings=TWO)
CARD = {"hw_id": "GPU-1", "hw_type": "gpu", "device_id": "0", "job": "vibevoice"}


def metered(watts: float = 200.0, idle: float = 80.0, instances: int = 1) -> Scrapes:
    """A service whose card draws ``idle`` W in its first half and ``watts`` W in its second, seen by each of its
    processes.
    """
    scrapes = observe(SERVICE, 1)
    half = len(scrapes.times) // 2
    power = np.where(np.arange(len(scrapes.times)) < half, idle, watts)
    energy = 5e6 + np.cumsum(power) * 15.0
    for n in range(instances):
        labels = {**CARD, "instance": f"{n}:9464"}
        scrapes.put(semconv.HW_POWER.prometheus, labels, power)
        scrapes.put(semconv.HW_ENERGY.prometheus, labels, energy)
    return scrapes


def test_totals_are_the_cards_own_and_a_shared_card_counts_once() -> None:
    """Two hours of one card, 140 W on average, whether one process reports it or two."""
    for instances in (1, 2):
        report = cost(MemorySource(metered(instances=instances)), Prices(card_hour=3.0, kwh=0.4))
        assert report.cards == 1
        assert report.card_hours == pytest.approx(2.0, rel=0.01)
        assert report.joules == pytest.approx(2 * 3600 * 140, rel=0.01)
        assert report.idle_joules == pytest.approx(2 * 3600 * 80, rel=0.01)
        assert report.money == pytest.approx(2 * 3.0 + 0.28 * 0.4, rel=0.01)


def test_a_voice_that_takes_twice_as_long_costs_twice_as_much() -> None:
    """Allocated by generating seconds; the voices' parts add up to the total."""
    report = cost(MemorySource(metered()), Prices(card_hour=3.0))
    by_voice = {voice.voice: voice for voice in report.voices}
    plain, slow = by_voice["plain"], by_voice["slow"]
    assert slow.generating == pytest.approx(2 * plain.generating, rel=0.01)
    assert plain.money is not None
    assert slow.money == pytest.approx(2 * plain.money, rel=0.01)
    assert sum((v.money or 0.0) * v.audio_minutes for v in report.voices) == pytest.approx(report.money, rel=1e-6)
    assert sum((v.joules or 0.0) * v.audio_minutes for v in report.voices) == pytest.approx(report.joules, rel=1e-6)


def test_what_is_not_known_is_missing() -> None:
    """Without NVML no energy, and a note; without a card no money; without audio a note."""
    seen = cost(MemorySource(observe(replace(SERVICE, limit=24.0), 1)), Prices(card_hour=3.0, kwh=0.4))
    assert seen.joules is None
    assert seen.money == pytest.approx(6.0, rel=0.01)
    assert "NVML is not read" in seen.notes[0]
    blind = cost(MemorySource(observe(SERVICE, 1)), Prices(card_hour=3.0))
    assert (blind.card_hours, blind.money, blind.voices[0].card) == (None, None, None)
    assert "No card is reported" in blind.notes[0]
    with pytest.raises(ValueError, match="a price of 0 or more"):
        Prices(card_hour=-1)
