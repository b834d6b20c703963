"""The request's query string: what was asked for, and the same string without the spoken text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import parse_qs, unquote_plus

from vibevoice_otel.recording.timeline import Asked
from vibevoice_otel.routes import SpeechRoutes

TEXT_PARAMETER = "text"
REDACTED = b"REDACTED"
_TEXT = re.compile(rb"(^|[&;])(text=)[^&]*", re.IGNORECASE)
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
#: A value of cfg or steps that is a number, and so tells nothing else.
_NUMBER = re.compile(rb"[+-]?[0-9.]{1,12}([eE][+-]?[0-9]{1,3})?|nan|[+-]?inf", re.IGNORECASE)
#: Longest value of voice, cfg or steps that is kept as asked for; a client decides these.
MAX_ASKED = 64


def redact(query: bytes) -> bytes:
    """The query string with the value of every ``text`` parameter replaced; percent-encoded names are decoded first."""
    if b"%" in query:
        parts = (part.partition(b"=") for part in query.split(b"&"))
        query = b"&".join(
            (b"text" if b"%" in name and _plain(name) == b"text" else name) + equals + value
            for name, equals, value in parts
        )
    return _TEXT.sub(rb"\1\2" + REDACTED, query)


def _plain(name: bytes) -> bytes:
    """``name`` decoded, in lower case."""
    return _ESCAPE.sub(lambda found: bytes([int(found.group(1), 16)]), name).lower()


class Redactor:
    """Query strings as they may be told.

    On the speech routes only what is known to be harmless stays: numbers for cfg and steps, voices that the service
    has. Whatever else a client sends there, under whatever name, may be what it wants spoken. Elsewhere only ``text``
    is hidden.

    Args:
        routes: paths of speech requests.
        known_voice: whether the service has a voice of this name.
    """

    def __init__(self, routes: Iterable[str], known_voice: Callable[[str], bool]) -> None:
        self._routes = SpeechRoutes(routes)
        self._known_voice = known_voice

    def query(self, path: str, query: bytes) -> bytes:
        """``query`` of a request to ``path``, without what may not be told."""
        if not query or path not in self._routes:
            return redact(query)
        return b"&".join(self._part(*part.partition(b"=")) for part in query.split(b"&"))

    def _part(self, name: bytes, equals: bytes, value: bytes) -> bytes:
        plain = _plain(name)
        if plain in {b"cfg", b"steps"}:
            return plain + equals + (value if not value or _NUMBER.fullmatch(value) else REDACTED)
        if plain == b"voice":
            known = not value or self._known_voice(unquote_plus(value.decode("latin-1"), errors="replace"))
            return plain + equals + (value if known else REDACTED)
        return b"text=" + REDACTED if plain == b"text" else REDACTED


def asked(query: bytes, *, keep_text: bool) -> Asked:
    """What the client asked for in the URL. A text there is measured, and kept only with ``keep_text``."""
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True)

    def first(name: str) -> str | None:
        found = values.get(name)
        return found[0][:MAX_ASKED] if found else None

    text = values.get(TEXT_PARAMETER, [None])[0]
    return Asked(
        voice=first("voice"), cfg=first("cfg"), steps=first("steps"), text_length=None if text is None else len(text),
        blank=not (text or "").strip(), text=text if keep_text else None, by_url=text is not None,
    )  # fmt: skip
