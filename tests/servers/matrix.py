"""The shapes as their clients see them: how each is asked, and where the sound is in what comes back."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .client import Answer, ask, converse

SPEECH = "/v1/audio/speech"
FORM = "application/x-www-form-urlencoded"
WAV_HEADER = 44
_IN_JSON = re.compile(rb'"(?:audio_chunk|delta)": ?"([A-Za-z0-9+/=]{64,})"')


@dataclass(frozen=True)
class Shape:
    """One way to be asked for speech.

    Args:
        name: of the way.
        module: the server in ``shapes``.
        ask: (port, text, voice, bytes after which to hang up) to the answer.
        begins: where in a body the sound begins.
        audio: bytes of sound in a body, of 16 bit.
        rate: samples a second that the listener plays.
    """

    name: str
    module: str
    ask: Callable[[int, str, str, int | None], Awaitable[Answer]]
    begins: Callable[[bytes], int]
    audio: Callable[[bytes], int]
    rate: int = 24_000

    def seconds(self, answer: Answer) -> float:
        """Of sound in ``answer``."""
        return self.audio(answer.body) / 2 / self.rate


def _speech(port: int, text: str, voice: str, leave_after: int | None) -> Awaitable[Answer]:
    return ask(port, SPEECH, json.dumps({"input": text, "voice": voice}).encode(), leave_after=leave_after)


def _form(port: int, text: str, voice: str, leave_after: int | None) -> Awaitable[Answer]:
    return ask(port, f"/speak/{voice}", urllib.parse.urlencode({"text": text}).encode(), FORM, leave_after=leave_after)


def _stream(port: int, text: str, voice: str, leave_after: int | None) -> Awaitable[Answer]:
    query = urllib.parse.urlencode({"text": text, "voice": voice})
    return converse(port, f"/stream?{query}", leave_after=leave_after)


def _events(port: int, text: str, voice: str, leave_after: int | None) -> Awaitable[Answer]:
    wish = json.dumps({"text": text, "voice": voice}).encode()
    return ask(port, "/v1/vibevoice/generate", wish, leave_after=leave_after)


def _realtime(port: int, text: str, voice: str, leave_after: int | None) -> Awaitable[Answer]:
    wish = json.dumps({"text": text, "voice": voice})
    return converse(port, "/v1/realtime", wish, leave_after=leave_after, kind=str)


def _of_wav(body: bytes) -> int:
    return len(body) - WAV_HEADER


def _in_json(body: bytes) -> int:
    return sum(len(base64.b64decode(each)) for each in _IN_JSON.findall(body))


def _json_begins(body: bytes) -> int:
    found = _IN_JSON.search(body)
    assert found is not None
    return found.start(1)


def _first_wav(_: bytes) -> int:
    return WAV_HEADER


def _first(_: bytes) -> int:
    return 0


SHAPES = {
    each.name: each
    for each in (
        Shape("threads", "openai_threads", _speech, _first_wav, _of_wav),
        Shape("collected", "openai_collected", _speech, _first_wav, _of_wav),
        Shape("queue", "queue_worker", _form, _first, len),
        Shape("sentences", "sentences", _stream, _first, len, 48_000),
        Shape("sentences-collected", "sentences", _speech, _first_wav, _of_wav, 48_000),
        Shape("events", "realtime_events", _events, _json_begins, _in_json),
        Shape("realtime", "realtime_events", _realtime, _json_begins, _in_json),
    )
}
