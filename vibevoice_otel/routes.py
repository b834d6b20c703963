"""Which paths are speech requests: the one definition, for opening a request, hiding its query string and adopting its
trace.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)
#: Routes beyond the operator's that have spoken in this process; so many at most, for a path may hold a client's own
#: words.
MAX_LEARNED = 20
_learned: dict[str, _Route] = {}


class SpeechRoutes:
    """``path in SpeechRoutes(...)`` says whether a request to ``path`` is for speech.

    A prefix in front of a route (``root_path``, a mount, a proxy's) makes no difference: routes begin with a slash, so
    ``/tts/stream`` ends in ``/stream`` and ``/upstream`` does not. A route may be written as it is declared:
    ``/rooms/{room}/stream``. Routes that have spoken before belong to all of them (:func:`learn`).

    Args:
        routes: the operator's (``VIBEVOICE_OTEL_ROUTES``), each with a slash in front.
        over_http: whether a learned route has to have spoken over HTTP. One that speaks over WebSockets alone answers
            every plain request with 404, whatever scans the port.
    """

    def __init__(self, routes: Iterable[str], *, over_http: bool = False) -> None:
        routes = tuple(routes)
        self._over_http = over_http
        self._plain = tuple(route for route in routes if "{" not in route)
        self._declared = tuple(_Route(route) for route in routes if "{" in route)

    def __contains__(self, path: str) -> bool:
        learned = (route for route in _learned.values() if route.over_http or not self._over_http)
        return path.endswith(self._plain) or any(route.ends(path) for route in (*self._declared, *learned))


def learn(route: str, *, over_http: bool) -> None:
    """Count ``route`` among the speech routes of this process, for it has just spoken;
    the first time a line says so.
    """
    if route in _learned:
        _learned[route].over_http |= over_http
        return
    if len(_learned) >= MAX_LEARNED:
        return
    _learned[route] = _Route(route, over_http=over_http)
    logger.warning(
        "the route %s speaks and VIBEVOICE_OTEL_ROUTES does not name it: requests that were refused there before now "
        "were not counted, later ones are. Name it in VIBEVOICE_OTEL_ROUTES to count them from the start",
        route,
    )


class _Route:
    """A route as it is declared: each segment with a parameter in braces stands for one segment, ``{name:path}`` for
    any rest.
    """

    def __init__(self, route: str, *, over_http: bool = False) -> None:
        self.over_http = over_http  # it has spoken over HTTP
        segments = route.removeprefix("/").split("/")
        open_ended = [index for index, each in enumerate(segments) if each.endswith(":path}")]
        self._head = segments[: open_ended[0]] if open_ended else None
        self._tail = segments[open_ended[-1] + 1 :] if open_ended else segments

    def ends(self, path: str) -> bool:
        """Whether ``path`` is the route, or ends in it."""
        segments = path.split("/")[1:]
        before = len(segments) - len(self._tail)
        if before < 0 or not _fit(self._tail, segments[before:]):
            return False
        if self._head is None:
            return True
        last = before - 1 - len(self._head)
        return any(_fit(self._head, segments[at : at + len(self._head)]) for at in range(last + 1))


def _fit(declared: Sequence[str], segments: Sequence[str]) -> bool:
    return all(
        segment != "" if "{" in wanted else segment == wanted
        for wanted, segment in zip(declared, segments, strict=True)
    )
