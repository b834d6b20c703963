"""The requests that are open, and the one background thread that turns what they noted into records for every sink."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Status, StatusCode

from vibevoice_otel import failures, forking, semconv
from vibevoice_otel.recording import ids
from vibevoice_otel.recording.assembler import Assembly
from vibevoice_otel.recording.checks import loudness
from vibevoice_otel.recording.checks.audio import AudioChecks
from vibevoice_otel.recording.checks.thread import Checker
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.device.profile import Sampler
from vibevoice_otel.recording.labels import Bounds
from vibevoice_otel.recording.models import Models
from vibevoice_otel.recording.records import AttributeValue, Batch, Emitter, IdSource, Labels, Operation, Sink
from vibevoice_otel.recording.timeline import Asked, Timeline
from vibevoice_otel.recording.warmup import startup

if TYPE_CHECKING:
    from vibevoice_otel.settings import Settings

#: After so much work the thread yields for a moment, so that a backlog never starves the model of the interpreter.
WORK_NS, BREATH_SECONDS = 1_000_000, 0.0005
#: Requests that end within this time of each other are assembled in one go: to wake a thread costs as much as to
#: assemble a short one.
GATHER_SECONDS = 0.02
#: After so many of them long streams and devices are looked at again.
MOST_GATHERED = 100

#: Requests that are open or ending at most. All else that is kept by request leaves with a request's last batch, so
#: this bounds it too.
MAX_OPEN = 10_000


class _Ask(threading.Event):
    """Something asked of the background thread, behind what has ended by now; set when it is done.

    Args:
        act: what to do first with the requests that are open, if anything.
        stop: whether the thread shall end, once nothing waits any more.
    """

    def __init__(self, act: Callable[[], None] = lambda: None, *, stop: bool = False) -> None:
        super().__init__()
        self.act, self.stop = act, stop


class Recorder:
    """Opens timelines, watches them, and hands finished records to the sinks.

    A request is open while a part (a thread of control) holds it, ending from the last release until the background
    thread takes it, and gone from then on. One that is ending and is held again is open again; one that is gone cannot
    be held.

    Args:
        settings: the operator's.
        emitter: opens and makes the spans; the last to read each batch.
        sinks: read every batch, in order, on the background thread, before the emitter. ``wiring`` says which, and why
            so.
        on_drop: told (what, reason, count) of anything lost.
        id_source: of spans; numpy's by default.
        on_voices: told the labels of each voice that the service names.
    """

    def __init__(
        self,
        settings: Settings,
        emitter: Emitter,
        sinks: Sequence[Sink] = (),
        on_drop: Callable[[str, str, int], None] = lambda _what, _reason, _count: None,
        id_source: IdSource | None = None,
        on_voices: Callable[[Labels], None] = lambda _labels: None,
    ) -> None:
        self.settings = settings
        self.bounds = Bounds(settings)
        self.on_drop = on_drop
        self._on_voices = on_voices
        self.emitter = emitter
        self.sinks: tuple[Sink, ...] = (*sinks, emitter)
        self._ids = id_source or ids.source(None)
        self._numbers = itertools.count(1)
        profile = settings.gpu_profile
        self.sampler = None if profile is None else Sampler(profile or None, lambda: len(self._open))
        self._breathed = 0
        #: Nothing is recorded any more.
        self.gone = False
        #: The service is stopping: a request that is cut off from now on was cut off by it.
        self.closing = False
        self.models = Models()
        self._pyloudnorm = loudness.library() if settings.audio_checks and settings.audio_loudness else None
        #: A model has been loaded, or has generated.
        self.model_ready = False
        forking.begin(self._begin_anew)

    def _begin_anew(self) -> None:
        """No request and no thread. A forked child has none of its parent's."""
        self._lock = threading.Lock()
        self._open: dict[Timeline, Assembly] = {}
        self._ended: queue.SimpleQueue[Timeline | _Ask] = queue.SimpleQueue()
        self._hurry = threading.Event()  # set by flush(): skip the gathering delay
        self._thread: threading.Thread | None = None
        self._checker = Checker() if self.settings.audio_checks else None

    # --------------------------------------------------------------------------------------------------------- requests

    @property
    def timelines(self) -> list[Timeline]:
        """The requests that are open now, and those that have just ended (they have no parts)."""
        with self._lock:
            return list(self._open)

    def __contains__(self, timeline: Timeline) -> bool:
        return timeline in self._open

    def peek(self, timeline: Timeline) -> Batch | None:
        """What is known now of an open request (:meth:`Assembly.peek`); None when it has ended or cannot be read at
        this moment.
        """
        with self._lock:
            assembly = self._open.get(timeline)
        if assembly is not None:
            with contextlib.suppress(Exception):  # the recorder may be draining it right now
                return assembly.peek(now())
        return None

    def open(
        self, part: str, *, context: Context | None = None, asked: Asked | None = None, opened: int | None = None
    ) -> Timeline:
        """A request begins; ``part`` names the thread of control that must :meth:`release` it.

        Past :data:`MAX_OPEN`, or once the recorder has stopped, it is gone from the start, and counted as dropped.
        """
        opened = now() if opened is None else opened
        timeline = Timeline(next(self._numbers), Anchor.take(), opened, asked)
        closed = self._closed()
        if closed is not None:
            self.on_drop("requests", closed, 1)
            return timeline
        if startup.going_on:
            timeline.warm_up.append(semconv.WarmUp.STARTUP)
        if self._checker is not None:
            timeline.checks, timeline.check = AudioChecks(self._pyloudnorm), self._checker.note
        span = self.emitter.open(timeline.request, timeline.anchor.to_wall(opened), context)
        own = span.get_span_context()
        server = trace.get_current_span(context).get_span_context()
        timeline.context = trace.set_span_in_context(span, context)
        timeline.parts.add(part)
        # No SDK, or tracing is off: the records still need an id of their own for the metrics' sake.
        root_id = own.span_id if own.is_valid else int(self._ids.take(1)[0])
        assembly = Assembly(
            timeline, own.trace_id, root_id, server.span_id if server.is_valid else 0, self.bounds, self._ids,
            sampled=own.trace_flags.sampled, recording=span.is_recording(), ahead=self.settings.playback_buffer,
        )  # fmt: skip
        with self._lock:
            if self._closed() is not None:
                return timeline
            self._open[timeline] = assembly
            timeline.streams_active = sum(
                1 for each in self._open if each.parts
            )  # without those that ended and wait to be assembled
        self._ensure_thread()
        return timeline

    def _closed(self) -> str | None:
        """Why no request can be opened now; None when one can."""
        return "stopped" if self.gone else "too_many_open" if len(self._open) >= MAX_OPEN else None

    def hold(self, timeline: Timeline, part: str) -> bool:
        """Another thread of control now works for the request; False, and counted, when that is gone: what it notes is
        in no record.
        """
        with self._lock:
            if timeline in self._open:
                timeline.parts.add(part)
                return True
        self.on_drop("requests", "late", 1)
        return False

    def release(self, timeline: Timeline, part: str) -> None:
        """It is done; when it was the last one the request has ended."""
        with self._lock:
            if part not in timeline.parts:
                return
            timeline.parts.discard(part)
            if timeline.parts or timeline not in self._open:
                return
        self._ended.put(timeline)
        self._ensure_thread()

    def standalone(
        self,
        span: semconv.Span,
        start: int,
        end: int,
        attributes: dict[str, AttributeValue],
        error_type: str | None = None,
    ) -> None:
        """An operation outside any request (the model loaded at start-up): a trace of its own, and its metric."""
        if span is semconv.MODEL_LOAD and error_type is None:
            self.model_ready = True
        if not is_instrumentation_enabled():
            return
        anchor = Anchor.take()
        first, last = anchor.to_wall(start), anchor.to_wall(end)
        live = self.emitter.tracer.start_span(span.name, start_time=first, attributes=attributes)
        if error_type is not None:
            live.set_attribute(semconv.ERROR_TYPE.key, error_type)
            live.set_status(Status(StatusCode.ERROR, error_type))
        live.end(last)
        own = live.get_span_context()
        operation = Operation(span, first, last, own.span_id, 0, attributes, error_type)
        voice = self.bounds.voice(str(attributes.get(semconv.VOICE.key, "")))
        labels = Labels(voice, semconv.OTHER, semconv.OTHER, semconv.OTHER)
        self._deliver(
            Batch(
                request=next(self._numbers), trace_id=own.trace_id, root_id=own.span_id, server_id=0,
                sampled=own.trace_flags.sampled,
                recording=False, labels=labels, operations=[operation], blocks=[], final=False,
            )
        )  # fmt: skip

    def learn_voices(self, names: Iterable[str], cfg: float | None, steps: int | None) -> None:
        """Take over the service's own list of voices, with the cfg and steps that it uses when asked for none."""
        for name in self.bounds.learn_voices(names):
            self._on_voices(Labels(name, self.bounds.cfg(cfg), self.bounds.steps(steps), semconv.OTHER))

    # -------------------------------------------------------------------------------------------- the background thread

    def _ensure_thread(self) -> None:
        """Start the thread. Where the system refuses one, requests wait,
        and the next that begins or ends tries again.
        """
        if self._thread is not None or self.gone:
            return
        with self._lock:
            if self._thread is None:
                self._thread = failures.start_thread("recorder", self._run)

    def _run(self) -> None:
        # Where threads inherit the context, this one would work for ever in the name of the request that happened to
        # start it.
        attach(Context())
        due = time.monotonic() + self.settings.drain_interval
        while True:
            if time.monotonic() >= due:
                self._drain_long_streams()
                due = time.monotonic() + self.settings.drain_interval
            try:
                first = self._ended.get(timeout=max(0.0, min(due - time.monotonic(), self._poll_devices())))
            except queue.Empty:
                continue
            stopping = False
            for item in self._gather(first):
                if isinstance(item, Timeline):
                    self._finish(item)
                    self._breathe()
                    continue
                item.act()
                stopping = stopping or item.stop
                self._hurry.clear()
                item.set()
            if stopping and self._retire():
                return

    def _retire(self) -> bool:
        """Whether the thread may end: nothing waits, and with the lock held nothing can come to wait."""
        with self._lock:
            if not self._ended.empty():
                self._ended.put(_Ask(stop=True))
                return False
            self._thread = None
            return True

    def _gather(self, first: Timeline | _Ask) -> list[Timeline | _Ask]:
        """``first`` and what follows it within a moment, in order."""
        if isinstance(first, Timeline):
            self._hurry.wait(GATHER_SECONDS)
        gathered = [first]
        with contextlib.suppress(queue.Empty):
            while len(gathered) < MOST_GATHERED:
                gathered.append(self._ended.get_nowait())
        return gathered

    def _breathe(self) -> None:
        if now() - self._breathed > WORK_NS:
            time.sleep(BREATH_SECONDS)
            self._breathed = now()

    def _poll_devices(self) -> float:
        """See how far the devices of open requests got; seconds until that should be seen again."""
        wait = math.inf
        for timeline in self.timelines:
            for run in timeline.runs:
                if run.device is not None:
                    with contextlib.suppress(Exception):
                        wait = min(wait, run.device.placing.look())
        return wait

    def _drain_long_streams(self) -> None:
        with self._lock:
            running = list(self._open.items())
        for timeline, assembly in running:
            if timeline.parts:
                self._deliver(self._assemble(assembly.drain))
                self._breathe()

    def _finish(self, timeline: Timeline, *, shutdown: bool = False) -> None:
        with self._lock:
            if timeline.parts and not shutdown:
                return  # held again while it was ending
            assembly = self._open.pop(timeline, None)
        if assembly is None:
            return
        moments = (timeline.web_closed, timeline.generate_end, timeline.work_end)
        end = now() if shutdown else max((moment for moment in moments if moment is not None), default=now())
        batch = self._assemble(lambda: assembly.finish(end=end, shutdown=shutdown))
        self._deliver(batch or self._assemble(lambda: assembly.failed(end)))

    def _assemble(self, build: Callable[[], Batch | None]) -> Batch | None:
        try:
            return build()
        except Exception as error:  # noqa: BLE001 - the service must never suffer from its telemetry
            failures.failed(self.on_drop, "assembling a request's records", error, "records", "assembler_error")
            return None

    def _deliver(self, batch: Batch | None) -> None:
        if batch is None:
            return
        for sink in self.sinks:
            try:
                sink.consume(batch)
            except Exception as error:  # noqa: BLE001, PERF203 - one broken sink must not silence the others
                name = type(sink).__name__
                failures.failed(
                    self.on_drop, f"{name}, a sink of a request's records,", error, "records", f"{name}_error"
                )

    # ------------------------------------------------------------------------------------------------------- life cycle

    @property
    def alive(self) -> bool:
        """Whether anything has been recorded in this process (a forked child begins anew)."""
        return self._thread is not None and self._thread.is_alive()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every request that has ended by now is assembled and delivered; False when ``timeout`` seconds
        passed.
        """
        return self._ask(_Ask(), timeout)

    def end_open(self, timeout: float = 5.0) -> bool:
        """End what is open with status error, error.type=shutdown, once; False when ``timeout`` seconds passed before
        that was done.
        """
        return self._ask(_Ask(self._end_open), timeout)

    def _ask(self, ask: _Ask, timeout: float) -> bool:
        if self._open:
            self._ensure_thread()
        with self._lock:
            if not self.alive:
                return not self._open
            self._hurry.set()  # before it is asked: set after it has been answered, it would stay
            self._ended.put(ask)
        return ask.wait(timeout)

    def _end_open(self) -> None:
        for timeline in self.timelines:
            self._finish(
                timeline, shutdown=bool(timeline.parts)
            )  # without any it has ended, and stands behind us in the queue

    def _drop_open(self) -> None:
        with self._lock:
            left = [timeline for timeline in self._open if timeline.parts]
            for timeline in left:
                del self._open[timeline]
        if left:
            self.on_drop("requests", "uninstrumented", len(left))

    def shutdown(self, timeout: float = 5.0, *, judge: bool = True) -> None:
        """Deliver what has ended, end what is open, and take no more. Idempotent.

        Args:
            timeout: seconds to wait at most.
            judge: end what is open with status error, error.type=shutdown; else drop it, counted: the observation ends,
                not the request.
        """
        if self._open:
            self._ensure_thread()
        self.gone = True
        self._ask(_Ask(self._end_open if judge else self._drop_open, stop=True), timeout)
        if self._checker is not None:
            self._checker.stop()
        if self._open and not self.alive:
            self.on_drop("records", "no_thread", len(self._open))
            self._open.clear()
