"""The fast path from a batch to a receiver: the operator's exporter settings, the provider's life cycle, and when it
stands back.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

from tests.support.builders import assembly, finish, request
from tools.otlp import Received, Receiver
from tools.otlp_grpc import GrpcReceiver
from vibevoice_otel import semconv
from vibevoice_otel.otlp.encode import Encoded
from vibevoice_otel.otlp.request import EncodedRequest, Envelope
from vibevoice_otel.otlp.sender import MAX_REQUEST_BYTES, Sender
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.sdk import fast, span_bytes
from vibevoice_otel.sdk.emitter import SpanEmitter
from vibevoice_otel.sdk.span_bytes import FastSpans


class CountingGenerator(IdGenerator):
    """Two providers that count alike give the same ids."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers) << 40

    def generate_trace_id(self) -> int:
        return next(self._numbers) << 100

    def is_trace_id_random(self) -> bool:
        return False


class Stack:
    """A provider with an exporter, an emitter on it, and what was dropped."""

    def __init__(
        self,
        *exporters: SpanExporter,
        fast: bool = True,
        sampler: Sampler = ALWAYS_ON,
        limits: SpanLimits | None = None,
    ) -> None:
        self.provider = TracerProvider(
            sampler=sampler, span_limits=limits, id_generator=CountingGenerator(), shutdown_on_exit=False,
            resource=Resource({"service.name": "speech", "n": 3}, "https://example.org/resource"),
        )  # fmt: skip
        for exporter in exporters:
            self.provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
        self.dropped: list[tuple[str, str, int]] = []
        tracer = self.provider.get_tracer(semconv.SCOPE, "1.2", semconv.SCHEMA_URL)
        self.fast = FastSpans(tracer, lambda *drop: self.dropped.append(drop))
        self.emitter = SpanEmitter(tracer, self.fast if fast else None)

    def speak(self, batch: Batch | None = None) -> Batch:
        batch = batch or finish(request())
        root = self.emitter.open(batch.request, 0, None).get_span_context()
        batch.trace_id, batch.root_id = root.trace_id, root.span_id
        batch.sampled = root.trace_flags.sampled
        for operation in batch.operations:
            operation.parent_id = root.span_id if operation.parent_id == 0xF00D else operation.parent_id
        self.emitter.consume(batch)
        return batch


@pytest.fixture
def stack() -> Iterator[Callable[..., Stack]]:
    """Makes stacks, and ends them after the test."""
    made: list[Stack] = []

    def make(*exporters: SpanExporter, **options: Any) -> Stack:
        made.append(Stack(*exporters, **options))
        return made[-1]

    yield make
    for each in made:
        each.provider.shutdown()


def contents(received: Received) -> list[tuple[bytes, bytes, str, bytes]]:
    """Every span with its resource and scope, however they were divided among requests."""
    return sorted(
        (
            rs.resource.SerializeToString() + rs.schema_url.encode(),
            ss.scope.SerializeToString(),
            ss.schema_url,
            span.SerializeToString(),
        )
        for r in received.messages
        for rs in r.resource_spans
        for ss in rs.scope_spans
        for span in ss.spans
    )


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_receiver_gets_what_the_plain_path_sends(stack: Callable[..., Stack], protocol: str) -> None:
    """The same request by both paths: the same spans, resource, scope and schema, byte by byte."""
    got = []
    for quick in (True, False):
        with Receiver() if protocol == "http" else GrpcReceiver() as receiver:
            exporter = (
                HttpExporter(f"{receiver.endpoint}/v1/traces")
                if protocol == "http"
                else GrpcExporter(f"http://{receiver.endpoint}")
            )
            one = stack(exporter, fast=quick)
            one.speak()
            assert one.provider.force_flush()
            got.append(contents(receiver))
            assert one.dropped == []
    assert got[0] == got[1]
    assert len(got[0]) == 19


def test_http_settings_are_the_operators(stack: Callable[..., Stack]) -> None:
    """Headers, compression and path: a request of ours is as one of the exporter's own."""
    for compression in (Compression.NoCompression, Compression.Gzip, Compression.Deflate):
        with Receiver() as receiver:
            one = stack(
                HttpExporter(
                    f"{receiver.endpoint}/v1/traces", headers={"authorization": "Bearer t"}, compression=compression
                )
            )
            one.speak()
            one.provider.force_flush()
            ours, theirs = sorted(receiver.headers, key=lambda h: -int(h["content-length"]))
            assert ours.pop("content-length") != theirs.pop("content-length")
            assert ours == theirs
            assert ours["authorization"] == "Bearer t"
            assert ours.get("content-encoding", "none") == compression.value
            assert len(receiver.spans()) == 19


