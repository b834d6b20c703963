"""HTTP requests that turn out to be speech: a candidate each, opened by the generation that is linked to it.

We call neither ``receive`` nor ``send`` by ourselves and keep no body: messages are looked at as the application takes
and gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace

from vibevoice_otel import failures, routes
from vibevoice_otel.recording import outcome
from vibevoice_otel.recording.candidate import REQUEST, Candidate, arrival
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Asked, Timeline
from vibevoice_otel.web import answers, ends, formats
from vibevoice_otel.web.ends import Message, Receive, Scope, Send

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vibevoice_otel.deferred import DeferredRecorder
    from vibevoice_otel.recording.recorder import Recorder
    from vibevoice_otel.routes import SpeechRoutes
    from vibevoice_otel.web.tenants import Tenants

#: Paths that are speech whatever server has them: OpenAI's.
KNOWN = ("/v1/audio/speech",)


def template(scope: Scope) -> str:
    """The route as it is declared (``/speak/{voice}``), else the path."""
    return str(getattr(scope.get("route"), "path_format", None) or scope["path"])


class Exchange:
    """One HTTP request and its answer.

    Args:
        scope: the request's.
        arrived: when it came in.
        recorder: where its timeline is opened, if it is one of speech.
        known: which paths are speech over HTTP whatever comes of the request.
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

    def _open(self, asked: Asked) -> Timeline:
        ends.mark(asked, self._scope)
        timeline = self._recorder.open(
            "web", context=ends.caller(self._scope, self._context), asked=asked, opened=self._arrived
        )
        timeline.byte_rate = None
        timeline.cancelled = self._left
        if not self._is_known():
            routes.learn(template(self._scope), over_http=True)
        return timeline

    async def serve(self, app: Callable[..., Awaitable[None]], receive: Receive, send: Send) -> None:
        """Run ``app``, which is the request's."""
        token = arrival.set(self.candidate)
        # OpenTelemetry's threading instrumentation takes this context into threads and executors, where ours is not.
        attached = otel_context.attach(otel_context.set_value(REQUEST, self.candidate, self._context))
        try:
            await app(self._scope, self._receiving(receive), self._sending(send))
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            otel_context.detach(attached)
            arrival.reset(token)
            self._guard("the end of a request", self._end)

    def _receiving(self, receive: Receive) -> Receive:
        async def observed() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self._complete and self._left is None:
                self._left = now()
                if self.candidate.timeline is not None:
                    self.candidate.timeline.cancelled = self._left
            return message

        return observed

    def _sending(self, send: Send) -> Send:
        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start" and self._recorder.settings.response_headers:
                message = self._answer(message)
            started = now()
            try:
                await send(message)
            except BaseException as error:
                timeline = self.candidate.timeline
                if timeline is not None:
                    ends.unsent(timeline, error)
                raise
            self._guard("a message to the listener", self._sent, message, started, now())

        return observed

    def _answer(self, message: Message) -> Message:
        try:
            notes = self.candidate.timeline.notes if self.candidate.timeline is not None else self.candidate.notes
            timed = answers.with_timing(message, notes[:], now() - self._arrived)
            return answers.with_trace(timed, self._server)
        except Exception as error:  # noqa: BLE001
            failures.failed(self._recorder.on_drop, "the headers of an answer", error)
            return message

    def _sent(self, message: Message, started: int, ended: int) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._status < 300:
                self._reader = formats.reader(_content_type(message))
        elif message["type"] == "http.response.body":
            data = message.get("body", b"")
            if data and self._reader is not None:
                self._carried(data, started, ended)
            if not message.get("more_body", False):
                self._complete = True
                self._answered(ended)

    def _carried(self, data: bytes, started: int, ended: int) -> None:
        """Body bytes went out: note how many of them are audio, where the format tells."""
        assert self._reader is not None
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
        timeline.http_status, timeline.web_closed = self._status, at
        timeline.tenant = self._tenants.of(self._scope)
        timeline.model_ready = self._recorder.model_ready
        timeline.web_error = timeline.web_error or self._error
        if timeline not in self._recorder:
            return  # the observation ended before the request did: it is not judged
        if self._recorder.closing and not self._complete:
            timeline.cut_off = True
        ends.tell(self._server, timeline)
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

    def _guard(self, where: str, note: Callable[..., None], *args: Any) -> None:
        try:
            note(*args)
        except Exception as error:  # noqa: BLE001 - a request is served whatever telemetry meets
            failures.failed(self._recorder.on_drop, where, error)


def _content_type(message: Message) -> str:
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-type":
            return str(value, "latin-1")
    return ""
