"""The cards' own figures by NVML: utilisation, power, energy, clocks, throttling, errors. With the extra ``nvidia``;
else there are none.

Read on the collection's thread alone. After a slow answer the driver is left alone for a time, so that collections
seldom wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vibevoice_otel import forking, semconv
from vibevoice_otel.metrics.instruments import Attributes, Instruments
from vibevoice_otel.recording import device
from vibevoice_otel.recording.device.interface import Device
from vibevoice_otel.semconv import Metric

logger = logging.getLogger(__name__)
#: Seconds for which one look serves all instruments of a collection.
FRESH = 0.2
#: A look that takes longer than this, seconds, is slow: the usual one takes 4 ms a card (an H100), and one beside a
#: profiler 1.8 s. The first look at a card is not judged: the driver prepares what it tells, which took 1.4 s.
SLOW = 0.5
#: A slow look is followed by a rest of so many times what it took; each further one in a row doubles the rest.
REST = 100
#: Bit of NVML's clock event reasons -> the metric's ``reason``. Bits that mean idleness or a setting are no throttling.
REASONS = {
    0x04: "power_cap",
    0x08: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "software_thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
}
#: Errors of the GPU by NVIDIA's number; a number outside of these counts as ``other``, so that series stay bounded.
XIDS = (13, 31, 43, 45, 48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120)
#: What NVML tells.
METRICS = (
    semconv.HW_GPU_UTILIZATION, semconv.HW_POWER, semconv.HW_ENERGY, semconv.GPU_PROCESSES, semconv.GPU_CLOCK,
    semconv.GPU_THROTTLED, semconv.HW_ERRORS,
)  # fmt: skip
#: One figure of a card: the metric, its attributes, and the value in the metric's unit.
Figure = tuple[Metric, Attributes, float]


@dataclass(slots=True)
class _Card:
    handle: Any
    labels: dict[str, str]
    driver: str | None = None
    events: Any = None
    xids: Counter[str] = field(default_factory=Counter)


class Cards:
    """NVML's view of the devices in use.

    Args:
        devices: those in use now.
        load: imports NVML's binding.
    """

    def __init__(
        self,
        devices: Callable[[], Iterable[Device]] = device.known,
        load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = devices
        self._load = load
        self._clock = clock
        forking.begin(self._renew)
        self._nvml: Any = None
        self._given_up = False
        self._cards: dict[str, _Card | None] = {}
        self._at = self._next = float("-inf")
        self._slow = 0  # looks in a row
        self._seen: list[Figure] = []

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> list[Figure]:
        """The figures of all cards; what a card does not tell is missing."""
        with self._lock:
            began = self._clock()
            if not self._given_up and began >= self._next:
                known = len(self._cards)
                self._seen = self._look()
                self._at = self._clock()
                met = len(self._cards) > known
                self._next = self._at + (FRESH if met else self._rest(self._at - began))
            return self._seen if self._clock() - self._at < FRESH else []

    def drivers(self) -> list[str]:
        """The driver's version, from what a look at the cards in use has found; nothing where there is no card."""
        self()
        with self._lock:
            cards = [] if self._given_up else list(self._cards.values())
        return list(dict.fromkeys(card.driver for card in cards if card is not None and card.driver))

    def gauge(self, metric: Metric) -> Iterable[tuple[float, Attributes]]:
        return [(value, attributes) for each, attributes, value in self() if each is metric]

    def _look(self) -> list[Figure]:
        found: list[Figure] = []
        try:
            for each in self._devices():
                card = self._card(each)
                if card is not None:
                    found += self._read(card)
        except Exception as error:  # noqa: BLE001 - a driver that is gone costs its own metrics
            self._given_up = True
            logger.warning(
                "NVML is asked no more (%s): utilisation, power and energy of the GPU are missing", type(error).__name__
            )
            return []
        return found

    def _rest(self, took: float) -> float:
        """Seconds until the next look, after one that took so many."""
        if took <= SLOW:
            self._slow = 0
            return FRESH
        rest = REST * took * float(1 << self._slow)
        self._slow += 1
        logger.warning(
            "NVML took %.1f s to answer and is asked again in %.0f s: until then utilisation, power and energy of the "
            "GPU are missing", took, rest,
        )  # fmt: skip
        return rest

    def _card(self, each: Device) -> _Card | None:
        if each.id not in self._cards:
            uuid, bus = each.hardware()
            self._cards[each.id] = self._open(each.id, uuid, bus) if uuid or bus else None
        return self._cards[each.id]

    def _open(self, device_id: str, uuid: str | None, bus: str | None) -> _Card | None:
        """The card of torch's device: by what names it, never by its index, which CUDA_VISIBLE_DEVICES changes."""
        nvml = self._nvml
        if nvml is None:
            try:
                nvml = self._load()
            except ImportError:
                self._given_up = True  # the extra is not installed: that is no failure
                return None
            nvml.nvmlInit()
            self._nvml = nvml
        attempts = [(nvml.nvmlDeviceGetHandleByUUID, f"{kind}-{uuid}") for kind in ("GPU", "MIG") if uuid]
        attempts += [(nvml.nvmlDeviceGetHandleByPciBusId, bus)] if bus else []
        for find, name in attempts:
            with contextlib.suppress(nvml.NVMLError):
                handle = find(name)
                labels = {
                    semconv.M_HW_ID.key: _text(nvml.nvmlDeviceGetUUID(handle)),
                    semconv.M_HW_TYPE.key: "gpu",
                    semconv.M_DEVICE.key: device_id,
                }
                card = _Card(handle, labels)
                with contextlib.suppress(nvml.NVMLError):
                    card.driver = _text(nvml.nvmlSystemGetDriverVersion())
                with contextlib.suppress(nvml.NVMLError):  # WSL and some containers have no events
                    events = nvml.nvmlEventSetCreate()
                    nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
                    card.events = events
                return card
        return None

    def _read(self, card: _Card) -> list[Figure]:
        nvml, handle, labels = self._nvml, card.handle, card.labels
        clock, error = semconv.M_CLOCK_DOMAIN.key, semconv.M_HW_ERROR.key
        uncorrected = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        told: tuple[tuple[Metric, Attributes, Callable[[], float]], ...] = (
            (semconv.HW_GPU_UTILIZATION, labels, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            (semconv.HW_POWER, labels, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            (semconv.HW_ENERGY, labels, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
            (semconv.GPU_PROCESSES, labels, lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))),
            (
                semconv.GPU_CLOCK,
                {**labels, clock: "sm"},
                lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
            ),
            (
                semconv.GPU_CLOCK,
                {**labels, clock: "memory"},
                lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
            ),
            (
                semconv.HW_ERRORS,
                {**labels, error: "ecc_uncorrected"},
                lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, *uncorrected),
            ),
        )
        found: list[Figure] = []
        for metric, attributes, ask in told:
            with contextlib.suppress(nvml.NVMLError, TypeError):  # this card, or a part of it (MIG), does not tell
                found.append((metric, attributes, float(ask())))
        with contextlib.suppress(nvml.NVMLError):
            bits, reason = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle), semconv.M_THROTTLE_REASON.key
            found += [
                (semconv.GPU_THROTTLED, {**labels, reason: name}, float(bool(bits & bit)))
                for bit, name in REASONS.items()
            ]
        if card.events is not None:
            self._xids(card)
            found += [(semconv.HW_ERRORS, {**labels, error: xid}, float(n)) for xid, n in card.xids.items()]
        return found

    def _xids(self, card: _Card) -> None:
        """Count the errors that came since the last look, without waiting for one."""
        nvml = self._nvml
        for _ in range(100):
            try:
                event = nvml.nvmlEventSetWait_v2(card.events, 0)
            except nvml.NVMLError:  # there is none
                return
            number = int(event.eventData)
            card.xids[f"xid_{number}" if number in XIDS else "xid_other"] += 1


def _text(value: bytes | str) -> str:
    """A name as NVML's bindings tell it: the older ones in bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def register(instruments: Instruments, cards: Cards | None = None) -> None:
    """Register what NVML tells; without its binding, or without a card, no series comes of it."""
    cards = cards or Cards()
    for metric in METRICS:
        instruments.observe(metric, functools.partial(cards.gauge, metric))
