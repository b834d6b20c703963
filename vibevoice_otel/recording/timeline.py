"""The hot path: what the observed threads write down while they work, and nothing more.

A Timeline is one request. Its columns are plain lists, each appended to by one thread only; ``list.append`` is atomic,
so no lock is taken. A diffusion step costs one clock read and one append. Nothing here builds a span, records a metric
or formats a value; recording/assembler.py reads the columns later, on a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vibevoice_otel import semconv
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.interval import Leaf

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from vibevoice_otel.recording.checks.audio import AudioChecks
    from vibevoice_otel.recording.device.notes import StreamNotes
    from vibevoice_otel.recording.finish import Ending
    from vibevoice_otel.recording.records import AttributeValue, Batch
    from vibevoice_otel.semconv import WarmUp


@dataclass(slots=True)
class Note:
    """One cold operation: at most a few in a request, so a small object is affordable."""

    span: semconv.Span
    start: int
    end: int
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    error_type: str | None = None


@dataclass(slots=True)
class Asked:
    """What the client asked for, raw. The text itself is kept only when the operator opted in."""

    voice: str | None = None
    cfg: str | None = None
    steps: str | None = None
    text_length: int | None = None
    blank: bool = False  # nothing but white space to speak
    text: str | None = None
    synthetic: bool = False
    by_url: bool = False  # the URL says what to speak
    sample: bool = False  # a frame of it is to be profiled (`vibevoice-otel gpu sample`)


@dataclass(slots=True)
class Used:
    """What the service really used; each is None until an adapter has seen it."""

    voice: str | None = None
    cfg: float | None = None
    steps: int | None = None
    steps_sticky: bool = False
    model: str | None = None
    revision: str | None = None
    on_end: Callable[[Batch], None] | None = None  # told of the request's final records, on the recorder's thread


class Run:
    """What one call of ``generate`` noted. Its columns are appended to by the thread that generates, emptied by the
    recorder's.
    """

    __slots__ = (
        "bases", "decoded", "device", "end", "ending", "error", "frames", "leaves", "negative", "pass_run",
        "pass_start", "prefilling", "request", "returned", "start", "steps", "used",
    )  # fmt: skip

    def __init__(self, request: int, used: Used) -> None:
        self.request = request
        self.used = used  # the request's
        self.start: int | None = None
        self.end: int | None = None
        self.error: str | None = None
        self.ending: Ending | None = None  # how it says that it ended
        self.decoded = 0  # samples, where no audio queue takes them
        self.returned: int | None = None  # of them, those that ``generate`` handed back, where it has said so
        self.frames: list[int] = []  # entry of each frame's sampling
        self.bases: list[int] = []  # start of each frame's first step
        self.steps: list[int] = []  # end of each diffusion step
        self.leaves: tuple[list[int], ...] = tuple([] for _ in Leaf)  # start, end of each
        self.device: StreamNotes | None = None  # what a device clock notes beside; on a CPU there is none
        # Where the thread stands: what one hook leaves for the next.
        self.negative = False  # a language-model pass now serves, or the next one will serve, the negative branch
        self.prefilling = False
        self.pass_start = 0  # when the inputs of a language-model pass began to be prepared
        self.pass_run: Leaf | None = None  # the pass that runs or has run, until its caches have been carried on

    def leave(self, begun: tuple[Leaf, int], _result: object = None) -> None:
        """Note that an interval, ``begun`` as (kind, start), has run until now, then the same to the device clock."""
        leaf, started = begun
        self.leaves[leaf].extend((started, now()))
        if self.device is not None:
            self.device.leave(leaf)


class Timeline:
    """The facts of one request. Times are ``clock.now()`` nanoseconds."""

    __slots__ = (
        "__weakref__", "abandoned", "accepted", "anchor", "asked", "audio_high", "audio_low", "audio_samples",
        "backlog", "byte_rate", "cancelled", "check", "checks", "close_code", "context", "cut_off", "delivered",
        "events_blocked", "first_send", "free", "heard", "http_status", "last_progress", "leading_silence",
        "model_ready", "nan", "notes", "opaque", "opened", "parts", "profiled", "puts", "request", "runs", "said",
        "sends", "service_closed", "silent", "streams_active", "tenant", "unseen", "used",
        "warm_up", "web_closed", "web_error", "work_end",
        "work_error", "work_start",
    )  # fmt: skip

    def __init__(self, request: int, anchor: Anchor, opened: int, asked: Asked | None = None) -> None:
        self.request = request
        self.anchor = anchor
        self.opened = opened
        self.asked = asked or Asked()
        self.used = Used()
        self.context: Context | None = (
            None  # carries vibevoice.synthesize, for log correlation on the generation thread
        )
        self.unseen = False  # it began under suppress_instrumentation: this stands for it, and nothing is noted
        self.streams_active = 1
        self.profiled = False  # a frame of it ran under the device's profiler
        self.parts: set[str] = (
            set()
        )  # threads of control that still work for the request; guarded by the recorder's lock
        self.notes: list[Note] = []
        # The socket, on the event loop.
        self.accepted: int | None = None
        self.said: int | None = (
            None  # when the last message came before the work began; it says what to speak unless the URL does
        )
        self.sends: list[int] = []  # start, end, bytes of each non-empty binary send
        self.first_send: int | None = None  # return of the first of them
        #: Bytes that play for a second; None where bytes do not tell time.
        self.byte_rate: int | None = semconv.PCM_BYTES_PER_SECOND
        self.opaque = False  # bytes went out of a format that does not tell whether they are audio
        self.http_status: int | None = None  # of an HTTP answer
        self.model_ready = True  # a model had been loaded when the request ended
        self.close_code: int | None = None
        self.service_closed: int | None = None  # when the service closed the socket
        self.cancelled: int | None = None  # when the listener was seen to have left
        self.abandoned: int | None = None  # when the service's stream was closed before its end
        self.cut_off = False  # the service stopped before the request had ended
        self.web_closed: int | None = None
        self.tenant: str | None = None  # bounded; on no span
        self.web_error: str | None = None
        self.events_blocked = 0  # ns that closing the iterator held the event loop
        # The work, on a worker thread.
        self.work_start: int | None = None
        self.work_end: int | None = None
        self.work_error: str | None = None
        self.audio_samples: list[int] = []  # per frame handed over: number of samples, least and greatest value
        self.audio_low: list[float] = []
        self.audio_high: list[float] = []
        self.delivered = 0  # frames handed over; how many of them hold not-a-number, how many no sound
        self.nan = 0
        self.silent = 0
        self.leading_silence = 0  # samples before the first sound
        self.heard = False
        self.checks: AudioChecks | None = None  # where the operator wants the audio looked into
        self.check: Callable[[AudioChecks], None] | None = None  # told when there is something to check
        self.warm_up: list[WarmUp] = []  # what of a warm-up the request met
        self.puts: list[int] = []  # when each frame was put in the audio queue
        # The model, on the threads that generate.
        self.runs: list[Run] = [
            Run(request, self.used)
        ]  # the first waits for its generate; a loop over sentences adds more
        self.free: list[Run] = self.runs[:]  # those that no thread makes, and none has ended
        # Live state, read at collection.
        self.last_progress = opened
        self.backlog: Callable[[], int] | None = None  # chunks waiting in the audio queue now

    @property
    def begun(self) -> int:
        """From when on the service is waited for: the arrival, or where the URL does not say what to speak the message
        that does.
        """
        return self.opened if self.said is None or self.asked.by_url else self.said

    def sent(self, start: int, end: int, size: int) -> None:
        """Note a non-empty binary send of ``size`` bytes."""
        if self.first_send is None:
            self.first_send = end
        self.sends.extend((start, end, size))

    @property
    def started(self) -> list[Run]:
        """The runs that have begun, in that order: one that was left may be taken up after a later one."""
        return sorted((run for run in self.runs if run.start is not None), key=lambda run: run.start or 0)

    @property
    def generate_start(self) -> int | None:
        """When the first run began."""
        return min((run.start for run in self.runs if run.start is not None), default=None)

    @property
    def generate_end(self) -> int | None:
        """When the last run ended; None while one goes on."""
        started = self.started
        ends = [run.end for run in started if run.end is not None]
        return max(ends) if ends and len(ends) == len(started) else None

    @property
    def generate_error(self) -> str | None:
        """The exception that ended the first run that failed."""
        return next((run.error for run in self.runs if run.error is not None), None)

    def note(self, span: semconv.Span, start: int, end: int, error_type: str | None = None, **attributes: Any) -> None:
        """Note a cold operation. ``attributes`` are span attribute keys with ``__`` for dots."""
        self.notes.append(Note(span, start, end, {k.replace("__", "."): v for k, v in attributes.items()}, error_type))


class _Thread(threading.local):
    """What the generation thread looks up on every step. Class defaults serve every thread that has no request."""

    timeline: Timeline | None = None
    run: Run | None = None
    step: Callable[[int], None] | None = None  # appends a step's end; bound once a generation


thread = _Thread()

#: The request of the current task or worker thread (asyncio.to_thread copies it; a plain thread does not).
current: ContextVar[Timeline | None] = ContextVar("vibevoice_otel_timeline", default=None)


def nobodys() -> Timeline:
    """Stands for a request that is not observed, so that none is opened in its place, whatever thread serves it."""
    timeline = Timeline(0, Anchor.take(), now())
    timeline.unseen = True
    timeline.parts.add("unseen")
    return timeline


@contextmanager
def serving(timeline: Timeline | None) -> Iterator[None]:
    """What is done in the block serves ``timeline``."""
    token = current.set(timeline)
    try:
        yield
    finally:
        current.reset(token)


def _take_run(timeline: Timeline) -> Run:
    """A run of the request's that no thread makes and none has ended; a new one where there is none."""
    try:
        return timeline.free.pop()  # which gives a run to one thread alone
    except IndexError:
        run = Run(timeline.request, timeline.used)
        timeline.runs.append(run)
        return run


@contextmanager
def bound(timeline: Timeline) -> Iterator[Run]:
    """The calling thread generates for ``timeline``, one run of its own, until the block ends."""
    before = (thread.timeline, thread.run, thread.step)
    run = _take_run(timeline)
    thread.timeline, thread.run = timeline, run
    thread.step = run.steps.append if run.device is None else run.device.append
    try:
        yield run
    finally:
        thread.timeline, thread.run, thread.step = before
        run.negative = run.prefilling = False
        run.pass_start, run.pass_run = 0, None
        if run.end is None:  # it may be gone on with, from the beginning of a pass
            timeline.free.append(run)
