"""The request's query string: what was asked for, and the same string without the spoken text."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from vibevoice_otel.recording.timeline import Asked

TEXT_PARAMETER = "text"
REDACTED = b"REDACTED"
_TEXT = re.compile(rb"(^|[&;])(text=)[^&;]*", re.IGNORECASE)
#: Longest value of voice, cfg or steps that is kept as asked for; a client decides these.
MAX_ASKED = 64


def redact(query: bytes) -> bytes:
    """The query string with the value of every ``text`` parameter replaced; percent-encoded names are decoded first."""
    if b"%" in query.partition(b"=")[0] or b"%" in b"".join(part.partition(b"=")[0] for part in query.split(b"&")):
        parts = []
        for part in query.split(b"&"):
            name, equals, value = part.partition(b"=")
            plain = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m.group(1), 16)]), name)
            parts.append((b"text" if plain.lower() == b"text" else name) + equals + value)
        query = b"&".join(parts)
    return _TEXT.sub(rb"\1\2" + REDACTED, query)


def asked(query: bytes, *, keep_text: bool) -> Asked:
    """What the client asked for. The text is measured, and kept only with ``keep_text``."""
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True)

    def first(name: str) -> str | None:
        found = values.get(name)
        return found[0][:MAX_ASKED] if found else None

    text = (values.get(TEXT_PARAMETER) or [""])[0]
    return Asked(
        voice=first("voice"), cfg=first("cfg"), steps=first("steps"), text_length=len(text), blank=not text.strip(),
        text=text if keep_text else None,
    )  # fmt: skip
