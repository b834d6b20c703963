"""GPU: how true the device times are, what they cost, and what a CPU timer would have claimed. Needs a CUDA device.

Run by ``python -m benchmarks.gpu``. The model is VibeVoice 1.5B's architecture at its real size with random weights: the figures are about
time, not sound. Where fewer than 12 GB are free, or with --quick, the demo's tiny one takes its place, and the report says so.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.telemetry import providers
from vibevoice_otel import semconv
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.recording.records import Batch, Block

NEEDED_BYTES = 12e9
STREAMS = (1, 8, 32)
STEPS = 10
BASE, STEP = "benchmark.base", "benchmark.step"
#: Calls of CUDA's runtime and driver that make the host wait for the device. cudaMemcpyAsync from pageable memory is followed by one.
SYNCHRONISING = frozenset({
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMemcpy2D", "cudaMemset",
    "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize",
})  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- the model


@dataclass
class Subject:
    """A model and what it is asked; every thread that generates has a scheduler of its own."""

    model: Any
    name: str
    device: str

    @classmethod
    def build(cls, device: str, *, tiny: bool) -> Subject:
        import torch
        from transformers import VibeVoiceConfig

        from vibevoice_otel.service import processor as tokens
        from vibevoice_otel.service.faults import Faults
        from vibevoice_otel.service.model import StreamingVibeVoice, random_model

        if tiny:
            return cls(random_model(0, Faults()).to(device), "the demo's tiny architecture", device)
        config = VibeVoiceConfig(
            text_config={
                "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 65_536, "tie_word_embeddings": True,
            },
            diffusion_head_config={"hidden_size": 1536, "intermediate_size": 4608},
            pad_token_id=tokens.PAD, eos_token_id=tokens.EOS, audio_bos_token_id=tokens.AUDIO_BOS,
            audio_eos_token_id=tokens.AUDIO_EOS, audio_token_id=tokens.AUDIO,
        )  # fmt: skip
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                model = StreamingVibeVoice(config).eval()
        finally:
            torch.set_default_dtype(before)
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e9
        return cls(model, f"VibeVoice 1.5B's architecture, {size:.2f}e9 random parameters in bfloat16", device)

    def speak(self, frames: int, seed: int = 0) -> Any:
        """Generate ``frames`` frames on the calling thread; each goes to an audio queue, and so to the CPU. The audio, on the CPU."""
        import diffusers
        import torch

        from vibevoice_otel.service.faults import Faults
        from vibevoice_otel.service.model import schedule
        from vibevoice_otel.service.processor import ByteProcessor
        from vibevoice_otel.service.streamer import AudioStreamer
        from vibevoice_otel.service.voices import load

        inputs = {
            name: each.to(self.device)
            for name, each in ByteProcessor()("A sentence to be spoken.", load("en-Carter_man", Faults())).items()
        }
        scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        streamer = AudioStreamer()
        torch.manual_seed(seed)
        with torch.inference_mode():
            self.model.stream(
                streamer, threading.Event(), "en-Carter_man", **inputs, **schedule(inputs["input_ids"].shape[1], frames),
                noise_scheduler=scheduler, num_diffusion_steps=STEPS, guidance_scale=1.5,
            )  # fmt: skip
        streamer.end()
        return torch.cat([chunk.float().reshape(-1) for chunk in streamer.get_stream(0)])


# ----------------------------------------------------------------------------------------------------------- observation


@dataclass
class Kept:
    """A sink that keeps the records."""

    batches: list[Batch] = field(default_factory=list)

    def consume(self, batch: Batch) -> None:
        self.batches.append(batch)

    def steps(self) -> list[Block]:
        """Every block of diffusion steps, in order."""
        return [block for batch in self.batches for block in batch.blocks if block.span is semconv.STEP]


@contextmanager
def observed() -> Iterator[Kept]:
    """Within, the model is instrumented as the launcher would have it, its exporters doing everything but send."""
    tracer_provider, meter_provider, _, _ = providers()
    instrumentor, kept = VibeVoiceInstrumentor(), Kept()
    instrumentor.instrument(tracer_provider=tracer_provider, meter_provider=meter_provider, skip_dep_check=True)
    recorder = instrumentor.recorder
    assert recorder is not None
    recorder.sinks.append(kept)
    try:
        yield kept
        recorder.flush(60)
    finally:
        instrumentor.uninstrument()
        tracer_provider.shutdown()
        meter_provider.shutdown()


# ------------------------------------------------------------------------------------------------- what the card really did


@dataclass
class Truth:
    """One step by the profiler, microseconds: from its first kernel's start to its last one's end, and kernels at work in that time."""

    interval: float
    busy: float


def profiled(subject: Subject, frames: int) -> dict[str, Any]:
    """Chrome trace of one generation, its steps marked on the CPU by BASE and STEP."""
    import diffusers
    from torch.profiler import ProfilerActivity, profile, record_function

    scheduler = diffusers.DPMSolverMultistepScheduler
    before = scheduler.__dict__["set_timesteps"], scheduler.__dict__["step"]

    def marked(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            with record_function(name):
                return result

        return call

    scheduler.set_timesteps, scheduler.step = marked(BASE, before[0]), marked(STEP, before[1])
    activities = [ProfilerActivity.CPU]
    if subject.device != "cpu":
        activities.append(ProfilerActivity.CUDA)
    try:
        with profile(activities=activities) as profiler:
            subject.speak(frames)
    finally:
        scheduler.set_timesteps, scheduler.step = before
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace: dict[str, Any] = json.loads(path.read_text())
    return trace


def truths(trace: dict[str, Any]) -> list[Truth | None]:
    """Each step of a :func:`profiled` trace, in order; None for one that launched nothing.

    A kernel belongs to the step in which the host launched it.
    """
    marks: list[tuple[float, str]] = []
    launches: list[tuple[float, int]] = []
    work: dict[int, list[tuple[float, float]]] = {}
    for event in trace["traceEvents"]:
        category, name = event.get("cat", ""), event.get("name", "")
        if name in {BASE, STEP} and category != "gpu_user_annotation" and "dur" in event:
            marks.append((event["ts"], name))
        elif category in {"cuda_runtime", "cuda_driver"} and "correlation" in event.get("args", {}):
            launches.append((event["ts"], event["args"]["correlation"]))
        elif category in {"kernel", "gpu_memcpy", "gpu_memset"}:
            work.setdefault(event["args"]["correlation"], []).append((event["ts"], event["ts"] + event["dur"]))
    marks.sort()
    launches.sort()
    found: list[Truth | None] = []
    since, at = float("-inf"), 0
    for moment, name in marks:
        own: list[tuple[float, float]] = []
        while at < len(launches) and launches[at][0] <= moment:
            if launches[at][0] > since:
                own.extend(work.get(launches[at][1], ()))
            at += 1
        since = moment
        if name == STEP:
            found.append(Truth(max(e for _, e in own) - min(s for s, _ in own), _union(own)) if own else None)
    return found


def _union(intervals: list[tuple[float, float]]) -> float:
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def waits(trace: dict[str, Any]) -> dict[str, int]:
    """How often the host waited for the device, by the call that made it."""
    counts: dict[str, int] = {}
    for event in trace["traceEvents"]:
        if event.get("cat") in {"cuda_runtime", "cuda_driver"} and event["name"] in SYNCHRONISING:
            counts[event["name"]] = counts.get(event["name"], 0) + 1
    return counts


@dataclass
class Compared:
    """Microseconds, of each step: by our events, by the profiler, by a timer on the CPU."""

    ours: list[float]
    kernels: list[float]
    busy: list[float]
    naive: list[float]

    @property
    def off(self) -> float:
        """Median distance between our interval and the kernels'."""
        return statistics.median(abs(a - b) for a, b in zip(self.ours, self.kernels, strict=True))

    @property
    def allowed(self) -> float:
        """2 %, or 10 us for short steps."""
        return max(10.0, 0.02 * statistics.median(self.kernels))


