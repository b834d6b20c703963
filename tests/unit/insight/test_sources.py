"""The two ways to the data: what is asked, what is sent, and what every kind of refusal says."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vibevoice_otel import semconv
from vibevoice_otel.insight import PrometheusSource, SnapshotSource, SourceError
from vibevoice_otel.insight.observations import increments
from vibevoice_otel.insight.source import duration, gib, parse_bytes, parse_duration


class Store:
    """A store that answers as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, str, dict[str, str]] = (200, '{"status":"success","data":{"result":[]}}', {})
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                store.asked.append((self.path, dict(urllib.parse.parse_qsl(body)), dict(self.headers)))
                code, text, headers = store.answer
                self.send_response(code)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def store() -> Iterator[Store]:
    running = Store()
    yield running
    running.stop()


def test_what_is_asked(store: Store) -> None:
    """Matchers on every selector, quoted; token and headers sent; time and window as set;
    a path before the API kept.
    """
    source = PrometheusSource(
        f"{store.url}/tenant/",
        window=3600,
        end=1000.0,
        match={"environment": 'a"b'},
        token="s3cret",
        headers={"X-Scope-OrgID": "7"},
    )
    assert source.growth("x_total", ("voice",)) == []
    path, form, headers = store.asked[0]
    assert path == "/tenant/api/v1/query"
    assert form["time"] == "1000.000"
    assert form["query"].count('x_total{environment="a\\"b"}') == 8
    assert "[3600s]" in form["query"]
    assert "sum by (voice)" in form["query"]
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["X-Scope-Orgid" if "X-Scope-Orgid" in headers else "X-Scope-OrgID"] == "7"
    assert source.history("y", ("voice",)) == []
    path, form, _ = store.asked[1]
    assert path == "/tenant/api/v1/query_range"
    assert form["step"] == "15"
    assert (float(form["end"]) - float(form["start"])) == 3600
    assert source.origin.describe().endswith("over the last 1h")


def test_answers_are_placed_on_the_grid(store: Store) -> None:
    """Samples land where their time says, gaps stay gaps, labels lose their name."""
    rows = [{"metric": {"__name__": "y", "instance": "a"}, "values": [[40, "1"], [70, "3"]]}]
    store.answer = (200, json.dumps({"status": "success", "data": {"result": rows}}), {})
    (track,) = PrometheusSource(store.url, window=60, end=100.0).history("y", ()) or []
    assert track.times.tolist() == [40, 55, 70, 85, 100]
    assert [str(v) for v in track.values] == ["1.0", "nan", "3.0", "nan", "nan"]
    assert dict(track.labels) == {"instance": "a"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, "", {}), "--token-file"),
        ((302, "", {"Location": "http://elsewhere/"}), "redirects to http://elsewhere/"),
        ((422, '{"error":"too many samples"}', {}), r"too many samples\): a shorter --window may do"),
        ((404, "<html>", {}), "is this the store's base address"),
        ((200, "<html>", {}), "does not answer as Prometheus"),
        ((200, "[]", {}), "does not answer as Prometheus"),
        ((200, '{"status":"error","error":"parse error"}', {}), "refused a query: parse error"),
    ],
)
def test_refusals_say_what_to_do(store: Store, answer: tuple[int, str, dict[str, str]], says: str) -> None:
    """Each way not to answer names itself and a remedy, and never carries the token to another host."""
    store.answer = answer
    with pytest.raises(SourceError, match=says):
        PrometheusSource(store.url, token="s3cret").growth("x_total", ())
    assert len(store.asked) == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://x", "allowed is http://"),
        ("localhost:9090", "allowed is http://"),
        ("http://user:pw@host", "would show up in reports"),
        ("http://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_bad_addresses_are_refused(url: str, says: str) -> None:
    """An address that cannot work is told apart from a store that is down."""
    with pytest.raises(SourceError, match=says):
        PrometheusSource(url).growth("x_total", ())


def test_a_missing_certificate_file_is_named() -> None:
    """TLS settings fail at once, by name."""
    with pytest.raises(SourceError, match=r"nowhere\.pem"):
        PrometheusSource("https://127.0.0.1:1", ca_file="/nowhere.pem")


PAGE = """# TYPE vibevoice_streaming_requests_total counter
vibevoice_streaming_requests_total{voice="a",status="success",cfg="1.5",steps="5",environment="lab"} 7.0
vibevoice_streaming_requests_total{voice="a",status="error",cfg="1.5",steps="5",environment="lab"} 1.0
vibevoice_streaming_requests_total{voice="b",status="success",cfg="1.5",steps="5",environment="live"} 2.0
"""


def test_a_snapshot_is_totals_since_start(store: Store) -> None:
    """One scrape: sums by label, filtered, no history, nothing about restarts."""
    store.answer = (200, PAGE, {"Content-Type": "text/plain; version=0.0.4"})
    source = SnapshotSource.scrape(f"{store.url}/metrics", token="s3cret")
    assert store.asked[0][0] == "/metrics"
    assert store.asked[0][2]["Authorization"] == "Bearer s3cret"
    points = {p.labels["voice"]: p.value for p in source.growth(semconv.REQUESTS.prometheus, ("voice",))}
    assert points == {"a": 8.0, "b": 2.0}
    assert source.history(semconv.REQUESTS.prometheus, ()) is None
    assert source.restarts() == 0
    lab = SnapshotSource(PAGE, match={"environment": "lab"})
    assert [p.labels for p in lab.growth(semconv.REQUESTS.prometheus, ("voice",))] == [{"voice": "a"}]
    assert "since the service started" in lab.origin.describe()


def test_pages_that_are_no_metrics_are_refused(store: Store) -> None:
    """A web page, and garbage, are told apart from metrics."""
    store.answer = (200, "<html>", {"Content-Type": "text/html"})
    with pytest.raises(SourceError, match="ends in /metrics"):
        SnapshotSource.scrape(store.url)
    with pytest.raises(SourceError, match="not a page of Prometheus metrics"):
        SnapshotSource("what{is this")


def test_increments_bridge_restarts_and_gaps() -> None:
    """A counter that falls began again, or lost a part: what it shows is not growth. A gap is bridged."""
    import numpy as np

    assert increments(np.array([5.0, 7.0, np.nan, 9.0, 2.0, 3.0])).tolist() == [0, 2, 0, 2, 0, 1]
    assert increments(np.array([np.nan, np.nan])).tolist() == [0, 0]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600)])
def test_durations(text: str, seconds: int) -> None:
    """As Prometheus writes them, there and back."""
    assert parse_duration(text) == seconds
    assert parse_duration(duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "1h1h", "30m1h", "-1h", "1.5h", "0s", "9" * 400 + "s"])
def test_wrong_durations(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError, match="such as 6h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("80GB", 80e9), ("16G", 16e9), ("1.5 TiB", 1.5 * 2**40), ("512MiB", 2**29), ("7", 7)],
)
def test_sizes(text: str, size: float) -> None:
    """Binary and decimal units."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "24GXB", "nan", "inf", "1e400", "0"])
def test_wrong_sizes(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError, match="such as 24GiB"):
        parse_bytes(text)


def test_sizes_for_people() -> None:
    """GiB from a tenth upwards, MiB below."""
    assert (gib(24 * 2**30), gib(2**20)) == ("24.00 GiB", "1.0 MiB")
