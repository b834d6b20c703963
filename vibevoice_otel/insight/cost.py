"""``insight cost``: what a minute of audio takes of cards, hosts and energy, and what that is in the operator's money.

A card and its energy are shared by all that speaks on it: a voice's part is allocated by the seconds that it generated.
That is an allocation, not a measurement; only the totals are measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.cells import by_voice
from vibevoice_otel.insight.observations import HW_ID
from vibevoice_otel.insight.source import Origin, Source, Track


@dataclass(frozen=True, slots=True)
class Prices:
    """The operator's, in any currency; None: not asked for."""

    card_hour: float | None = None
    kwh: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("card_hour", self.card_hour), ("kwh", self.kwh)):
            if value is not None and not 0 <= value < 1e9:
                raise ValueError(f"{name} {value!r}: allowed is a price of 0 or more")


@dataclass(frozen=True, slots=True)
class VoiceCost:
    """What a minute of a voice's audio takes. ``joules`` and ``money`` are None where there is nothing to go by."""

    voice: str
    audio_minutes: float
    generating: float  # seconds of a generation thread
    card: float | None  # seconds of a card, idle ones included
    joules: float | None
    money: float | None


@dataclass(frozen=True, slots=True)
class CostReport:
    """Totals as measured, and each voice's allocation. Energy in joules, ``idle`` of it what the cards draw at their
    least.
    """

    origin: Origin
    audio_minutes: float
    generating_seconds: float
    cards: int
    card_hours: float | None
    joules: float | None
    idle_joules: float | None
    money: float | None
    voices: list[VoiceCost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cost(source: Source, prices: Prices | None = None) -> CostReport:
    """What the window's audio took.

    Raises:
        SourceError: when the source cannot be read, or knows one instant alone.
    """
    prices = prices or Prices()
    minutes = {voice: seconds / 60 for voice, seconds in by_voice(source, semconv.AUDIO_PRODUCED.prometheus).items()}
    busy = by_voice(source, semconv.GENERATE_BUSY.prometheus)
    notes: list[str] = []
    power = by_card(source.history(semconv.HW_POWER.prometheus, ()) or [])
    energy = by_card(source.history(semconv.HW_ENERGY.prometheus, ()) or [])
    present = power or energy
    if not present:
        devices = source.history(semconv.GPU_MEMORY_LIMIT.prometheus, ()) or ()
        present = {f"{each.labels.get('instance', '')}/{each.labels.get('device_id', '')}": each for each in devices}
        if present:
            notes.append(
                "NVML is not read (pip install 'vibevoice-otel[nvidia]'): no energy, and a card that two processes "
                "share counts twice."
            )
    hours = sum(_seconds(track) for track in present.values()) / 3600 if present else None
    joules = (
        sum(float(counted(track.values[~np.isnan(track.values)]).sum()) for track in energy.values())
        if energy
        else None
    )
    idle = sum(float(np.nanmin(track.values)) * _seconds(track) for track in power.values()) if power else None
    if joules is not None and idle is not None:
        idle = min(idle, joules)  # the least power that a scrape saw may lie above the true idle draw
    money = _money(prices, hours, joules)
    total_busy, total_minutes = sum(busy.values()), sum(minutes.values())
    if not present:
        notes.append("No card is reported: seconds of cards, energy and money are missing.")
    if not total_minutes:
        notes.append("No audio was made in the window.")
    voices = [
        _voice(voice, minutes[voice], busy.get(voice, 0.0), total_busy, hours, joules, money)
        for voice in sorted(minutes, key=lambda name: -minutes[name])
        if minutes[voice] > 0
    ]
    return CostReport(source.origin, total_minutes, total_busy, len(present), hours, joules, idle, money, voices, notes)


def _voice(
    voice: str,
    minutes: float,
    busy: float,
    total: float,
    hours: float | None,
    joules: float | None,
    money: float | None,
) -> VoiceCost:
    share = busy / total / minutes if total else 0.0
    seconds = None if hours is None else hours * 3600
    parts = (None if whole is None else whole * share for whole in (seconds, joules, money))
    return VoiceCost(voice, minutes, busy / minutes, *parts)


def _money(prices: Prices, hours: float | None, joules: float | None) -> float | None:
    kwh = None if joules is None else joules / 3.6e6
    parts = [
        price * used
        for price, used in ((prices.card_hour, hours), (prices.kwh, kwh))
        if price is not None and used is not None
    ]
    return sum(parts) if parts else None


def by_card(tracks: Iterable[Track]) -> dict[str, Track]:
    """One track a card: each process that uses it reports it, so the highest counts, once."""
    found: dict[str, Track] = {}
    for track in tracks:
        card = track.labels.get(HW_ID, "")
        values = np.fmax(found[card].values, track.values) if card in found else track.values
        found[card] = Track({"card": card}, track.times, values)
    return found


def _seconds(track: Track) -> float:
    """How long the card was there."""
    step = float(track.times[1] - track.times[0]) if len(track.times) > 1 else 0.0
    return float((~np.isnan(track.values)).sum()) * step


def counted(known: Floats) -> Floats:
    """What a counter grew by from each value to the next; where it fell it began again. NaN is not among them."""
    steps = np.diff(known)
    return np.where(steps < 0, known[1:], steps)
