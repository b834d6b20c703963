"""When bytes of a body carry audio, for each format, however the body is cut into messages."""

from __future__ import annotations

import struct
import sys
from types import FrameType
from typing import Any

import pytest

from vibevoice_otel.web import formats

SOUND = bytes(range(1, 200)) * 3
LIST = b"LIST" + struct.pack("<I", 5) + b"hello\0"
FORMAT = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24_000, 48_000, 2, 16)
WAV = b"RIFF\xff\xff\xff\xffWAVE" + FORMAT + LIST + b"data\xff\xff\xff\xff"


def _page(granule: int, body: bytes) -> bytes:
    return b"OggS\0\0" + struct.pack("<qIII", granule, 7, 0, 0) + bytes([1, len(body)]) + body


OGG = _page(0, b"OpusHead") + _page(-1, b"OpusTags part") + _page(0, b"of them")
OGG_AUDIO = _page(960, SOUND[:100])[:28]  # the audio page's own header is no audio
FRAME = b"\xff\xfb\x90\x00"  # MPEG 1, layer III, 128 kbit/s, 44.1 kHz: 417 bytes
XING = FRAME + bytes(32) + b"Xing" + bytes(417 - 40)
ID3 = b"ID3\x04\0\0" + bytes([0, 0, 0, 20]) + bytes(20)
FLAC = b"fLaC" + b"\0\0\0\x22" + bytes(34) + b"\x84\0\0\4" + bytes(4)
EVENT = b'data: {"type": "speech.audio.delta", "audio": "'

HEADS = {
    "audio/wav": WAV, "audio/ogg": OGG + OGG_AUDIO, "audio/mpeg": ID3 + XING, "audio/flac": FLAC, "audio/aac": b"",
    "application/octet-stream": WAV,
}  # fmt: skip
BODIES = {**dict.fromkeys(HEADS, SOUND), "audio/mpeg": FRAME + bytes(413), "audio/aac": b"\xff\xf1\x50\x80" + SOUND}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_the_header_is_no_audio(kind: str, size: int) -> None:
    """Every byte behind the header is counted, none of it, whatever the messages' sizes (a look-ahead may join
    a few).
    """
    reader, whole, audio, first = formats.reader(kind), HEADS[kind] + BODIES[kind], 0, None
    for at in range(0, len(whole), size):
        found = reader.audio(whole[at : at + size])
        assert found is not None
        audio += found
        if found and first is None:
            first = at + size
    assert first is not None
    assert first > len(HEADS[kind])
    assert len(BODIES[kind]) - 64 <= audio <= len(BODIES[kind])


def test_a_wavs_rate_is_its_own() -> None:
    """48,000 bytes a second, as its fmt chunk says."""
    reader = formats.reader("audio/wav")
    assert reader.audio(WAV) == 0
    assert reader.audio(b"ab") == 2
    assert reader.bytes_per_second == 48_000


def test_raw_pcm_plays_by_its_rate_if_that_is_told() -> None:
    """audio/L16 has a rate parameter; without one bytes tell no time."""
    assert formats.reader("audio/L16; rate=16000; channels=1").bytes_per_second == 32_000
    assert formats.reader("audio/pcm").bytes_per_second is None
    assert formats.reader("audio/pcm").audio(b"abc") == 3


def test_an_event_without_audio_is_none() -> None:
    """The first event that holds audio is the first audio, also where its name and its value come in two messages."""
    reader = formats.reader("text/event-stream")
    assert reader.audio(b'data: {"type": "start", "audio": ""}\n\n') == 0
    assert reader.audio(EVENT) == 0
    assert reader.audio(b'QUJDRA=="}\n\n')


def test_a_transcript_s_delta_is_no_audio() -> None:
    """Under a name that words have too, audio is told by its length: OpenAI's transcript and its audio are both a
    ``delta``.
    """
    words = '{"type": "response.output_audio_transcript.delta", "delta": "Hello my good people"}'
    sound = '{"type": "response.output_audio.delta", "delta": "' + "QUJD" * 400 + '"}'
    assert (formats.is_audio(words), formats.is_audio(sound)) == (False, True)
    reader = formats.reader("text/event-stream")
    assert reader.audio(f"data: {words}\n\n".encode()) == 0
    assert reader.audio(f"data: {sound}\n\n".encode())


@pytest.mark.parametrize("kind", ["application/json", "text/html", "audio/x-strange", "", "multipart/mixed"])
def test_an_unknown_format_says_nothing(kind: str) -> None:
    """No guess: when its audio leaves is not told."""
    assert formats.reader(kind).audio(b"whatever it may be") is None


def test_a_header_without_end_is_not_kept() -> None:
    """A body that never gets to its audio costs a bounded header."""
    reader = formats.reader("audio/wav")
    chunk = bytes(1 << 16)
    answers = {reader.audio(chunk) for _ in range(40)}
    assert answers == {0, None}


def test_an_announced_header_that_is_too_long_is_not_kept() -> None:
    """A FLAC picture of 15 MB is no audio yet, and is not gathered to its end either."""
    reader = formats.reader("audio/flac")
    assert reader.audio(b"fLaC\x86\xe4\xe1\xc0") == 0
    assert {reader.audio(bytes(1 << 16)) for _ in range(40)} == {0, None}


def _lines(kind: str, chunks: list[bytes]) -> int:
    """Lines of formats.py that are run while a reader is given ``chunks``."""
    reader, ran = formats.reader(kind), 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal ran
        ran += event == "line"
        return trace if frame.f_code.co_filename == formats.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for chunk in chunks:
            assert reader.audio(chunk) == 0
    finally:
        sys.settrace(before)
    return ran


@pytest.mark.parametrize(
    ("kind", "first", "again"),
    [
        ("audio/wav", b"RIFF\xff\xff\xff\xffWAVE", b"LIST" + struct.pack("<I", 4) + bytes(4)),
        ("audio/ogg", b"", _page(0, b"OpusTags part")),
        ("audio/mpeg", ID3, bytes(8)),
        ("audio/flac", b"fLaC", b"\0\0\0\4" + bytes(4)),
        ("audio/aac", b"", b"\xff\0"),
    ],
)
def test_a_header_is_read_once(kind: str, first: bytes, again: bytes) -> None:
    """A header in many messages costs its length: none of them has it read again from its beginning."""
    fewer, more = (_lines(kind, [first, *[again] * count]) for count in (200, 400))
    assert more < 2.1 * fewer
