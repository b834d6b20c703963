"""Memory of the devices, by their allocators' own counters, read at each collection. A process without a device has
none of these.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from vibevoice_otel import forking, semconv
from vibevoice_otel.metrics.instruments import Attributes, Instruments
from vibevoice_otel.recording import device
from vibevoice_otel.recording.device.interface import Device, Memory
from vibevoice_otel.semconv import Metric

logger = logging.getLogger(__name__)
T = TypeVar("T")
#: Instrument -> the fields of :class:`Memory` that it tells, with the attributes of each beside the device.
FIELDS: Mapping[Metric, Mapping[str, Attributes]] = {
    semconv.GPU_MEMORY: {"allocated": {}},
    semconv.GPU_MEMORY_PEAK: {"peak": {}},
    semconv.GPU_MEMORY_RESERVED: {"reserved": {}},
    semconv.GPU_MEMORY_LIMIT: {"limit": {}},
    semconv.GPU_MEMORY_FREE: {"free": {}},
    semconv.GPU_MEMORY_EVENTS: {
        "allocations": {"event": "alloc"},
        "frees": {"event": "free"},
        "retries": {"event": "retry"},
        "ooms": {"event": "oom"},
    },
}
#: Seconds for which one look serves all instruments of a collection.
FRESH = 0.2


class MemoryReader:
    """The devices' memory as of this collection: six instruments ask, and the counters are read once.

    Args:
        devices: those in use now.
    """

    def __init__(
        self, devices: Callable[[], Iterable[Device]] = device.known, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._devices = devices
        self._clock = clock
        forking.begin(self._begin_anew)
        self._logged = False

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._seen: dict[str, Memory] = {}
        self._peaks: dict[str, int] = {}

    def __call__(self) -> Mapping[str, Memory]:
        """Memory by device id. A device that cannot be read now is left out."""
        with self._lock:
            if self._clock() - self._at >= FRESH:
                read = {each.id: self._asked(each.memory) for each in self._asked(lambda: list(self._devices())) or ()}
                self._seen = {found: memory for found, memory in read.items() if memory is not None}
                self._at = self._clock()
            return self._seen

    def figures(self, metric: Metric) -> Iterable[tuple[float, Attributes]]:
        """What ``metric`` tells of each device."""
        for found, memory in self().items():
            known = memory.known()
            if "peak" in known:  # the highest since the start, also where the service resets torch's high-water mark
                known["peak"] = self._peaks[found] = max(self._peaks.get(found, 0), known["peak"])
            for field, attributes in FIELDS[metric].items():
                if field in known:
                    yield known[field], {"device_id": found, **attributes}

    def _asked(self, ask: Callable[[], T]) -> T | None:
        """What ``ask`` answers; None where it cannot: CUDA's errors stick, and the other metrics go on."""
        try:
            return ask()
        except Exception as error:  # noqa: BLE001
            if not self._logged:
                self._logged = True
                kind = type(error).__name__
                logger.warning("a device's memory cannot be read (%s); its memory metrics are missing meanwhile", kind)
            return None


def register(instruments: Instruments, look: MemoryReader | None = None) -> None:
    """Register the memory gauges and the allocator's counter."""
    look = look or MemoryReader()
    for metric in FIELDS:
        instruments.observe(metric, functools.partial(look.figures, metric))
