"""One request and its answer, whatever the server's interface is: a candidate that the generation linked to it opens.

Nothing is read or sent on our account and no body is kept: what passes is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace

from vibevoice_otel import failures, routes
from vibevoice_otel.failures import P, T
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.candidate import REQUEST, Candidate, arrival
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Asked, Timeline
from vibevoice_otel.routes import SpeechRoutes
from vibevoice_otel.settings import DEFAULT_ROUTES
from vibevoice_otel.web import answers, ends, formats
from vibevoice_otel.web.ends import Message, Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from vibevoice_otel.deferred import DeferredRecorder
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.settings import Settings
    from vibevoice_otel.web.tenants import Tenants

#: Paths that are speech whatever server has them: OpenAI's.
KNOWN = ("/v1/audio/speech",)


def may_be_speech(recorder: Recorder | DeferredRecorder, known: SpeechRoutes, path: str) -> bool:
    """Whether a request to ``path`` may be one of speech: the program has loaded a model's code, or the operator named
    the route.
    """
    if getattr(recorder, "built", recorder) is None:
        return recorder.settings.routes is not DEFAULT_ROUTES and path in known
    return True


def http_routes(settings: Settings) -> SpeechRoutes:
    """The operator's routes, and those that have spoken over HTTP. Upstream's, which is the default, speaks over
    WebSockets.
    """
    return SpeechRoutes(settings.routes if settings.routes is not DEFAULT_ROUTES else (), over_http=True)


class Exchange:
    """One request and its answer: over HTTP, where a subclass does not say otherwise.

    Args:
        scope: the request's; its path, route and headers are read.
        arrived: when it came in.
        recorder: where its timeline is opened, if it is one of speech.
        known: which paths are speech whatever comes of the request.
        tenants: names whose request it is.
    """

    __slots__ = (
        "_arrived",
        "_complete",
        "_context",
        "_error",
        "_known",
        "_left",
        "_reader",
        "_recorder",
        "_scope",
        "_server",
        "_status",
        "_tenants",
        "candidate",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, arrived: int, recorder: Recorder | DeferredRecorder, known: SpeechRoutes, tenants: Tenants
    ) -> None:
        self._scope = scope
        self._arrived = arrived
        self._recorder = recorder
        self._known = known
        self._tenants = tenants
        self._context = otel_context.get_current()
        self._server = trace.get_current_span()
        self._status: int | None = None
        self._reader: formats.Reader | None = None
        self._complete = False
        self._left: int | None = None
        self._error: str | None = None
        self.candidate = Candidate(self._open)

    def _open(self, asked: Asked) -> Timeline | None:
        ends.mark(asked, self._scope)
        timeline = self._recorder.open(
            "web", context=ends.caller(self._scope, self._context), asked=asked, opened=self._arrived
        )
        timeline.byte_rate = None
        timeline.cancelled = self._left
        if not self._is_known():
            routes.learn(self._route(), over_http=True)
        return timeline

    def _route(self) -> str:
        """The route as it is declared (``/speak/{voice}``), else the path."""
        return str(getattr(self._scope.get("route"), "path_format", None) or self._scope["path"])

    def _within(self) -> Context:
        """OpenTelemetry's context of the application's code."""
        # OpenTelemetry's threading instrumentation takes this context into threads and executors, where ours is not.
        return otel_context.set_value(REQUEST, self.candidate, self._context)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """The application's code runs in the block."""
        token, attached = arrival.set(self.candidate), otel_context.attach(self._within())
        try:
            yield
        finally:
            otel_context.detach(attached)
            arrival.reset(token)

    def _answer(self, message: Message) -> Message:
        return self._guard("the headers of an answer", self._with_headers, message) or message

    def _with_headers(self, message: Message) -> Message:
        notes = self.candidate.timeline.notes if self.candidate.timeline is not None else self.candidate.notes
        timed = answers.with_timing(message, notes[:], now() - self._arrived)
        return answers.with_trace(timed, self._server)

    def _begun(self, status: int, content_type: str) -> None:
        """The answer's status and headers are out."""
        self._status = status
        if status < 300:
            self._reader = formats.reader(content_type)

    def _has_left(self) -> None:
        """The listener was seen to have left before the end of the body."""
        self._left = now()
        if self.candidate.timeline is not None:
            self.candidate.timeline.cancelled = self._left

    def _unsent(self, error: BaseException) -> None:
        """A send failed."""
        if self.candidate.timeline is not None:
            ends.unsent(self.candidate.timeline, error)

    def _carried(self, data: bytes, started: int, ended: int) -> None:
        """Body bytes went out: note how many of them are audio, where the format tells."""
        if self._reader is None:
            return
        audio = self._reader.audio(data)
        timeline = self.candidate.timeline
        if timeline is None:
            return
        if audio is None:
            timeline.opaque = True
        elif audio:
            timeline.byte_rate = self._reader.bytes_per_second
            timeline.sent(started, ended, audio)

    def _failed(self, error: BaseException) -> None:
        self._error = type(error).__name__

    def _answered(self, at: int) -> None:
        """The last body message is out: the request has ended, though the application may go on with other work."""
        timeline = self.candidate.end()
        if timeline is None and self._status is not None and self._status >= 400 and self._is_known():
            self.candidate.over = False
            timeline = self.candidate.open()
            self.candidate.end()
        if timeline is None or timeline.web_closed is not None:
            return
        timeline.http_status, timeline.model_ready = self._status, self._recorder.model_ready
        self._over(timeline, at, whole=self._complete)

    def _over(self, timeline: Timeline, at: int, *, whole: bool) -> None:
        """The request has ended; ``whole`` unless a service that stops may have cut it off."""
        timeline.web_closed, timeline.web_error = at, timeline.web_error or self._error
        try:
            timeline.tenant = self._tenants.of(self._scope)
            if timeline in self._recorder:  # else the observation ended before the request did: it is not judged
                timeline.cut_off = self._recorder.closing and not whole
                ends.tell(self._server, timeline)
        finally:
            self._recorder.release(timeline, "web")

    def _is_known(self) -> bool:
        path = self._scope["path"]
        return path.endswith(KNOWN) or path in self._known

    def _end(self) -> None:
        """The application has returned or failed."""
        if not self._complete:
            if self._error is None and self._left is None:
                self._error = outcome.INCOMPLETE
            if self._status is None and self._error is not None:
                self._status = 500  # what the server makes of it
            self._answered(now())

    def _guard(self, where: str, note: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        return failures.attempt(self._recorder.on_drop, where, note, *args, **kwargs)
