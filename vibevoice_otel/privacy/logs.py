"""Access logs without the spoken text: servers print the whole URL of a request, and the text is in its query."""

from __future__ import annotations

import copy
import functools
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from vibevoice_otel.hooks.hooks import Hooks

#: Loggers on which uvicorn (the opening and the refusal of a WebSocket are on its error log), gunicorn, hypercorn and
#: werkzeug print URLs.
LOGGERS = ("uvicorn.access", "uvicorn.error", "gunicorn.access", "hypercorn.access", "werkzeug")
#: A path and its query string as they stand in a log line: up to white space or a quotation mark, which a URL cannot
#: have. A path is tried from its first character alone: tried from each of them, a long line without a query string
#: would cost the square of its length.
_URL = re.compile(r"(?<![^\s\"'<>?])([^\s\"'<>?]*)\?([^\s\"<>]+)")
#: gunicorn's atoms that hold a bare query string.
_BARE = ("q",)


class HideQuery(logging.Filter):
    """Hides, in every text that a record is made from, what ``redact`` hides in a query string.

    Args:
        redact: a path and its query string to the query string without what may not be told.
    """

    def __init__(self, redact: Callable[[str, bytes], bytes]) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            self._clean(record)
        except Exception:  # noqa: BLE001 - a line that cannot be cleaned is not printed with what it may hold
            record.msg, record.args = "a log line that could not be cleaned of the spoken text was left out", ()
        return True

    def _clean(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, str):
            record.msg = self._text(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(self._text(each) if isinstance(each, str) else each for each in record.args)
        elif isinstance(record.args, Mapping):
            record.args = self._atoms(record.args)

    def _atoms(self, atoms: Mapping[str, object]) -> Mapping[str, object]:
        cleaned: Any = copy.copy(atoms)
        for key, value in atoms.items():
            if isinstance(value, str):
                path = str(atoms.get("U") or "")
                cleaned[key] = self._query(path, value) if key in _BARE else self._text(value)
        return cleaned  # type: ignore[no-any-return]

    def _text(self, text: str) -> str:
        return _URL.sub(lambda found: f"{found[1]}?{self._query(found[1], found[2])}", text) if "?" in text else text

    def _query(self, path: str, query: str) -> str:
        return self._redact(path, query.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def attach(hooks: Hooks, redact: Callable[[str, bytes], bytes]) -> None:
    """Put :class:`HideQuery` on the servers' loggers, whether they are there already or not (a filter outlives their
    configuration).
    """
    hiding = HideQuery(redact)
    for logger in map(logging.getLogger, LOGGERS):
        logger.addFilter(hiding)
        hooks.on_undo(functools.partial(logger.removeFilter, hiding))


class FallbackHandler(logging.Handler):
    """Writes our warnings to stderr when no other handler would.

    Python prints warnings of a program that has configured no logging. The launcher's log handler on the root ends
    that, though it only exports: an error that names a wrong setting would not be seen.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if logging.lastResort is not None and not self._printed(record):
            logging.lastResort.handle(record)

    def _printed(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(each is not self and type(each).__name__ != "LoggingHandler" for each in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


def install_fallback() -> Callable[[], None]:
    """Put :class:`FallbackHandler` on our own logger; returns what takes it off."""
    own, handler = logging.getLogger("vibevoice_otel"), FallbackHandler()
    own.addHandler(handler)
    return lambda: own.removeHandler(handler)
