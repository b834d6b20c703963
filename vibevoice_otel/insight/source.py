"""Where the answers come from: one small protocol, whatever stores the metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vibevoice_otel.insight.arrays import Floats


class SourceError(RuntimeError):
    """The data cannot be had. The message says what was asked of whom, what came back and what to do."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the figures were read. ``window`` is in seconds; None: totals since each process started."""

    kind: str
    address: str
    window: float | None
    end: float

    def describe(self) -> str:
        period = "since the service started" if self.window is None else f"over the last {duration(self.window)}"
        return f"{self.address}, {period}"


@dataclass(frozen=True, slots=True)
class Point:
    """One number under its labels."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Track:
    """One series over the window. All tracks of a source share one grid; ``values[i]`` is NaN where the series is
    absent.
    """

    labels: Mapping[str, str]
    times: Floats
    values: Floats

    @property
    def process(self) -> tuple[str, str]:
        """What its process reports under: job and instance."""
        return self.labels.get("job", ""), self.labels.get("instance", "")


class Source(Protocol):
    """What the three questions need of a store. Names are Prometheus series names (``..._total``, ``..._bucket``)."""

    @property
    def origin(self) -> Origin:
        """Where the figures come from."""

    def growth(self, series: str, by: Sequence[str]) -> list[Point]:
        """How much counters grew over the window, summed by the labels ``by``; restarts of the counter handled."""

    def current(self, series: str, by: Sequence[str]) -> list[Point]:
        """The values at the end of the window, summed by the labels ``by``."""

    def history(
        self, series: str, drop: Sequence[str], of: Mapping[str, Sequence[str]] | None = None
    ) -> list[Track] | None:
        """The series on the grid, summed over the labels ``drop``; None when the source knows one instant alone.

        Args:
            series: name.
            drop: labels summed over.
            of: label -> values of which a series must carry one. It takes the place of the labels that the source was
                told to ask for: another exporter's series carry others.
        """

    def growths(self, series: str, by: Sequence[str], blocks: int) -> list[Track]:
        """The growth in each of ``blocks`` equal stretches of the window; a track's times are the stretches' ends.

        Raises:
            SourceError: when the source knows one instant alone.
        """

    def restarts(self) -> int:
        """How many series of requests started again from zero within the window."""


_UNITS = (("w", 604800.0), ("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0))
_DURATION = re.compile("".join(f"(?:([0-9]{{1,9}}){name})?" for name, _ in _UNITS))


def parse_duration(text: str) -> float:
    """Seconds of a duration as Prometheus writes it: ``90s``, ``1h30m``, ``7d``.

    Raises:
        ValueError: naming what is allowed.
    """
    counts = match.groups("0") if (match := _DURATION.fullmatch(text.strip().lower())) else ()
    seconds = sum(int(count) * size for count, (_, size) in zip(counts, _UNITS, strict=False))
    if seconds <= 0:
        raise ValueError(
            f"{text!r} is not a duration: allowed is a number with w, d, h, m or s, such as 6h, 1h30m or 7d"
        )
    return seconds


def duration(seconds: float) -> str:
    """A duration in its two largest units: 5400 -> ``1h30m``."""
    rest, parts = round(seconds), []
    for name, size in _UNITS:
        count, rest = divmod(rest, int(size))
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts[:2]) or "0s"


_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> float:
    """Bytes of a size such as ``24GiB``, ``80GB`` or ``16G``.

    Raises:
        ValueError: naming what is allowed.
    """
    body = text.strip().lower().removesuffix("b")
    number = body.rstrip("kmgti ")
    try:
        value = float(number) * _SIZES[body[len(number) :].strip()]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < 1e18:
        raise ValueError(
            f"{text!r} is not a size of memory: allowed is a positive number with a unit, such as 24GiB, 80GB or 512MiB"
        )
    return value


def gib(value: float) -> str:
    """Bytes for people."""
    return f"{value / 2**30:.2f} GiB" if abs(value) >= 2**30 / 10 else f"{value / 2**20:.1f} MiB"
