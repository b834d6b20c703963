"""GPU: how true the device times are, what they cost, and what a CPU timer would have claimed. Needs a CUDA device.

Run by ``python -m benchmarks.gpu``. The model is VibeVoice 1.5B's architecture at its real size with random weights:
the figures are about time, not sound. Where fewer than 12 GB are free, or with --quick, the demo's tiny one takes its
place, and the report says so.

How true the events are is asked where the card goes from kernel to kernel (:func:`ahead`). As transformers has it the
model waits for the card at every step, to which it copies the timestep; the card then waits for the host at both ends
of a step, and between two events lies that too. Both are reported.
"""

from __future__ import annotations

import functools
import gc
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.telemetry import providers
from vibevoice_otel import semconv
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.recording import device
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.device import StreamNotes
from vibevoice_otel.recording.device.limits import FrameLimits, verdict
from vibevoice_otel.recording.records import Batch, Block
from vibevoice_otel.recording.timeline import Timeline
from vibevoice_otel.semconv import Limit

NEEDED_BYTES = 12e9
STREAMS = (1, 8, 32)
STEPS = 10
#: Streams of one process share one interpreter, so each one's frames come more slowly the more there are: a round takes
#: about so long.
ROUND_SECONDS = 8.0
#: Frames that are profiled: a trace of more says no more, and is hundreds of megabytes.
PROFILED = 12
#: For so long the card sleeps before a frame's steps in :func:`ahead`: longer than the host, being profiled, takes to
#: queue them.
SLEEP_MS = 150.0
BASE, STEP = "benchmark.base", "benchmark.step"
#: Calls of CUDA's runtime and driver that make the host wait for the device. cudaMemcpyAsync from pageable memory is
#: followed by one.
SYNCHRONISING = frozenset({
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMemcpy2D",
    "cudaMemset", "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize",
})  # fmt: skip
#: What CUPTI may put behind a call's name: the version in which it last changed, and the kind of default stream.
SUFFIX = re.compile(r"(_v\d+|_ptsz|_ptds)+$")


def no_card() -> str | None:
    """Why there is no card to measure; None when there is one."""
    import torch

    if torch.cuda.is_available():
        return None
    made = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
    return f"needs a GPU: torch {torch.__version__}, which {made}, finds no CUDA device with a driver for it"


# ------------------------------------------------------------------------------------------------------------ the model


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
                "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960,
                "num_hidden_layers": 28,
                "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 65_536,
                "tie_word_embeddings": True,
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
        """Generate ``frames`` frames on the calling thread; each goes to an audio queue, and so to the CPU. The audio,
        on the CPU.
        """
        import diffusers
        import torch

        from vibevoice_otel.service.faults import Faults
        from vibevoice_otel.service.model import schedule
        from vibevoice_otel.service.processor import byte_inputs
        from vibevoice_otel.service.streamer import AudioSampleIterator, AudioStreamer
        from vibevoice_otel.service.voices import load

        inputs = {
            name: each.to(self.device)
            for name, each in byte_inputs("A sentence to be spoken.", load("en-Carter_man", Faults())).items()
        }
        scheduler = diffusers.DPMSolverMultistepScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
        )
        streamer = AudioStreamer()
        torch.manual_seed(seed)
        with torch.inference_mode():
            self.model.stream(
                streamer, threading.Event(), "en-Carter_man", **inputs,
                **schedule(inputs["input_ids"].shape[1], frames),
                noise_scheduler=scheduler, num_diffusion_steps=STEPS, guidance_scale=1.5,
            )  # fmt: skip
        streamer.end()
        return torch.cat([chunk.float().reshape(-1) for chunk in AudioSampleIterator(streamer)])


# ---------------------------------------------------------------------------------------------------------- observation


@dataclass
class Kept:
    """A sink that keeps the records. ``collect`` reads every metric once, the card's memory among them; ``flush`` has
    all ended spans encoded.
    """

    collect: Callable[[], object]
    flush: Callable[[], object]
    batches: list[Batch] = field(default_factory=list)

    def consume(self, batch: Batch) -> None:
        self.batches.append(batch)

    def steps(self) -> list[Block]:
        """Every block of diffusion steps, in order."""
        return [block for batch in self.batches for block in batch.blocks if block.span is semconv.STEP]

    def limits(self) -> dict[str, float]:
        """Seconds of all frames by what limited them, and the error of that."""
        frames = [
            block for batch in self.batches for block in batch.blocks if block.span is semconv.FRAME and block.measures
        ]
        return {name: float(sum(np.nansum(block.measures[name]) for block in frames)) for name in FrameLimits._fields}


@contextmanager
def observed() -> Iterator[Kept]:
    """Within, the model is instrumented as the launcher would have it, its exporters doing everything but send."""
    tracer_provider, meter_provider, reader, _ = providers()
    instrumentor, kept = VibeVoiceInstrumentor(), Kept(reader.get_metrics_data, tracer_provider.force_flush)
    instrumentor.instrument(
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        skip_dep_check=True,
        recorder_options={"more": [kept]},
    )
    recorder = instrumentor.recorder
    assert recorder is not None
    try:
        yield kept
        recorder.flush(60)
    finally:
        instrumentor.uninstrument()
        tracer_provider.shutdown()
        meter_provider.shutdown()