def compare(blocks: list[Block], trace: dict[str, Any]) -> Compared:
    """Our steps beside the profiler's; both of the same run, in the same order.

    Raises:
        ValueError: when a step is not on the device's clock, or the two do not tell of the same number.
    """
    if any(block.attributes.get(semconv.CLOCK.key) != semconv.Clock.DEVICE for block in blocks):
        raise ValueError("a step was not timed by the device")
    ours = [seconds * 1e6 for block in blocks for seconds in block.seconds.tolist()]
    naive = [float(seconds) * 1e6 for block in blocks for seconds in list(block.attributes[semconv.HOST_DURATION.key])]  # type: ignore[arg-type]
    truth = truths(trace)
    if len(truth) != len(ours):
        raise ValueError(f"{len(ours)} steps are recorded and {len(truth)} were profiled")
    rows = [(o, t.interval, t.busy, n) for o, t, n in zip(ours, truth, naive, strict=True) if t is not None]
    return Compared(*(list(column) for column in zip(*rows, strict=True)))


# ------------------------------------------------------------------------------------------------------------ throughput


def frames_per_second(subject: Subject, streams: int, frames: int) -> float:
    """Of ``streams`` threads together, from the first's start to the last's end."""
    threads = [threading.Thread(target=subject.speak, args=(frames, seed)) for seed in range(streams)]
    gc.collect()
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams * frames / (time.perf_counter() - started)


