"""Speaks to a service as a listener does, over a WebSocket or by an HTTP POST; both give the same account.

The WebSocket is upstream's (the text in the URL, PCM in binary messages), the POST is OpenAI's (JSON with ``model``,
``voice``, ``input`` and ``response_format``, audio in the body as it is made). When bytes of a body carry audio is read
off the table that the service's side is observed by (web/formats.py).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from vibevoice_otel import __version__, semconv
from vibevoice_otel.recording.outcome import INCOMPLETE, of_close, of_http
from vibevoice_otel.recording.playback import Playback
from vibevoice_otel.semconv import ErrorType, Status
from vibevoice_otel.web import formats

#: Scheme -> the path of an address without one.
PATHS = {"ws": "/stream", "wss": "/stream", "http": "/v1/audio/speech", "https": "/v1/audio/speech"}
TEMPLATE = '{"model": "{model}", "voice": "{voice}", "input": "{text}", "response_format": "{format}"}'
_PLACE = re.compile(r"\{(model|voice|text|format)\}")
_TIMING = re.compile(r"([\w-]{1,64})(?:;[^,;]{0,64})?;dur=([0-9.]{1,16})")
#: What of a header that the service sent is read.
MOST_HEADER = 2048
#: Bytes read at once.
READ = 1 << 16
#: Seconds that a service which hangs has to close its WebSocket.
CLOSING = 1.0
#: What to do about an answer, by its code.
REMEDIES = {
    **dict.fromkeys((400, 415, 422), "the service does not take the body: see --voice, --model, --response-format and "
                                     "--body-template"),
    **dict.fromkeys((401, 403), "it asks for a token: --header 'Authorization: Bearer TOKEN'"),
    **dict.fromkeys((404, 405), "it has no speech at this path, or not this voice or model"),
    **dict.fromkeys((429, 503), "it is at its limit, or not ready"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speech:
    """What a POST asks for beside text and voice.

    Args:
        model: as the service calls it.
        response_format: as OpenAI's API has it.
        template: the JSON body, with ``{model}``, ``{voice}``, ``{text}`` and ``{format}`` in its strings.
    """

    model: str = "tts-1"
    response_format: str = "wav"
    template: str = TEMPLATE

    def body(self, text: str, voice: str | None) -> bytes:
        """The JSON body that asks for ``text``; a member whose voice is not named is left out."""
        values = {"model": self.model, "voice": voice, "text": text, "format": self.response_format}

        def filled(part: Any) -> Any:
            if isinstance(part, str):
                return _PLACE.sub(lambda found: values[found[1]] or "", part)
            if isinstance(part, list):
                return [filled(each) for each in part]
            if isinstance(part, dict):
                return {key: filled(each) for key, each in part.items() if voice is not None or each != "{voice}"}
            return part

        return json.dumps(filled(json.loads(self.template))).encode()


@dataclass(frozen=True, slots=True)
class Told:
    """What the service says of itself in the headers of its answer (``VIBEVOICE_OTEL_RESPONSE_HEADERS``)."""

    trace_id: str | None = None
    parts: tuple[tuple[str, float], ...] = ()  # Server-Timing: name, seconds

    def __str__(self) -> str:
        said = [", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.parts)] if self.parts else []
        return "; ".join([*said, *([f"trace {self.trace_id}"] if self.trace_id else [])])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended for its client. Times in seconds; None is not known, or did not come."""

    status: Status
    first_audio: float | None = None
    audio_seconds: float | None = 0.0  # None where bytes do not tell time
    close_code: int | None = None
    error_type: str | None = None
    worst_gap: float | None = None  # the longest silence that this client heard, playing at once
    audio_bytes: int = 0
    came: str | None = None  # what came back, and what to do about it, where it was no speech
    told: Told | None = None

    def __str__(self) -> str:
        if self.first_audio is None:
            heard = "no audio"
        elif self.audio_seconds is None:
            heard = (
                f"first audio after {self.first_audio:.3f} s, {self.audio_bytes} bytes of a format that does not tell "
                "its time"
            )
        else:
            heard = (
                f"first audio after {self.first_audio:.3f} s, {self.audio_seconds:.1f} s of audio, worst gap "
                f"{self.worst_gap or 0:.3f} s"
            )
        lines = [f"{self.status}: {heard}" + (f" ({self.error_type})" if self.error_type else "")]
        return "; ".join([*lines, *filter(None, [self.came, f"the service says {self.told}" if self.told else None])])


