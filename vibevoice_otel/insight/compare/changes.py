"""``insight changes``: what was changed within the window, and what moved at each change."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.compare.report import MARGIN, Comparison, Labelled, compare
from vibevoice_otel.insight.prometheus import INFO
from vibevoice_otel.insight.source import Origin, Source, Track

#: What an operator changes, by the label that tells of it; a process's own identity is not among them.
WATCHED = ("deployment_environment_name", *semconv.BUILD_INFO.labels)
#: An adapter's label while no model code has been seen.
NOTHING = "none"
#: Seconds on either side of a change that are compared at most.
LONGEST = 86400.0
#: Seconds after a change that are left out: models load, caches fill.
SETTLING = 120.0


@dataclass(frozen=True, slots=True)
class Change:
    """A value that came up within the window. ``time`` in Unix seconds; ``comparison`` is None where a side is too
    short.
    """

    time: float
    job: str
    label: str
    before: str
    after: str
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """All of the window's changes, in order of time."""

    origin: Origin
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


#: Makes a source of (window in seconds, end in Unix seconds, labels that target_info or build_info must carry).
Open = Callable[[float, float, dict[str, str]], Source]


def changes(source: Source, open_source: Open, *, margin: float = MARGIN) -> Changes:
    """Find what changed, and compare what came before each change with what came after it.

    Raises:
        SourceError: when the source cannot be read.
    """
    tracks = [track for info in INFO for track in source.history(info, ()) or []]
    found = sorted(_found(tracks), key=lambda change: change.time)
    origin = source.origin
    begin = origin.end - (origin.window or 0.0)
    moments = [begin, *sorted({change.time for change in found}), origin.end]
    answered = []
    known: dict[object, Comparison] = {}  # what changed at once on the same processes is compared once
    for change in found:
        before = min(LONGEST, change.time - max(m for m in moments if m < change.time))
        after = min(LONGEST, min(m for m in moments if m > change.time) - change.time) - SETTLING
        comparison = None
        if min(before, after) > SETTLING:
            old = Labelled(open_source(before, change.time, {change.label: change.before}), change.before)
            new = Labelled(
                open_source(after, change.time + SETTLING + after, {change.label: change.after}), change.after
            )
            processes = (
                frozenset(track.process for track in tracks if track.labels.get(change.label) == side.name)
                for side in (old, new)
            )
            sides = change.time, *processes
            if sides not in known:
                known[sides] = compare(old, new, margin=margin)
            comparison = replace(known[sides], a=old.name, b=new.name)
        answered.append(Change(change.time, change.job, change.label, change.before, change.after, comparison))
    notes = [] if tracks else [f"Neither {' nor '.join(INFO)} is in the store: what runs is not known."]
    return Changes(origin, answered, notes)


def _found(tracks: Iterable[Track]) -> Iterable[Change]:
    """Each watched label's new values, by job: there at a moment, and not yet when the job was first seen in the
    window.
    """
    first: dict[tuple[str, str], dict[str, float]] = {}  # (job, label) -> value -> when it was first there
    step = 0.0
    for track in tracks:
        there = np.flatnonzero(~np.isnan(track.values))
        step = float(track.times[1] - track.times[0]) if len(track.times) > 1 else 0.0
        for label in WATCHED:
            value = track.labels.get(label)
            if value and value != NOTHING and len(there):
                seen = first.setdefault((track.labels.get("job", ""), label), {})
                seen[value] = min(seen.get(value, math.inf), float(track.times[there[0]]))
    for (job, label), values in first.items():
        in_order = sorted(values.items(), key=lambda item: item[1])
        begin = in_order[0][1]
        for (old, _), (new, at) in itertools.pairwise(in_order):
            if at > begin + 2 * step:
                yield Change(at, job, label, old, new)
