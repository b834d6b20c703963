"""From measuring to deciding: three questions answered from Prometheus, or in part from one look at ``/metrics``.

    from vibevoice_otel.insight import PrometheusSource, capacity, recommend, voices

    source = PrometheusSource("http://127.0.0.1:9090", window=86400)
    capacity(source, streams=50, gpu_memory=24 * 2**30).cards[0].verdict
    voices(source).most_stable
    recommend(source, text_length=800, voice="de-Spk0_man").steps

``Policy`` is the third as a part of a service. docs/insight.md explains every method and names its source.

Names are loaded when first used, because the command line stands in this package: its ``--help``, and the refusal of a
wrong argument, load neither numpy nor the ``insight`` extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vibevoice_otel.insight.capacities import CapacityReport, capacity
    from vibevoice_otel.insight.policy import Decision, Policy
    from vibevoice_otel.insight.profiles import VoicesReport, voices
    from vibevoice_otel.insight.prometheus import PrometheusSource
    from vibevoice_otel.insight.recommendation import Rails, Recommendation, recommend
    from vibevoice_otel.insight.snapshot import SnapshotSource
    from vibevoice_otel.insight.source import Origin, Point, Source, SourceError, Track

_HOME = {
    "CapacityReport": "capacities", "capacity": "capacities", "Decision": "policy", "Origin": "source",
    "Point": "source",
    "Policy": "policy", "PrometheusSource": "prometheus", "Rails": "recommendation", "Recommendation": "recommendation",
    "recommend": "recommendation", "SnapshotSource": "snapshot", "Source": "source", "SourceError": "source",
    "Track": "source", "VoicesReport": "profiles", "voices": "profiles",
}  # fmt: skip

__all__ = [
    "CapacityReport", "Decision", "Origin", "Point", "Policy", "PrometheusSource", "Rails", "Recommendation",
    "SnapshotSource", "Source", "SourceError", "Track", "VoicesReport", "capacity", "recommend", "voices",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
