"""A speech service simulated with known truth, seen as a scraper would see it.

Requests arrive at random, wait for one of the slots, slow each other down while at work, hold memory and are counted
when they end. The same scrapes can be asked directly (``MemorySource``, for many seeds) or written as OpenMetrics text
that promtool backfills into a real Prometheus; a test holds the two against each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vibevoice_otel import semconv
from vibevoice_otel.insight.observations import ENGINE_ACTIVE, SM_ACTIVE
from vibevoice_otel.insight.source import Origin, Point, Track

SCRAPE = 15.0
GIB = 2.0**30


@dataclass(frozen=True)
class Setting:
    """What one kind of request truly is like. ``first`` is its own first-audio time in seconds, ``failing`` a
    probability.
    """

    voice: str = "en-Carter_man"
    cfg: str = "1.5"
    steps: str = "5"
    text: str = "medium"
    share: float = 1.0
    failing: float = 0.0
    first: float = 0.2
    first_cv: float = 0.2
    factor: float = 1.0  # times the service's real-time factor
    underruns: float = 0.0  # a minute of audio
    silent: float = 0.0  # defective frames a minute of audio


@dataclass(frozen=True)
class Service:
    """One process and its card."""

    rate: float = 0.1  # requests a second
    hours: float = 6.0
    slots: int = 4
    base: float = 0.5  # real-time factor alone
    slope: float = 0.0  # and for each stream at work
    audio: float = 10.0  # mean seconds a request
    audio_law: str = "exponential"  # | constant | lognormal
    memory_base: float = 4.0  # GiB
    memory_stream: float = 0.3
    memory_cv: float = 0.3
    overhead: float = 1.1
    limit: float | None = 24.0  # GiB; None: no GPU
    refuses: bool = False
    instance: str = "one:9464"
    settings: tuple[Setting, ...] = (Setting(),)
    restart_at: float | None = None  # share of the time at which all counters start again from zero
    device: float | None = None  # seconds of the card for a second of audio, by the device's clock
    host: float | None = None  # share of the frames' time that is the host's own; None: no frame is timed by a device
    kernel_share: float | None = None  # of a lone frame, as sampled now and then; a sample scatters by a tenth of it
    card: str | None = None  # its UUID, where NVML is read
    dcgm: float | None = None  # seconds of the card at work for a second of audio, where dcgm-exporter runs
    spike: float = 0.0  # GiB that come and go between two scrapes, seen in the peak alone


def host_bound(seed: int) -> Service:
    """One process whose host is the limit, drawn at random: as on an H100 the host launches more slowly than the card
    computes, and kernels are at work in a tenth of a frame. Half of them slow their own streams down, as one
    interpreter does; about half of what they could make is asked of them.
    """
    rng = np.random.default_rng([seed, 20])
    slots, full = int(rng.integers(2, 11)), float(rng.uniform(0.4, 0.85))
    shared = float(rng.choice([0.0, rng.uniform(0, 0.8)]))
    load, law = float(rng.uniform(0.35, 0.65)), str(rng.choice(["exponential", "lognormal", "constant"]))
    return Service(
        rate=load * slots / full / 10, slots=slots, base=(1 - shared) * full, slope=shared * full / slots,
        audio_law=law, memory_base=1, memory_stream=0.05, device=0.5 * full, host=0.97, kernel_share=0.1,
    )  # fmt: skip


@dataclass
class Scrapes:
    """What a scraper stored: for each series name, label set -> values at ``times`` (NaN where absent)."""

    times: np.ndarray
    series: dict[str, dict[tuple[tuple[str, str], ...], np.ndarray]] = field(default_factory=dict)

    def put(self, name: str, labels: dict[str, str], values: np.ndarray) -> None:
        self.series.setdefault(name, {})[tuple(sorted(labels.items()))] = values

    def merge(self, other: Scrapes) -> Scrapes:
        assert np.array_equal(self.times, other.times)
        for name, rows in other.series.items():
            self.series.setdefault(name, {}).update(rows)
        return self

    def openmetrics(self) -> str:
        """OpenMetrics text with timestamps, families together, as promtool's backfill reads it."""
        kinds = {}
        for metric in semconv.METRICS:
            base = metric.prometheus
            if metric.instrument == "histogram":
                kinds |= {base + suffix: (base, "histogram") for suffix in ("_bucket", "_count", "_sum")}
            elif metric.instrument == "counter":
                kinds[base] = (base.removesuffix("_total"), "counter")
            else:
                kinds[base] = (base, "gauge")
        families: dict[tuple[str, str], list[str]] = {}
        for name, rows in self.series.items():
            lines = families.setdefault(kinds.get(name, (name, "gauge")), [])
            for labels, values in rows.items():
                text = ",".join(f'{k}="{v}"' for k, v in labels)
                lines += [
                    f"{name}{{{text}}} {v:.17g} {t:.3f}"
                    for t, v in zip(self.times, values, strict=True)
                    if not np.isnan(v)
                ]
        out = []
        for (family, kind), lines in families.items():
            out.append(f"# TYPE {family} {kind}")
            out += lines
        return "\n".join([*out, "# EOF", ""])