def throughput(subject: Subject, streams: int, frames: int, rounds: int) -> dict[str, harness.Series]:
    """With and without us, by turns."""

    def bare() -> float:
        return frames_per_second(subject, streams, frames)

    def ours() -> float:
        with observed():
            return frames_per_second(subject, streams, frames)

    return harness.alternate({"bare": bare, "ours": ours}, rounds)


# ------------------------------------------------------------------------------------------------------------------ main


def main() -> None:
    import torch

    options = harness.arguments(__doc__ or "", frames=40, rounds=9)
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a GPU: torch finds no CUDA device here")
    card = torch.cuda.get_device_name(0)
    free, _ = torch.cuda.mem_get_info(0)
    subject = Subject.build("cuda", tiny=options.quick or free < NEEDED_BYTES)
    subject.speak(4)  # kernels are loaded, caches allocated

    without = profiled(subject, options.frames)
    with observed() as kept:
        subject.speak(2)
        instrumented = recorded_run(subject, options.frames, kept)
    result = compare(kept.steps(), instrumented)
    rows: list[list[str | float | None]] = [
        ["step: first kernel's start to last one's end", statistics.median(result.kernels), _quartiles(result.kernels)],
        ["step: by our events", statistics.median(result.ours), _quartiles(result.ours)],
        ["step: kernels at work", statistics.median(result.busy), _quartiles(result.busy)],
        ["step: what a timer on the CPU claims", statistics.median(result.naive), _quartiles(result.naive)],
    ]
    counted = waits(without), waits(instrumented)
    goals = [
        harness.Goal("events within 2 % of the kernels, or 10 us", result.off <= result.allowed, f"{result.off:.1f} us off in the median"),
        harness.Goal("no synchronisation added", counted[0] == counted[1], f"{counted[0]} without us, {counted[1]} with"),
    ]
    raw: dict[str, Any] = {
        "card": card,
        "model": subject.name,
        "ours_us": result.ours,
        "kernels_us": result.kernels,
        "naive_us": result.naive,
    }
    for streams in STREAMS:
        found = throughput(subject, streams, options.frames, options.rounds)
        lost = 1 - harness.ratio(found["ours"], found["bare"]).median
        rows += [
            [f"{streams} streams, frames a second, bare", found["bare"].median, harness.spread(found["bare"])],
            [f"{streams} streams, frames a second, observed", found["ours"].median, harness.spread(found["ours"])],
        ]
        goals.append(harness.Goal(f"{streams} streams: below 0.5 % lost", lost < 0.005, f"{lost:.2%}"))
        raw[f"throughput_{streams}"] = {name: series.values for name, series in found.items()}
    harness.Report(
        "gpu", f"{card}, {subject.name}, {STEPS} steps a frame; steps in microseconds", "us", ["what", "median", "quartiles"], rows, goals,
        raw=raw,
    ).write(options.out)  # fmt: skip


def recorded_run(subject: Subject, frames: int, kept: Kept) -> dict[str, Any]:
    """A profiled generation of which alone ``kept`` then holds the records."""
    recorder = VibeVoiceInstrumentor().recorder
    assert recorder is not None
    recorder.flush(60)
    kept.batches.clear()
    trace = profiled(subject, frames)
    recorder.flush(60)
    return trace


def _quartiles(values: list[float]) -> str:
    return harness.spread(harness.Series("", values))


if __name__ == "__main__":
    main()
