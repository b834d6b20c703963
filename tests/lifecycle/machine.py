"""A served application that is instrumented, served, forked, stopped and taken out in any order, and compared with what
it must be.

``python -m tests.lifecycle.machine pairs`` runs every order of two steps, ``examples N`` N drawn ones of up to eight,
``steps "A B" "C"`` these orders, and ``cycles N`` puts it in, serves once and takes it out N times. It is a program of
its own, for it forks, and counts threads, files and objects. Exit status 1 and a traceback say what differs, and after
which steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from starlette.applications import Starlette

from tests.support.pipeline import Pipeline, speaking_app
from vibevoice_otel import forking, semconv
from vibevoice_otel.deferred import DeferredRecorder
from vibevoice_otel.hooks import imports
from vibevoice_otel.installation import Installation
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.recorder import Recorder
from vibevoice_otel.recording.timeline import bound
from vibevoice_otel.sampling.sampler import TailSampler
from vibevoice_otel.sampling.tail import TailProcessor
from vibevoice_otel.settings import Settings

#: Seconds within which anything must be answered, on a busy machine too. A mutant is given less: it is to fail.
PATIENCE = float(os.environ.get("LIFECYCLE_PATIENCE", "30"))
#: Seconds after which a step has hung, on a busy machine too.
HANGS = 4 * PATIENCE
TAIL_LIMIT = 100
FORGOTTEN = 3 * TAIL_LIMIT


class Failing(SpanExporter):
    """Loses what it is given."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        return SpanExportResult.FAILURE


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@dataclass
class Providers:
    """The host's, with what must have come to them."""

    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    failing: Failing = field(default_factory=Failing)
    statuses: Counter[str] = field(default_factory=Counter)  # of requests
    frames: int = 0
    drops: Counter[str] = field(default_factory=Counter)  # by reason; those of the tail are checked as a bound
    host: int = 0  # the host's own counter

    def __post_init__(self) -> None:
        self.tracers = TracerProvider(sampler=TailSampler(1.0, override=True), shutdown_on_exit=False)
        self.losing = BatchSpanProcessor(self.failing, schedule_delay_millis=3_600_000)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.tracers.add_span_processor(self.losing)
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.counter = self.meters.get_meter("host").create_counter("host")

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@dataclass
class Telling:
    """Sinks of the program's own, none: it tells of a drop while the recorder is being built."""

    machine: Machine

    def __iter__(self) -> Iterator[Any]:
        installed = self.machine.instrumentor._installed
        assert installed is not None
        installed.recorder.on_drop("hooks", "told_while_built", 1)
        return iter(())


