"""Capacity: memory, speed, the card and the queue, each from the same resampled data, and the least of them.

The folder is not called after the function ``vibevoice_otel.insight.capacity``, which it would hide.
"""

from __future__ import annotations

from vibevoice_otel.insight.capacities.answers import CapacityReport, CardAnswer, LimitAnswer
from vibevoice_otel.insight.capacities.combine import capacity

__all__ = ["CapacityReport", "CardAnswer", "LimitAnswer", "capacity"]
