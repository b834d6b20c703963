"""Which paths are speech requests: the one definition, for opening a request, hiding its query string and adopting its trace."""

from __future__ import annotations

from collections.abc import Iterable


class SpeechRoutes:
    """``path in SpeechRoutes(...)`` says whether a request to ``path`` is for speech.

    A prefix in front of a route (``root_path``, a mount, a proxy's) makes no difference: routes begin with a slash, so ``/tts/stream``
    ends in ``/stream`` and ``/upstream`` does not.

    Args:
        routes: the operator's (``VIBEVOICE_OTEL_ROUTES``), each with a slash in front.
    """

    def __init__(self, routes: Iterable[str]) -> None:
        self._routes = tuple(routes)

    def __contains__(self, path: str) -> bool:
        return path.endswith(self._routes)