class Machine(RuleBasedStateMachine):
    """The steps, each followed by :meth:`compare`."""

    def __init__(self) -> None:
        super().__init__()
        self.app = speaking_app()
        self.instrumentor = VibeVoiceInstrumentor()
        self.providers = [Providers()]
        self.observing: Providers | None = None  # those of the installation
        self.stopped = False  # the recorder was told to
        self.steps: list[str] = []
        FastAPIInstrumentor.instrument_app(
            self.app, tracer_provider=self.providers[0].tracers, meter_provider=self.providers[0].meters
        )
        self._untouched = self._patched()
        asyncio.run(self._ask(b"text=warm"))  # imports, and the stack is built
        self._layers = self._stack()
        self._files = open_files()
        self._handler = signal.getsignal(signal.SIGTERM)

    def teardown(self) -> None:
        if self.observing is not None:
            self.instrumentor.uninstrument()
        FastAPIInstrumentor.uninstrument_app(self.app)
        for each in self.providers:
            each.close()

    # -------------------------------------------------------------------------------------------------------- the steps

    @rule()
    def instrument(self) -> None:
        """Again, where it is in already: harmless."""
        before, self.observing = self.observing, self.observing or self.providers[-1]
        self.instrumentor.instrument(
            tracer_provider=self.providers[-1].tracers, meter_provider=self.providers[-1].meters, skip_dep_check=True,
            settings=Settings(tail_buffer=TAIL_LIMIT), recorder_options={"more": Telling(self)},
        )  # fmt: skip
        recorder = self.instrumentor.recorder
        assert recorder is not None
        if before is None:
            self.stopped = False
            self.observing.drops["told_while_built"] += 1
        self.compare()

    @rule()
    def serve(self) -> None:
        asyncio.run(self._ask(b"text=one"))
        self._expect(success=1)
        self.compare()

    @rule()
    def serve_many(self) -> None:
        """Three at once; while they speak the gauge says three."""

        async def scene() -> None:
            speaking = [asyncio.ensure_future(self._ask(b"text=many&gap=0.03")) for _ in range(3)]
            await asyncio.sleep(0.02)
            if self._observes():
                assert self.observing is not None
                assert self._active(self.observing) == 3, f"{self._active(self.observing)} active, three are"
            await asyncio.gather(*speaking)

        asyncio.run(scene())
        self._expect(success=3)
        self.compare()

    @rule()
    def uninstrument(self) -> None:
        if self.observing is not None:
            self.instrumentor.uninstrument()
        self.observing = None
        self.compare()

    @rule()
    def fork(self) -> None:
        """The child serves one, and tells what it has counted: ours from zero, the host's as it was."""
        self.providers[0].counter.add(1)
        self.providers[0].host += 1
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                asyncio.run(self._ask(b"text=child"))
                recorder = self.instrumentor.recorder
                answered = recorder.flush(PATIENCE) if recorder is not None else True
                told = {"answered": answered, "host": self._host(self.providers[0])}
                if self.observing is not None:
                    told["requests"] = sum(self._counted(self.observing).values())
                os.write(writing, json.dumps(told).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            said = json.loads(answer.read() or "{}")
        os.waitpid(child, 0)
        assert said.get("answered"), f"the child said {said}"
        assert said["host"] == self.providers[0].host, f"the host's counter is {said['host']} in the child"
        assert said.get("requests", 0) == int(self._observes()), f"the child counted {said.get('requests')} requests"
        self.compare()

    @rule()
    def flush(self) -> None:
        recorder = self.instrumentor.recorder
        assert recorder is None or recorder.flush(PATIENCE)
        self.compare()

    @rule()
    def shutdown(self) -> None:
        """The program stops the recorder, while another thread flushes: both are answered."""
        recorder = self.instrumentor.recorder
        if recorder is not None:
            recorder.release(recorder.open("web", context=Context()), "web")
            self._expect(error=1)  # it spoke not
            began, stopping = time.monotonic(), threading.Thread(target=recorder.shutdown)
            stopping.start()
            assert recorder.flush(PATIENCE), "flush beside shutdown was not answered"
            stopping.join()
            assert time.monotonic() - began < PATIENCE
            self.stopped = True
        self.compare()

    @rule()
    def fail_a_thread(self) -> None:
        """The system refuses the recorder's thread once, as a request comes."""
        start, refused = threading.Thread.start, list[str]()

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("vibevoice-otel") and not refused:
                refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            start(thread)

        threading.Thread.start = refuse  # type: ignore[method-assign]
        try:
            asyncio.run(self._ask(b"text=refused"))
        finally:
            threading.Thread.start = start  # type: ignore[method-assign]
        self._expect(success=1)
        self.compare()

    @rule()
    def change_providers(self) -> None:
        """The next installation has others."""
        self.providers.append(Providers())
        self.compare()

    @rule()
    def speak_late(self) -> None:
        """A thread takes a request up just after everything else has let it go."""
        recorder = self.instrumentor.recorder
        if recorder is not None and self._observes():
            assert self.observing is not None
            late = recorder.open("web", context=Context())
            recorder.release(late, "web")
            assert recorder.hold(late, "generation")
            time.sleep(0.05)
            with bound(late) as run:
                run.start = now()
                run.frames.extend((now(), now()))
                run.end = now()
            recorder.release(late, "generation")
            self._expect(error=1)  # nobody got its audio
            self.observing.frames += 2
        self.compare()

    @rule()
    def break_an_assembly(self) -> None:
        """The records of a request cannot be made."""
        recorder = self.instrumentor.recorder
        if recorder is not None and self._observes():
            assert self.observing is not None
            broken = recorder.open("web", context=Context())
            broken.notes.append(None)  # type: ignore[arg-type]
            recorder.release(broken, "web")
            self._expect(error=1)
            self.observing.drops["assembler_error"] += 1
        self.compare()

    @rule()
    def forget_spans(self) -> None:
        """The host starts spans of traces that a caller did not sample, and never ends them."""
        tracer = self.providers[-1].tracers.get_tracer("host")
        for number in range(1, FORGOTTEN + 1):
            parent = SpanContext(number, number, True, TraceFlags(TraceFlags.DEFAULT))
            tracer.start_span("forgotten", context=trace.set_span_in_context(NonRecordingSpan(parent)))
        self.compare()

    # --------------------------------------------------------------------------------------------------- what must hold

    def compare(self) -> None:
        """Spans, metrics, threads, patched attributes, open files and live objects are what they must be."""
        faulthandler.dump_traceback_later(HANGS, exit=True)  # of the next step, if it never returns
        recorder = self.instrumentor.recorder
        if recorder is not None:
            assert recorder.flush(PATIENCE), "flush was not answered"
            assert recorder.timelines == [], "requests are open"
            assert recorder.emitter._open == {}, "spans are open"
        for each in self.providers:
            self._compare_telemetry(each)
        names = Counter(each.name for each in threading.enumerate() if each.name.startswith("vibevoice"))
        assert names["vibevoice-otel-recorder"] <= 1
        if self.observing is not None:
            assert "RequestMiddleware" not in self._layers
            return
        assert not names, f"threads are left: {names}"
        assert self._patched() == self._untouched, "a function is not as it was"
        assert self._stack() == self._layers, f"the stack is {self._stack()}"
        assert signal.getsignal(signal.SIGTERM) is self._handler
        assert not logging.getLogger("vibevoice_otel").handlers
        for each in self.providers:
            assert not vars(each.failing), "the operator's exporter has an attribute of ours"
            assert "drop_items" not in vars(each.losing._batch_processor._metrics)
        gc.collect()
        kinds = (Recorder, DeferredRecorder, Installation)
        alive = [type(each).__name__ for each in gc.get_objects() if type(each) in kinds]
        assert not alive, f"still alive: {alive}"
        files = open_files()
        assert files <= self._files, f"{files} open files, {self._files} before"

    def _compare_telemetry(self, each: Providers) -> None:
        roots = [span for span in each.spans.get_finished_spans() if span.name == semconv.SYNTHESIZE.name]
        statuses = Counter(str((span.attributes or {}).get("vibevoice.status")) for span in roots)
        assert statuses == each.statuses, f"spans of {dict(statuses)}, requests of {dict(each.statuses)}"
        assert self._counted(each) == each.statuses, f"counted {self._counted(each)}, served {dict(each.statuses)}"
        frames = sum(int((span.attributes or {}).get("vibevoice.frames", 0)) for span in roots)
        assert frames == each.frames, f"{frames} frames, {each.frames} were made"
        assert self._active(each) == (0 if each is self.observing else None)
        drops = self._by(each, semconv.DROPPED.name, "reason")
        drops.pop("tail_buffer_full", None)
        drops.pop("stopped", None)
        if each is self.observing:  # the host loses a span, which is counted, once
            before = drops.pop("export_failed", 0)
            each.tracers.get_tracer("host").start_span("lost").end()
            lost = self._lost(each)
            after = self._by(each, semconv.DROPPED.name, "reason")["export_failed"]
            assert after - before == lost, f"{after - before} lost spans counted, {lost} were lost"
        drops.pop("export_failed", None)
        assert drops == each.drops, f"dropped {drops}, and not {each.drops}"
        tails = [one for one in each.tracers._active_span_processor._span_processors if isinstance(one, TailProcessor)]
        assert len(tails) <= 1
        assert sum(len(one._traces) for one in tails) <= (TAIL_LIMIT if each is self.observing else 0)

    def _lost(self, each: Providers) -> int:
        waiting = len(each.losing._batch_processor._queue)
        each.losing.force_flush()
        return waiting

    def _observes(self) -> bool:
        return self.observing is not None and not self.stopped

    def _expect(self, **statuses: int) -> None:
        if self._observes():
            assert self.observing is not None
            self.observing.statuses.update(statuses)

    def _pipeline(self, each: Providers) -> Pipeline:
        return Pipeline(self.app, each.spans, each.reader, self.instrumentor, each.tracers)

    async def _ask(self, query: bytes) -> None:
        answer = await self._pipeline(self.providers[0]).ask(query)
        assert answer.error is None
        assert answer.audio == b"\1\2" * 3200, "the listener did not get his audio"

    def _by(self, each: Providers, name: str, label: str) -> Counter[str]:
        return self._pipeline(each).counted(name, label)

    def _counted(self, each: Providers) -> Counter[str]:
        return self._by(each, semconv.REQUESTS.name, "status")

    def _host(self, each: Providers) -> int:
        return int(sum(point.value for point in self._pipeline(each).points("host")))

    def _active(self, each: Providers) -> int | None:
        points = self._pipeline(each).points(semconv.ACTIVE.name)
        return sum(point.value for point in points) if points else None

    def _stack(self) -> list[str]:
        found: list[str] = []
        layer: Any = self.app.middleware_stack
        while layer is not None:
            found.append(type(layer).__name__)
            layer = getattr(layer, "app", None)
        return found

    @staticmethod
    def _patched() -> list[object]:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        places = (
            (Starlette, "__call__"), (OpenTelemetryMiddleware, "__call__"), (sdk_trace.Span, "record_exception"),
            (sdk_trace.Span, "set_status"), (threading.Thread, "start"),
        )  # fmt: skip
        return [vars(owner).get(name) for owner, name in places]


STEPS = sorted(name for name, value in vars(Machine).items() if hasattr(value, "hypothesis_stateful_rule"))


def run(*steps: str) -> None:
    """These steps, in this order, in a process that has made others before."""
    machine = Machine()
    try:
        for step in steps:
            function: Callable[[Machine], None] = getattr(Machine, step)
            function(machine)
    except BaseException:
        print("after", ", ".join(steps), file=sys.stderr)
        raise
    finally:
        machine.teardown()


def pairs() -> None:
    """Every order of two steps, each with telemetry on and off before it."""
    for first, second in itertools.product(STEPS, repeat=2):
        run(first, second)
        if "instrument" not in first:
            run("instrument", first, second)


def examples(number: int) -> None:
    """So many orders of up to eight steps, the same ones each time."""
    chosen = hypothesis_settings(
        max_examples=number,
        stateful_step_count=8,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),  # they measure time
    )
    run_state_machine_as_test(Machine, settings=chosen)


