"""Protocol Buffers on the wire, as little of it as OTLP spans need. Pure functions from values to bytes.

Written by hand because a whole block of spans is laid out at once: the message classes take one span at a time. Every
function is tested against those classes.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from vibevoice_otel.recording.records import AttributeValue

#: opentelemetry.proto.trace.v1.Span, tag bytes (field number << 3 | wire type).
TRACE_ID, SPAN_ID, TRACE_STATE, PARENT_ID, NAME = b"\x0a\x10", b"\x12\x08", b"\x1a", b"\x22\x08", b"\x2a"
KIND_INTERNAL, START, END, ATTRIBUTE, STATUS = b"\x30\x01", b"\x39", b"\x41", b"\x4a", b"\x7a"
#: Field 16, SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK: the parent is known to be of this process.
FLAGS = b"\x85\x01\x00\x01\x00\x00"
#: ScopeSpans.spans.
SPAN = b"\x12"
STATUS_ERROR = 2


def varint(value: int) -> bytes:
    """A whole number, 7 bits a byte, least first; negatives as 64-bit two's complement (10 bytes)."""
    if value < 0:
        value += 1 << 64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_width(value: int) -> int:
    """Bytes that :func:`varint` takes."""
    return 10 if value < 0 else max(1, (value.bit_length() + 6) // 7)


def delimited(tag: bytes, payload: bytes | bytearray) -> bytes:
    """A length-delimited field."""
    return tag + varint(len(payload)) + payload


def text(value: str) -> bytes:
    """UTF-8. A lone surrogate, which no message class would take, becomes a question mark."""
    return value.encode("utf-8", "replace")


def scalar(value: AttributeValue) -> bytes:
    """An AnyValue's payload. Zero values are written: the field is in a oneof, so their presence says the type."""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return delimited(b"\x0a", text(value))
    if isinstance(value, int):
        return b"\x18" + varint(value)
    return b"\x21" + struct.pack("<d", value)


def attribute_head(key: bytes, value_size: int) -> bytes:
    """All of an attribute before its AnyValue's payload of ``value_size`` bytes."""
    head = delimited(b"\x0a", key) + b"\x12" + varint(value_size)
    return ATTRIBUTE + varint(len(head) + value_size) + head


def attribute(key: str, value: AttributeValue) -> bytes:
    """One whole Span.attributes entry."""
    return _known_attribute(key, value) if isinstance(value, str | bool) else _attribute(key, value)


def _attribute(key: str, value: AttributeValue) -> bytes:
    payload = scalar(value)
    return attribute_head(text(key), len(payload)) + payload


#: Of an operation's words (cache hit, voice) there are few. A true must not be found for a 1.
_known_attribute = lru_cache(1024, typed=True)(_attribute)


@lru_cache(64)
def status(code: int, message: str | None) -> bytes:
    """Span.status; the stock encoder writes the message even when it is empty."""
    inner = delimited(b"\x12", text(message)) if message else b""
    if code:
        inner += b"\x18" + varint(code)
    return delimited(STATUS, inner)