@dataclass
class Requests:
    """Every simulated request, in order of arrival: seconds, GiB, indices into the settings."""

    arrival: np.ndarray
    start: np.ndarray
    end: np.ndarray
    audio: np.ndarray
    memory: np.ndarray
    own_first: np.ndarray
    setting: np.ndarray
    failed: np.ndarray
    refused: np.ndarray

    @property
    def first_audio(self) -> np.ndarray:
        return self.start - self.arrival + self.own_first


def simulate(service: Service, rng: np.random.Generator, count: int | None = None) -> Requests:
    """Run the queue. ``count`` requests, or as many as arrive in the service's hours."""
    n = rng.poisson(service.rate * service.hours * 3600) if count is None else count
    arrival = (
        np.sort(rng.uniform(0, service.hours * 3600, n))
        if count is None
        else np.cumsum(rng.exponential(1 / service.rate, n))
    )
    if service.audio_law == "exponential":
        audio = rng.exponential(service.audio, n)
    elif service.audio_law == "constant":
        audio = np.full(n, service.audio)
    else:
        sigma = np.sqrt(np.log1p(0.5**2))
        audio = rng.lognormal(np.log(service.audio) - sigma**2 / 2, sigma, n)
    shares = np.array([s.share for s in service.settings])
    setting = rng.choice(len(shares), n, p=shares / shares.sum())
    factor = np.array([s.factor for s in service.settings])[setting]
    mean = np.array([s.first for s in service.settings])[setting]
    sigma = np.sqrt(np.log1p(np.array([s.first_cv for s in service.settings])[setting] ** 2))
    own = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma)
    failed = rng.uniform(size=n) < np.array([s.failing for s in service.settings])[setting]
    spread = np.sqrt(np.log1p(service.memory_cv**2))
    memory = service.memory_stream * rng.lognormal(-(spread**2) / 2, spread, n)
    if service.slope:
        start, end, refused, seen = _shared(service, arrival, audio * factor)
        own = own * (service.base + service.slope * seen) / (service.base + service.slope)
    else:
        start, end, refused = _separate(service, arrival, audio * factor * service.base)
    return Requests(arrival, start, end, audio, memory, own, setting, failed, refused)


