"""``steps=auto`` and ``cfg=auto``: what was measured decides. Off unless VIBEVOICE_SERVICE_AUTO_PARAMETERS names a
Prometheus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vibevoice_otel.insight import Policy

AUTO = "auto"
WINDOW = 6 * 3600.0  # seconds of data that decide


def chooser(
    url: str, prefer: str = "model", default: tuple[int, float] | None = None, control: float = 0.05
) -> Policy | None:
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
