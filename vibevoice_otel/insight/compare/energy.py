"""Energy for a second of audio, of sides that run on different cards.

A card's joules are those of all that it did; no label divides them. So a side has an energy only where its cards
served nothing else, and each voice is given the part of the seconds that it generated, as ``insight cost`` does. What
a card draws while it idles is in it, which less speech makes more of for each second: sides whose cards are asked for
different amounts of work are not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.compare.effect import Side, TooLittle
from vibevoice_otel.insight.compare.growth import Cards, Key, Reading, side, table
from vibevoice_otel.insight.cost import by_card, counted
from vibevoice_otel.insight.observations import increments
from vibevoice_otel.insight.source import Source, Track

#: A side is at least so much of what its processes generated: the rest's energy would be taken for its own.
WHOLE = 0.95
_HW_ID = semconv.M_HW_ID.key.replace(".", "_")
_PROCESS: Key = ("job", "instance")


def read(source: Source, blocks: int) -> Reading:
    """Joules, seconds of audio and requests by voice; no voice where the processes report no energy."""
    nothing = Reading(side((), blocks, {}, {}))
    growths = source.growths(semconv.AUDIO_PRODUCED.prometheus, _PROCESS, blocks)
    speaking = {_process(track) for track in growths if np.nansum(track.values) > 0}
    if not speaking:
        return nothing
    of = {name: sorted({key[place] for key in speaking}) for place, name in enumerate(_PROCESS)}
    metered = [
        each for each in source.history(semconv.HW_ENERGY.prometheus, (), of) or () if _process(each) in speaking
    ]
    if not metered:
        return nothing
    cards = by_card(metered)
    busy = table(source, semconv.GENERATE_BUSY.prometheus, ("voice",), blocks)
    audio, requests = (
        table(source, metric.prometheus, ("voice",), blocks) for metric in (semconv.AUDIO_PRODUCED, semconv.REQUESTS)
    )
    strata = sorted(voice for voice in audio if audio[voice].sum() > 0 and voice in busy)
    why = ""
    if {_process(track) for track in metered} != speaking:
        why = "not every process reports its card's energy"
    elif _foreign(source, sorted(cards), speaking):
        why = "other processes share the cards"
    elif sum(float(grown.sum()) for grown in busy.values()) < WHOLE * _generated(source, of, speaking):
        why = "the cards served requests besides those compared"
    joules, seconds = _drawn(cards.values(), growths[0].times)
    work = Work(strata, *(side(strata, blocks, grown, requests).numerator for grown in (audio, busy, requests)))
    return allocated(work, joules, seconds, cards, why)


@dataclass(frozen=True, slots=True)
class Work:
    """What a side did, by block and voice: seconds of audio, generating seconds and requests, shape (B, S) each."""

    voices: Sequence[Key]
    audio: Floats
    busy: Floats
    requests: Floats


def allocated(work: Work, joules: Floats, seconds: Floats, ids: Collection[str], why: str = "") -> Reading:
    """A side's energy, by voice: ``joules`` drawn in ``seconds`` of cards, shape (B,) each.

    A block in which no card was seen does not count.
    """
    total = work.busy.sum(axis=1)
    part = joules / np.where(total > 0, total, np.inf)
    requests = np.where(seconds[:, None] > 0, work.requests, 0.0)
    found = Side(tuple(work.voices), part[:, None] * work.busy, requests, work.audio)
    return Reading(found, cards=Cards(frozenset(ids), work.busy, seconds, why))


def check(a: Reading, b: Reading, margin: float) -> None:
    """Raise where the sides' energies cannot be held against each other.

    Raises:
        TooLittle: saying why.
    """
    if a.cards is None or b.cards is None:
        raise TooLittle("only one side's processes report energy")
    for cards in (a.cards, b.cards):
        if cards.why:
            raise TooLittle(cards.why)
    both = a.cards.ids & b.cards.ids
    if both:
        raise TooLittle(f"both sides ran on {'the same card' if len(both) == 1 else f'{len(both)} of the same cards'}")
    more = _asked(b, a) / _asked(a, b) - 1
    if abs(more) > margin:
        raise TooLittle(f"B's cards were asked for {more:+.0%} work: the idle draw would decide")


def _asked(one: Reading, other: Reading) -> float:
    """Work asked of ``one``'s cards a second: seconds of audio, each voice's times what one takes on both sides."""
    assert one.cards is not None
    takes = []
    for place, voice in enumerate(one.side.strata):
        audio, busy = float(one.side.under[:, place].sum()), float(one.cards.busy[:, place].sum())
        if other.cards is not None and voice in other.side.strata:
            there = other.side.strata.index(voice)
            audio += float(other.side.under[:, there].sum())
            busy += float(other.cards.busy[:, there].sum())
        takes.append(busy / audio)
    seen = one.cards.seconds > 0
    return float((one.side.under[seen] @ np.array(takes)).sum() / one.cards.seconds.sum())


def _drawn(cards: Collection[Track], ends: Floats) -> tuple[Floats, Floats]:
    """Joules, and seconds for which a card was there, in the blocks that end at ``ends``; shape (B,) each."""
    joules, seconds = np.zeros((2, len(ends)))
    for card in cards:
        known = ~np.isnan(card.values)
        times = card.times[known][1:]
        block = np.minimum(np.searchsorted(ends, times - 1e-6), len(ends) - 1)
        np.add.at(joules, block, counted(card.values[known]))
        np.add.at(seconds, block, np.diff(card.times[known]))
    return joules, seconds


def _foreign(source: Source, cards: Sequence[str], mine: Collection[Key]) -> bool:
    users = source.history(semconv.HW_ENERGY.prometheus, (), {_HW_ID: cards}) or ()
    return any(_process(track) not in mine for track in users)


def _generated(source: Source, of: Mapping[str, Sequence[str]], mine: Collection[Key]) -> float:
    """Seconds that the processes generated for all their requests."""
    busy = source.history(semconv.GENERATE_BUSY.prometheus, ("voice",), of) or ()
    return sum(float(increments(track.values).sum()) for track in busy if _process(track) in mine)


def _process(track: Track) -> Key:
    return tuple(track.labels.get(name, "") for name in _PROCESS)
