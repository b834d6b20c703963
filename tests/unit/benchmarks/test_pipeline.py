"""The pipeline benchmark's accounts: what is sent, what must come out, and what its table says of a rate that was not
sustained.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks import pipeline, pipeline_load
from tools import toolchain
from vibevoice_otel.sampling.share import in_share

pytestmark = pytest.mark.serial

ROOT = Path(__file__).resolve().parents[3]


def found(wanted: int, rate: float | None = None, **changed: float) -> pipeline.Found:
    values = {
        "us": 5.0,
        "core": 0.5,
        "mib": 70.0,
        "lost": 0,
        "refused": 0,
        "bytes_in": 119.0,
        "bytes_out": 119.0,
        "sender": 0.1,
    }
    values["out"] = rate or wanted
    return pipeline.Found(wanted, rate or wanted, **{**values, **changed}, counters={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([found(10), found(20)], "x: nothing lost or refused up to 20 spans/s, the highest rate tried."),
        (
            [found(10), found(20, lost=3)],
            "x: nothing lost or refused up to 10 spans/s; 20 wanted: 0 refused, 3 lost of what was accepted.",
        ),
        ([found(10, refused=4)], "x: no rate without loss; 10 wanted: 4 refused, 0 lost of what was accepted."),
        (
            [found(20, rate=15, core=0.95)],
            "x: nothing lost or refused up to 15 spans/s; 20 wanted: the Collector's core was full.",
        ),
        (
            [found(20, rate=15)],
            (
                "x: nothing lost or refused up to 15 spans/s; 20 wanted: the sender, one connection on the same "
                "machine, came no faster."
            ),
        ),
    ],
)
def test_it_says_what_stood_in_the_way_of_a_higher_rate(rates: list[pipeline.Found], said: str) -> None:
    """A rate counts only without loss, and whoever was the limit is named."""
    assert pipeline.verdict(pipeline.Setup("x", "agent", (10, 20)), rates) == said


def test_rates_rise_until_one_is_not_sustained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first rate with a loss is shown and is the last that is tried."""
    monkeypatch.setattr(
        pipeline, "measure", lambda _folder, _setup, rate, _seconds, _payload: found(rate, lost=rate > 10)
    )
    assert [each.wanted for each in pipeline.climb(tmp_path, pipeline.Setup("x", "agent", (5, 10, 20, 40)), 1, [])] == [
        5,
        10,
        20,
    ]


@pytest.mark.parametrize("batched", [False, True])
def test_every_trace_is_new_whole_and_due_by_its_id(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due is what the gateway's share keeps of the ids that were really sent, by whichever way."""
    sent: list[bytes] = []

    def post(body: bytes) -> bool:
        sent.append(body)
        return True

    monkeypatch.setattr(pipeline_load, "_http", lambda _collector: post)
    monkeypatch.setattr(pipeline_load, "_grpc", lambda _collector: post)
    monkeypatch.setattr(pipeline_load, "FRAMES", 3)
    payload = pipeline_load.traces(2)
    sender = pipeline_load.Sender(None, payload, 0.5, batched=batched)  # type: ignore[arg-type]
    sender.load(10_000, 0.1)

    spans: dict[bytes, int] = {}
    for body in sent:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    spans[span.trace_id] = spans.get(span.trace_id, 0) + 1
    assert set(spans.values()) == {payload[0].spans}
    assert len(spans) > 6
    assert sender.total.accepted == sum(spans.values())
    assert sender.total.bytes == sum(map(len, sent))
    kept = sum(count for trace_id, count in spans.items() if in_share(int.from_bytes(trace_id, "big"), 0.5))
    assert 0 < sender.total.due == kept < sender.total.accepted


def test_what_is_refused_is_not_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is the sender's to repeat: it is counted as such, and not a second time as lost."""
    monkeypatch.setattr(pipeline_load, "_grpc", lambda _collector: lambda _body: False)
    trace = pipeline_load.Trace(b"\1" * 16, (b"\1" * 16,), (1,))
    sender = pipeline_load.Sender(None, [trace], 1.0, batched=True)  # type: ignore[arg-type]
    sender.load(100, 0.05)
    assert sender.total == pipeline_load.Sent(refused=sender.total.refused)
    assert sender.total.refused


@pytest.mark.skipif(toolchain.path("otelcol-vibevoice") is None, reason="otelcol-vibevoice not built: run `make tools`")
def test_it_runs_by_one_command_and_tries_every_shipped_configuration(tmp_path: Path) -> None:
    """Tiny counts: nothing is lost, and no configuration is left out."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pipeline", "--quick", "--out", str(tmp_path)],
        check=False, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "pipeline.json").read_text())
    assert (tmp_path / "pipeline.txt").read_text() in done.stdout
    assert {setup.config for setup in pipeline.SETUPS} == {
        file.stem for file in (ROOT / "collector").glob("*.yaml")
    } - {"builder"}
    assert [row[5:7] for row in report["rows"]] == [[0, 0]] * len(pipeline.SETUPS)
    assert report["raw"].keys() == {setup.name for setup in pipeline.SETUPS}
