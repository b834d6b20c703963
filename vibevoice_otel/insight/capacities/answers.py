"""What capacity is asked, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from vibevoice_otel.insight.source import Origin

Limit = Literal["memory", "compute", "queue", "card"]

Verdict = Literal["yes", "no", "too close to say", "cannot say"]


@dataclass(frozen=True, slots=True)
class LimitAnswer:
    """What one resource allows. ``streams`` is None when it could not be answered;
    ``why`` then says what is missing.
    """

    name: Limit
    streams: float | None
    low: float | None
    high: float | None
    why: str
    at_least: bool = False  # a lower bound (the slots, or the kernels' share, are not known); high is then None
    details: dict[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryCurve:
    """For the plot: samples seen, and the line with its interval. Streams and GiB."""

    seen: list[tuple[float, float]]
    streams: list[float]
    middle: list[float]
    low: list[float]
    high: list[float]
    limit: float


@dataclass(frozen=True, slots=True)
class PerCard:
    """What a whole card holds beside what one process does. None where it is not known; ``kernels`` are streams, by
    kernel time.
    """

    limit: str  # what limits the process, in the dashboards' words
    streams_a_process: int
    kernels: int | None
    processes_by_memory: int | None
    cores: int | None
    processes: int | None  # the most that is worth running
    text: str


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """The answer for one kind of card. Streams are whole numbers; None where unknown, the interval is at
    ``CONFIDENCE``.
    """

    card: str
    card_bytes: float | None  # the smallest card's own size, whatever size was asked about
    processes: int
    streams: int | None
    low: int | None
    high: int | None
    binds_first: Limit | None
    binds_share: dict[str, float]
    limits: list[LimitAnswer]
    verdict: Verdict
    holds_probability: float | None
    most_seen: int
    extrapolates: bool
    slots: int
    slots_source: str
    requests: int
    blocks: int
    hours: float
    naive: int | None
    notes: list[str]
    curve: MemoryCurve | None = None
    per_card: PerCard | None = None


@dataclass(frozen=True, slots=True)
class CapacityReport:
    """One answer a kind of card: cards of different sizes are never mixed."""

    origin: Origin
    asked_streams: int | None
    asked_memory: float | None
    confidence: float
    cards: list[CardAnswer]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Question:
    streams: int | None
    gpu_memory: float | None
    concurrency: int | None
    slo_seconds: float
    slo_ratio: float
    draws: int
    seed: int
    cores: int | None = None


def floor(value: float) -> int | None:
    return math.floor(value + 1e-9) if math.isfinite(value) else None