class Hearing:
    """What has been heard so far."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._played = Playback()
        self.first: float | None = None
        self.bytes = 0
        self.rate: int | None = semconv.PCM_BYTES_PER_SECOND  # bytes of a second
        self.told: Told | None = None

    def audio(self, size: int, rate: int | None) -> None:
        """``size`` bytes of audio have come, of which ``rate`` play for a second."""
        if self.first is None:
            self.first = time.perf_counter() - self._began
        self.bytes, self.rate = self.bytes + size, rate
        if rate is not None:
            at = time.perf_counter_ns()
            self._played.play((at, at, size), rate)

    def outcome(
        self, status: Status, error_type: str | None = None, code: int | None = None, came: str | None = None
    ) -> Outcome:
        """The account of a request that ended so."""
        if status is Status.SUCCESS and self.first is None:
            status, error_type = Status.ERROR, ErrorType.NO_AUDIO
        seconds = self.bytes / self.rate if self.rate is not None else None
        gap = self._played.worst_gap if self._played.started else None
        return Outcome(status, self.first, seconds, code, error_type, gap, self.bytes, came, self.told)

    def headers(self, headers: Mapping[str, str]) -> None:
        """Read what the service says of itself."""
        trace = headers.get("traceresponse", "")[:MOST_HEADER].split("-")
        timing = _TIMING.findall(headers.get("server-timing", "")[:MOST_HEADER])
        parts = tuple((name, float(value) / 1000) for name, value in timing if value.count(".") < 2 and value != ".")
        trace_id = trace[1] if len(trace) == 4 and re.fullmatch("[0-9a-f]{32}", trace[1]) else None
        if trace_id is not None or parts:
            self.told = Told(trace_id, parts)


class WebSocketClient:
    """Upstream's demo and what speaks as it does.

    Args:
        address: ws:// or wss://, with any parameters.
    """

    def __init__(self, address: str) -> None:
        self._parts = urlsplit(address)
        self._query = dict(parse_qsl(self._parts.query, keep_blank_values=True))
        self.where = _where(address)

    async def hear(self, hearing: Hearing, text: str, voice: str | None, headers: Mapping[str, str]) -> Outcome:
        from websockets import ConnectionClosed, InvalidStatus  # noqa: PLC0415 - belongs to the service extra
        from websockets.asyncio.client import connect  # noqa: PLC0415

        query = {**self._query, "text": text, **({"voice": voice} if voice else {})}
        address = urlunsplit(self._parts._replace(query=urlencode(query)))
        try:
            async with connect(
                address, additional_headers=headers, max_size=None, open_timeout=None, close_timeout=CLOSING
            ) as stream:
                assert stream.response is not None
                hearing.headers(stream.response.headers)
                try:
                    while True:
                        message = await stream.recv()
                        if isinstance(message, bytes) and message:
                            hearing.audio(len(message), semconv.PCM_BYTES_PER_SECOND)
                        elif isinstance(message, str) and formats.is_audio(message):
                            hearing.audio(len(message), None)
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else None
        except InvalidStatus as refusal:
            return refused(hearing, refusal.response.status_code, refusal.response.headers.get("content-type", ""))
        status, error_type = (Status.ERROR, ErrorType.CLIENT_DISCONNECT) if code is None else of_close(code)
        return hearing.outcome(status, error_type, code)


class HttpClient:
    """OpenAI-compatible servers: a POST, whose body is heard as it comes. A connection for each request.

    Args:
        address: http:// or https://.
        speech: what is asked for beside the text.
    """

    def __init__(self, address: str, speech: Speech) -> None:
        self._parts = urlsplit(address)
        self._speech = speech
        self._tls = ssl.create_default_context() if self._parts.scheme == "https" else None
        self.where = _where(address)

    async def hear(self, hearing: Hearing, text: str, voice: str | None, headers: Mapping[str, str]) -> Outcome:
        import h11  # noqa: PLC0415 - belongs to the service extra

        status, kind, reader = 0, "", None
        try:
            async with aclosing(self._exchange(self._speech.body(text, voice), headers)) as events:
                async for event in events:
                    if isinstance(event, h11.Response):
                        found = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                        status, kind = event.status_code, found.get("content-type", "")
                        hearing.headers(found)
                        if not 200 <= status < 300:
                            return refused(hearing, status, kind)
                        reader = formats.reader(kind)
                    elif isinstance(event, h11.Data) and reader is not None:
                        audio = reader.audio(bytes(event.data))
                        if audio:
                            hearing.audio(audio, reader.bytes_per_second)
        except (h11.RemoteProtocolError, ConnectionError):
            if not status:
                raise
            return hearing.outcome(Status.ERROR, INCOMPLETE, came=f"HTTP {status} ({_plain(kind)}) that broke off")
        if hearing.first is None:
            return hearing.outcome(
                Status.ERROR, ErrorType.NO_AUDIO, came=f"HTTP {status} ({_plain(kind)}) without audio that is known "
                "(WAV, PCM, Ogg, MP3, AAC, FLAC, server-sent events): see --response-format and the address",
            )  # fmt: skip
        return hearing.outcome(Status.SUCCESS)

    async def _exchange(self, body: bytes, headers: Mapping[str, str]) -> AsyncGenerator[Any, None]:
        """The events of one exchange, h11's, as they come."""
        import h11  # noqa: PLC0415

        parts, http = self._parts, h11.Connection(h11.CLIENT)
        port = parts.port or (443 if self._tls else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        own = {
            "host": parts.netloc.rpartition("@")[2], "user-agent": f"vibevoice-otel/{__version__}",
            "accept-encoding": "identity", "content-type": "application/json", "content-length": str(len(body)),
            "connection": "close",
        }  # fmt: skip
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            own["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        own |= {name.lower(): value for name, value in headers.items()}
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=self._tls)
        try:
            request = h11.Request(method="POST", target=target, headers=list(own.items()))
            for part in (request, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(http.send(part) or b"")
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(READ))
                    continue
                if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                    return
                yield event
        finally:
            writer.close()


#: One way to ask a service for speech. ``hear`` raises what the network raises, and the protocol's own exceptions where
#: the service does not keep to it; ``where`` is the address without what it is asked.
Client = WebSocketClient | HttpClient


def client(address: str, speech: Speech | None = None) -> Client:
    """The client for ``address``, by its scheme."""
    if urlsplit(address).scheme in {"ws", "wss"}:
        return WebSocketClient(address)
    return HttpClient(address, speech or Speech())


def refused(hearing: Hearing, status: int, kind: str) -> Outcome:
    """The account of an answer that is no speech: its code, its content type, and what to do."""
    judged, error_type = of_http(status)
    remedy = REMEDIES.get(status, "")
    if judged is Status.SUCCESS:  # a redirect, or no WebSocket
        judged, error_type = Status.ERROR, f"{ErrorType.HTTP}{status}"
        remedy = "it answers HTTP here, or from another address: see the address and its scheme"
    return hearing.outcome(judged, error_type, came=f"HTTP {status} ({_plain(kind)})" + (remedy and f": {remedy}"))


async def speak(by: Client, text: str, voice: str | None, headers: Mapping[str, str], timeout: float) -> Outcome:
    """One request; never raises for what the service or the network does.

    Args:
        by: the client that asks.
        text: what to say.
        voice: None leaves the choice to the service.
        headers: sent along.
        timeout: seconds after which the request has failed.
    """
    hearing = Hearing()
    try:
        return await asyncio.wait_for(by.hear(hearing, text, voice, headers), timeout)
    except (TimeoutError, asyncio.TimeoutError):
        return hearing.outcome(Status.TIMEOUT, "TimeoutError", came=f"no end within {timeout:g} s")
    except Exception as failure:  # noqa: BLE001 - the network's, or a service that breaks its protocol: both are the answer
        protocol = "HTTP" if isinstance(by, HttpClient) else "WebSocket"
        came = f"{by.where} " + ("cannot be reached" if isinstance(failure, OSError) else f"speaks no {protocol}")
        return hearing.outcome(Status.ERROR, type(failure).__name__, came=came)


def _where(address: str) -> str:
    """The address without user, password and query, as it may be told."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _plain(kind: str) -> str:
    """A content type as it may be printed."""
    shown = "".join(each for each in kind[:64] if each.isprintable())
    return shown or "no content type"


# ------------------------------------------------------------------------------------------------------------- options


def url(text: str) -> str:
    """The argument that names a service.

    Raises:
        argparse.ArgumentTypeError: it is no address of one.
    """
    parts = urlsplit(text)
    if parts.scheme not in PATHS or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no ws://, wss://, http:// or https:// address (for example ws://localhost:8000/stream or "
            "http://localhost:8000/v1/audio/speech)"
        )
    return text if parts.path else urlunsplit(parts._replace(path=PATHS[parts.scheme]))


def header(text: str) -> tuple[str, str]:
    """The argument that is a header.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("a header is NAME: VALUE (for example 'Authorization: Bearer TOKEN')")
    return name.strip(), value.strip()


def seconds(low: float, high: float) -> Callable[[str], float]:
    """The argument that is a time; anything but a number from ``low`` to ``high`` is an argparse.ArgumentTypeError."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if low <= float(text) <= high:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: allowed are {low:g} to {high:g} seconds")

    return parse


def template(text: str) -> str:
    """The argument that is the body of a POST, or ``@FILE``.

    Raises:
        argparse.ArgumentTypeError: it is no JSON object, or does not say where the text goes.
    """
    try:
        found = Path(text[1:]).read_text() if text.startswith("@") else text
        shaped = isinstance(json.loads(found), dict)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"the body cannot be read ({error}): allowed is JSON, or @FILE") from None
    if not shaped or "{text}" not in found:
        raise argparse.ArgumentTypeError(f"the body is a JSON object with {{text}} in it (for example {TEMPLATE})")
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """The service's address, and what is asked of it."""
    add, default = parser.add_argument, Speech()
    add("url", type=url, help="the service's stream: ws://host:port/stream with any parameters (?voice=en-Carter_man), "
                              "or http://host:port/v1/audio/speech")  # fmt: skip
    add(
        "--header",
        type=header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent along; may be repeated",
    )
    add("--model", default=default.model, help="over HTTP, the model to ask for (%(default)s)")
    add("--response-format", default=default.response_format, metavar="FORMAT",
        help="over HTTP, the format to ask for (%(default)s, whose header tells how long the audio is)")  # fmt: skip
    add("--body-template", type=template, default=default.template, metavar="JSON",
        help="over HTTP, the body, or @FILE: JSON with {text}, {voice}, {model} and {format} in it")  # fmt: skip


def chosen_client(chosen: argparse.Namespace) -> Client:
    """The client that the options of :func:`add_options` ask for."""
    return client(chosen.url, Speech(chosen.model, chosen.response_format, chosen.body_template))
