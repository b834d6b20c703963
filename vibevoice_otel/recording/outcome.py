"""How a request ended: one function from facts to (status, error.type), the only place that decides it."""

from __future__ import annotations

from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import ErrorType, Status

#: Exceptions that say the service's own limit on a request's time ran out.
TIMEOUTS = frozenset({"TimeoutError", "Timeout", "CancelledByTimeout"})
#: Exceptions by which servers say that the peer is gone; not failures of the service.
DISCONNECTS = frozenset({"WebSocketDisconnect", "ClientDisconnected", "ClientDisconnect", "ConnectionClosed", "ConnectionClosedError",
                         "ConnectionClosedOK", "BrokenPipeError", "ConnectionResetError", "CancelledError"})  # fmt: skip
#: RFC 6455 section 7.4.1 and the IANA registry: ends that are nobody's failure.
NORMAL_CLOSE = frozenset({1000, 1001, 1005})
#: Closes that refuse a request rather than fail it: unsupported, policy, too big, try again later.
REFUSALS = frozenset({1003, 1008, 1009, 1013})
BUSY_CLOSE = 1013


def decide(timeline: Timeline, frames: int, nan: int, silent: int, *, heard: bool, shutdown: bool = False) -> tuple[Status, str | None]:
    """Status and ``error.type`` of an ended request.

    Args:
        timeline: its facts.
        frames: audio frames that were handed over for delivery.
        nan: how many of them hold a sample that is not a number.
        silent: how many have no sound in them.
        heard: some audio reached the socket or, in a program without one, was made.
        shutdown: the process ends while the request is open.
    """
    if shutdown:
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
        if error in TIMEOUTS:
            return Status.TIMEOUT, error
        if failed_first:
            return Status.ERROR, error
    if left is not None:
        return Status.CANCELLED, None
    if timeline.asked.blank and not worked:
        return Status.REJECTED, ErrorType.EMPTY_TEXT
    if code is not None and code not in NORMAL_CLOSE:
        return Status.ERROR, f"{ErrorType.CLOSE_CODE}{code}"
    if nan:
        return Status.ERROR, ErrorType.NAN_AUDIO
    if frames and silent == frames:
        return Status.ERROR, ErrorType.SILENT_AUDIO
    if not heard:
        return Status.ERROR, ErrorType.NO_AUDIO
    return Status.SUCCESS, None
