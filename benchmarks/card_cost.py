"""What observing costs where eight streams share one interpreter: by pairs of rounds,
and by what our work takes of it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks import gpu, harness
from benchmarks.card_limit import Row
from benchmarks.gpu import Subject
from benchmarks.replay import Model
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.recording import device
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.device import StreamNotes
from vibevoice_otel.recording.timeline import Asked, Timeline, bound

STREAMS = 8
#: Frames of each stream in a round, and in one longer one, which tells a frame's work from a request's.
ROUND_FRAMES, LONG_FRAMES = 2, 6
#: Frames of a sentence, of which the request's own work is a part: 5.3 s of audio.
SENTENCE_FRAMES = 40
#: Rounds in pairs are made for about so long.
SECONDS = 35.0
#: Of a second's frames, what observing may take.
MOST = 0.005


def cost(subject: Subject, seconds: float) -> tuple[list[Row], list[harness.Goal], dict[str, Any]]:
    """Pairs of rounds, with and without us, the order turned from pair to pair; beside them the processor's time that
    all our work takes for a sentence: of one interpreter's threads only one runs at a time, so that no more than that
    is lost, but for the changes of threads.
    """
    bare: list[float] = []
    ours: list[float] = []
    threads: list[float] = []

    def without() -> None:
        bare.append(gpu.frames_per_second(subject, STREAMS, ROUND_FRAMES))

    def observed() -> None:
        rate, taken = _observed(subject, ROUND_FRAMES)
        ours.append(rate)
        threads.append(taken / STREAMS)

    observed()  # what the first of them loads and compiles is no part of it
    without()
    for each in (bare, ours, threads):
        each.clear()
    until, pair = time.monotonic() + seconds, 0
    while time.monotonic() < until or pair < 2:
        for contender in (without, observed) if pair % 2 else (observed, without):
            contender()
        pair += 1
    longer, short = _observed(subject, LONG_FRAMES)[1] / STREAMS, statistics.median(threads)
    each = (longer - short) / (LONG_FRAMES - ROUND_FRAMES)
    request = short - ROUND_FRAMES * each
    lost = [1 - mine / other for mine, other in zip(ours, bare, strict=True)]
    hooks, frame = frame_hooks(), 1 / statistics.median(ours)
    ours_of_it = hooks + each + request / SENTENCE_FRAMES
    taken = ours_of_it / frame
    low, high = harness.interval(lost)
    rows: list[Row] = [
        [
            f"{STREAMS} streams, frames a second, bare",
            statistics.median(bare),
            harness.spread(harness.Series("", bare)),
        ],
        [
            f"{STREAMS} streams, frames a second, observed",
            statistics.median(ours),
            harness.spread(harness.Series("", ours)),
        ],
        [
            f"{STREAMS} streams: lost, by pairs",
            f"{statistics.median(lost):.1%}",
            f"{low:.1%} .. {high:.1%}, {pair} pairs",
        ],
        ["a frame's hooks on the threads that generate, us", hooks * 1e6, f"of {frame * 1e3:.0f} ms a frame"],
        ["a frame's work on our own threads, us", each * 1e6, f"and {request * 1e6:,.0f} a request"],
    ]
    goals = [
        harness.Goal(
            f"{STREAMS} streams: observing takes below {MOST:.1%} of the interpreter",
            taken < MOST,
            f"{taken:.2%}: {ours_of_it * 1e3:.2f} ms of processor of {frame * 1e3:.0f} ms, by sentences of "
            f"{SENTENCE_FRAMES} frames",
        ),
        harness.Goal(f"{STREAMS} streams: pairs do not show more lost", low < MOST, f"{low:.1%} .. {high:.1%}"),
    ]
    return rows, goals, {"bare": bare, "ours": ours, "round_s": threads, "long_round_s": longer, "hooks_s": hooks}


def _observed(subject: Subject, frames: int) -> tuple[float, float]:
    """(frames a second, seconds of processor that our own threads took for all of it, to the last byte)."""
    before = {thread.ident for thread in threading.enumerate()}
    with gpu.observed() as kept:
        rate = gpu.frames_per_second(subject, STREAMS, frames)
        recorder = VibeVoiceInstrumentor().recorder
        assert recorder is not None
        own = time.thread_time()
        recorder.flush(60)
        kept.flush()
        kept.collect()
        own = time.thread_time() - own
        mine = [thread.ident for thread in threading.enumerate() if thread.ident not in before]
        return rate, own + sum(time.clock_gettime(time.pthread_getcpuclockid(each)) for each in mine if each)


def frame_hooks(frames: int = 300) -> float:
    """Seconds of processor that a frame's hooks add to the thread that generates, marks on the card among them: the
    median of rounds.
    """
    card = device.opened("cuda", 0)

    def timed(model: Model) -> float:
        began = time.thread_time()
        for _ in range(frames):
            model.frame(gpu.STEPS)
        return (time.thread_time() - began) / frames

    def hooked() -> float:
        timeline = Timeline(1, Anchor.take(), now(), Asked())
        run = timeline.runs[0]
        run.device = StreamNotes(run, card) if card is not None else None
        with bound(timeline):
            model = Model.observed()
            model.begin()
            taken = timed(model)
        if run.device is not None:
            run.device.placing.collect(final=True)
        return taken

    contenders: dict[str, Callable[[], float]] = {"bare": lambda: timed(Model()), "hooked": hooked}
    found = harness.alternate(contenders, 5)
    return found["hooked"].median - found["bare"].median
