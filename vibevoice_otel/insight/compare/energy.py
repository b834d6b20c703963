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
from vibevoice_otel.insight.cells import Key, growths
from vibevoice_otel.insight.compare.effect import Side, TooLittle, side
from vibevoice_otel.insight.cost import by_card, counted
from vibevoice_otel.insight.observations import HW_ID, increments
from vibevoice_otel.insight.source import Source, Track

#: A side is at least so much of what its processes generated: the rest's energy would be taken for its own.
WHOLE = 0.95
_PROCESS: Key = ("job", "instance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy(Side):
    """A side's joules by voice, and the cards that drew them.

    Args:
        ids: the cards' UUIDs.
        busy: generating seconds, shape (B, S).
        seconds: for which a card was there, all cards together, shape (B,).
        why: the energy cannot be compared with any other; empty where it can.
    """

    ids: frozenset[str]
    busy: Floats
    seconds: Floats
    why: str


def read(source: Source, blocks: int) -> Side:
    """Joules, seconds of audio and requests by voice; no voice where the processes report no energy."""
    nothing = side((), blocks, {}, {})
    spoken = source.growths(semconv.AUDIO_PRODUCED.prometheus, _PROCESS, blocks)
    speaking = {track.process for track in spoken if np.nansum(track.values) > 0}
    if not speaking:
        return nothing
    of = {name: sorted({key[place] for key in speaking}) for place, name in enumerate(_PROCESS)}
    metered = [each for each in source.history(semconv.HW_ENERGY.prometheus, (), of) or () if each.process in speaking]
    if not metered:
        return nothing
    cards = by_card(metered)
    busy = growths(source, semconv.GENERATE_BUSY.prometheus, ("voice",), blocks)
    audio, requests = (
        growths(source, metric.prometheus, ("voice",), blocks) for metric in (semconv.AUDIO_PRODUCED, semconv.REQUESTS)
    )
    strata = sorted(voice for voice in audio if audio[voice].sum() > 0 and voice in busy)
    users = source.history(semconv.HW_ENERGY.prometheus, (), {HW_ID: sorted(cards)}) or ()
    why = ""
    if {track.process for track in metered} != speaking:
        why = "not every process reports its card's energy"
    elif not {track.process for track in users} <= speaking:
        why = "other processes share the cards"
    elif sum(float(grown.sum()) for grown in busy.values()) < WHOLE * _generated(source, of, speaking):
        why = "the cards served requests besides those compared"
    joules, seconds = _drawn(cards.values(), spoken[0].times)
    return allocated(side(strata, blocks, busy, requests, audio), joules, seconds, cards, why)


def allocated(work: Side, joules: Floats, seconds: Floats, ids: Collection[str], why: str = "") -> Energy:
    """A side's energy, by voice: ``joules`` drawn in ``seconds`` of cards, shape (B,) each.

    A block in which no card was seen does not count.

    Args:
        work: generating seconds over seconds of audio, by voice.
        joules: drawn in each block.
        seconds: of cards that were there in each block.
        ids: the cards' UUIDs.
        why: the energy cannot be compared.
    """
    busy = work.numerator
    total = busy.sum(axis=1)
    part = joules / np.where(total > 0, total, np.inf)
    requests = np.where(seconds[:, None] > 0, work.count, 0.0)
    return Energy(
        work.strata, part[:, None] * busy, requests, work.under, ids=frozenset(ids), busy=busy, seconds=seconds, why=why
    )


def check(a: Side, b: Side, margin: float) -> None:
    """Raise where the sides' energies cannot be held against each other.

    Raises:
        TooLittle: saying why.
    """
    if not isinstance(a, Energy) or not isinstance(b, Energy):
        raise TooLittle("only one side's processes report energy")
    if a.why or b.why:
        raise TooLittle(a.why or b.why)
    both = a.ids & b.ids
    if both:
        raise TooLittle(f"both sides ran on {'the same card' if len(both) == 1 else f'{len(both)} of the same cards'}")
    more = _asked(b, a) / _asked(a, b) - 1
    if abs(more) > margin:
        raise TooLittle(f"B's cards were asked for {more:+.0%} work: the idle draw would decide")


def _asked(one: Energy, other: Energy) -> float:
    """Work asked of ``one``'s cards a second: seconds of audio, each voice's times what one takes on both sides."""
    taken: dict[Key, Floats] = {}
    for each in (one, other):
        for voice, of in zip(each.strata, np.array([each.busy.sum(axis=0), each.under.sum(axis=0)]).T, strict=True):
            taken[voice] = taken.get(voice, 0.0) + of
    takes = [busy / audio for busy, audio in (taken[voice] for voice in one.strata)]
    seen = one.seconds > 0
    return float((one.under[seen] @ np.array(takes)).sum() / one.seconds.sum())


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


def _generated(source: Source, of: Mapping[str, Sequence[str]], mine: Collection[Key]) -> float:
    """Seconds that the processes generated for all their requests."""
    busy = source.history(semconv.GENERATE_BUSY.prometheus, ("voice",), of) or ()
    return sum(float(increments(track.values).sum()) for track in busy if track.process in mine)
