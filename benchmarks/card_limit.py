"""Who is the limit, each case made on purpose, and whether a faster card saves no more than the waiting says."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from benchmarks import gpu, harness
from benchmarks.card_workers import answer, ask, worker
from benchmarks.gpu import Subject
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.recording.device import placing
from vibevoice_otel.recording.device.limits import FrameLimits, Turn, frame_limits, verdict
from vibevoice_otel.recording.device.marks import BASE, FRAME, STEP, Mark
from vibevoice_otel.recording.interval import Leaf
from vibevoice_otel.semconv import Limit

#: The card is kept at work for so long in each step where it is made the slow one.
SLOW_MS = 60.0
#: How often the cases of which differences are taken are run, by turns.
TURNS = 3
Row = list[str | float | None]
Work = Callable[[], object]
NAMES = {FRAME: "frame", BASE: "base", STEP: "step"}


def matrix_products(milliseconds: float) -> tuple[Work, Work]:
    """(what keeps the card at work for so long, and longer where another process wants it too; the same launches, of
    work that the card does in no time).

    ``torch.cuda._sleep`` would keep it busy too, but shares it with no other process.
    """
    import torch

    large = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) / 91  # few launches, which are the host's
    small = torch.randn(8, 8, device="cuda", dtype=torch.bfloat16)

    def multiply(matrix: Any, count: int) -> None:
        for _ in range(count):
            torch.mm(matrix, matrix)

    multiply(large, 5)
    multiply(small, 5)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    multiply(large, 30)
    end.record()
    end.synchronize()
    count = max(1, round(30 * milliseconds / start.elapsed_time(end)))
    return functools.partial(multiply, large, count), functools.partial(multiply, small, count)


@contextmanager
def in_each_step(work: Work) -> Iterator[None]:
    """Within, ``work`` is done at the end of each step. To be entered before ``observed``,
    whose hooks must come after.
    """
    import diffusers

    scheduler = diffusers.DPMSolverMultistepScheduler
    before = scheduler.__dict__["step"]

    @functools.wraps(before)
    def step(*args: Any, **kwargs: Any) -> Any:
        result = before(*args, **kwargs)
        work()
        return result

    scheduler.step = step
    try:
        yield
    finally:
        scheduler.step = before


class Frames:
    """What the estimator was given, frame by frame, and what it found."""

    def __init__(self) -> None:
        self.found: list[FrameLimits] = []
        self._lags: dict[str, list[float]] = defaultdict(list)
        self._host: dict[str, list[float]] = defaultdict(list)
        self._woke: list[float] = []
        self._off: list[float] = []

    def __call__(
        self, marked: Sequence[tuple[Mark, int]], entry: Turn | None, following: Turn | None, distance_error: float,
        origin_error: float, seen: Sequence[tuple[int, int]],
    ) -> FrameLimits | None:  # fmt: skip
        limits = frame_limits(marked, entry, following, distance_error, origin_error, seen)
        if limits is None:
            return None
        self.found.append(limits)
        for mark, passed in marked:
            self._lags[f"{_name(mark)}, {'dry' if mark.dry else 'not dry'}"].append((passed - mark.host) / 1e3)
        for (mark, passed), (later, _) in pairwise(marked):
            went_on = max(mark.host, min(passed, later.host))
            self._host[f"{_name(mark)} to {_name(later)}"].append((later.host - went_on) / 1e3)
        self._woke += [
            (host - marked[at][1]) / 1e3 for at, host in seen if marked[at][1] - marked[at][0].host > 100_000
        ]
        if entry is not None and following is not None:
            self._off.append((following.host - entry.host - (following.cpu - entry.cpu)) / 1e3)
        return limits

    @property
    def seconds(self) -> dict[str, float]:
        return {name: float(sum(getattr(each, name) for each in self.found)) for name in FrameLimits._fields}

    @property
    def totals(self) -> list[float]:
        """Seconds of each frame."""
        return [each.device_wait + each.host_bound for each in self.found]

    @property
    def bounds(self) -> list[float]:
        """Of each frame, the most that a faster card could save, s."""
        return [each.device_wait + each.error for each in self.found]

    def told(self) -> dict[str, Any]:
        """In microseconds: each kind of mark's lag behind the host, what the host took between two of them once the
        card was done, how long it took to go on after a wait, and what of a frame its thread was off its core.
        """
        return {
            "seconds": self.seconds,
            "lag_us": {name: _spread(values) for name, values in self._lags.items()},
            "host_us": {name: _spread(values) for name, values in self._host.items()},
            "woke_us": _spread(self._woke),
            "off_core_us": _spread(self._off),
            "frames_s": self.totals,
            "bounds_s": self.bounds,
        }


def _name(mark: Mark) -> str:
    return NAMES.get(mark.kind) or f"{Leaf(mark.kind // 2).name.lower()} {'left' if mark.kind % 2 else 'entered'}"


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    shares = {"low": 0.05, "q1": 0.25, "median": 0.5, "q3": 0.75, "high": 0.95}
    return {"n": len(values)} | {name: round(harness.quantile(values, share), 1) for name, share in shares.items()}


def limits(subject: Subject, frames: int, streams: int = 1, into: Frames | None = None) -> Frames:
    """What limited the frames of ``streams`` generations at once."""
    kept = into or Frames()
    before = placing.frame_limits
    placing.frame_limits = kept  # type: ignore[assignment]
    try:
        with gpu.observed():
            with ThreadPoolExecutor(streams) as pool:
                for each in [pool.submit(subject.speak, frames, seed) for seed in range(streams)]:
                    each.result()
            recorder = VibeVoiceInstrumentor().recorder
            assert recorder is not None
            recorder.flush(60)
    finally:
        placing.frame_limits = before
    return kept


def cases(subject: Subject, frames: int, slow_ms: float) -> tuple[list[Row], list[harness.Goal], dict[str, Any]]:
    """Each case on purpose, and the word that it gets; what a card slowed by a known time costs beside what its waiting
    says.
    """
    rows: list[Row] = []
    goals: list[harness.Goal] = []
    raw: dict[str, Any] = {}

    def judge(name: str, found: Frames, word: Limit | None) -> None:
        told = found.seconds
        error = told.pop("error")
        total, says = sum(told.values()), verdict(told, error, least=1.0)
        parts = ", ".join(f"{limit} {amount / total:.0%}" for limit, amount in told.items() if amount > total / 200)
        wait = told["card"] + told["other_process"]
        rows.append([
            f"{name}: the most that a faster card could save", f"{wait / total:.1%}",
            f"+- {error / total:.1%} of {total:.1f} s",
        ])  # fmt: skip
        if word is None:
            rows.append([f"{name}: the word", says.words, parts])
        else:
            goals.append(harness.Goal(f"{name}: {word.words}", says is word, f"{says.words} ({parts})"))
        raw[name] = found.told()

    with worker("burn") as other:
        subject.speak(frames)
        slow, idle = matrix_products(slow_ms)
        answer(other)
        as_it_runs, slowed, launched = Frames(), Frames(), Frames()
        for _ in range(TURNS):
            limits(subject, frames, into=as_it_runs)
            for work, into in ((slow, slowed), (idle, launched)):
                with in_each_step(work):
                    limits(subject, frames, into=into)
        judge("as the model runs", as_it_runs, Limit.CORE)
        judge(f"{slow_ms:.0f} ms of card in each step", slowed, Limit.CARD)
        judge("the same launches of no work", launched, Limit.CORE)
        with in_each_step(functools.partial(time.sleep, slow_ms / 1000)):
            paused = limits(subject, frames)
        raw["a pause of the host in each step"] = paused.told()
        ask(other, "go")
        with in_each_step(slow):
            judge("the same, and another process on the card", limits(subject, frames), Limit.OTHER_PROCESS)
    judge("four streams in this process", limits(subject, frames, streams=4), Limit.LOCK)
    judge("two streams in this process", limits(subject, frames, streams=2), None)
    goals.append(_bound(slowed, launched))
    pause = statistics.median(paused.totals) - gpu.STEPS * slow_ms / 1000
    rows.append([
        f"a frame in whose steps the host sleeps {slow_ms:.0f} ms, less the sleep, ms", pause * 1e3,
        f"{statistics.median(as_it_runs.totals) * 1e3:.0f} without the sleep",
    ])  # fmt: skip
    return rows, goals, raw


def _bound(slow: Frames, fast: Frames) -> harness.Goal:
    """The same launches on a card that does them in no time: a frame took at most so much less as the waiting said.

    Both are medians of frames; missed is what lies outside of their 95 % intervals.
    """
    saved = statistics.median(slow.totals) - statistics.median(fast.totals)
    (slow_low, slow_high), (fast_low, fast_high) = harness.interval(slow.totals), harness.interval(fast.totals)
    bound = statistics.median(slow.bounds)
    least, most = slow_low - fast_high, slow_high - fast_low
    return harness.Goal(
        "a faster card saves at most what the waiting says",
        least <= bound,
        f"with the same launches of no work a frame took {saved * 1e3:.0f} ms less ({least * 1e3:.0f} .. "
        f"{most * 1e3:.0f}), and the bound was {bound * 1e3:.0f}",
    )
