"""Serves the page beside the observed service: a uvicorn of its own, on a thread of its own, that can never fail the
service.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from vibevoice_otel import forking, traceparent
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.page.app import PageApp
from vibevoice_otel.page.feed import Feed
from vibevoice_otel.page.guard import host_of
from vibevoice_otel.page.listener import Listeners
from vibevoice_otel.page.store import Judge, Store
from vibevoice_otel.routes import SpeechRoutes
from vibevoice_otel.web.ends import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from vibevoice_otel.metrics.instruments import Instruments
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.settings import Settings


logger = logging.getLogger(__name__)
WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared, not bound
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
#: Mark of our own uvicorn server, which the hook on uvicorn must pass by.
OURS = "_vibevoice_otel_page"


class LivePage:
    """Everything of the page in one process. It starts when the process begins to serve, so a supervisor of workers has
    none.

    Args:
        settings: the operator's; ``page`` is set.
        on_drop: told (what, reason, count) of a hook that is missing.
        ready: the recorder, built if it is not yet there, with what :meth:`show` returns among its sinks.
    """

    def __init__(
        self, settings: Settings, on_drop: Callable[[str, str, int], None], ready: Callable[[], Recorder]
    ) -> None:
        self._settings, self._on_drop, self._ready = settings, on_drop, ready
        self._routes = SpeechRoutes(settings.routes)
        self._store: Store | None = None
        self._listeners: Listeners | None = None
        self.hooks = Hooks("page", on_drop)
        forking.begin(self._renew)
        self._owner: int | None = None  # process that has tried to start
        self._where: dict[str, Any] | None = self._configured()
        self._serving: Any = None
        self._thread: threading.Thread | None = None
        self.port: int | None = None  # once it is served

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def show(self, tracer: Tracer, instruments: Instruments, judge: Judge, judge_gap: Judge) -> Store:
        """The sink whose requests the page shows. Listeners' spans are made in ``tracer``'s name; their metrics are
        opt-in.

        ``judge`` says whether a request met the first-audio objective, ``judge_gap`` whether the continuity objective.
        """
        chosen = self._settings
        self._listeners = Listeners(tracer, instruments if chosen.page_listener else None)
        self._store = Store(chosen.page_requests, chosen.page_memory * 1024 * 1024, judge, judge_gap)
        return self._store

    # ------------------------------------------------------------------------------------------------- the service seen

    def instrument(self) -> None:
        self.hooks.on_undo(self.stop)
        what = "the service's address, for the live page"
        self.hooks.on_import("uvicorn.server", lambda m: self.hooks.replace(m.Server, "startup", self._startup, what))

    async def _startup(self, original: Callable[..., Any], server: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = await original(server, *args, **kwargs)
        if not getattr(server, OURS, False):
            self._started(server)
        return result

    def _started(self, server: Any) -> None:
        try:
            sockets = [each for one in getattr(server, "servers", ()) for each in one.sockets]
            if sockets and sockets[0].family in (socket.AF_INET, socket.AF_INET6):
                self._learn("wss" if server.config.is_ssl else "ws", *sockets[0].getsockname()[:2])
            self.start()
        except Exception:  # noqa: BLE001 - the service is starting; the page is no reason to fail it
            self._on_drop("hooks", "page_error", 1)

    def scope(self, scope: Scope) -> Scope:
        """See a scope before the application does: the page starts with the first, and remembers whom a browser's
        traceparent names.
        """
        try:
            if self._owner != os.getpid():
                self.start()
            if scope["type"] == "websocket":
                if self._where is None and scope.get("server") and scope["server"][1]:
                    self._learn(scope.get("scheme", "ws"), *scope["server"])
                caller = traceparent.adoption.caller(scope) if self._serving is not None else None
                if caller is not None and self._listeners is not None and scope["path"] in self._routes:
                    self._listeners.expect(caller)
        except Exception:  # noqa: BLE001 - a request is served whatever the page meets
            self._on_drop("hooks", "page_error", 1)
        return scope

    def _configured(self) -> dict[str, Any] | None:
        scheme, _, rest = self._settings.page_service.partition("://")
        if not rest:
            return None
        address, slash, path = rest.partition("/")
        host, port = host_of(address) or "", address.rpartition(":")[2]
        number = int(port) if port.isdigit() and not address.endswith("]") else {"ws": 80, "wss": 443}[scheme]
        return {"scheme": scheme, "host": host, "port": number, "path": slash + path}

    def _learn(self, scheme: str, host: str, port: int) -> None:
        if not self._settings.page_service:
            # A browser that reached the page by some name reaches the service by the same one.
            near = host in WILDCARDS or host in LOOPBACK
            self._where = {
                "scheme": scheme,
                "host": "" if near else host,
                "port": port,
                "path": self._settings.routes[0],
            }

    # ------------------------------------------------------------------------------------------------------- life cycle

    def start(self) -> None:
        """Serve, unless that was tried before in this process. Whatever goes wrong is one error that names the
        setting.
        """
        with self._lock:
            if self._owner == os.getpid():
                return
            self._owner, self._serving, self.port = os.getpid(), None, None
        recorder, store, listeners = self._ready(), self._store, self._listeners
        assert store is not None
        assert listeners is not None
        address = self._settings.page
        try:
            import uvicorn  # noqa: PLC0415 - belongs to the service, and may be missing
        except ImportError:
            logger.error(  # noqa: TRY400 - the sentence says it all
                "VIBEVOICE_OTEL_PAGE=%s: the live page is served by uvicorn, which is not installed (pip install "
                "uvicorn). The service runs on without the page.",
                address,
            )
            return
        app = PageApp(
            self._settings, store, Feed(recorder, store), listeners, lambda: self._where, lambda: recorder.bounds.voices
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            server_header=False,
            limit_concurrency=128,
            timeout_keep_alive=30,
            ssl_certfile=self._settings.page_cert or None,
            ssl_keyfile=self._settings.page_key or None,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            logger.error(  # noqa: TRY400
                "VIBEVOICE_OTEL_PAGE_CERT and VIBEVOICE_OTEL_PAGE_KEY are not a certificate and its key (%s). "
                "The service runs on without the page.",
                error,
            )
            return
        try:
            listening = _bind(address)
        except OSError as error:
            logger.error(  # noqa: TRY400
                "VIBEVOICE_OTEL_PAGE=%s cannot be served: %s. The service runs on without the page; "
                "choose a free address, or port 0 for any (with several workers each needs its own, or the first one "
                "shows its part).",
                address,
                error.strerror or error,
            )
            return
        self.port = listening.getsockname()[1]
        host = address.rpartition(":")[0]
        if host not in LOOPBACK and host != "[::1]" and not self._settings.page_token:
            logger.warning(
                "VIBEVOICE_OTEL_PAGE=%s is reached from other machines: set VIBEVOICE_OTEL_PAGE_TOKEN", address
            )
        self._serving = uvicorn.Server(config)
        setattr(self._serving, OURS, True)
        thread = threading.Thread(
            target=_serve, args=(self._serving, listening), name="vibevoice-otel-page", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread now: the next scope tries again
            listening.close()
            self._owner = self._serving = self.port = None
            raise
        self._thread = thread
        traceparent.adoption.begin(self)
        logger.info("the live page is at %s://%s:%d/", "https" if config.is_ssl else "http", host, self.port)

    def stop(self) -> None:
        """Serve no more. Idempotent."""
        if self._serving is not None:
            self._serving.should_exit = self._serving.force_exit = True
            if self._thread is not None and self._owner == os.getpid():
                self._thread.join(3.0)
        traceparent.adoption.end(self)
        self._serving = self._thread = self.port = None


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family, _, _, _, resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # [::] means IPv4 as well
    return socket.create_server(resolved, family=family, backlog=128, dualstack_ipv6=both)


def _serve(server: Any, listening: socket.socket) -> None:
    """The thread. The steps of uvicorn.Server.serve without its signal handlers and its log lines, which are the
    service's.
    """

    async def serve() -> None:
        server.lifespan = server.config.lifespan_class(server.config)
        server._log_started_message = lambda _sockets: None
        await server.startup(sockets=[listening])
        await server.main_loop()
        for each in server.servers:
            each.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)

    try:
        asyncio.run(serve())
    except Exception:
        logger.exception("the live page ended; the service runs on without it")
    finally:
        listening.close()
