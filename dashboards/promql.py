"""PromQL in small, named pieces. Metrics and labels come as semconv.py's objects, so that none can be misspelt."""

from __future__ import annotations

from vibevoice_otel.semconv import Metric

SERVICE = "service, environment"
VOICE = "service, environment, voice"
#: How far before a window the value at its beginning is looked for: a scrape that fails, a Collector or a Prometheus
#: that is away for less makes no old series look new.
BEFORE = "1h"


def series(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """``name{matchers}``; ``suffix`` is _bucket, _sum or _count for a histogram."""
    if (metric.instrument == "histogram") != bool(suffix):
        raise ValueError(f"{metric.name} is a {metric.instrument}: the suffix {suffix!r} does not fit")
    inside = ", ".join(each for each in matchers if each)
    return f"{metric.prometheus}{suffix}" + (f"{{{inside}}}" if inside else "")


def growth(metric: Metric, window: str, *matchers: str, suffix: str = "") -> str:
    """How much each series of a counter grew within ``window``."""
    return grown(series(metric, *matchers, suffix=suffix), window)


def grown(selector: str, window: str) -> str:
    """The last value in ``window`` less the value at its beginning, or less 0 for a series that did not exist then.

    Exact once the scrape after the last event has passed: nothing is extrapolated, and the first observation of a new
    series counts. Every process is an instance of its own, so a series never falls; where Prometheus scrapes a service
    directly it falls at a restart, and what follows it is counted.
    """
    last = f"last_over_time({selector}[{window}])"
    return f"(({last} - last_over_time({selector}[{BEFORE}] offset {window})) >= 0 or {last})"


def total(by: str, expression: str) -> str:
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def quantile(q: float, metric: Metric, window: str, by: str, *matchers: str) -> str:
    """The q-quantile of a histogram over ``window`` for each ``by``, of all instances together."""
    groups = f"{by}, le" if by else "le"
    return f"histogram_quantile({q:g}, {total(groups, growth(metric, window, *matchers, suffix='_bucket'))})"


def ordered(label: str, expression: str) -> str:
    """The same series in numeric order of ``label``, 0, 1, 2 ... 10: Prometheus sorts by labels as text, and Grafana
    keeps that order.

    A label ``aligned``, which is sorted before the others, holds one more leading zero for numbers of one digit.
    """
    two = f'label_replace({expression}, "aligned", "$1", "{label}", "(.+)")'
    return f'label_replace({two}, "aligned", "0$1", "{label}", "([0-9]([.].*)?)")'


def joined(expression: str, label: str, *of: str) -> str:
    """Each series with one more label: the values of those of these labels that it has, a space between them."""
    values = ", ".join(f'"{each}"' for each in of)
    return (
        f'label_replace(label_join({expression}, "{label}", " ", {values}), "{label}", "$1", "{label}", "(.*[^ ]) *")'
    )


def mean(metric: Metric, window: str, by: str, *matchers: str) -> str:
    above, below = (total(by, growth(metric, window, *matchers, suffix=suffix)) for suffix in ("_sum", "_count"))
    return f"{above} / {below}"


def share_above(seconds: float, metric: Metric, window: str, by: str, *matchers: str) -> str:
    """Share of observations above an edge of the histogram: exact, for nothing is interpolated.

    Raises:
        ValueError: when ``seconds`` is no edge.
    """
    if seconds not in metric.buckets:
        raise ValueError(f"{metric.name} has no bucket edge at {seconds:g}")
    # The edge's text is "1.0" in one exposition format and "1" in the other.
    edge = f'le=~"{_literal(seconds)}"'
    within = total(by, growth(metric, window, *matchers, edge, suffix="_bucket"))
    return f"1 - {within} / {total(by, growth(metric, window, *matchers, suffix='_count'))}"


def _literal(edge: float) -> str:
    text = f"{edge:g}".replace(".", "\\\\.")
    return text if "." in f"{edge:g}" else f"{text}(\\\\.0)?"
