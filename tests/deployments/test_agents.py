"""The recipes of docs/deployment.md with the real Pipecat and LiveKit Agents: one trace from the agent's turn to the
last step.

``make test-agents`` runs them: the two packages bring 600 MB of others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.upstream.server import Server, serve
from tests.upstream.sink import Sink
from tests.upstream.trees import make_double
from vibevoice_otel import semconv

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
TEXT, VOICE = "Good morning to you.", "en-Emma_woman"
HERE = all(importlib.util.find_spec(name) is not None for name in ("pipecat", "livekit"))
pytestmark = [
    pytest.mark.filterwarnings("default"),  # theirs
    pytest.mark.skipif(not HERE, reason="Pipecat and LiveKit Agents are not here: make test-agents"),
]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tree = make_double(tmp_path_factory.mktemp("double"))
    with Sink() as sink, serve(tree, sink, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def agent() -> InMemorySpanExporter:
    """The agent's own spans. Its libraries take the global provider, which is set once in a process."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def told(server: Server, turn: Any) -> dict[str, int]:
    """How many spans of each name the server sent in the trace of ``turn``; the SERVER span is a descendant of it."""
    trace_id = format(turn.context.trace_id, "032x")

    def names() -> dict[str, int]:
        found: dict[str, int] = {}
        for span in server.sink.spans(trace_id):
            found[span.name] = found.get(span.name, 0) + 1
        return found

    def whole() -> bool:
        found = names()
        return semconv.SYNTHESIZE.name in found and found.get(semconv.STEP.name) == 5 * found.get(semconv.FRAME.name, 0)

    server.sink.wait(whole)
    return names()


async def test_pipecat(server: Server, agent: InMemorySpanExporter) -> None:
    """A pipeline with tracing says a sentence: its turn, the request, every frame and step are one trace."""
    from pipecat.frames.frames import EndFrame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.workers.runner import WorkerRunner

    class Ear(FrameProcessor):
        heard = 0

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSAudioRawFrame):
                Ear.heard += len(frame.audio)
            elif isinstance(frame, TTSStoppedFrame):
                await worker.queue_frame(EndFrame())
            await self.push_frame(frame, direction)

    agent.clear()
    speech = example("pipecat_tts").VibeVoiceTTSService(f"ws://127.0.0.1:{server.port}/stream", VOICE)
    worker = PipelineWorker(Pipeline([speech, Ear()]), enable_tracing=True)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await worker.queue_frame(TTSSpeakFrame(TEXT))
    await runner.run()
    (turn,) = [span for span in agent.get_finished_spans() if span.name == "turn"]
    names = told(server, turn)
    assert names[semconv.SYNTHESIZE.name] == 1
    assert names[semconv.STEP.name] == 5 * names[semconv.FRAME.name] >= 5
    assert Ear.heard > 0


async def test_livekit(server: Server, agent: InMemorySpanExporter) -> None:
    """An agent's TTS says a sentence: its turn, the attempt, the request, every frame and step are one trace."""
    from livekit.agents import telemetry

    telemetry.set_tracer_provider(trace.get_tracer_provider())
    agent.clear()
    speech = example("livekit_tts").VibeVoiceTTS(f"ws://127.0.0.1:{server.port}/stream", VOICE)
    with trace.get_tracer("agent").start_as_current_span("agent_turn"):
        frame = await speech.synthesize(TEXT).collect()
    assert frame.duration > 0
    (turn,) = [span for span in agent.get_finished_spans() if span.name == "agent_turn"]
    names = told(server, turn)
    assert names[semconv.SYNTHESIZE.name] == 1
    assert names[semconv.STEP.name] == 5 * names[semconv.FRAME.name] >= 5
    assert any(span.name.startswith("tts_request") for span in agent.get_finished_spans())
