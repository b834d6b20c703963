"""The page's routes, asked as a browser, a stranger's page and a command line would."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.support.builders import finish, request
from vibevoice_otel import wiring
from vibevoice_otel.page import app as page_app
from vibevoice_otel.page.app import PageApp
from vibevoice_otel.page.feed import Feed
from vibevoice_otel.page.listener import MAX_BYTES, Listeners
from vibevoice_otel.page.store import Store
from vibevoice_otel.settings import Settings
from vibevoice_otel.traceparent import Caller

TRACE = 0xABC


class Page:
    def __init__(self, **settings: Any) -> None:
        chosen = Settings(page="127.0.0.1:9465", **settings)
        self.store = Store(10, 1_000_000)
        recorder = wiring.recorder(chosen, TracerProvider(), sinks=[self.store])
        self.listeners = Listeners(TracerProvider().get_tracer("t"), None)
        self.where: dict[str, Any] | None = None
        feed = Feed(recorder, self.store)
        app = PageApp(chosen, self.store, feed, self.listeners, lambda: self.where, lambda: ["en-Carter_man"])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:9465")  # type: ignore[arg-type]

    async def report(self, **changes: Any) -> httpx.Response:
        body = {
            "trace": f"{TRACE:032x}", "started": time.time() - 1, "first_sound": 0.2, "seconds": 0.9,
            "outcome": "complete", "underruns": 0,
            "underrun_seconds": 0.0, "played_seconds": 0.5, "clock_offset": 0.0, "clock_error": 0.001,
            "close_code": 1000, **changes,
        }  # fmt: skip
        return await self.client.post("/api/listener", json=body)

    def spoken(self) -> None:
        self.listeners.expect(Caller(TRACE, 0xB0B))
        self.store.consume(dataclasses.replace(finish(request()), trace_id=TRACE))


@pytest.fixture
def page() -> Page:
    return Page()


async def test_the_page_and_all_that_it_names_are_served(page: Page) -> None:
    """No file that the page needs is missing, and none comes from elsewhere."""
    index = await page.client.get("/")
    assert index.headers["content-type"].startswith("text/html")
    assert "http://" not in index.text
    assert "https://" not in index.text
    for name in (
        "app.js",
        "style.css",
        "icon.svg",
        "player-worklet.js",
        "socket-worker.js",
        "vendor/uplot.js",
        "vendor/uplot.css",
        "vendor/uplot-LICENSE.txt",
    ):
        answer = await page.client.get(f"/{name}")
        assert answer.status_code == 200, name
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    again = await page.client.get(
        "/app.js", headers={"if-none-match": (await page.client.get("/app.js")).headers["etag"]}
    )
    assert again.status_code == 304


@pytest.mark.parametrize(
    "path", ["/../server.py", "/static/app.js", "/%2e%2e/app.py", "/vendor/../../app.py", "/nothing"]
)
async def test_no_other_file_is(page: Page, path: str) -> None:
    """Files are served by name from a list, never by path."""
    assert (await page.client.get(path)).status_code == 404


async def test_another_name_or_another_origin_is_refused(page: Page) -> None:
    """A rebound name gets nothing at all, another site's page none of the data."""
    assert (await page.client.get("/", headers={"host": "evil.example"})).status_code == 421
    assert (await page.client.get("/api/meta", headers={"origin": "http://evil.example"})).status_code == 403
    assert (await page.client.get("/api/meta", headers={"origin": "http://127.0.0.1:9465"})).status_code == 200


async def test_a_configured_name_is_answered() -> None:
    """An operator behind a name says so."""
    page = Page(page_hosts=("tts.example.org",))
    assert (await page.client.get("/", headers={"host": "tts.example.org"})).status_code == 200


async def test_with_a_token_only_the_empty_page_is_open() -> None:
    """The files hold no data; everything under /api asks for the token."""
    page = Page(page_token="s3cret")
    assert (await page.client.get("/")).status_code == 200
    for path in ("/api/meta", "/api/events", "/api/requests/1", "/api/service", "/api/clock"):
        assert (await page.client.get(path)).status_code == 401, path
    assert (await page.client.get("/api/meta", headers={"authorization": "Bearer s3cret"})).status_code == 200


async def test_a_report_is_taken_once(page: Page) -> None:
    """It belongs to a request that named its caller, and the list then shows it."""
    assert (await page.report()).status_code == 404
    page.spoken()
    assert (await page.report()).status_code == 200
    assert page.store.summaries()[0]["listener"]["first_audio"] == pytest.approx(0.2, abs=1e-6)
    assert (await page.report()).status_code == 404


async def test_a_report_is_limited_in_size_kind_and_rate(page: Page) -> None:
    """What a browser sends can cost no more than this, and a wrong report says what is wrong and can be mended."""
    page.spoken()
    large = await page.client.post(
        "/api/listener", content=b"x" * (MAX_BYTES + 1), headers={"content-type": "application/json"}
    )
    assert large.status_code == 413
    assert (
        await page.client.post("/api/listener", content=b"{}", headers={"content-type": "text/plain"})
    ).status_code == 415
    assert (
        await page.client.post("/api/listener", content=b"{", headers={"content-type": "application/json"})
    ).status_code == 400
    wrong = await page.report(underruns=-1)
    assert (wrong.status_code, wrong.json()["error"]) == (400, "underruns must be a number from 0 to 100000")
    assert (await page.client.get("/api/listener")).status_code == 405
    statuses = [(await page.report(outcome="x")).status_code for _ in range(30)]
    assert 429 in statuses
    assert page.store.summaries()[0].get("listener") is None


async def test_a_report_of_a_request_that_does_not_end_is_not_kept(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the records, not for ever."""
    monkeypatch.setattr(page_app, "FINISH_SECONDS", 0.05)
    page.listeners.expect(Caller(TRACE, 1))
    assert (await page.report()).status_code == 409


async def test_a_finished_request_is_told_whole(page: Page) -> None:
    """Every row, then the summary, each message a line of JSON."""
    page.spoken()
    lines = [json.loads(line) for line in (await page.client.get("/api/requests/1")).text.splitlines()]
    assert lines[-1]["type"] == "done"
    assert sum(len(part["id"]) for line in lines[:-1] for part in line["rows"]) == lines[-1]["summary"]["spans"]


async def test_the_service_is_named_as_far_as_it_is_known(page: Page) -> None:
    """Before the service has been seen there is no address; a service without /config still has the voices that were
    learnt.
    """
    assert (await page.client.get("/api/service")).json() == {"where": None, "voices": ["en-Carter_man"], "url": None}
    page.where = {"scheme": "ws", "host": "", "port": 9, "path": "/stream"}
    told = (await page.client.get("/api/service")).json()
    assert told["where"]["port"] == 9
    assert told["voices"] == ["en-Carter_man"]
