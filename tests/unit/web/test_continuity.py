"""A client's own ledger and the server's figures: the same streams, read twice by one host's clock.

The client notes every chunk's arrival and plays it from a buffer of its own, by another formula than the server's.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx
import pytest
import uvicorn
import websockets
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from tests.support.pipeline import Pipeline, pipeline
from vibevoice_otel import semconv
from vibevoice_otel.recording.candidate import arrival
from vibevoice_otel.semconv import SAMPLE_RATE_HZ, SLO_GAP_SECONDS

CHUNK = 0.05  # seconds of audio in a chunk
BYTES = round(CHUNK * SAMPLE_RATE_HZ) * 2
REQUESTS = 20  # of each kind
#: Streams at a time: after a pause of a busy machine the loop serves all senders before any reader.
TOGETHER = 4
pytestmark = [pytest.mark.serial, pytest.mark.timeout(120)]


def _steady(_: random.Random) -> list[float]:
    return [0.04] * 12


def _jittery(chance: random.Random) -> list[float]:
    return [chance.uniform(0.02, 0.09) for _ in range(12)]


def _stalled(chance: random.Random) -> list[float]:
    pauses = [0.04] * 12
    pauses[6] = 0.3 + chance.random() / 4
    return pauses


def _bursty(chance: random.Random) -> list[float]:
    return [chance.uniform(0.1, 0.4) if n % 4 == 0 else 0.0 for n in range(12)]


#: Kind of stream -> seconds before each of its chunks.
KINDS: dict[str, Callable[[random.Random], Sequence[float]]] = {
    "steady": _steady, "jittery": _jittery, "stalled": _stalled, "bursty": _bursty,
}  # fmt: skip


@dataclass
class Ledger:
    """What one client saw. ``worst_gap`` plays each chunk when it is there and the one before has been played."""

    arrivals: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def worst_gap(self) -> float:
        played_until, worst = self.arrivals[0], 0.0
        for arrived, lasts in zip(self.arrivals, self.seconds, strict=True):
            worst = max(worst, arrived - played_until)
            played_until = max(arrived, played_until) + lasts
        return worst


def scripted() -> FastAPI:
    """Sends chunks after the pauses that its caller names."""
    app = FastAPI()

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        for pause in socket.query_params["pauses"].split(","):
            await asyncio.sleep(float(pause))
            await socket.send_bytes(bytes(int(socket.query_params["size"])))
        await socket.close()

    @app.post("/v1/audio/speech")
    async def speech(pauses: str, size: int) -> StreamingResponse:
        candidate = arrival.get()
        assert candidate is not None
        candidate.open()  # as the generation that is linked to it does

        async def body() -> AsyncIterator[bytes]:
            for pause in pauses.split(","):
                await asyncio.sleep(float(pause))
                yield bytes(size)

        return StreamingResponse(body(), media_type=f"audio/L16;rate={SAMPLE_RATE_HZ}")

    return app


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[int]:
    """The port of a real uvicorn on this event loop."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    running = asyncio.create_task(server.serve([listening]))
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.005)
    yield listening.getsockname()[1]
    server.should_exit = True
    await running


async def listen(port: int, pauses: Sequence[float], size: int = BYTES, hesitates: float = 0.0) -> Ledger:
    """One request; ``hesitates`` so many seconds after its first chunk before it reads on."""
    query = urlencode({"text": "hello", "pauses": ",".join(f"{each:.4f}" for each in pauses), "size": size})
    ledger = Ledger()
    async with websockets.connect(
        f"ws://127.0.0.1:{port}/stream?{query}", max_size=None, compression=None
    ) as connection:
        async for message in connection:
            ledger.arrivals.append(time.monotonic())
            ledger.seconds.append(len(message) / 2 / SAMPLE_RATE_HZ)
            if hesitates:
                await asyncio.sleep(hesitates)
                hesitates = 0.0
    return ledger