@contextmanager
def collecting(kept: Kept, every: float = 0.05) -> Iterator[None]:
    """Within, metrics are collected all the time, from a thread of their own as the SDK does it (which does so once a
    minute).
    """
    stop = threading.Event()

    def collect() -> None:
        while not stop.wait(every):
            kept.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --------------------------------------------------------------------------------------------- what the card really did


def cycles(milliseconds: float) -> int:
    """For ``torch.cuda._sleep``: how many of the card's cycles take so long."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(100_000_000)  # its kernel is loaded, and the card, awake, has raised its clock
    start.record()
    torch.cuda._sleep(10_000_000)
    end.record()
    end.synchronize()
    return int(10_000_000 * milliseconds / start.elapsed_time(end))


@contextmanager
def ahead(device: str, queued: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within, a frame's steps are queued while the card sleeps, so that it goes from kernel to kernel and never waits
    for the host.

    The timesteps lie on the card from the start, and the scheduler is told where in them it begins: nothing is left,
    from a frame's first step to its last, for which the host would wait. To be entered before :func:`observed`, whose
    hooks must come after the sleep.

    Args:
        device: where the timesteps shall lie; on a CPU nothing sleeps.
        queued: called when the steps are about to be queued.
    """
    import diffusers
    import torch

    scheduler = diffusers.DPMSolverMultistepScheduler
    before = scheduler.__dict__["set_timesteps"]
    sleep = cycles(SLEEP_MS) if device != "cpu" else 0

    def set_timesteps(self: Any, num_inference_steps: int) -> None:
        before(self, num_inference_steps, device=device)
        self.set_begin_index(0)
        if sleep:
            torch.cuda._sleep(sleep)
        queued()

    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        scheduler.set_timesteps = before


@dataclass
class Truth:
    """One step by the profiler, microseconds: from its first kernel's start to its last one's end, and kernels at work
    in that time.
    """

    interval: float
    busy: float