def cycles(number: int) -> None:
    """Put in, serve once, take out, so many times: nothing grows."""
    machine = Machine()

    def turn(times: int) -> None:
        for _ in range(times):
            machine.instrumentor.instrument(tracer_provider=tracers, meter_provider=meters, skip_dep_check=True)
            assert machine.instrumentor.recorder is not None
            asyncio.run(machine._ask(b"text=one"))
            machine.instrumentor.uninstrument()
            machine.providers[0].spans.clear()  # contrib's, of the SERVER

    def measured() -> dict[str, int]:
        gc.collect()
        return {
            "objects": len(gc.get_objects()),
            "kB": psutil.Process().memory_info().rss // 1024,
            "threads": threading.active_count(),
            "fork handlers": len(forking._renewed),
            "import hooks": sum(map(len, imports._waiting.values())),
            "log handlers": sum(
                len(getattr(each, "handlers", ())) for each in logging.Logger.manager.loggerDict.values()
            ),
            "files": open_files(),
        }

    tracers, meters = (
        TracerProvider(shutdown_on_exit=False),
        MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False),
    )
    turn(number // 5)  # caches fill
    before = measured()
    turn(number)
    after = measured()
    print(json.dumps({"before": before, "after": after}))
    grown = {name: after[name] - value for name, value in before.items()}
    assert grown.pop("kB") < number * 2, f"memory grew: {before}, {after}"
    assert grown.pop("objects") < number / 20, f"objects grew: {before}, {after}"
    assert not any(value > 0 for value in grown.values()), grown


def main(what: str, *given: str) -> None:
    """The command line."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    Machine().teardown()
    gc.collect()
    gc.freeze()  # what has been imported by now is looked at no more: a step's look at all objects costs a tenth
    if what == "pairs":
        pairs()
    elif what == "steps":
        for order in given:
            run(*order.split())
    elif what == "cycles":
        faulthandler.cancel_dump_traceback_later()
        cycles(int(given[0]))
    else:
        examples(int(given[0]))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a mutant may have left a thread that never ends
