"""When the bytes of an HTTP body carry audio: one small reader for each format, which keeps at most a header.

| Format | Audio begins | Seconds of a byte |
|---|---|---|
| WAV (``audio/wav``, ``RIFF``) | after the header of the ``data`` chunk | told by the ``fmt `` chunk, for PCM |
| raw PCM (``audio/pcm``, ``audio/L16``, ``audio/raw``) | with the first byte | told by ``rate=`` |
| Ogg (``audio/ogg``, ``audio/opus``, ``OggS``) | in the first page past the headers (granule above 0) | unknown |
| MP3 (``audio/mpeg``, ``ID3``) | with the first frame that is no Xing or Info header | unknown |
| AAC (``audio/aac``) | with the first ADTS frame | unknown |
| FLAC (``audio/flac``, ``fLaC``) | after the last metadata block | unknown |
| server-sent events (``text/event-stream``) | in the first event with a non-empty audio value | unknown |
| JSON over a WebSocket | in the first message with a non-empty audio value | unknown |

Any other format is unknown, and so is when its first audio leaves.
"""

from __future__ import annotations

import re
import struct

#: A header that is longer is not waited for: the format counts as unknown from there on.
MOST_HEADER = 1 << 20
#: An event of base64 audio, by the names of OpenAI's ``speech.audio.delta`` and of servers like it. Under the names
#: that words have too (a transcript's ``delta``) it is told by its length: no word has so many letters.
_EVENT_AUDIO = (
    r'"(?:audio|audio_chunk|audio_data)"\s*:\s*"[A-Za-z0-9+/]{4}'
    r'|"(?:delta|chunk|data|payload)"\s*:\s*"[A-Za-z0-9+/]{64}'
)
_IN_BYTES, _IN_TEXT = re.compile(_EVENT_AUDIO.encode()), re.compile(_EVENT_AUDIO)
#: Bytes of an event that may have begun in the message before.
_EVENT_BEGINS = 128
_RATE = re.compile(r"rate\s*=\s*(\d{4,6})")
#: Bytes of a sample of 16 bits, one channel.
PCM16 = 2


class Reader:
    """Reads a body as it passes. This one is for bytes of which nothing is known."""

    #: Bytes that play for a second, once known; None where bytes do not tell time.
    bytes_per_second: int | None = None

    def audio(self, data: bytes) -> int | None:  # noqa: ARG002 - what knows a format reads them
        """How many bytes of ``data`` are audio, headers left out; None where that cannot be known."""
        return None


class Raw(Reader):
    """Every byte is audio."""

    def __init__(self, bytes_per_second: int | None = None) -> None:
        self.bytes_per_second = bytes_per_second

    def audio(self, data: bytes) -> int | None:
        return len(data)


class _Headed(Reader):
    """A format with a header: gathers it, then every byte is audio."""

    _at = 0  # the header has been read up to here: no chunk has it read from its beginning

    def __init__(self) -> None:
        self._head = bytearray()
        self._begun = False
        self._lost = False

    def audio(self, data: bytes) -> int | None:
        if self._begun:
            return len(data)
        if self._lost:
            return None
        self._head += data
        begins = self.begins(self._head)
        audio = 0 if begins is None else len(self._head) - begins
        if audio > 0:
            self._begun = True
        elif len(self._head) <= MOST_HEADER:
            return 0
        else:
            self._lost = True
        self._head.clear()
        return min(audio, len(data)) if self._begun else None

    def begins(self, head: bytearray) -> int | None:
        """Where the audio begins, from all that has come so far; None while that is not known."""
        raise NotImplementedError


class Wav(_Headed):
    _at = 12

    def begins(self, head: bytearray) -> int | None:
        while len(head) >= self._at + 8:
            name, size = struct.unpack_from("<4sI", head, self._at)
            if name == b"data":
                return self._at + 8
            if name == b"fmt ":
                if len(head) < self._at + 24:
                    return None
                self.bytes_per_second = int(struct.unpack_from("<I", head, self._at + 16)[0]) or None
            self._at += 8 + size + size % 2
        return None


class Ogg(_Headed):
    def begins(self, head: bytearray) -> int | None:
        while len(head) >= self._at + 27 and head[self._at : self._at + 4] == b"OggS":
            granule, segments = struct.unpack_from("<q", head, self._at + 6)[0], head[self._at + 26]
            body = self._at + 27 + segments
            if len(head) < body:
                return None
            if granule > 0:
                return body
            self._at = body + sum(head[self._at + 27 : body])
        return None