async def fetch(port: int, pauses: Sequence[float]) -> Ledger:
    """The same by HTTP: what arrives together counts as one chunk."""
    query = {"pauses": ",".join(f"{each:.4f}" for each in pauses), "size": BYTES}
    ledger = Ledger()
    url = f"http://127.0.0.1:{port}/v1/audio/speech"
    async with httpx.AsyncClient() as client, client.stream("POST", url, params=query, timeout=60) as response:
        async for data in response.aiter_raw():
            ledger.arrivals.append(time.monotonic())
            ledger.seconds.append(len(data) / 2 / SAMPLE_RATE_HZ)
    return ledger


TRANSPORTS = {"websocket": listen, "http": fetch}


@pytest.fixture
def observed() -> Iterator[Pipeline]:
    with pipeline(app=scripted()) as running:
        assert running.instrumentor.recorder is not None  # built: the program speaks, so HTTP requests may be speech
        yield running


def attributes(observed: Pipeline) -> list[dict[str, object]]:
    """Of each request's span, in the order of arrival."""
    observed.flush()
    roots = [span for span in observed.spans() if span.name == semconv.SYNTHESIZE.name]
    return [dict(root.attributes or {}) for root in sorted(roots, key=lambda each: each.start_time or 0)]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_server_s_worst_gap_is_the_client_s(observed: Pipeline, kind: str, transport: str) -> None:
    """Of 20 streams of each kind the worst gaps agree within 5 ms at P95, and C100 within one request per hundred."""
    chance = random.Random(kind)
    scripts = [KINDS[kind](chance) for _ in range(REQUESTS)]

    async def one(port: int, number: int) -> Ledger:
        await asyncio.sleep(0.05 * (number % TOGETHER))  # apart, so that the order of arrival is that of the scripts
        return await TRANSPORTS[transport](port, scripts[number])

    async def all_of_them() -> list[Ledger]:
        async with served(observed.app) as port:
            await TRANSPORTS[transport](
                port, [0.0]
            )  # what is imported and built at the first request holds up the event loop
            found: list[Ledger] = []
            for first in range(0, REQUESTS, TOGETHER):
                found += await asyncio.gather(*(one(port, first + number) for number in range(TOGETHER)))
            return found

    clients = [ledger.worst_gap for ledger in asyncio.run(all_of_them())]
    servers = [float(str(each[semconv.WORST_GAP.key])) for each in attributes(observed)[1:]]
    apart = sorted(abs(a - b) for a, b in zip(clients, servers, strict=True))
    within = [sum(gap <= SLO_GAP_SECONDS for gap in side) / REQUESTS for side in (clients, servers)]
    print(
        f"{kind}, {transport}: apart median {apart[REQUESTS // 2] * 1e3:.2f} ms, P95 "
        f"{apart[int(0.95 * REQUESTS) - 1] * 1e3:.2f} ms; "
        f"C100 client {within[0]:.2f}, server {within[1]:.2f}; worst gap client {max(clients):.3f} s"
    )
    assert apart[int(0.95 * REQUESTS) - 1] < 0.005
    assert abs(within[0] - within[1]) <= 0.01
    typical = sorted(clients)[REQUESTS // 2]
    assert (typical > 0.01) == (kind != "steady"), "the kinds differ in what their listeners hear"


def test_a_listener_who_reads_slowly_shows_in_the_sends(observed: Pipeline) -> None:
    """60 MB against buffers of a few: the listener reads nothing for 0.8 s, and that is how long a send took, within
    0.3 s.
    """

    async def slow() -> Ledger:
        async with served(observed.app) as port:
            return await listen(port, [0.0] * 60, size=1_000_000, hesitates=0.8)

    ledger = asyncio.run(slow())
    (found,) = attributes(observed)
    blocked = float(str(found[semconv.SEND_BLOCKED.key]))
    print(
        f"the listener hesitated {ledger.arrivals[1] - ledger.arrivals[0]:.3f} s, the slowest send took {blocked:.3f} s"
    )
    assert blocked == pytest.approx(0.8, abs=0.3)
