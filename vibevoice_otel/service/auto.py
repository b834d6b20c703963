"""``steps=auto`` and ``cfg=auto``: what was measured decides. Off unless VIBEVOICE_SERVICE_AUTO_PARAMETERS names a
Prometheus.
"""

from __future__ import annotations

from typing import Protocol

AUTO = "auto"
WINDOW = 6 * 3600.0  # seconds of data that decide


class Decision(Protocol):
    """``steps`` and ``cfg`` are None where nothing was measured that could decide."""

    @property
    def steps(self) -> int | None: ...
    @property
    def cfg(self) -> float | None: ...


class Chooser(Protocol):
    """Decides in the background, so that a request only looks up."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def decide(self, voice: str | None, text_length: int) -> Decision: ...


def chooser(
    url: str, prefer: str = "model", default: tuple[int, float] | None = None, control: float = 0.05
) -> Chooser | None:
    """The policy that reads ``url``, or None when there is none. Nothing of it is imported before it is asked for.

    Args:
        url: a Prometheus.
        prefer: the cfg that it aims at.
        default: steps and cfg that the service uses by itself.
        control: share of requests that keep these, to hold the others against.
    """
    if not url:
        return None
    from vibevoice_otel.insight import Policy, PrometheusSource, Rails  # noqa: PLC0415 - only where it is on

    rails = Rails(prefer="long-text" if prefer == "long-text" else "model")
    return Policy(lambda: PrometheusSource(url, window=WINDOW), rails=rails, default=default, control=control)
