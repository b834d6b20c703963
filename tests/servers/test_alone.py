"""A script and a gRPC server: each generation by itself. What is not measured is absent, never 0."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.upstream.server import LAUNCHER, REPOSITORY
from tests.upstream.sink import Sink
from tests.upstream.traces import Trace
from tests.upstream.trees import Tree
from vibevoice_otel import semconv
from vibevoice_otel.semconv import Status

TEXT = "Good evening, this is one."
#: What only a listener's side can tell.
OF_A_LISTENER = (
    semconv.FIRST_AUDIO_LATENCY, semconv.UNDERRUNS, semconv.UNDERRUN_DURATION, semconv.WORST_GAP, semconv.SEND_BLOCKED,
    semconv.CHUNK_JITTER, semconv.CLOSE_CODE, semconv.AFTER_DISCONNECT_DURATION,
)  # fmt: skip
#: Their metrics.
HEARD = (
    semconv.FIRST_AUDIO, semconv.GAP, semconv.UNDERRUN_SECONDS, semconv.CHUNK_INTERVAL, semconv.FIRST_AUDIO_PART,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["script", "returned", "grpc"])
def test_a_generation_by_itself(tree: Tree, kind: str) -> None:
    """One trace with everything that the model's side tells, its audio that of the program's own count."""
    with Sink() as sink:
        done = subprocess.run(
            [*LAUNCHER, sys.executable, "-m", "shapes.alone", kind],
            cwd=tree.path,
            env={
                **os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MODEL_PATH": str(tree.model),
                "PYTHONPATH": os.pathsep.join((str(tree.path), str(REPOSITORY))), "OTEL_SERVICE_NAME": "vibevoice",
                "OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
            },
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        trace = Trace(sink.spans(Trace(sink.spans()).root.trace_id))  # the loading of the model is a trace of its own
        assert trace.value(semconv.STATUS) == Status.SUCCESS
        assert trace.value(semconv.TEXT_LENGTH) == len(TEXT)
        samples = int(done.stdout.rpartition("samples ")[2])
        assert trace.value(semconv.AUDIO_DURATION) == pytest.approx(samples / semconv.SAMPLE_RATE_HZ)
        assert trace.all(semconv.FRAME)
        assert trace.one(semconv.PREPROCESS).end <= trace.one(semconv.GENERATE).start
        assert not trace.all(semconv.FIRST_CHUNK)
        assert [each.key for each in OF_A_LISTENER if trace.value(each) is not None] == []
        assert [each.name for each in HEARD if any(point.count for point in sink.metric(each.name))] == []
        assert [point for point in sink.metric(semconv.CONTINUITY_SLI.name) if point.value] == []
        assert TEXT not in str(sink.spans())
