"""How a request ended: one function from facts to (status, error.type), the only place that decides it."""

from __future__ import annotations

from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import ErrorType, Status

#: Exceptions that say the service's own limit on a request's time ran out.
TIMEOUTS = frozenset({"TimeoutError", "Timeout", "CancelledByTimeout"})
#: Exceptions by which servers say that the peer is gone; not failures of the service.
DISCONNECTS = frozenset(
    {
        "WebSocketDisconnect",
        "ClientDisconnected",
        "ClientDisconnect",
        "ConnectionClosed",
        "ConnectionClosedError",
        "ConnectionClosedOK",
        "BrokenPipeError",
        "ConnectionResetError",
    }
)
#: The one of them that stands for a send that failed because the peer had gone, whatever the server raised.
PEER_GONE = "ClientDisconnected"
#: Raised into a task that is cancelled: because the listener left, but also by a timeout around it, or by the service
#: as it stops.
CANCELLED = "CancelledError"
#: The application returned before it had sent the last of its body.
INCOMPLETE = "incomplete_response"
#: Ends of a WebSocket that are no failure: RFC 6455 section 7.4.1 and the IANA registry.
NORMAL_CLOSE = frozenset({1000, 1001, 1005})
_BUSY = (Status.REJECTED, ErrorType.BUSY)
#: What a code means where nothing had been generated, if it is not what the rest of its kind means: HTTP's (RFC 9110;
#: 499 is nginx's; 503 is a service at its limit, without a model it is an error: decide) ...
HTTP: dict[int, tuple[Status, str | None]] = {
    429: _BUSY, 499: (Status.CANCELLED, None), 503: _BUSY, 504: (Status.TIMEOUT, f"{ErrorType.HTTP}504"),
}  # fmt: skip
#: ... and a WebSocket's close codes (IANA's registry; 44xx are those by which services stand for HTTP's).
CLOSES: dict[int, tuple[Status, str | None]] = {
    **dict.fromkeys(NORMAL_CLOSE, (Status.SUCCESS, None)),
    **{code: (Status.REJECTED, f"{ErrorType.CLOSE_CODE}{code}") for code in (1003, 1008, 1009, 3000, 3003, 4401, 4403)},
    **dict.fromkeys((1013, 4429), _BUSY),
}


def of_http(code: int) -> tuple[Status, str | None]:
    """Status and ``error.type`` of an answer with ``code`` before any work; below 400 it is a success."""
    if code < 400:
        return Status.SUCCESS, None
    return HTTP.get(code) or (Status.REJECTED if code < 500 else Status.ERROR, f"{ErrorType.HTTP}{code}")


def of_close(code: int) -> tuple[Status, str | None]:
    """Status and ``error.type`` of a WebSocket that the service closed with ``code`` before any work."""
    return CLOSES.get(code) or (Status.ERROR, f"{ErrorType.CLOSE_CODE}{code}")


def peer_gone(error: BaseException) -> bool:
    """Whether ``error``, which a send raised, says that the peer has gone: an OSError (ASGI's word for it) or a
    server's own name for it.

    A TimeoutError without an errno is not the socket's: some limit on the send ran out.
    """
    if isinstance(error, TimeoutError) and error.errno is None:
        return False
    return isinstance(error, OSError) or type(error).__name__ in DISCONNECTS


def decide(timeline: Timeline, *, shutdown: bool = False) -> tuple[Status, str | None]:
    """Status and ``error.type`` of a request that has ended; ``shutdown`` when the process ends while it is open."""
    if shutdown or timeline.cut_off:
        return Status.ERROR, ErrorType.SHUTDOWN
    worked = bool(timeline.started)
    code = timeline.close_code if timeline.service_closed is not None else None
    refused = _refused(timeline, code)
    if not worked and refused is not None and refused[0] in {Status.REJECTED, Status.CANCELLED}:
        return refused
    left = timeline.cancelled
    failed_first = left is None or (timeline.generate_end is not None and timeline.generate_end < left)
    for error in (timeline.generate_error, timeline.work_error, timeline.web_error):
        if error is None or error in DISCONNECTS:
            continue
        if error == CANCELLED and (left is not None or timeline.service_closed is not None):
            continue
        if error in TIMEOUTS:
            return Status.TIMEOUT, error
        if failed_first:
            return Status.ERROR, error
    if left is not None and not _complete(timeline, left):
        return Status.CANCELLED, None
    if refused is not None:  # after work, a refusal is a failure
        status, error = refused
        return (Status.ERROR if status is Status.REJECTED else status), error
    if timeline.asked.blank and not worked and timeline.first_send is None:
        return Status.REJECTED, ErrorType.EMPTY_TEXT
    if timeline.nan:
        return Status.ERROR, ErrorType.NAN_AUDIO
    if timeline.delivered and timeline.silent == timeline.delivered:
        return Status.ERROR, ErrorType.SILENT_AUDIO
    served = (timeline.web_closed is not None or timeline.accepted is not None) and not timeline.opaque
    if timeline.first_send is None and (
        served or not (timeline.delivered or any(run.frames or run.steps for run in timeline.runs))
    ):
        return Status.ERROR, ErrorType.NO_AUDIO
    return Status.SUCCESS, None


def _refused(timeline: Timeline, code: int | None) -> tuple[Status, str | None] | None:
    """What the service's close ``code``, or its HTTP status, says where that is no success."""
    if timeline.http_status is not None:
        status, error = of_http(timeline.http_status)
        if timeline.http_status == 503 and (not timeline.model_ready or timeline.web_error is not None):
            status, error = Status.ERROR, f"{ErrorType.HTTP}503"
    elif code is not None:
        status, error = of_close(code)
    else:
        return None
    return None if status is Status.SUCCESS else (status, error)


def _complete(timeline: Timeline, left: int) -> bool:
    """Whether the listener had everything when he left: some clients close first once the audio has ended."""
    return timeline.work_end is not None and timeline.work_end <= left and timeline.first_send is not None


#: Ends that are the service's failure; a listener who leaves, or a refusal of nothing to say, is not.
FAILED = frozenset({Status.ERROR, Status.TIMEOUT})


def failed(status: Status | None, error_type: str | None) -> bool:
    """Whether the span of such an end has status ERROR (a busy rejection is a 503 in HTTP's terms, so it has)."""
    return status in FAILED or error_type == ErrorType.BUSY
