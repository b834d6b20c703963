"""Whose trace a request belongs to, with OpenTelemetry's layers and without any: the caller's, if it says so, and on
its terms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from opentelemetry import baggage, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket

from tests.support.signals import App, Signals, ask
from tests.support.talker import speak, talk, talking
from vibevoice_otel import semconv
from vibevoice_otel.settings import Settings

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
NOT_SAMPLED = (b"traceparent", f"00-{TRACE}-{SPAN}-00".encode())
QUERY = f"text=a&traceparent=00-{TRACE}-{SPAN}-01"


def bare(told: Signals) -> App:
    return Starlette(routes=[WebSocketRoute("/stream", talk)])


def bare_in_a_mount(told: Signals) -> App:
    return Starlette(routes=[Mount("/", bare(told))])


def contribs(told: Signals) -> App:
    app = FastAPI()
    app.add_api_websocket_route("/stream", talk)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
    return app


def contribs_in_a_mount(told: Signals) -> App:
    return Starlette(routes=[Mount("/", contribs(told))])


def contribs_outside(told: Signals) -> App:
    return OpenTelemetryMiddleware(bare(told), tracer_provider=told.tracers, meter_provider=told.meters)


def fastapis_own(told: Signals) -> App:
    app = FastAPI(telemetry={"tracer_provider": told.tracers, "meter_provider": told.meters})
    app.add_api_websocket_route("/stream", talk)
    return app


APPLICATIONS: dict[str, Callable[[Signals], App]] = {
    "no layer": bare, "no layer, in a mount": bare_in_a_mount, "contrib's": contribs,
    "contrib's in a mount": contribs_in_a_mount,
    "contrib's outside of everything": contribs_outside, "FastAPI's own": fastapis_own,
}  # fmt: skip


def one_trace(told: Signals) -> set[str]:
    told.flush()
    return {format(span.context.trace_id, "032x") for span in told.finished()}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_callers_trace_is_continued(name: str) -> None:
    """Every span of the request is in it; directly below the caller's stands the SERVER span, or ours where nothing
    makes one.
    """
    with talking() as told:
        asyncio.run(ask(APPLICATIONS[name](told), "websocket", "/stream", "text=a", headers=[SAMPLED]))
        assert one_trace(told) == {TRACE}
        below = [
            span for span in told.finished() if span.parent is not None and format(span.parent.span_id, "016x") == SPAN
        ]
        assert (
            [span.name for span in below] == [semconv.SYNTHESIZE.name]
            if name.startswith("no layer")
            else told.servers()
        )
        assert told.counted(semconv.REQUESTS.name, "status") == {"success": 1}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_caller_that_does_not_sample_is_obeyed(name: str) -> None:
    """No span at all, and every count all the same."""
    with talking() as told:
        app = APPLICATIONS[name](told)
        asyncio.run(ask(app, "websocket", "/stream", "text=a", headers=[NOT_SAMPLED]))
        assert one_trace(told) == set()
        assert told.counted(semconv.REQUESTS.name, "status") == {"success": 1}
        assert sum(told.counted(semconv.FIRST_AUDIO.name, "voice").values()) == 1


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_caller_in_the_url_counts_by_a_setting(name: str) -> None:
    """VIBEVOICE_OTEL_QUERY_TRACEPARENT: without it the trace is a new one; with it the URL's; a header wins. Nothing
    tells the query.
    """
    for settings, headers, expected in (
        (Settings(), [], False),
        (Settings(query_traceparent=True), [], True),
        (Settings(query_traceparent=True), [(b"traceparent", SAMPLED[1].replace(b"0af7", b"1111"))], False),
    ):
        with talking(settings) as told:
            asyncio.run(ask(APPLICATIONS[name](told), "websocket", "/stream", QUERY, headers=headers))
            (found,) = one_trace(told)
            assert (found == TRACE) is expected
            assert found.startswith("1111") is bool(headers)
            assert not any(SPAN in str(span.attributes) for span in told.finished())


def test_the_application_reads_the_url_as_it_came() -> None:
    """The parameter is no secret to the endpoint: a header is added for what reads the trace,
    and nothing else changes.
    """
    seen = []

    async def endpoint(socket: WebSocket) -> None:
        seen.append((socket.scope["query_string"].decode(), "traceparent" in socket.headers))
        await talk(socket)

    with talking(Settings(query_traceparent=True)) as told:
        app = FastAPI()
        app.add_api_websocket_route("/stream", endpoint)
        FastAPIInstrumentor.instrument_app(app, tracer_provider=told.tracers, meter_provider=told.meters)
        asyncio.run(ask(app, "websocket", "/stream", QUERY))
        assert seen == [(QUERY, False)]
        assert one_trace(told) == {TRACE}


def test_baggage_and_state_come_with_the_caller() -> None:
    """Without a layer the handler's own context is what it would have been with one."""
    seen = []

    async def endpoint(socket: WebSocket) -> None:
        seen.append((baggage.get_baggage("turn"), trace.get_current_span().get_span_context().trace_state.get("a")))
        await socket.accept()
        await speak(socket, "a")

    with talking() as told:
        app = Starlette(routes=[WebSocketRoute("/stream", endpoint)])
        headers = [SAMPLED, (b"baggage", b"turn=7"), (b"tracestate", b"a=1")]
        asyncio.run(ask(app, "websocket", "/stream", "text=a", headers=headers))
        assert seen == [("7", "1")]
        assert one_trace(told) == {TRACE}


def test_a_span_that_the_program_has_begun_is_the_parent() -> None:
    """An application that is called within a span of its own program belongs to that, whatever a header says."""

    async def go() -> None:
        with told.tracers.get_tracer("program").start_as_current_span("turn"):
            await ask(bare(told), "websocket", "/stream", "text=a", headers=[SAMPLED])

    with talking() as told:
        asyncio.run(go())
        assert one_trace(told) != {TRACE}
        assert len(one_trace(told)) == 1
