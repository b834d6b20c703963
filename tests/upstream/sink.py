"""The OTLP receiver, as the tests of servers ask it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tools.otlp import Receiver
from vibevoice_otel.commands.demo.receiver import ReceivedSpan, attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Point:
    """The newest data point of one attribute set: a sum's or gauge's value, or a histogram's count and sum."""

    attributes: dict[str, Any]
    value: float = 0.0
    count: int = 0
    sum: float = 0.0
    minimum: float | None = None
    maximum: float | None = None


def _points(metric: Any) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    for point in getattr(metric, kind).data_points:
        found = attributes(point.attributes)
        if kind == "histogram":
            yield Point(
                found,
                count=point.count,
                sum=point.sum,
                minimum=point.min if point.HasField("min") else None,
                maximum=point.max if point.HasField("max") else None,
            )
        else:
            yield Point(found, value=float(getattr(point, point.WhichOneof("value"))))


class Sink(Receiver):
    """The tests' Collector: spans in words, and the newest points of a metric."""

    def spans(self, trace_id: str | None = None) -> list[ReceivedSpan]:  # type: ignore[override]
        return [span for span in self.read_spans() if trace_id in (None, span.trace_id)]

    def metric(self, name: str) -> list[Point]:
        found: list[Point] = []
        for request in self.of(ExportMetricsServiceRequest):
            for resource in request.resource_metrics:
                for metric in (each for scope in resource.scope_metrics for each in scope.metrics if each.name == name):
                    found = list(_points(metric))
        return found

    def holds(self, word: str) -> bool:
        """Whether ``word`` stands anywhere in what came, in whatever case."""
        with self.changed:
            messages = self.messages[:]
        return any(word.lower().encode() in each.SerializeToString().lower() for each in messages)

    def wait(self, met: Callable[[], bool], seconds: float = 120.0) -> None:
        """Return once ``met()`` holds after some export; raise TimeoutError if it does not in time."""
        if not self.wait_for(met, seconds):
            raise TimeoutError(f"not within {seconds} s; spans seen: {sorted({s.name for s in self.spans()})}")