def test_grpc_settings_are_the_operators(stack: Callable[..., Stack]) -> None:
    """Metadata and compression over gRPC."""
    with GrpcReceiver() as receiver:
        one = stack(
            GrpcExporter(f"http://{receiver.endpoint}", headers={"tenant": "a"}, compression=grpc.Compression.Gzip)
        )
        one.speak()
        one.provider.force_flush()
        assert [h["tenant"] for h in receiver.headers] == ["a", "a"]
        assert len(receiver.spans()) == 19
        assert "OTLP over gRPC to 127.0.0.1" in one.fast.explain()
        copy = one.fast._targets[0].exporter._exporter  # type: ignore[attr-defined]
        assert copy._compression is grpc.Compression.Gzip  # the server's API does not tell


def test_the_exporters_own_retry_serves(stack: Callable[..., Stack]) -> None:
    """A receiver that is briefly away loses nothing, with either protocol."""
    for away in (Receiver(answers=[503]), GrpcReceiver(failures=1)):
        with away as receiver:
            exporter = (
                HttpExporter(f"{receiver.endpoint}/v1/traces")
                if isinstance(receiver, Receiver)
                else GrpcExporter(f"http://{receiver.endpoint}")
            )
            one = stack(exporter)
            assert one.fast.emit(
                finish(request()), one.emitter.open(1, 0, None).get_span_context()
            )  # ours alone meets the refusal
            assert one.provider.force_flush()
            assert len(receiver.headers) == 2
            assert len(receiver.spans()) == 18
            assert one.dropped == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        str(key),
    ]
    command += [
        "-out",
        str(certificate),
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_tls_is_the_operators(
    stack: Callable[..., Stack], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private authority's certificate, as OTEL_EXPORTER_OTLP_CERTIFICATE or credentials, with either protocol."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)  # requests lets them override a session's own authority
    authority, key = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority, key)
    with Receiver(tls=server) as receiver:
        endpoint = f"https://localhost:{receiver.port}/v1/traces"
        one = stack(HttpExporter(endpoint, certificate_file=str(authority)))
        one.speak()
        assert one.provider.force_flush()
        assert len(receiver.spans()) == 19
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), authority.read_bytes())])
    with GrpcReceiver("localhost:0", credentials) as remote:
        one = stack(GrpcExporter(remote.endpoint, credentials=grpc.ssl_channel_credentials(authority.read_bytes())))
        one.speak()
        assert one.provider.force_flush()
        assert len(remote.spans()) == 19


def test_the_providers_shutdown_sends_what_is_left(stack: Callable[..., Stack]) -> None:
    """No interval has passed and nobody flushed: ending the provider delivers all,
    although its exporter closes first.
    """
    for protocol in ("http", "grpc"):
        with Receiver() if protocol == "http" else GrpcReceiver() as receiver:
            one = stack(
                HttpExporter(f"{receiver.endpoint}/v1/traces")
                if protocol == "http"
                else GrpcExporter(f"http://{receiver.endpoint}")
            )
            one.speak()
            one.provider.shutdown()
            assert len(receiver.spans()) == 19
            assert one.dropped == []
            one.fast.emit(finish(request()), one.emitter.open(2, 0, None).get_span_context())
            assert one.dropped == [("spans", "shutdown", 18)]


def test_spans_are_sent_on_the_batch_processors_interval(stack: Callable[..., Stack]) -> None:
    """OTEL_BSP_SCHEDULE_DELAY holds for us too: nobody flushes here."""
    with Receiver() as receiver:
        one = stack()
        one.provider.add_span_processor(
            BatchSpanProcessor(HttpExporter(f"{receiver.endpoint}/v1/traces"), schedule_delay_millis=50)
        )
        one.speak()
        deadline = time.monotonic() + 60
        while len(receiver.spans()) < 19 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(receiver.spans()) == 19


def test_two_exporters_each_get_everything(stack: Callable[..., Stack]) -> None:
    """One backend over HTTP, another over gRPC."""
    with Receiver() as first, GrpcReceiver() as second:
        one = stack(HttpExporter(f"{first.endpoint}/v1/traces"), GrpcExporter(f"http://{second.endpoint}"))
        one.speak()
        one.provider.force_flush()
        assert contents(first) == contents(second)
        assert len(first.spans()) == 19


def test_an_unsampled_trace_costs_nothing(stack: Callable[..., Stack]) -> None:
    """What no known processor would export is not written."""
    with Receiver() as receiver:
        one = stack(HttpExporter(f"{receiver.endpoint}/v1/traces"), sampler=ALWAYS_OFF)
        batch = one.speak(assembly(request(), sampled=False).finish(end=32_000_000))
        assert not batch.sampled
        one.provider.force_flush()
        assert receiver.messages == []


