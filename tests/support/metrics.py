"""Reads what a reader in memory has collected."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from vibevoice_otel import semconv


def every_metric(collected: Any) -> list[Any]:
    """The metrics of all resources and scopes: of a reader, which collects now, or of what one has collected."""
    data = collected.get_metrics_data() if isinstance(collected, InMemoryMetricReader) else collected
    resources = data.resource_metrics if data is not None else ()
    return [metric for resource in resources for scope in resource.scope_metrics for metric in scope.metrics]


def by_name(collected: Any) -> dict[str, list[Any]]:
    """The data points of each metric."""
    return {metric.name: list(metric.data.data_points) for metric in every_metric(collected)}


def points(collected: Any, name: str) -> list[Any]:
    """The data points of one metric; none where it has no measurement."""
    return by_name(collected).get(name, [])


def dropped(collected: Any, reason: str | None = None) -> float:
    """What vibevoice_dropped_total has counted, of one reason or of all."""
    found = points(collected, semconv.DROPPED.name)
    return sum(point.value for point in found if reason in {None, (point.attributes or {}).get("reason")})
