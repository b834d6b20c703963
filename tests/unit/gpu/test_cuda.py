"""torch.cuda's side of the interface, against a stand-in for torch.cuda; the real one is in tests/gpu."""

from __future__ import annotations

import threading
import types
from typing import Any

import pytest
import torch

from tests.fake_gpu.device import FakeGpu
from tests.unit.gpu.simulated import Run
from vibevoice_otel.adapters.shared.capture import hook_captures
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording import device
from vibevoice_otel.recording.clock import Anchor
from vibevoice_otel.recording.device import cuda
from vibevoice_otel.recording.timeline import Timeline, bound, thread


class FakeCuda(types.SimpleNamespace):
    """The functions that CudaDevice calls; whatever else it called would raise AttributeError,
    a synchronising one too.
    """

    def __init__(self, fraction: float = 0.5) -> None:
        super().__init__(
            Event=lambda enable_timing: types.SimpleNamespace(enable_timing=enable_timing),
            current_stream=lambda index: f"stream of {index}",
            is_current_stream_capturing=lambda: False,
            memory_stats=lambda _index: {
                "allocated_bytes.all.current": 5,
                "reserved_bytes.all.current": 9,
                "num_ooms": 2,
            },
            memory_stats_as_nested_dict=lambda _index: {"allocated_bytes": {"all": {"current": 5, "peak": 7}}},
            mem_get_info=lambda _index: (40, 100),
            get_per_process_memory_fraction=lambda _index: fraction,
        )


def opened(**of: Any) -> cuda.CudaDevice:
    return cuda.CudaDevice(types.SimpleNamespace(cuda=FakeCuda(**of)), 1)


def test_memory_is_read_from_torchs_counters() -> None:
    """The limit is torch's own cap where that is below the card's total; the driver tells what is free."""
    memory = opened().memory()
    assert (memory.allocated, memory.reserved, memory.free, memory.limit, memory.ooms) == (5, 9, 40, 50, 2)
    assert opened(fraction=1.0).memory().limit == 100
    assert (opened().allocated(), opened().peak()) == (5, 7)


def test_an_allocator_without_a_cap_is_limited_by_the_card() -> None:
    """Torch's other allocators know no share of the card."""
    card = opened()

    def refused(_index: int) -> float:
        raise RuntimeError("not supported")

    card._cuda.get_per_process_memory_fraction = refused
    assert card.memory().limit == 100


def test_events_are_for_timing_and_used_again() -> None:
    """An event without timing cannot be read; one that was given back is the next one taken."""
    card = opened()
    event = card.pool.take()
    assert event.enable_timing  # type: ignore[union-attr]
    card.pool.give([event])  # type: ignore[list-item]
    assert card.pool.take() is event


def test_a_capture_waits_for_a_question_and_stops_the_next() -> None:
    """A capture begins only between two questions, and no question is allowed until it has ended, however it began or
    ended.
    """
    captures = cuda.Captures()
    began = threading.Event()

    def begin() -> None:
        captures.begin()
        began.set()

    with captures.reading() as allowed:
        assert allowed
        other = threading.Thread(target=begin)
        other.start()
        assert not began.wait(0.05), "it waits"
    other.join()
    with captures.reading() as allowed:
        assert not allowed
    captures.end()
    with captures.reading() as allowed:
        assert allowed

    def refused() -> None:
        raise RuntimeError("already capturing")

    with pytest.raises(RuntimeError, match="already"):
        captures.watch_begin(refused)
    with captures.reading() as allowed:
        assert allowed, "a capture that did not begin is none"


def test_a_capture_is_announced_before_it_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark takes no lock: it sees the announcement, or is put in while the capture is held back for a moment."""
    captures = cuda.Captures()
    held: list[tuple[float, int]] = []
    monkeypatch.setattr(cuda.time, "sleep", lambda seconds: held.append((seconds, captures.active)))
    began: list[int] = []
    captures.watch_begin(lambda: began.append(len(held)))
    assert held == [(cuda.GRACE, 1)]
    assert began == [1]


def test_captures_are_noticed_through_torch_and_the_hooks_come_out_again() -> None:
    """torch.cuda.graph and torch.compile both begin and end a capture through these two functions of CUDAGraph."""
    graph = torch.cuda.CUDAGraph
    before = graph.capture_begin, graph.capture_end
    hooks = Hooks("test", lambda *_: None)
    hook_captures(hooks, torch.cuda.graphs)
    try:
        assert graph.capture_begin is not before[0]
        assert graph.capture_end is not before[1]
    finally:
        hooks.undo()
    assert (graph.capture_begin, graph.capture_end) == before


def test_during_a_capture_memory_leaves_out_the_driver() -> None:
    """What cudaMemGetInfo says is the driver's; torch's own counters are told all the same."""
    card = opened()
    cuda.captures.begin()
    try:
        memory = card.memory()
        assert card.paused()
    finally:
        cuda.captures.end()
    assert (memory.allocated, memory.free, memory.limit) == (5, None, None)
    assert not card.paused()


def test_a_cpu_has_no_device() -> None:
    """A model on the CPU is timed by the host: no notes, and the step's hook stays the plain append."""
    timeline = Timeline(1, Anchor.take(), 0)
    with bound(timeline):
        assert device.attach(timeline.runs[0], torch.nn.Linear(1, 1)) is None
        assert thread.step == timeline.runs[0].steps.append
    assert timeline.runs[0].device is None


def test_a_model_on_several_devices_is_timed_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of one device tells nothing of another's work."""
    run = Run(FakeGpu())
    monkeypatch.setitem(device.OPENERS, "cpu", lambda _index: run.gpu)
    monkeypatch.setattr(device, "_devices", {})
    model = torch.nn.Linear(1, 1)
    with bound(run.timeline) as own:
        assert device.attach(own, model) is not None
        model.hf_device_map = {"a": 0, "b": 1}  # type: ignore[assignment]
        assert device.attach(own, model) is None


@pytest.mark.swallows("the device cannot be observed")
def test_a_device_that_cannot_be_opened_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The generation goes on by the host's clock."""

    def broken(_index: int) -> Any:
        raise RuntimeError("no driver")

    monkeypatch.setitem(device.OPENERS, "cpu", broken)
    monkeypatch.setattr(device, "_devices", {})
    timeline = Timeline(1, Anchor.take(), 0)
    with bound(timeline):
        assert device.attach(timeline.runs[0], torch.nn.Linear(1, 1)) is None
        assert thread.step == timeline.runs[0].steps.append
    assert len(caplog.records) == 1
