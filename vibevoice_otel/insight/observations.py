"""What a window of data says about load: per process, cut into blocks that can be resampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.arrays import Blocks, Floats
from vibevoice_otel.insight.source import Source, Track

_BLOCKS = 60  # blocks aimed at: enough to resample, each long enough to be almost independent of its neighbours
_BLOCK_SERVICES = 8.0  # a block lasts at least this many mean generation times
#: The labels by which the series of one process are told from another's.
Identity = frozenset[tuple[str, str]]
Labels = Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Counts:
    """What counters grew by in each stretch of time, (stretches,) each."""

    requests: Floats  # that got their turn, so all but the rejected
    rejected: Floats
    busy: Floats
    audio: Floats
    first_audio: Floats  # (buckets, stretches), not cumulative
    waits: Floats
    waits_sum: Floats
    waits_felt: Floats  # waits above the smallest that a person could notice
    device_seconds: Floats  # NaN throughout where no device clock reported


@dataclass(slots=True, kw_only=True)
class Process(Counts):
    """One observed process. Counters are increments a grid step; gauges as sampled, NaN where absent. Arrays are
    (steps,).
    """

    labels: dict[str, str]
    active: Floats
    #: Seconds of frames by semconv.Limit, and (sum, count) of kernels' shares of sampled frames: of the window as a
    #: whole.
    limits: dict[str, float]
    kernel_shares: tuple[float, float]
    #: Seconds that dcgm-exporter saw the process's cards at work, by :data:`DCGM`'s series, a grid step, (steps,); a
    #: card that several processes use is divided evenly among those that were there. Empty where it does not run.
    at_work: dict[str, Floats] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)


@dataclass(slots=True)
class Device:
    """One card as a process sees it: bytes, (steps,) each."""

    allocated: Floats
    peak: Floats
    reserved: Floats
    limit: Floats


@dataclass(frozen=True, slots=True)
class Window:
    """Everything observed. ``edges`` are the first-audio bucket edges."""

    times: Floats
    step: float
    edges: Floats
    processes: list[Process]


#: dcgm-exporter's shares of time: some engine was at work, and its streaming multiprocessors on average.
ENGINE_ACTIVE, SM_ACTIVE = DCGM = ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_SM_ACTIVE")
_FELT_WAIT = 0.005  # an edge of the queue histogram
#: A card's UUID, as Prometheus names the label.
HW_ID = semconv.M_HW_ID.key.replace(".", "_")
#: What a device's clock times; intervals of one generation that do not overlap.
TIMED = (semconv.INFERENCE, semconv.LM_DURATION, semconv.DECODE_DURATION, semconv.PREFILL_DURATION)
_OWN = ("device_id", "status", "le", "clock", "limit", "frame_part")


def _key(track: Track) -> Identity:
    return frozenset((name, value) for name, value in track.labels.items() if name not in _OWN)


def increments(values: Floats) -> Floats:
    """Growth of a counter a step. Gaps (NaN) are bridged, nothing precedes the first value.

    Where it falls, its process restarted or one of the series summed in it vanished: what it shows then is not growth,
    and at most one step's worth is lost.
    """
    out = np.zeros_like(values)
    seen = np.flatnonzero(~np.isnan(values))
    if seen.size > 1:
        out[seen[1:]] = np.maximum(np.diff(values[seen]), 0.0)
    return out


def observe(source: Source) -> Window | None:
    """Read the window; None when the source knows one instant alone or nothing was ever active."""
    active = source.history(semconv.ACTIVE.prometheus, semconv.ACTIVE.labels)
    if not active:
        return None
    times = active[0].times
    by_key = {_key(track): track for track in active}
    zeros = {key: np.zeros_like(times) for key in by_key}

    def counters(series: str, drop: Sequence[str], by: Callable[[Labels], Any]) -> dict[Any, dict[Identity, Floats]]:
        """Increments of each process, by what ``by`` makes of a series' labels."""
        found: dict[Any, dict[Identity, Floats]] = {}
        for track in source.history(series, drop) or ():
            if _key(track) in zeros:
                sums = found.setdefault(by(track.labels), {key: value.copy() for key, value in zeros.items()})
                sums[_key(track)] += increments(track.values)
        return found

    def of_voices(series: str) -> dict[Identity, Floats]:
        return counters(series, ("voice",), lambda _: None).get(None, zeros)

    ended = counters(semconv.REQUESTS.prometheus, ("voice", "cfg", "steps"), lambda labels: labels.get("status"))
    rejected = ended.pop(semconv.Status.REJECTED.value, zeros)
    served = [ended[status.value] for status in semconv.Status if status.value in ended]
    busy = of_voices(semconv.GENERATE_BUSY.prometheus)
    audio = of_voices(semconv.AUDIO_PRODUCED.prometheus)
    first, queue = semconv.FIRST_AUDIO, semconv.QUEUE_DURATION.prometheus
    waits, waits_sum = of_voices(f"{queue}_count"), of_voices(f"{queue}_sum")
    buckets = counters(f"{first.prometheus}_bucket", first.labels, _edge)
    edges = np.array(sorted(buckets), dtype=np.float64)
    below = counters(f"{queue}_bucket", ("voice",), _edge).get(_FELT_WAIT, zeros)
    device = _device_seconds(source, zeros)
    limited = counters(semconv.FRAME_LIMIT.prometheus, ("device_id",), lambda labels: labels.get("limit"))
    shares, samples = (_kernel_share(source, part) for part in ("sum", "count"))
    processes = {
        key: Process(
            labels=dict(track.labels),
            active=track.values,
            requests=sum((each[key] for each in served), zeros[key]),
            rejected=rejected[key],
            busy=busy[key],
            audio=audio[key],
            first_audio=np.maximum(np.diff(np.array([buckets[e][key] for e in edges]), axis=0, prepend=0.0), 0.0)
            if edges.size
            else np.empty((0, len(times))),
            waits=waits[key],
            waits_sum=waits_sum[key],
            waits_felt=np.maximum(waits[key] - below[key], 0.0),
            device_seconds=device[key],
            limits={each.value: float(limited.get(each.value, zeros)[key].sum()) for each in semconv.Limit},
            kernel_shares=(shares.get(key, 0.0), samples.get(key, 0.0)),
        )
        for key, track in by_key.items()
    }
    _add_devices(source, processes, times)
    step = float(times[1] - times[0]) if len(times) > 1 else 1.0
    _add_at_work(source, processes, step)
    return Window(times, step, edges, list(processes.values()))


