"""Which metrics and labels an expression uses, and which there are."""

from __future__ import annotations

import re

from dashboards.alerts import COLLECTOR_LOSSES
from dashboards.recording import groups
from vibevoice_otel import semconv

RECORDED = {rule.name for group in groups() for rule in group.rules}
#: Metrics of other programs that we read: Prometheus' own, and the Collector's about itself.
FOREIGN = {
    "up",
    "ALERTS",
    "target_info",
    "otelcol_exporter_queue_size",
    "otelcol_exporter_queue_capacity",
    *COLLECTOR_LOSSES,
}
FOREIGN |= {
    "otelcol_exporter_sent_spans_total",
    "otelcol_receiver_accepted_spans_total",
    "otelcol_process_uptime_seconds_total",
}
OWN = {
    metric.prometheus + suffix: metric
    for metric in semconv.METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.instrument == "histogram" else ("",))
}
COMMON = {
    "service",
    "environment",
    "instance",
    "job",
    "le",
    "otel_metric_overflow",
    "__name__",
    "exporter",
    "counter",
    "alertname",
}
COMMON |= {"alertstate", "service_name", "severity", "receiver"}


def metrics(expression: str) -> set[str]:
    """Names in metric position."""
    text = re.sub(r"\{[^}]*\}", "{}", re.sub(r'"[^"]*"', '""', expression))
    text = re.sub(r"\b(by|on|ignoring) \([^)]*\)", "", text)
    names = set(
        re.findall(
            r"(?<![\w.$])((?:service|voice):[\w:]+|vibevoice_\w+|hw_(?:gpu|power|energy|errors)\w*|otelcol_\w+|ALERTS\b|up\b(?=\{|\s|$)|target_info)",
            text,
        )
    )
    return {name for name in names if not re.fullmatch(r"otel_metric_overflow", name)}


def unknown_metrics(expression: str) -> set[str]:
    return metrics(expression) - RECORDED - FOREIGN - OWN.keys()


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Metric name and the labels that it is matched by, of every selector."""
    found = re.findall(r"([A-Za-z_:][\w:]*)\{([^}]*)\}", expression)
    return [
        (name, set(re.findall(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', inside))))
        for name, inside in found
    ]


def unknown_labels(expression: str) -> set[str]:
    """Labels, in selectors and groupings, that no series of that metric has."""
    wrong: set[str] = set()
    for name, used in selectors(expression):
        if name in OWN:
            wrong |= used - set(OWN[name].labels) - COMMON
    every = {label for metric in semconv.METRICS for label in metric.labels} | COMMON
    for inside in re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", expression):
        wrong |= {label.strip() for label in inside.split(",") if label.strip()} - every
    return wrong