def profiled(subject: Subject, frames: int) -> dict[str, Any]:
    """Chrome trace of one generation, its steps marked on the CPU by BASE and STEP."""
    import diffusers
    from torch.profiler import ProfilerActivity, profile, record_function

    scheduler = diffusers.DPMSolverMultistepScheduler
    before = scheduler.__dict__["set_timesteps"], scheduler.__dict__["step"]

    def marked(name: str, original: Any) -> Any:
        @functools.wraps(original)  # with what says that it is hooked already
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
        trace: dict[str, Any] = json.loads(
            path.read_text(errors="replace"), strict=False
        )  # kernels' names are not ours
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
        name = SUFFIX.sub("", event.get("name", ""))
        if event.get("cat") in {"cuda_runtime", "cuda_driver"} and name in SYNCHRONISING:
            counts[name] = counts.get(name, 0) + 1
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
        ValueError: when a step is not on the device's clock, the two do not tell of the same number, or the profiler
            saw no kernel.
    """
    if any(block.attributes.get(semconv.CLOCK.key) != semconv.Clock.DEVICE for block in blocks):
        raise ValueError("a step was not timed by the device")
    ours = [seconds * 1e6 for block in blocks for seconds in block.seconds.tolist()]
    naive = [float(seconds) * 1e6 for block in blocks for seconds in list(block.attributes[semconv.HOST_DURATION.key])]  # type: ignore[arg-type]
    truth = truths(trace)
    if len(truth) != len(ours):
        raise ValueError(f"{len(ours)} steps are recorded and {len(truth)} were profiled")
    rows = [(o, t.interval, t.busy, n) for o, t, n in zip(ours, truth, naive, strict=True) if t is not None]
    if not rows:
        raise ValueError("the profiler saw no kernel: has it no access to the card (CUPTI)?")
    return Compared(*(list(column) for column in zip(*rows, strict=True)))


# ----------------------------------------------------------------------------------------------------------- throughput


def frames_per_second(subject: Subject, streams: int, frames: int) -> float:
    """Of ``streams`` threads together, from the first's start to the last's end; a stream that fails fails the
    measurement.
    """
    gc.collect()
    started = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        speaking = [pool.submit(subject.speak, frames, seed) for seed in range(streams)]
    seconds = time.perf_counter() - started
    for each in speaking:
        each.result()
    return streams * frames / seconds


def throughput(subject: Subject, streams: int, frames: int, rounds: int) -> dict[str, harness.Series]:
    """With and without us, by turns."""

    def bare() -> float:
        return frames_per_second(subject, streams, frames)

    def ours() -> float:
        with observed():
            return frames_per_second(subject, streams, frames)

    return harness.alternate({"bare": bare, "ours": ours}, rounds)


def mark_microseconds(count: int = 2000) -> float:
    """What a step's mark costs the thread that generates, its events already made: the stream is dry, as it is where a
    host is slow.
    """
    card = device.opened("cuda", 0)
    if card is None:
        raise ValueError("there is no card")
    taken = 0
    for _ in range(2):  # the first time the pool makes its events
        notes = StreamNotes(Timeline(1, Anchor.take(), now()).runs[0], card)
        notes.base(now())
        began = time.perf_counter_ns()
        for _ in range(count):
            notes.append(now())
        taken = time.perf_counter_ns() - began
        notes.placing.collect(final=True)
    return taken / count / 1000


# ----------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    import torch

    options = harness.arguments(__doc__ or "", frames=40, rounds=9)
    missing = no_card()
    if missing is not None:
        raise SystemExit(f"benchmarks.gpu {missing}")
    card = torch.cuda.get_device_name(0)
    free, _ = torch.cuda.mem_get_info(0)
    subject = Subject.build("cuda", tiny=options.quick or free < NEEDED_BYTES)
    frames = min(options.frames, PROFILED)
    subject.speak(frames)  # kernels are loaded, caches allocated
    profiled(subject, 1)  # and the profiler is at hand

    without = profiled(subject, frames)
    with observed() as kept:
        subject.speak(2)
        with collecting(kept):
            instrumented = recorded_run(subject, frames, kept)
    as_it_runs = compare(kept.steps(), instrumented)
    frames_of = kept.limits()
    with ahead("cuda"), observed() as kept:
        subject.speak(2)
        trace = recorded_run(subject, frames, kept)
    queued = compare(kept.steps(), trace)
    rows: list[list[str | float | None]] = []
    for title, result in (("as the model runs", as_it_runs), ("steps queued ahead", queued)):
        rows += [
            [
                f"{title}: first kernel's start to last one's end",
                statistics.median(result.kernels),
                _quartiles(result.kernels),
            ],
            [f"{title}: by our events", statistics.median(result.ours), _quartiles(result.ours)],
            [f"{title}: kernels at work", statistics.median(result.busy), _quartiles(result.busy)],
            [f"{title}: what a timer on the CPU claims", statistics.median(result.naive), _quartiles(result.naive)],
        ]
    rows.append(["a step's mark, on the host", mark_microseconds(), None])
    counted = waits(without), waits(instrumented)
    goals = [
        harness.Goal(
            "events within 2 % of the kernels, or 10 us (steps queued ahead)",
            queued.off <= queued.allowed,
            f"{queued.off:.1f} us off in the median; {as_it_runs.off:.1f} us as the model runs, the card's waits at "
            "both ends included",
        ),
        harness.Goal(
            "no synchronisation added", counted[0] == counted[1], f"{counted[0]} without us, {counted[1]} with"
        ),
    ]
    raw: dict[str, Any] = {
        "card": card,
        "model": subject.name,
        "as_it_runs_us": asdict(as_it_runs),
        "limits_s": frames_of,
        "queued_ahead_us": asdict(queued),
    }
    notes = [limit_line(as_it_runs, frames_of)]
    rate = frames_per_second(subject, 1, 2)
    for streams in STREAMS:
        fit = int(ROUND_SECONDS * rate / streams)
        each = min(options.frames, fit)  # a stream's
        if fit < 2:
            notes.append(
                f"{streams} streams: left out, two frames of each would take {2 * streams / rate:.0f} s a round"
            )
            continue
        found = throughput(subject, streams, each, options.rounds)
        kept_up = harness.ratio(found["ours"], found["bare"])
        lost = 1 - kept_up.median
        rows += [
            [f"{streams} streams, frames a second, bare", found["bare"].median, harness.spread(found["bare"])],
            [f"{streams} streams, frames a second, observed", found["ours"].median, harness.spread(found["ours"])],
        ]
        goals.append(
            harness.Goal(
                f"{streams} streams: below 0.5 % lost",
                lost < 0.005,
                f"{lost:.2%}, quartiles {1 - kept_up.high:.2%} .. {1 - kept_up.low:.2%}",
            )
        )
        raw[f"throughput_{streams}"] = {name: series.values for name, series in found.items()}
    harness.Report(
        "gpu", f"{card}, {subject.name}, {STEPS} steps a frame; steps in "
               "microseconds", "us", ["what", "median", "quartiles"], rows, goals,
        notes=notes, raw=raw,
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


def limit_line(steps: Compared, seconds: dict[str, float]) -> str:
    """Who is the limit as the model runs: by the profiler, and by what every frame says at no cost."""
    share = statistics.median(steps.busy) / statistics.median(steps.ours)
    told = dict(seconds)
    error = told.pop("error", 0.0)
    total = sum(told.values())
    divided = (
        ", ".join(f"{Limit(name).words} {amount / total:.0%}" for name, amount in told.items() if amount)
        if total
        else "nothing"
    )
    word = verdict(told, error, least=1.0).words
    return (
        f"kernels at work in {share:.1%} of a step as the model runs; of the frames' time: {divided}. The limit: {word}"
    )


def _quartiles(values: list[float]) -> str:
    return harness.spread(harness.Series("", values))


if __name__ == "__main__":
    main()