# ------------------------------------------------------------------------------------------------------- standing back


class Foreign(SpanProcessor):
    """Somebody's processor, which reads every span."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def test_a_foreign_processor_gets_ordinary_spans(stack: Callable[..., Stack]) -> None:
    """Beside one that is not known everything goes the plain way, and the exporter still gets each span once."""
    with Receiver() as receiver:
        one = stack(HttpExporter(f"{receiver.endpoint}/v1/traces"))
        foreign = Foreign()
        one.provider.add_span_processor(foreign)
        one.speak()
        one.provider.force_flush()
        assert len(foreign.started) == len(foreign.ended) == len(receiver.spans()) == 19
        assert one.fast.explain() == (
            f"spans: made one by one, because {__name__}.Foreign is not the SDK's BatchSpanProcessor, so it gets every "
            "span as an object"
        )


def test_a_processor_that_comes_later_gets_spans_from_then_on(stack: Callable[..., Stack]) -> None:
    """The chain is looked at again when it has changed; what was queued before is sent all the same."""
    with Receiver() as receiver:
        one = stack(HttpExporter(f"{receiver.endpoint}/v1/traces"))
        one.speak()
        assert one.fast.explain().startswith(
            "spans: written a block at a time and sent by OTLP over HTTP to http://127.0.0.1"
        )
        foreign = Foreign()
        one.provider.add_span_processor(foreign)
        one.speak()
        one.provider.force_flush()
        assert len(foreign.ended) == 19
        assert len(receiver.spans()) == 38


class Subclass(HttpExporter):
    """An operator's own: it may do anything with spans."""