def _separate(service: Service, arrival: np.ndarray, work: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    free = [0.0] * service.slots
    start, refused = np.empty_like(arrival), np.zeros(len(arrival), dtype=bool)
    for i, (t, w) in enumerate(zip(arrival.tolist(), work.tolist(), strict=True)):
        if service.refuses and free[0] > t:
            start[i], refused[i] = t, True
            continue
        begin = max(t, free[0])
        heapq.heapreplace(free, begin + w)
        start[i] = begin
    return start, np.where(refused, arrival, start + work), refused


def _shared(
    service: Service, arrival: np.ndarray, work: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slots that slow each other down: with n at work each advances 1 / (base + slope n) seconds of audio a second."""
    n = len(arrival)
    start, end, seen = np.empty(n), np.empty(n), np.ones(n)
    at_work: list[tuple[float, int]] = []  # (progress at which it is done, request), progress counted alike for all
    waiting: list[int] = []
    now = progress = 0.0
    upcoming = 0

    def begin(i: int) -> None:
        start[i] = now
        heapq.heappush(at_work, (progress + work[i], i))
        seen[i] = len(at_work)

    while upcoming < n or at_work:
        speed = 1 / (service.base + service.slope * len(at_work)) if at_work else 0.0
        done = now + (at_work[0][0] - progress) / speed if at_work else np.inf
        if upcoming < n and arrival[upcoming] <= done:
            progress += (arrival[upcoming] - now) * speed
            now = float(arrival[upcoming])
            if len(at_work) < service.slots:
                begin(upcoming)
            else:
                waiting.append(upcoming)
            upcoming += 1
        else:
            progress, now = at_work[0][0], done
            end[heapq.heappop(at_work)[1]] = now
            if waiting:
                begin(waiting.pop(0))
    return start, end, np.zeros(n, dtype=bool), seen


def scrape(service: Service, requests: Requests, rng: np.random.Generator, begin: float) -> Scrapes:
    """What a scraper saw of these requests, every 15 s from ``begin`` (Unix seconds)."""
    span = service.hours * 3600
    clock = np.arange(SCRAPE, span + 1e-6, SCRAPE)
    scrapes = Scrapes(begin + clock)
    who = {"job": "vibevoice", "instance": service.instance}
    served = ~requests.refused
    voices = sorted({s.voice for s in service.settings})
    voice_of = np.array([s.voice for s in service.settings])[requests.setting]
    for voice in voices:
        mine = served & (voice_of == voice)
        scrapes.put(
            semconv.ACTIVE.prometheus,
            {**who, "voice": voice},
            _level(clock, requests.arrival[mine], requests.end[mine]),
        )
    _memory(service, requests, scrapes, clock, who, served)
    _counters(service, requests, rng, scrapes, clock, who)
    _limits(service, requests, rng, scrapes, clock, who)
    _card(service, requests, scrapes, clock, who)
    if service.restart_at is not None:
        _restart(scrapes, int(len(clock) * service.restart_at))
    return scrapes


def _level(clock: np.ndarray, begin: np.ndarray, end: np.ndarray, size: np.ndarray | None = None) -> np.ndarray:
    """How much is open at each tick."""
    sizes = np.ones_like(begin) if size is None else size
    out = np.zeros_like(clock)
    for at, sign in ((begin, 1.0), (end, -1.0)):
        order = np.argsort(at)
        total = np.concatenate(([0.0], np.cumsum(sizes[order])))
        out += sign * total[np.searchsorted(at[order], clock, side="right")]
    return np.round(out) if size is None else out


def _memory(
    service: Service, requests: Requests, scrapes: Scrapes, clock: np.ndarray, who: dict[str, str], served: np.ndarray
) -> None:
    if service.limit is None:
        return
    start, end, size = requests.start[served], requests.end[served], requests.memory[served]
    events = np.concatenate((start, end))
    order = np.argsort(events, kind="stable")
    level = np.cumsum(np.concatenate((size, -size))[order])
    highest = np.maximum.accumulate(np.concatenate(([0.0], level)))
    peak = service.memory_base + highest[np.searchsorted(events[order], clock, side="right")]
    now = service.memory_base + _level(clock, start, end, size)
    peak = np.maximum(peak, np.maximum.accumulate(now)) + service.spike * (clock > clock[len(clock) // 3])
    card = {**who, "device_id": "0"}
    scrapes.put(semconv.GPU_MEMORY.prometheus, card, now * GIB)
    scrapes.put(semconv.GPU_MEMORY_PEAK.prometheus, card, peak * GIB)
    scrapes.put(semconv.GPU_MEMORY_RESERVED.prometheus, card, peak * service.overhead * GIB)
    scrapes.put(semconv.GPU_MEMORY_LIMIT.prometheus, card, np.full_like(clock, service.limit * GIB))


def _counted(clock: np.ndarray, at: np.ndarray, amount: np.ndarray | None = None) -> np.ndarray:
    order = np.argsort(at)
    total = np.concatenate(([0.0], np.cumsum((np.ones_like(at) if amount is None else amount)[order])))
    return total[np.searchsorted(at[order], clock, side="right")]


def _histogram(
    scrapes: Scrapes,
    metric: semconv.Metric,
    labels: dict[str, str],
    clock: np.ndarray,
    at: np.ndarray,
    values: np.ndarray,
) -> None:
    name = metric.prometheus
    count = _counted(clock, at)
    born = np.where(count > 0, 1.0, np.nan)  # a histogram has no series before its first value
    for edge in metric.buckets:
        scrapes.put(f"{name}_bucket", {**labels, "le": str(float(edge))}, _counted(clock, at[values <= edge]) * born)
    scrapes.put(f"{name}_bucket", {**labels, "le": "+Inf"}, count * born)
    scrapes.put(f"{name}_count", labels, count * born)
    scrapes.put(f"{name}_sum", labels, _counted(clock, at, values) * born)


def _counters(
    service: Service,
    requests: Requests,
    rng: np.random.Generator,
    scrapes: Scrapes,
    clock: np.ndarray,
    who: dict[str, str],
) -> None:
    good = ~requests.failed & ~requests.refused
    busy = requests.end - requests.start
    by_voice: dict[str, list[int]] = {}
    for index, s in enumerate(service.settings):
        mine = requests.setting == index
        labels = {**who, "voice": s.voice, "cfg": s.cfg, "steps": s.steps}
        by_voice.setdefault(s.voice, []).append(index)
        for status, which in (
            ("success", good),
            ("error", requests.failed & ~requests.refused),
            ("rejected", requests.refused),
        ):
            if status != "rejected" or service.refuses:
                total = _counted(clock, requests.end[mine & which])
                scrapes.put(semconv.REQUESTS.prometheus, {**labels, "status": status}, total)
        done = mine & good
        at = requests.end[done]
        _histogram(
            scrapes, semconv.FIRST_AUDIO, {**labels, "text_length_range": s.text}, clock, at, requests.first_audio[done]
        )
        _histogram(scrapes, semconv.RTF, labels, clock, at, busy[done] / requests.audio[done])
    for voice, indices in by_voice.items():
        mine = np.isin(requests.setting, indices)
        labels = {**who, "voice": voice}
        done = mine & ~requests.refused
        at, audio = requests.end[done], requests.audio[done]
        scrapes.put(semconv.AUDIO_PRODUCED.prometheus, labels, _counted(clock, at, audio))
        scrapes.put(semconv.GENERATE_BUSY.prometheus, labels, _counted(clock, at, busy[done]))
        if service.device is not None:  # three quarters in diffusion steps, the rest in decodes
            for metric, part in ((semconv.INFERENCE, 0.75), (semconv.DECODE_DURATION, 0.25)):
                for of, seconds in ((semconv.Clock.DEVICE, service.device * part), (semconv.Clock.HOST, 9.0)):
                    scrapes.put(
                        f"{metric.prometheus}_sum", {**labels, "clock": of}, _counted(clock, at, audio * seconds)
                    )
            steps = {**labels, "clock": semconv.Clock.DEVICE}
            scrapes.put(f"{semconv.INFERENCE.prometheus}_count", steps, _counted(clock, at, np.round(audio * 37.5)))
        _histogram(scrapes, semconv.QUEUE_DURATION, labels, clock, at, (requests.start - requests.arrival)[done])
        under = np.array([s.underruns for s in service.settings])[requests.setting[done]]
        scrapes.put(
            semconv.UNDERRUN.prometheus, labels, _counted(clock, at, rng.poisson(under * audio / 60).astype(float))
        )
        silent = np.array([s.silent for s in service.settings])[requests.setting[done]]
        scrapes.put(
            semconv.DEFECTIVE_FRAMES.prometheus,
            {**labels, "kind": "silent"},
            _counted(clock, at, rng.poisson(silent * audio / 60).astype(float)),
        )


def _limits(
    service: Service,
    requests: Requests,
    rng: np.random.Generator,
    scrapes: Scrapes,
    clock: np.ndarray,
    who: dict[str, str],
) -> None:
    """Frames divided into card and host, and a kernels' share from every hundredth request."""
    if service.host is None:
        return
    at, busy = requests.end[~requests.refused], (requests.end - requests.start)[~requests.refused]
    card = {**who, "device_id": "0"}
    shares = {"card": 1 - service.host, "other_process": 0.0, "core": service.host, "lock": 0.0, "unknown": 0.0}
    for limit, share in shares.items():
        scrapes.put(semconv.FRAME_LIMIT.prometheus, {**card, "limit": limit}, _counted(clock, at, busy * share))
    scrapes.put(semconv.FRAME_LIMIT_ERROR.prometheus, card, np.zeros_like(clock))
    if service.kernel_share is not None:
        sampled = np.clip(rng.normal(service.kernel_share, 0.1 * service.kernel_share, len(at[::100])), 0, 1)
        _histogram(scrapes, semconv.KERNEL_SHARE, {**card, "frame_part": "frame"}, clock, at[::100], sampled)


def _card(service: Service, requests: Requests, scrapes: Scrapes, clock: np.ndarray, who: dict[str, str]) -> None:
    """What NVML says of the card, and dcgm-exporter, a target of its own, whose multiprocessors work half of that."""
    if service.card is None:
        return
    mine = {**who, "device_id": "0", "hw_type": "gpu", "hw_id": service.card}
    scrapes.put(semconv.HW_GPU_UTILIZATION.prometheus, mine, np.full_like(clock, 0.9))
    if service.dcgm is None:
        return
    done = ~requests.refused
    start, length, audio = requests.start[done], (requests.end - requests.start)[done], requests.audio[done]
    made = np.array([(audio * np.clip((at - start) / length, 0, 1)).sum() for at in clock])
    at_work = service.dcgm * np.diff(made, prepend=0.0) / SCRAPE
    for series, share in ((ENGINE_ACTIVE, at_work), (SM_ACTIVE, at_work / 2)):
        labels = {"job": "dcgm", "instance": "node:9400", "gpu": "3", "UUID": service.card, "Hostname": "node"}
        scrapes.put(series, labels, share)


def _restart(scrapes: Scrapes, tick: int) -> None:
    """Every counter starts again: what it showed at the tick is taken off from then on."""
    gauges = {m.prometheus for m in semconv.METRICS if m.instrument in {"gauge", "updowncounter"}}
    for name, rows in scrapes.series.items():
        if name not in gauges:
            for values in rows.values():
                if not np.isnan(values[tick - 1]):
                    values[tick:] -= values[tick - 1]


class MemorySource:
    """Answers from scrapes directly, as the Prometheus source would over a window that ends with the last scrape."""

    def __init__(self, scrapes: Scrapes, window: float | None = None) -> None:
        self._scrapes = scrapes
        end = float(scrapes.times[-1])
        self._window = window or float(scrapes.times[-1] - scrapes.times[0] + SCRAPE)
        self._inside = scrapes.times > end - self._window
        self._before = ~self._inside
        self.origin = Origin("memory", "simulated", self._window, end)

    def _rows(self, series: str) -> list[tuple[dict[str, str], np.ndarray]]:
        return [(dict(labels), values) for labels, values in self._scrapes.series.get(series, {}).items()]

    def growth(self, series: str, by: Sequence[str]) -> list[Point]:
        def grown(values: np.ndarray) -> float:
            known = values[~np.isnan(values) & self._inside]
            if not known.size:
                return np.nan
            before = values[~np.isnan(values) & self._before]
            change = np.diff(np.concatenate((before[-1:] if before.size else [0.0], known)))
            after = np.concatenate(([0.0], known))[-len(change) :]
            return float(np.where(change < 0, after, change).sum())

        return self._sum(series, by, grown)

    def current(self, series: str, by: Sequence[str]) -> list[Point]:
        return self._sum(series, by, lambda values: float(values[-1]))

    def _sum(self, series: str, by: Sequence[str], read: object) -> list[Point]:
        sums: dict[tuple[tuple[str, str], ...], float] = {}
        for labels, values in self._rows(series):
            value = read(values)  # type: ignore[operator]
            if not np.isnan(value):
                key = tuple((name, labels[name]) for name in by if name in labels)
                sums[key] = sums.get(key, 0.0) + value
        return [Point(dict(key), value) for key, value in sums.items()]

    def history(
        self, series: str, drop: Sequence[str], of: Mapping[str, Sequence[str]] | None = None
    ) -> list[Track] | None:
        sums: dict[tuple[tuple[str, str], ...], np.ndarray] = {}
        for labels, values in self._rows(series):
            if not all(labels.get(name) in allowed for name, allowed in (of or {}).items()):
                continue
            key = tuple((name, value) for name, value in labels.items() if name not in drop)
            mine = values[self._inside]
            old = sums.get(key)
            sums[key] = mine if old is None else np.where(np.isnan(old), mine, old + np.nan_to_num(mine))
        return [Track(dict(key), self._scrapes.times[self._inside], values) for key, values in sums.items()]

    def growths(self, series: str, by: Sequence[str], blocks: int) -> list[Track]:
        """As ``growth``, in equal stretches of the window."""
        times = self._scrapes.times[self._inside]
        ends = times[-1] - self._window / blocks * np.arange(blocks)[::-1]
        found = []
        for end in ends:
            part = MemorySource(self._scrapes, self._window / blocks)
            part._inside = (self._scrapes.times > end - self._window / blocks + 1e-6) & (
                self._scrapes.times <= end + 1e-6
            )
            part._before = self._scrapes.times <= end - self._window / blocks + 1e-6
            found.append({tuple(sorted(p.labels.items())): p.value for p in part.growth(series, by)})
        keys = sorted({key for each in found for key in each})
        return [Track(dict(key), ends, np.array([each.get(key, np.nan) for each in found])) for key in keys]

    def restarts(self) -> int:
        rows = [values[self._inside] for _, values in self._rows(semconv.REQUESTS.prometheus)]
        return int(any((np.diff(v) < 0).any() for v in rows))


def observe(service: Service, seed: int, begin: float = 1_700_000_000.0) -> Scrapes:
    """Simulate and scrape in one go."""
    rng = np.random.default_rng(seed)
    return scrape(service, simulate(service, rng), rng, begin)