def _add_at_work(source: Source, processes: dict[Identity, Process], step: float) -> None:
    """What dcgm-exporter says of the cards on which the processes run: by UUID, which NVML told us."""
    there: dict[str, dict[Identity, Blocks]] = {}
    mine = semconv.HW_GPU_UTILIZATION
    labels = [name for name in mine.labels if name != HW_ID]
    for track in source.history(mine.prometheus, labels) or ():
        key = frozenset((name, value) for name, value in _key(track) if name != HW_ID)
        card = track.labels.get(HW_ID, "")
        if card and key in processes:
            there.setdefault(card, {})[key] = ~np.isnan(processes[key].active)
    if not there:
        return
    for series in DCGM:
        cards: dict[str, Floats] = {}
        for track in source.history(series, (), {"UUID": sorted(there)}) or ():
            card = track.labels.get("UUID", "")
            cards[card] = np.fmax(cards.get(card, track.values), track.values)  # one for each container that shares it
        for card, share in cards.items():
            users = np.maximum(np.sum(list(there[card].values()), axis=0), 1)
            for key, present in there[card].items():
                own = np.where(present, share * step / users, np.nan)
                before = processes[key].at_work.get(series)
                processes[key].at_work[series] = own if before is None else before + own


def _kernel_share(source: Source, part: str) -> dict[Identity, float]:
    """What each process's histogram of whole frames showed last: its first observation counts, which no increment
    shows.
    """
    found: dict[Identity, float] = {}
    for track in source.history(f"{semconv.KERNEL_SHARE.prometheus}_{part}", ("device_id",)) or ():
        known = track.values[~np.isnan(track.values)]
        if known.size and track.labels.get("frame_part") == semconv.SharePart.FRAME:
            found[_key(track)] = found.get(_key(track), 0.0) + float(known[-1])
    return found


def _edge(labels: Labels) -> float:
    return float(labels["le"])


def _device_seconds(source: Source, zeros: dict[Identity, Floats]) -> dict[Identity, Floats]:
    sums = {key: np.full_like(value, np.nan) for key, value in zeros.items()}
    for metric in TIMED:
        drop = [name for name in metric.labels if name != "clock"]
        for track in source.history(f"{metric.prometheus}_sum", drop) or ():
            if track.labels.get("clock") == semconv.Clock.DEVICE and _key(track) in sums:
                sums[_key(track)] = np.nan_to_num(sums[_key(track)]) + increments(track.values)
    return sums


def _add_devices(source: Source, processes: dict[Identity, Process], times: Floats) -> None:
    for field_name, metric in (
        ("allocated", semconv.GPU_MEMORY),
        ("peak", semconv.GPU_MEMORY_PEAK),
        ("reserved", semconv.GPU_MEMORY_RESERVED),
        ("limit", semconv.GPU_MEMORY_LIMIT),
    ):
        for track in source.history(metric.prometheus, ()) or ():
            process = processes.get(_key(track))
            if process is not None:
                empty = [np.full_like(times, np.nan) for _ in range(4)]
                device = process.devices.setdefault(track.labels.get("device_id", "0"), Device(*empty))
                setattr(device, field_name, track.values)


def block_steps(window: Window, processes: Sequence[Process]) -> int:
    """Grid steps a block: a sixtieth of the time observed, and never shorter than a few generation times."""
    requests = sum(float(p.requests.sum()) for p in processes)
    busy = sum(float(p.busy.sum()) for p in processes)
    service = busy / requests if requests else 0.0
    steps = sum(int(np.count_nonzero(~np.isnan(p.active))) for p in processes)
    return max(1, round(max(steps / _BLOCKS, _BLOCK_SERVICES * service / window.step)))


def blocks(values: Floats, size: int) -> Floats:
    """Sums over consecutive blocks of ``size`` steps, (..., blocks); a last, incomplete block is left out. NaN counts
    as zero, unless there is nothing else.
    """
    count = values.shape[-1] // size
    kept = np.nan_to_num(values[..., : count * size])
    return np.where(np.isnan(values).all(), np.nan, kept.reshape(*values.shape[:-1], count, size).sum(axis=-1))
