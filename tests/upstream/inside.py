"""A program inside which upstream's service speaks once, without a socket, instrumented and then not. Prints what it
saw as JSON.

Run with the tree as its argument; the tree goes on the path.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

MODULES = (
    "demo.web.app",
    "vibevoice.modular.modeling_vibevoice_streaming_inference",
    "vibevoice.modular.modeling_vibevoice_streaming",
    "vibevoice.modular.modular_vibevoice_tokenizer",
    "vibevoice.modular.streamer",
    "vibevoice.processor.vibevoice_streaming_processor",
    "vibevoice.schedule.dpm_solver",
    "starlette.applications",
)
TEXT = "Good evening, this is a short text."


def functions(modules: list[ModuleType]) -> dict[str, Any]:
    """Every function and method that these modules hold, by where it is; inherited ones where they are defined."""
    found: dict[str, Any] = {}
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, FunctionType):
                found[f"{module.__name__}.{name}"] = value
            if isinstance(value, type):
                found.update(
                    {f"{value.__module__}.{value.__qualname__}.{own}": member for own, member in vars(value).items()}
                )
    return {
        where: value for where, value in found.items() if isinstance(value, FunctionType | staticmethod | classmethod)
    }


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def main(tree: Path) -> None:
    sys.path[:0] = [str(tree), str(Path(__file__).parent.parent.parent)]
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from vibevoice_otel.instrumentor import VibeVoiceInstrumentor

    warnings = Warnings()
    logging.getLogger("vibevoice_otel").addHandler(warnings)
    spans, metrics = InMemorySpanExporter(), InMemoryMetricReader()
    provider, meters = TracerProvider(), MeterProvider([metrics])
    provider.add_span_processor(SimpleSpanProcessor(spans))

    modules = [importlib.import_module(name) for name in MODULES]
    before = functions(modules)
    instrumentor = VibeVoiceInstrumentor()
    for _ in range(2):  # the second time must change nothing
        instrumentor.instrument(tracer_provider=provider, meter_provider=meters, skip_dep_check=True)
    during = functions(modules)

    service_class = next(value for value in vars(modules[0]).values() if hasattr(value, "chunk_to_pcm16"))
    service = service_class(model_path=str(tree / "model"), device="cpu")
    service.load()
    chunks = list(
        service.stream(TEXT, voice_key="en-Emma_woman", inference_steps=3, log_callback=lambda *_a, **_k: None)
    )
    recorder = instrumentor.recorder
    assert recorder is not None
    recorder.flush()
    points = [(point.part, point.where, point.found) for point in instrumentor.hook_points]
    instrumentor.uninstrument()
    after = functions(modules)
    data: Any = metrics.get_metrics_data()
    every = [
        metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]
    counters = {metric.name: sum(getattr(point, "value", 0) for point in metric.data.data_points) for metric in every}
    unobserved = len(list(service.stream(TEXT, inference_steps=3, log_callback=lambda *_a, **_k: None)))

    report = {
        "chunks": len(chunks),
        "unobserved": unobserved,
        "hooked": sorted(where for where, value in during.items() if before.get(where) is not value),
        "left": sorted(
            {where for where, value in after.items() if before.get(where) is not value} | (before.keys() ^ after.keys())
        ),
        "points": points,
        "warnings": warnings.said,
        "counters": counters,
        "spans": [
            {
                "name": span.name,
                "trace": span.context.trace_id,
                "id": span.context.span_id,
                "parent": span.parent.span_id if span.parent else None,
                "status": span.status.status_code.name,
                "attributes": dict(span.attributes or {}),
            }
            for span in spans.get_finished_spans()
        ],
    }
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