REASONS: dict[str, tuple[Callable[[Stack], object], str]] = {
    "simple processor": (
        lambda s: s.provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter())),
        "SimpleSpanProcessor is not the SDK's BatchSpanProcessor",
    ),
    "console": (
        lambda s: s.provider.add_span_processor(
            BatchSpanProcessor(ConsoleSpanExporter(), schedule_delay_millis=60_000)
        ),
        "ConsoleSpanExporter is not the SDK's OTLP exporter",
    ),
    "subclass": (
        lambda s: s.provider.add_span_processor(
            BatchSpanProcessor(Subclass("http://127.0.0.1:1/"), schedule_delay_millis=60_000)
        ),
        "Subclass is not the SDK's OTLP exporter",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_it_says_why_it_stands_back(stack: Callable[..., Stack], case: str) -> None:
    """Doctor's sentence names what is in the way."""
    one = stack()
    change, reason = REASONS[case]
    change(one)
    assert reason in one.fast.explain()
    assert not one.fast.emit(finish(request()), one.emitter.open(1, 0, None).get_span_context())
    one.provider._active_span_processor._span_processors = ()  # nothing need be sent when the test ends


def test_span_limits_that_bite_are_left_to_the_sdk(stack: Callable[..., Stack]) -> None:
    """A low attribute count limit drops attributes, oldest first: the SDK's business."""
    one = stack(limits=SpanLimits(max_span_attributes=2))
    assert (
        one.fast.explain()
        == "spans: made one by one, because spans are limited to 2 attributes (OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT)"
    )


def test_the_sdks_self_metrics_count_every_span(stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch) -> None:
    """With them on, spans must pass the processor that counts them."""
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    assert "the SDK counts spans for metrics of its own" in stack().fast.explain()


@pytest.mark.parametrize("provider", [NoOpTracerProvider(), ProxyTracerProvider()])
def test_without_the_sdk_it_stands_back(provider: Any) -> None:
    """No provider, or not yet."""
    fast = FastSpans(provider.get_tracer("t"), lambda *_: None)
    assert fast.explain() == "spans: made one by one, because the tracer provider is not the SDK's"


def test_a_provider_that_comes_late_is_taken_up() -> None:
    """A program that instruments first and sets its provider afterwards."""
    from opentelemetry.trace import ProxyTracer

    tracer = ProxyTracer("t", "1")
    fast = FastSpans(tracer, lambda *_: None)
    assert "one by one" in fast.explain()
    tracer._real_tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    assert fast.explain() == "spans: written a block at a time and sent by nowhere (the provider has no processor)"


@pytest.mark.swallows("spans are made one by one")
def test_a_record_that_cannot_be_written_is_not_lost(
    stack: Callable[..., Stack], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours costs speed, not spans: one warning, then the plain path."""
    with Receiver() as receiver:
        one = stack(HttpExporter(f"{receiver.endpoint}/v1/traces"))
        monkeypatch.setattr(span_bytes, "of_block", lambda *_: 1 / 0)
        with caplog.at_level(logging.WARNING):
            one.speak()
            one.speak()
        one.provider.force_flush()
        assert len(receiver.spans()) == 38
        assert len([r for r in caplog.records if "could not be written" in r.getMessage()]) == 1
        assert "because a record could not be written (ZeroDivisionError" in one.fast.explain()


# ------------------------------------------------------------------------------------------------------------- losses


class Refusing:
    """A receiver that takes nothing."""

    name = "refusing"

    def __init__(self, answer: Callable[[], bool]) -> None:
        self.answer = answer
        self.closed = False

    def send(self, request: EncodedRequest) -> bool:
        return self.answer()

    def shutdown(self) -> None:
        self.closed = True


def sender(answer: Callable[[], bool], **options: Any) -> tuple[Sender, list[tuple[str, str, int]]]:
    dropped: list[tuple[str, str, int]] = []
    return Sender(Refusing(answer), 60, lambda *drop: dropped.append(drop), **options), dropped


ENVELOPE = Envelope(b"", b"", b"", b"")


def test_a_refused_request_is_counted() -> None:
    """What the receiver would not take, after all retries, is on record."""
    one, dropped = sender(lambda: False)
    one.put(ENVELOPE, [Encoded(b"x", 3), Encoded(b"y", 4)])
    assert not one.force_flush()
    one.shutdown()
    assert dropped == [("spans", "export_failed", 7)]


def test_an_exporter_that_raises_is_counted() -> None:
    """A fault in the exporter does not end the thread that sends."""
    one, dropped = sender(lambda: bool(1 / 0))
    one.put(ENVELOPE, [Encoded(b"x", 3)])
    assert not one.force_flush()
    assert dropped == [("spans", "export_failed", 3)]
    one.shutdown()


def test_a_full_queue_drops_the_oldest_and_counts_them() -> None:
    """Memory stays bounded while a receiver is away; what gives way is the oldest."""
    one, dropped = sender(lambda: True, max_queue_bytes=10)
    one.put(ENVELOPE, [Encoded(b"1234", 1), Encoded(b"1234", 2), Encoded(b"1234", 3)])
    assert dropped == [("spans", "queue_full", 1)]
    assert one.force_flush()
    one.shutdown()
    assert dropped == [("spans", "queue_full", 1)]


def test_after_shutdown_everything_is_counted_and_nothing_kept() -> None:
    """Idempotent; what comes later is on record as lost."""
    one, dropped = sender(lambda: True)
    one.shutdown()
    one.shutdown()
    one.put(ENVELOPE, [Encoded(b"x", 5)])
    assert dropped == [("spans", "shutdown", 5)]
    assert not one.force_flush()


def test_a_child_process_starts_empty() -> None:
    """After a fork, what the parent has queued is the parent's to send."""
    one, dropped = sender(lambda: True)
    one.put(ENVELOPE, [Encoded(b"x", 5)])
    one._reset()  # what os.register_at_fork calls in the child
    assert one._next() is None
    assert one._thread is None
    one.shutdown()
    assert dropped == []


# -------------------------------------------------------------------------------------------------------- the interface


def test_doctor_is_told_of_both_halves() -> None:
    """One line for spans, one for metrics."""
    provider = TracerProvider(shutdown_on_exit=False)
    assert fast.explain(provider).splitlines() == [
        "spans: written a block at a time and sent by nowhere (the provider has no processor)",
        "metrics: recorded a block at a time",
    ]


def test_a_release_without_the_names_is_served_plainly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A future SDK that moved its modules costs speed and one warning, never the telemetry."""
    monkeypatch.setitem(sys.modules, "vibevoice_otel.sdk.histograms", None)
    with caplog.at_level(logging.WARNING):
        assert fast.path(TracerProvider(shutdown_on_exit=False).get_tracer(""), lambda *_: None) is None
    assert "makes spans and measurements one by one" in caplog.text
    assert "made one by one by the public API: unsupported opentelemetry-sdk internals" in fast.explain()


@pytest.mark.swallows("starting the thread vibevoice-otel-sender")
def test_a_sender_whose_thread_could_not_be_started_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refused a thread once: what waited goes out with what comes next, and nothing is lost."""
    sent = threading.Event()
    one, dropped = sender(lambda: sent.set() or True)  # type: ignore[func-returns-value]

    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        one.put(ENVELOPE, [Encoded(b"x", 3)])
    one.put(ENVELOPE, [Encoded(b"y" * MAX_REQUEST_BYTES, 4)])
    assert sent.wait(60)
    assert one.force_flush()
    assert dropped == []
    one.shutdown()