_MPEG1, _MPEG2 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320), (
    0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160,
)  # fmt: skip
_RATES = (44_100, 48_000, 32_000)


class Mp3(_Headed):
    def begins(self, head: bytearray) -> int | None:
        if not self._at and head[:3] == b"ID3"[: len(head)]:
            if len(head) < 10:
                return None
            self._at = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        while len(head) >= self._at + 4:
            length = _frame_length(head, self._at)
            if length is None:
                self._at += 1
                continue
            start = head[self._at : self._at + 64]
            if len(start) < min(length, 64):
                return None
            if b"Xing" not in start and b"Info" not in start:
                return self._at
            self._at += length  # tells the length and the encoder; no sound
        return None


def _frame_length(head: bytearray, at: int) -> int | None:
    """Bytes of the MPEG layer III frame at ``at``; None where there is none."""
    if head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = head[at + 1] >> 3 & 3, head[at + 1] >> 1 & 3
    bitrate, rate, padding = head[at + 2] >> 4, head[at + 2] >> 2 & 3, head[at + 2] >> 1 & 1
    if version == 1 or layer != 1 or not 0 < bitrate < 15 or rate == 3:
        return None
    first = version == 3
    hertz = _RATES[rate] // (1 if first else 2 if version == 2 else 4)
    return (144 if first else 72) * 1000 * (_MPEG1 if first else _MPEG2)[bitrate] // hertz + padding


class Aac(_Headed):
    def begins(self, head: bytearray) -> int | None:
        while 0 <= (at := head.find(b"\xff", self._at)) < len(head) - 1:
            if head[at + 1] & 0xF6 == 0xF0:
                return at
            self._at = at + 1
        self._at = len(head) if at < 0 else at
        return None


class Flac(_Headed):
    _at = 4
    _last = False

    def begins(self, head: bytearray) -> int | None:
        while not self._last:
            if len(head) < self._at + 4:
                return None
            self._last = bool(head[self._at] & 0x80)
            self._at += 4 + int.from_bytes(head[self._at + 1 : self._at + 4], "big")
        return self._at


class Events(Reader):
    """Server-sent events: what is counted is the message that holds an event with audio in it."""

    def __init__(self) -> None:
        self._tail = b""

    def audio(self, data: bytes) -> int | None:
        text, self._tail = self._tail + data, data[-_EVENT_BEGINS:]
        return len(data) if _IN_BYTES.search(text) else 0


def is_audio(text: str) -> bool:
    """Whether a WebSocket's text message is an event with audio in it."""
    return _IN_TEXT.search(text) is not None


_BY_TYPE: dict[str, type[_Headed]] = {
    "audio/wav": Wav, "audio/x-wav": Wav, "audio/wave": Wav, "audio/vnd.wave": Wav, "audio/ogg": Ogg, "audio/opus": Ogg,
    "application/ogg": Ogg, "audio/mpeg": Mp3, "audio/mp3": Mp3, "audio/aac": Aac, "audio/flac": Flac,
    "audio/x-flac": Flac,
}  # fmt: skip
_RAW = frozenset({"audio/pcm", "audio/l16", "audio/raw", "audio/x-raw"})
_BY_MAGIC: tuple[tuple[bytes, type[Reader]], ...] = (
    (b"RIFF", Wav), (b"OggS", Ogg), (b"ID3", Mp3), (b"fLaC", Flac),
)  # fmt: skip


class ByMagic(Reader):
    """A body without a telling type: its first bytes name the format."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._first = b""

    def audio(self, data: bytes) -> int | None:
        if self._reader is None:
            self._first += data
            if len(self._first) < 4:
                return 0
            kind = next((kind for magic, kind in _BY_MAGIC if self._first.startswith(magic)), Reader)
            self._reader = kind()
            data, self._first = self._first, b""
        audio = self._reader.audio(data)
        self.bytes_per_second = self._reader.bytes_per_second
        return audio


def reader(content_type: str) -> Reader:
    """The reader of a body whose Content-Type is ``content_type``."""
    kind, _, parameters = content_type.lower().partition(";")
    kind = kind.strip()
    if kind in _RAW:
        rate = _RATE.search(parameters)
        return Raw(int(rate[1]) * PCM16 if rate else None)
    if kind == "text/event-stream":
        return Events()
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]()
    if kind.startswith(("text/", "application/json", "multipart/")):
        return Reader()
    return ByMagic()
