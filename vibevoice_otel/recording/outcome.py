"""How a request ended: one function from facts to (status, error.type), the only place that decides it."""

from __future__ import annotations

from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import ErrorType, Status

#: Exceptions that say the service's own limit on a request's time ran out.
TIMEOUTS = frozenset({"TimeoutError", "Timeout", "CancelledByTimeout"})
#: Exceptions by which servers say that the peer is gone; not failures of the service.
DISCONNECTS = frozenset({"WebSocketDisconnect", "ClientDisconnected", "ClientDisconnect", "ConnectionClosed", "ConnectionClosedError",
                         "ConnectionClosedOK", "BrokenPipeError", "ConnectionResetError"})  # fmt: skip
#: The one of them that stands for a send that failed because the peer had gone, whatever the server raised.
PEER_GONE = "ClientDisconnected"
#: Raised into a task that is cancelled: because the listener left, but also by a timeout around it, or by the service as it stops.
CANCELLED = "CancelledError"
#: RFC 6455 section 7.4.1 and the IANA registry: ends that are nobody's failure.
NORMAL_CLOSE = frozenset({1000, 1001, 1005})
#: Closes that refuse a request rather than fail it: unsupported, policy, too big, try again later.
REFUSALS = frozenset({1003, 1008, 1009, 1013})
BUSY_CLOSE = 1013


def peer_gone(error: BaseException) -> bool:
    """Whether ``error``, which a send raised, says that the peer has gone: an OSError (ASGI's word for it) or a server's own name for it.

    A TimeoutError without an errno is not the socket's: some limit on the send ran out.
    """
    if isinstance(error, TimeoutError) and error.errno is None:
        return False
    return isinstance(error, OSError) or type(error).__name__ in DISCONNECTS


def decide(timeline: Timeline, *, shutdown: bool = False) -> tuple[Status, str | None]:
    """Status and ``error.type`` of a request that has ended; ``shutdown`` when the process ends while it is open."""
    if shutdown or timeline.cut_off:
        return Status.ERROR, ErrorType.SHUTDOWN
    worked = timeline.generate_start is not None
    code = timeline.close_code if timeline.service_closed is not None else None
    if not worked and code in REFUSALS:
        return Status.REJECTED, ErrorType.BUSY if code == BUSY_CLOSE else f"{ErrorType.CLOSE_CODE}{code}"
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
    if timeline.asked.blank and not worked and timeline.first_send is None:
        return Status.REJECTED, ErrorType.EMPTY_TEXT
    if code is not None and code not in NORMAL_CLOSE:
        return Status.ERROR, f"{ErrorType.CLOSE_CODE}{code}"
    if timeline.nan:
        return Status.ERROR, ErrorType.NAN_AUDIO
    if timeline.delivered and timeline.silent == timeline.delivered:
        return Status.ERROR, ErrorType.SILENT_AUDIO
    served = timeline.web_closed is not None or timeline.accepted is not None
    if timeline.first_send is None and (
        served or not (timeline.delivered or any(run.frames or run.steps for run in timeline.runs))
    ):
        return Status.ERROR, ErrorType.NO_AUDIO
    return Status.SUCCESS, None


def _complete(timeline: Timeline, left: int) -> bool:
    """Whether the listener had everything when he left: some clients close first once the audio has ended."""
    return timeline.work_end is not None and timeline.work_end <= left and timeline.first_send is not None


#: Ends that are the service's failure; a listener who leaves, or a refusal of nothing to say, is not.
FAILED = frozenset({Status.ERROR, Status.TIMEOUT})


def failed(status: Status | None, error_type: str | None) -> bool:
    """Whether the span of such an end has status ERROR (a busy rejection is a 503 in HTTP's terms, so it has)."""
    return status in FAILED or error_type == ErrorType.BUSY
