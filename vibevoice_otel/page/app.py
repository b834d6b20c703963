"""The page's own web application: a handful of routes in plain ASGI, so that it needs no framework and is never
observed itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from importlib import resources
from typing import Any

from vibevoice_otel import __version__, semconv
from vibevoice_otel.page import guard, listener
from vibevoice_otel.page.feed import Feed
from vibevoice_otel.page.listener import Listeners, ReportError
from vibevoice_otel.page.rows import KINDS
from vibevoice_otel.page.store import Store, StoredRequest
from vibevoice_otel.settings import Settings
from vibevoice_otel.web.ends import Message, Receive, Scope, Send

logger = logging.getLogger(__name__)
TYPES = {
    "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml", "txt": "text/plain; charset=utf-8",
}  # fmt: skip
MAX_STREAMS = 32  # browsers' open streams
CONFIG_BYTES = 262_144
CONFIG_SECONDS = 20.0  # the service's answer is kept that long
CONFIG_TIMEOUT = 3.0
FINISH_SECONDS = 5.0  # how long a report waits for its request's records
Headers = list[tuple[bytes, bytes]]


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """An answer other than 200: status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class PageApp:
    """ASGI application.

    Args:
        settings: the operator's.
        store, feed, listeners: what is shown, and what takes reports.
        service: returns where the service listens: scheme, host ("" for the browser's own), port and path; None while
            unknown.
        voices: the voices that the recorder knows of, for a service that has no /config.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        feed: Feed,
        listeners: Listeners,
        service: Callable[[], dict[str, Any] | None],
        voices: Callable[[], Iterable[str]],
    ) -> None:
        self._settings, self._store, self._feed, self._listeners = settings, store, feed, listeners
        self._service, self._voices = service, voices
        self._files = load_files()
        self._names = {*settings.page_hosts, guard.host_of(settings.page) or ""} - {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        self._rate = guard.Rate(burst=20, per_second=1.0)
        self._streams = 0
        self._config: tuple[float, dict[str, Any]] = (float("-inf"), {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        common = guard.security_headers(guard.host_of(headers.get("host", "")) or "", self._settings.page_service)
        try:
            await self._route(scope, headers, common, receive, send)
        except Refused as refusal:
            body = json.dumps({"error": str(refusal)}).encode()
            await _answer(send, refusal.status, body, "application/json", common)

    async def _route(
        self, scope: Scope, headers: dict[str, str], common: Headers, receive: Receive, send: Send
    ) -> None:
        path, method = scope["path"], scope["method"]
        if not guard.host_allowed(headers.get("host", ""), self._names):
            raise Refused(
                421, "this host name is not the page's: use its address, or add the name to VIBEVOICE_OTEL_PAGE_HOSTS"
            )
        if method not in ({"POST"} if path == "/api/listener" else {"GET", "HEAD"}):
            raise Refused(405, "not here")
        if not path.startswith("/api/"):
            await self._file(path, headers, common, send)
            return
        if not guard.same_origin(headers):
            raise Refused(403, "the request comes from another site's page")
        if not guard.token_allowed(headers, self._settings.page_token):
            raise Refused(401, "the page asks for a token (VIBEVOICE_OTEL_PAGE_TOKEN)")
        common = [*common, (b"cache-control", b"no-store")]
        if path == "/api/events":
            await self._stream(self._feed.status(), common, receive, send)
        elif path.startswith("/api/requests/"):
            await self._stream(self._feed.request(path.removeprefix("/api/requests/")[:40]), common, receive, send)
        else:
            body = await self._json(path, headers, receive)
            await _answer(send, 200, json.dumps(body, default=str).encode(), "application/json", common)

    async def _json(self, path: str, headers: dict[str, str], receive: Receive) -> dict[str, Any]:
        if path == "/api/clock":
            # The clock that spans are placed by; a browser holds its own against it.
            return {"received": time.time(), "sent": time.time()}
        if path == "/api/meta":
            return self._meta()
        if path == "/api/service":
            return await self._about_service()
        if path == "/api/listener":
            return await self._report(headers, receive)
        raise Refused(404, "not here")

    # ---------------------------------------------------------------------------------------------------------- answers

    async def _file(self, path: str, headers: dict[str, str], common: Headers, send: Send) -> None:
        found = self._files.get("index.html" if path == "/" else path.lstrip("/"))
        if found is None:
            raise Refused(404, "not here")
        body, kind, tag = found
        extra = [*common, (b"etag", tag.encode()), (b"cache-control", b"no-cache")]
        known = headers.get("if-none-match") == tag
        await _answer(send, 304 if known else 200, b"" if known else body, kind, extra)

    def _meta(self) -> dict[str, Any]:
        chosen = self._settings
        return {
            "version": __version__,
            "kinds": {word: {"name": span.name, "brief": span.brief} for span, word in KINDS.items()},
            "statuses": [status.value for status in semconv.Status],
            "slo": {
                "first_audio": chosen.slo_first_audio, "first_audio_ratio": semconv.SLO_FIRST_AUDIO_RATIO,
                "success_ratio": semconv.SLO_SUCCESS_RATIO,
                "gap": chosen.slo_gap, "gap_ratio": semconv.SLO_GAP_RATIO,
            },
            "sample_rate": semconv.SAMPLE_RATE_HZ,
            "requests": chosen.page_requests,
            "listener_metrics": chosen.page_listener,
            "links": {"grafana": chosen.page_grafana, "tempo": chosen.page_tempo},
        }  # fmt: skip

    async def _about_service(self) -> dict[str, Any]:
        """Where the service's socket is and what it says of itself; fetched here, because a browser may not read
        another port's answer.
        """
        where = self._service()
        known: dict[str, Any] = {
            "where": where,
            "voices": sorted(self._voices()),
            "url": self._settings.page_service or None,
        }
        if where is None:
            return known
        if time.monotonic() - self._config[0] > CONFIG_SECONDS:
            answer = await asyncio.to_thread(_fetch_config, where)
            self._config = (time.monotonic() if answer else float("-inf"), answer)
        config = self._config[1]
        voices = config.get("voices")
        if isinstance(voices, list) and voices:
            known["voices"] = [str(voice) for voice in voices[:1000]]
        for name in ("default_voice", "cfg", "steps", "model", "notice"):
            if isinstance(config.get(name), str | int | float):
                known[name] = config[name]
        return known

    async def _report(self, headers: dict[str, str], receive: Receive) -> dict[str, Any]:
        if not self._rate.take():
            raise Refused(429, "too many reports")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(415, "a report is application/json")
        body = await _body(receive, listener.MAX_BYTES)
        try:
            data = json.loads(body)
            trace_id = int(str(data["trace"])[:32], 16)
            report = listener.check(data, time.time())
        except ReportError as error:
            raise Refused(400, str(error)) from None
        except (ValueError, TypeError, KeyError):
            raise Refused(400, "a report is an object with trace, started, seconds, outcome and more") from None
        if trace_id not in self._listeners.callers:
            raise Refused(404, "no request of this page has that trace")
        kept = await self._finished(f"{trace_id:032x}")
        span_id = self._listeners.callers.pop(trace_id, None)
        if span_id is None:
            raise Refused(404, "that request has been reported")
        heard = self._listeners.record(kept, span_id, report)
        self._store.heard(kept, heard)
        return heard

    async def _finished(self, trace: str) -> StoredRequest:
        until = time.monotonic() + FINISH_SECONDS
        while True:
            kept = self._store.find(trace)
            if kept is not None and kept.summary is not None:
                return kept
            if time.monotonic() > until:
                raise Refused(409, "that request has not ended")
            await asyncio.sleep(0.05)

    async def _stream(self, messages: AsyncIterator[bytes], common: Headers, receive: Receive, send: Send) -> None:
        """Send each message as it comes, until there are no more or the browser has gone."""
        if self._streams >= MAX_STREAMS:
            raise Refused(503, f"more than {MAX_STREAMS} browsers are looking")
        self._streams += 1
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [*common, (b"content-type", b"application/x-ndjson")],
                }
            )
            sending = asyncio.ensure_future(_send_all(messages, send))
            leaving = asyncio.ensure_future(_left(receive))
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            for task in (sending, leaving):
                task.cancel()
            for error in await asyncio.gather(sending, leaving, return_exceptions=True):
                if isinstance(error, Exception):
                    logger.debug("a browser's stream ended: %r", error)
        finally:
            self._streams -= 1


async def _send_all(messages: AsyncIterator[bytes], send: Send) -> None:
    async for each in messages:
        await send({"type": "http.response.body", "body": each, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, body: bytes, kind: str, headers: Headers) -> None:
    own = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *own]})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive, limit: int) -> bytes:
    body = b""
    while True:
        got: Message = await receive()
        if got["type"] == "http.disconnect":
            raise Refused(400, "the browser left")
        part: bytes = got.get("body", b"")
        body += part
        if len(body) > limit:
            raise Refused(413, f"a report has at most {limit} bytes")
        if not got.get("more_body"):
            return body


def _fetch_config(where: dict[str, Any]) -> dict[str, Any]:
    """The service's GET /config; {} when it has none or does not answer in time."""
    scheme = {"ws": "http", "wss": "https"}[where["scheme"]]
    host = where["host"] or "127.0.0.1"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{where['port']}/config"
    # Never through a proxy that the environment names: this is the service that we live in.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, ValueError), opener.open(address, timeout=CONFIG_TIMEOUT) as response:
        found = json.loads(response.read(CONFIG_BYTES))
        if isinstance(found, dict):
            return found
    return {}


def load_files() -> dict[str, tuple[bytes, str, str]]:
    """Every static file: its name to bytes, type and tag."""
    files: dict[str, tuple[bytes, str, str]] = {}
    root = resources.files("vibevoice_otel.page") / "static"
    for folder, prefix in ((root, ""), (root / "vendor", "vendor/")):
        for each in folder.iterdir():
            kind = TYPES.get(each.name.rpartition(".")[2])
            if kind is not None and each.is_file():
                body = each.read_bytes()
                files[prefix + each.name] = (body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    return files
