"""One look at a /metrics endpoint, such as the demo's embedded Prometheus exporter: totals since start,
and no history.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from vibevoice_otel.insight.prometheus import endpoint
from vibevoice_otel.insight.source import Origin, Point, SourceError, Track


class SnapshotSource:
    """A single scrape. What needs more than one instant (how memory follows streams, how waiting follows load) it
    cannot answer.
    """

    def __init__(
        self,
        text: str,
        address: str = "a snapshot",
        *,
        match: Mapping[str, str] | None = None,
    ) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        wanted = (match or {}).items()
        self._address = address
        self._end = time.time()
        self._samples: dict[str, list[Point]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if all(sample.labels.get(name) == value for name, value in wanted):
                        self._samples.setdefault(sample.name, []).append(Point(sample.labels, sample.value))
        except (ValueError, IndexError) as error:
            raise SourceError(f"{address} is not a page of Prometheus metrics: {error}") from error

    @classmethod
    def scrape(
        cls,
        url: str,
        *,
        match: Mapping[str, str] | None = None,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        ca_file: str | None = None,
        timeout: float = 10.0,
    ) -> SnapshotSource:
        """Fetch ``url`` (``http://127.0.0.1:9464/metrics``) once.

        Raises:
            SourceError: when it cannot be reached or is no metrics page.
        """
        base, fetch = endpoint(
            url, accept="text/plain; version=0.0.4", token=token, headers=headers, ca_file=ca_file, timeout=timeout
        )
        body, kind = fetch(base)
        if kind == "text/html":
            raise SourceError(
                f"{base} is a web page, not Prometheus metrics: the exporter's page usually ends in /metrics"
            )
        return cls(body.decode("utf-8", "replace"), base, match=match)

    @property
    def origin(self) -> Origin:
        return Origin("snapshot", self._address, None, self._end)

    def growth(self, series: str, by: Sequence[str]) -> list[Point]:
        sums: dict[tuple[tuple[str, str], ...], float] = {}
        for point in self._samples.get(series, ()):
            key = tuple((name, point.labels[name]) for name in by if name in point.labels)
            sums[key] = sums.get(key, 0.0) + point.value
        return [Point(dict(key), value) for key, value in sums.items()]

    current = growth  # one instant: what it counts stood at zero when the service started

    def history(
        self,
        series: str,  # noqa: ARG002 the protocol's
        drop: Sequence[str],  # noqa: ARG002
        of: Mapping[str, Sequence[str]] | None = None,  # noqa: ARG002
    ) -> list[Track] | None:
        return None

    def growths(self, series: str, by: Sequence[str], blocks: int) -> list[Track]:  # noqa: ARG002
        raise SourceError("one look at a metrics page has no history: give --prometheus")

    def restarts(self) -> int:
        return 0
