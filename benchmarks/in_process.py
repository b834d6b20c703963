"""Saturated, finely paired: the service's application with its real model in one process, telemetry put in and taken
out between requests.

Processes side by side are disturbed one by one (benchmarks.end_to_end): their figures differ by more than the telemetry
costs. Here the same code speaks the same text by turns without telemetry, with the stock instrumentation and with ours,
half a second each, so what the machine does meanwhile falls on all three. Flush and encoding are included, and of a
collection of the metrics the share that a request has when a reader collects every 15 seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from benchmarks import harness
from benchmarks.servers import NONE, OURS, STOCK
from benchmarks.telemetry import Sink, providers
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.service.app import create_app
from vibevoice_otel.service.settings import ServiceSettings
from vibevoice_otel.settings import Settings

QUERY = b"text=A+short+sentence+that+takes+a+couple+of+seconds+to+say.&voice=en-Carter_man&cfg=1.5&steps=5"
#: Seconds between collections (benchmarks.servers has the same).
COLLECTS = 15.0
_ABSENT: Any = object()


async def speak(app: FastAPI) -> int:
    """One WebSocket request through the application's own entry; returns the bytes of audio."""
    audio, messages = 0, iter([{"type": "websocket.connect"}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        nonlocal audio
        audio += len(message.get("bytes") or b"")

    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": "/stream",
        "raw_path": b"/stream",
        "query_string": QUERY, "root_path": "", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2), "subprotocols": [], "state": {},
    }  # fmt: skip
    await app(scope, receive, send)  # type: ignore[arg-type]
    return audio


class Switch:
    """All hooks of the instrumentor, put in and taken out at once. Those outside any request would cost little, but not
    nothing.
    """

    def __init__(self) -> None:
        self._points: list[tuple[Any, str, Any, Any]] = []
        inner = Hooks.replace

        def replace(hooks: Hooks, owner: Any, name: str, *args: Any, **kwargs: Any) -> bool:
            before = vars(owner).get(name, _ABSENT)
            found = inner(hooks, owner, name, *args, **kwargs)
            if vars(owner).get(name, _ABSENT) is not before:
                self._points.append((owner, name, before, vars(owner)[name]))
            return found

        Hooks.replace = replace  # type: ignore[method-assign]

    def turn(self, *, on: bool) -> None:
        for owner, name, bare, hooked in self._points if on else reversed(self._points):
            if on:
                setattr(owner, name, hooked)
            elif bare is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, bare)


def contenders(loop: asyncio.AbstractEventLoop) -> tuple[dict[str, Callable[[], float]], dict[str, Sink]]:
    """CPU seconds a second of audio of one request, telemetry told in full; and where it is told."""
    settings = ServiceSettings()
    apps = {name: create_app(settings) for name in (NONE, STOCK, OURS)}
    loop.run_until_complete(speak(apps[NONE]))  # its middleware is built before anybody looks at it
    one = apps[NONE].state.tts_service
    for app in apps.values():
        app.state.tts_service.__dict__ = (
            one.__dict__
        )  # one model: where its weights happen to lie makes it faster or slower
    flushes: dict[str, Callable[[], object]] = {NONE: lambda: None}
    collects: dict[str, Callable[[], object]] = {NONE: lambda: None}
    sinks: dict[str, Sink] = {}
    for name in (STOCK, OURS):
        tracer_provider, meter_provider, reader, sinks[name] = providers()
        FastAPIInstrumentor.instrument_app(apps[name], tracer_provider=tracer_provider, meter_provider=meter_provider)
        flushes[name], collects[name] = tracer_provider.force_flush, reader.get_metrics_data
    loop.run_until_complete(speak(apps[STOCK]))
    switch, instrumentor = Switch(), VibeVoiceInstrumentor()
    instrumentor.instrument(
        tracer_provider=tracer_provider, meter_provider=meter_provider, settings=Settings(), skip_dep_check=True
    )  # those of OURS, the last
    for _ in range(2):
        loop.run_until_complete(speak(apps[OURS]))
    recorder = instrumentor.recorder
    assert recorder is not None
    export = flushes[OURS]
    flushes[OURS] = lambda: (recorder.flush(60), export())
    switch.turn(on=False)

    def contender(name: str) -> Callable[[], float]:
        def run() -> float:
            if name == OURS:
                switch.turn(on=True)
            # Classes that have just been changed are slow at first: Python has to learn anew what to expect of them.
            loop.run_until_complete(speak(apps[name]))
            flushes[name]()
            began, clock = time.process_time(), time.monotonic()
            audio = loop.run_until_complete(speak(apps[name]))
            flushes[name]()
            spent, passed = time.process_time() - began, time.monotonic() - clock
            began = time.process_time()
            collects[name]()
            spent += (time.process_time() - began) * passed / COLLECTS
            if name == OURS:
                switch.turn(on=False)
            return spent / (audio / 48_000)

        return run

    return {name: contender(name) for name in apps}, sinks


def main() -> None:
    options = harness.arguments(__doc__.splitlines()[0], rounds=80)
    logging.disable(logging.WARNING)
    loop = asyncio.new_event_loop()
    runs, sinks = contenders(loop)
    found = harness.alternate(runs, options.rounds)
    rows: list[list[str | float | None]] = []
    more = {
        (name, base): [a / b - 1 for a, b in zip(found[name].values, found[base].values, strict=True)]
        for name, base in ((STOCK, NONE), (OURS, NONE), (OURS, STOCK))
    }
    for name, each in found.items():
        against = harness.percent(more[name, NONE]) if name != NONE else ""
        rows.append(
            [name, each.median * 1000, harness.spread(harness.Series(name, [v * 1000 for v in each.values])), against]
        )
    goals = [
        harness.Goal(text, harness.interval(more[pair])[1] <= limit, harness.percent(more[pair]))
        for text, pair, limit in (
            ("at most 2 % more CPU", (OURS, NONE), 0.02),
            ("never dearer than stock", (OURS, STOCK), 0.0),
        )
    ]
    harness.Report(
        "in_process", "One request at a time, saturated; against no telemetry in the same round: median (its 95 % "
                      "interval)", "",
        ["contender", "CPU ms / s of audio", "quartiles", "more CPU"], rows, goals,
        notes=[f"{options.rounds} rounds. Spans exported: "
               "" + ", ".join(f"{name} {sink.received:,} bytes" for name, sink in sinks.items())],
        raw={name: each.values for name, each in found.items()},
    ).write(options.out)  # fmt: skip


if __name__ == "__main__":
    main()
