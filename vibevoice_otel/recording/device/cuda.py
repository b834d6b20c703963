"""NVIDIA GPUs through ``torch.cuda``, and AMD's, whose torch builds answer by the same names.

torch is never imported here, and CUDA never initialised: a model that lies on a GPU has done both.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from vibevoice_otel import forking
from vibevoice_otel.recording.device.interface import Device, Event, Generations, Kernels, Memory, Pool, Stream

#: CUDA's documentation gives an event's resolution as about half a microsecond.
RESOLUTION_NS = 500
#: Relative: a crystal's usual tolerance is 50 parts in a million. The host's clock is held to true time by its NTP
#: daemon.
DRIFT = 5e-5
#: Seconds that a capture is held back: a mark takes some microseconds.
GRACE = 0.001


class Captures:
    """Whether a CUDA graph is being captured anywhere in the process.

    In torch's default mode a capture forbids unsafe calls to every thread, and cudaEventQuery is one: it would void the
    capture. So no thread of ours queries meanwhile: a capture begins only when a query that is under way has returned
    (microseconds). A thread that generates takes no lock: it looks before each mark, and a mark that it was putting in
    when a capture was announced has GRACE to be done.
    """

    def __init__(self) -> None:
        self.active = 0
        forking.begin(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self.active += 1
        time.sleep(GRACE)

    def end(self) -> None:
        with self._lock:
            self.active = max(0, self.active - 1)

    @contextlib.contextmanager
    def reading(self) -> Iterator[bool]:
        with self._lock:
            yield not self.active

    def watch_begin(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Hook of ``torch.cuda.CUDAGraph.capture_begin``."""
        self.begin()
        try:
            return original(*args, **kwargs)
        except BaseException:
            self.end()  # it did not begin
            raise

    def watch_end(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Hook of ``torch.cuda.CUDAGraph.capture_end``."""
        try:
            return original(*args, **kwargs)
        finally:
            self.end()


captures = Captures()


class CuptiProfiler:
    """torch.profiler on the card's activity alone: no operator of the CPU is recorded, so that the host is hardly
    slowed.
    """

    def __init__(self, profiler: Any) -> None:
        self._profile = profiler.profile(activities=[profiler.ProfilerActivity.CUDA])

    def start(self) -> None:
        self._profile.start()

    def stop(self) -> Callable[[], Kernels]:
        self._profile.stop()
        results = self._profile.profiler.kineto_results

        def read() -> Kernels:
            # A launch is an event of the CPU's; kernels, copies and fills are the device's.
            return [
                (event.start_ns(), event.start_ns() + event.duration_ns())
                for event in results.events()
                if "CPU" not in str(event.device_type())
            ]

        return read


class CudaDevice:
    """GPU ``index`` of this process."""

    timed = True
    resolution = RESOLUTION_NS
    drift = DRIFT

    def __init__(self, torch: Any, index: int) -> None:
        self.id = str(index)
        self._cuda = torch.cuda
        self._index = index
        self.pool = Pool(self._event)
        self.generations = Generations()

    def _event(self) -> Event:
        event: Event = self._cuda.Event(enable_timing=True)
        return event

    def hardware(self) -> tuple[str | None, str | None]:
        told = self._cuda.get_device_properties(self._index)
        uuid = getattr(told, "uuid", None)
        parts: list[Any] = [getattr(told, name, None) for name in ("pci_domain_id", "pci_bus_id", "pci_device_id")]
        place = "{:08X}:{:02X}:{:02X}.0".format(*parts) if None not in parts else None
        return str(uuid).removeprefix("GPU-").removeprefix("MIG-") if uuid is not None else None, place

    def stream(self) -> Stream:
        stream: Stream = self._cuda.current_stream(self._index)
        return stream

    def paused(self) -> bool:
        return captures.active > 0 or bool(self._cuda.is_current_stream_capturing())

    def reading(self) -> contextlib.AbstractContextManager[bool]:
        return captures.reading()

    def profiler(self) -> CuptiProfiler | None:
        torch = sys.modules["torch"]
        if captures.active or torch.autograd._profiler_enabled():
            return None
        from torch import profiler  # noqa: PLC0415 - torch is there, its profiler perhaps not yet

        return CuptiProfiler(profiler)

    def allocated(self) -> int:
        return self._bytes("current")

    def peak(self) -> int | None:
        return self._bytes("peak")

    def _bytes(self, which: str) -> int:
        return int(self._cuda.memory_stats_as_nested_dict(self._index)["allocated_bytes"]["all"][which])

    def memory(self) -> Memory:
        stats = self._cuda.memory_stats(self._index)
        with captures.reading() as allowed:
            free, limit = self._card() if allowed else (None, None)
        return Memory(
            allocated=int(stats.get("allocated_bytes.all.current", 0)),
            reserved=int(stats.get("reserved_bytes.all.current", 0)),
            peak=int(stats.get("allocated_bytes.all.peak", 0)), limit=limit, free=free,
            allocations=int(stats.get("allocation.all.allocated", 0)), frees=int(stats.get("allocation.all.freed", 0)),
            retries=int(stats.get("num_alloc_retries", 0)), ooms=int(stats.get("num_ooms", 0)),
        )  # fmt: skip

    def _card(self) -> tuple[int | None, int | None]:
        """(free, limit) in bytes: the driver's view of the card, other processes included."""
        free, total = self._cuda.mem_get_info(self._index)
        share = 1.0
        with contextlib.suppress(AttributeError, RuntimeError):  # an older torch, or an allocator that has no cap
            share = min(1.0, self._cuda.get_per_process_memory_fraction(self._index))
        return int(free), int(total * share)


def open_device(index: int) -> Device:
    """The device that a model found itself on (so torch and CUDA are up)."""
    return CudaDevice(sys.modules["torch"], index)


def in_use() -> list[int]:
    """Indices of the GPUs on which torch has allocated. Asking the driver about another would make a context there."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return []
    used = (
        torch.cuda.memory_stats(index).get("reserved_bytes.all.peak", 0) for index in range(torch.cuda.device_count())
    )
    return [index for index, peak in enumerate(used) if peak]
