"""What ``max_text`` allows in characters is served whatever its bytes;
a refusal reaches the listener and is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import pytest
import websockets

from tests.reliability.harness import PATIENCE, Service, Sink, free_port, wait_for

Start = Callable[..., Service]
CHARACTERS = 800
#: One, two, three and four bytes of UTF-8, and each of them three in a URL: 800 to 9600 bytes, where websockets reads
#: 8192.
TEXTS = {"ascii": "a", "latin": "é", "han": "你", "emoji": "😀"}
METRICS = "vibevoice.streaming.requests"


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    receiver = Sink()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module", params=["serve", "uvicorn"])
def service(request: pytest.FixtureRequest, sink: Sink) -> Iterator[Service]:
    """The embedded service by its own command, and as an application of uvicorn's."""
    port = free_port()
    command = {
        "serve": ("-m", "vibevoice_otel", "serve", "--port", str(port)),
        "uvicorn": ("-m", "uvicorn", "vibevoice_otel.service.main:app", "--port", str(port)),
    }[request.param]
    more = {"VIBEVOICE_SERVICE_MAX_TEXT": str(CHARACTERS)}
    started = Service(sink, more, (sys.executable, *command), port)
    yield started
    started.close()


def asked(service: Service, text: str) -> tuple[bool, str, int | None]:
    """Whether audio came (the listener then leaves), what was said before, and the close code."""

    async def listen() -> tuple[bool, str, int | None]:
        url = f"ws://127.0.0.1:{service.port}/stream?{urlencode({'text': text})}"
        said = ""
        async with websockets.connect(url, open_timeout=PATIENCE, max_size=None) as socket:
            with contextlib.suppress(websockets.ConnectionClosed):
                async for message in socket:
                    if isinstance(message, bytes):
                        return True, said, None
                    said += message
            return False, said, socket.close_code

    return asyncio.run(listen())


@pytest.mark.parametrize("kind", TEXTS)
def test_as_many_characters_as_are_allowed_are_served(service: Service, kind: str) -> None:
    """Audio comes."""
    heard, said, _ = asked(service, TEXTS[kind] * CHARACTERS)
    assert heard, said
    assert f'"text_length": {CHARACTERS}' in said


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("characters", [CHARACTERS + 1, 2 * CHARACTERS])
def test_more_are_refused_in_words_and_counted(service: Service, sink: Sink, kind: str, characters: int) -> None:
    """Close code 1009 and a sentence; one request more is rejected, and the text is in no log line."""
    before = sink.total(METRICS, status="rejected")
    heard, said, code = asked(service, TEXTS[kind] * characters)
    assert (heard, code) == (False, 1009)
    assert f"The text is longer than {CHARACTERS} characters." in said
    assert wait_for(lambda: sink.total(METRICS, status="rejected") == before + 1), service.log
    assert not re.search(r"(%[0-9A-F]{2}){4}|a{20}", service.log)
