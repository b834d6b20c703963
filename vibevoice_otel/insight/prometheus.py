"""Any store that speaks Prometheus' HTTP API: Prometheus, Thanos, Mimir, VictoriaMetrics."""

from __future__ import annotations

import json
import math
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Floats
from vibevoice_otel.insight.edges import Edges, labelled
from vibevoice_otel.insight.source import Origin, Point, SourceError, Track

#: Where Prometheus keeps what is true of a whole process, such as its version.
INFO = ("target_info", semconv.BUILD_INFO.prometheus)
_GRID = 5760  # points a series at most; Prometheus refuses more than 11,000
_SHORTEST_STEP = 15
#: A window of at least two such blocks, seconds, is read at their edges, in as many blocks at most.
_LONG_BLOCK, _BLOCKS = 6 * 3600, 40
_SERIES = re.compile(r"\b(?:vibevoice|hw|target|DCGM)_\w+")
#: Labels that only some series of a process have.
_OWN = {label for metric in semconv.METRICS for label in metric.labels}


class PrometheusSource:
    """Reads a window of the store's data.

    Args:
        url: base address, with a path where the store has one (``http://mimir/prometheus``).
        window: seconds, counted back from ``end``.
        end: Unix time; now by default.
        match: labels that every series must carry (``{"environment": "production"}``).
        token: bearer token, or nothing.
        headers: more headers to send (``X-Scope-OrgID`` ...).
        ca_file: PEM file of the authority that signed the server's certificate, when it is not a public one.
        timeout: seconds for each query.
        of: labels of ``target_info`` or ``vibevoice_build_info`` that a process must carry (``{"service_version":
            "1.3"}``); joined on job and instance.
        progress: told the series of each query as it is sent.
    """

    def __init__(
        self,
        url: str,
        *,
        window: float = 86400.0,
        end: float | None = None,
        match: Mapping[str, str] | None = None,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        ca_file: str | None = None,
        timeout: float = 30.0,
        of: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = lambda _series: None,
    ) -> None:
        self._progress = progress
        self._of = sorted((of or {}).items())
        self._base, self._fetch = endpoint(
            url, accept="application/json", token=token, headers=headers, ca_file=ca_file, timeout=timeout
        )
        self._window = max(1, round(window))
        self._end = time.time() if end is None else end
        self._matchers = {name: labelled(name, value) for name, value in sorted((match or {}).items())}
        self._cut: dict[int, Edges] = {}
        self._timeout = timeout

    @property
    def origin(self) -> Origin:
        return Origin("prometheus", self._base, float(self._window), self._end)

    def growth(self, series: str, by: Sequence[str]) -> list[Point]:
        blocks = int(min(_BLOCKS, self._window // _LONG_BLOCK))
        if blocks < 2:
            return self._exact(series, by, self._window, self._end)
        return [Point(track.labels, float(track.values.sum())) for track in self.growths(series, by, blocks)]

    def growths(self, series: str, by: Sequence[str], blocks: int) -> list[Track]:
        found = self._edges(blocks)
        return [
            Track({name: value for name, value in zip(by, key, strict=True) if value}, found.times[1:], values)
            for key, values in found.growth(series, by).items()
        ]

    def _edges(self, blocks: int) -> Edges:
        """What was read at the edges of so many blocks is kept: several figures rest on one series."""
        if blocks not in self._cut:
            self._cut[blocks] = Edges(
                self._tracks, self._exact, self._select, self._infos,
                blocks=blocks, step=max(1, self._window // blocks), end=self._end,
            )  # fmt: skip
        return self._cut[blocks]

    def _exact(
        self, series: str, by: Sequence[str], seconds: int, end: float, instances: str | None = None
    ) -> list[Point]:
        """By every sample of the last ``seconds``; ``instances`` is a regular expression."""
        # increase() extrapolates to fractions and misses what a series counted before its first scrape. Here: the exact
        # difference where the series was there at both ends without a restart, its last value where it was born within
        # the window, and increase() only around a restart.
        named = "" if instances is None else f"instance=~{json.dumps(instances)}"
        name, window = self._select(series, named), f"[{seconds}s]"
        restarted = f"(resets({name}{window}) > 0)"
        before = f"{name} offset {seconds}s"
        last = f"last_over_time({name}{window})"
        grown = (
            f"clamp_min(({last} - {before}) unless {restarted}, 0)"
            f" or (({last} unless {before}) unless {restarted})"
            f" or (increase({name}{window}) and {restarted})"
        )
        for infos in self._infos(seconds):
            grown = f"({grown}) and on (job, instance) ({infos})"
        return self._instant(f"sum by ({','.join(by)}) ({grown})", end)

    def _infos(self, seconds: int) -> list[str]:
        """For each label asked for, what holds the processes that carry it."""
        return [
            " or ".join(f"last_over_time({info}{{{labelled(label, value)}}}[{seconds}s])" for info in INFO)
            for label, value in self._of
        ]

    def current(self, series: str, by: Sequence[str]) -> list[Point]:
        return self._instant(f"sum by ({','.join(by)}) ({self._select(series)})")

    def history(
        self, series: str, drop: Sequence[str], of: Mapping[str, Sequence[str]] | None = None
    ) -> list[Track] | None:
        step = max(_SHORTEST_STEP, math.ceil(self._window / _GRID))
        count = int(self._window // step) + 1
        start = self._end - (count - 1) * step
        times = start + step * np.arange(count, dtype=np.float64)
        chosen = self._select(series)
        if of is not None:
            either = {name: "|".join(re.escape(value) for value in values) for name, values in of.items()}
            chosen = f"{series}{{{','.join(f'{name}=~{json.dumps(value)}' for name, value in either.items())}}}"
        return self._tracks(f"sum without ({','.join(drop)}) ({chosen})", times, step)

    def _tracks(self, expression: str, times: Floats, step: float) -> list[Track]:
        """What the expression was at ``times``, which are ``step`` seconds apart."""
        tracks = []
        for row in self._ask(
            "query_range", query=expression, start=f"{times[0]:.3f}", end=f"{times[-1]:.3f}", step=f"{step:g}",
            nocache="1",  # VictoriaMetrics moves the points of a query that it may cache
        ):  # fmt: skip
            values = np.full(len(times), np.nan)
            samples = np.array(row["values"], dtype=np.float64)
            values[np.rint((samples[:, 0] - times[0]) / step).astype(int)] = samples[:, 1]
            tracks.append(Track(_labels(row), times, values))
        return tracks

    def restarts(self) -> int:
        name = self._select(semconv.REQUESTS.prometheus)
        by = ",".join(semconv.REQUESTS.labels)
        rows = self._instant(f"count(max without ({by}) (resets({name}[{self._window}s])) > 0)")
        return int(rows[0].value) if rows else 0

    def _select(self, series: str, more: str = "", *, whole: bool = False) -> str:
        """A selector of the series asked for; ``whole``: by those labels alone that all series of a process have."""
        chosen = [matcher for name, matcher in self._matchers.items() if not (whole and name in _OWN)]
        said = ",".join(filter(None, [*chosen, more]))
        return f"{series}{{{said}}}" if said else series

    def _instant(self, expression: str, time: float | None = None) -> list[Point]:
        rows = self._ask("query", query=expression, time=f"{self._end if time is None else time:.3f}")
        return [Point(_labels(row), float(row["value"][1])) for row in rows]

    def _ask(self, path: str, **form: str) -> list[dict[str, Any]]:
        self._progress((_SERIES.search(form["query"]) or [form["query"]])[0])
        form["timeout"] = f"{self._timeout:g}s"
        body = urllib.parse.urlencode(form).encode()
        raw, _ = self._fetch(f"{self._base}/api/v1/{path}", body)
        try:
            answer = json.loads(raw)
            if answer["status"] != "success":
                raise SourceError(f"{self._base} refused a query: {answer.get('error', 'no reason given')}")
            rows: list[dict[str, Any]] = answer["data"]["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{self._base} does not answer as Prometheus' HTTP API does: check the address (a store behind a "
                "path needs it, such as http://host/prometheus)"
            ) from error
        return rows


def _labels(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in row["metric"].items() if key != "__name__"}


def endpoint(
    url: str, *, accept: str, token: str, headers: Mapping[str, str] | None, ca_file: str | None, timeout: float
) -> tuple[str, Callable[..., tuple[bytes, str]]]:
    """The checked base address, and what fetches an address, with the form that is posted to it, if any: the answer's
    body and content type.

    Raises:
        SourceError: when the address or the certificate file cannot be used.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SourceError(
            f"{url!r} is not an address: allowed is http://host:port or https://host:port, with a path where needed"
        )
    if parts.username or parts.password:
        raise SourceError("a user or password in the address would show up in reports: use --token-file or --header")
    try:
        context = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
    except (OSError, ssl.SSLError) as error:
        raise SourceError(f"the certificate authority file {ca_file!r} cannot be read: {error}") from error
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect())
    send = {"Accept": accept, **(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    return url.rstrip("/"), partial(_fetch, opener, send, timeout)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the bearer token to another host: it is refused and shown instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetch(
    opener: urllib.request.OpenerDirector,
    headers: dict[str, str],
    timeout: float,
    url: str,
    body: bytes | None = None,
) -> tuple[bytes, str]:
    """The answer's body and content type.

    Raises:
        SourceError: when there is no answer, or it is not a success.
    """
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 endpoint() allows http and https alone
    try:
        with opener.open(request, timeout=timeout) as response:
            return response.read(), response.headers.get_content_type()
    except urllib.error.HTTPError as error:
        with error:
            raise SourceError(_refused(url, error.code, error.read(4096), error.headers.get("Location"))) from None
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise SourceError(f"{url} cannot be reached ({reason}): is it running, and is the address right?") from None


def _refused(url: str, code: int, body: bytes, location: str | None) -> str:
    if code in {401, 403}:
        return f"{url} asks for credentials (HTTP {code}): give --token-file or --header"
    if location:
        return f"{url} redirects to {location}: give that address instead"
    try:
        reason = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        reason = "no reason given"
    hint = (
        ": a shorter --window may do"
        if code in {422, 503, 504}
        else ": is this the store's base address?"
        if code == 404
        else ""
    )
    return f"{url} answered HTTP {code} ({reason}){hint}"
