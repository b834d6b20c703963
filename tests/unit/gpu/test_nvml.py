"""NVML's figures: of the right card, read at collection, at rest after a slow answer, absent where it tells nothing."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fake_gpu.device import FakeGpu
from vibevoice_otel import semconv
from vibevoice_otel.metrics import nvml
from vibevoice_otel.metrics.nvml import Cards


class Error(Exception):
    """NVMLError of the driver below."""


class Driver:
    """NVML with two cards; its own order is not torch's. ``broken``: names of calls that this card does not answer."""

    NVMLError = Error
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.broken = broken
        self.cards = {"GPU-bbb": 1, "GPU-aaa": 0, "MIG-ccc": 2}
        self.pending: list[int] = [79, 7777]
        self.calls: list[str] = []
        self.takes = 0.0
        self.now = 0.0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvmlDeviceGet") and name in object.__getattribute__(self, "broken"):
            raise_error: Any = lambda *_: (_ for _ in ()).throw(Error(name))  # noqa: E731
            return raise_error
        if name.startswith("nvmlDeviceGet"):
            object.__getattribute__(self, "calls").append(name)
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in self.cards:
            raise Error(uuid)
        return self.cards[uuid]

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> int:
        raise Error(bus)

    def nvmlSystemGetDriverVersion(self) -> bytes:
        if "nvmlSystemGetDriverVersion" in self.broken:
            raise Error
        return b"550.54.15"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return next(name for name, each in self.cards.items() if each == handle)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self.now += self.takes
        return SimpleNamespace(gpu=40 + handle)

    def nvmlDeviceGetPowerUsage(self, _handle: int) -> int:
        return 250_000

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: int) -> int:
        return 9_000_500

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: int) -> list[int]:
        return [1, 2]

    def nvmlDeviceGetClockInfo(self, _handle: int, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: int) -> int:
        return 0x04 | 0x01

    def nvmlDeviceGetTotalEccErrors(self, _handle: int, _kind: int, _counter: int) -> int:
        return 3

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: int, kind: int, events: object) -> None: ...

    def nvmlEventSetWait_v2(self, _events: object, milliseconds: int) -> Any:
        assert milliseconds == 0, "a collection never waits for an error"
        if not self.pending:
            raise Error("timeout")
        return SimpleNamespace(eventData=self.pending.pop())


def cards(driver: Driver, *uuids: str | None) -> Cards:
    gpus: list[Any] = [FakeGpu(id=str(index), uuid=uuid) for index, uuid in enumerate(uuids)]
    return Cards(lambda: gpus, lambda: driver, lambda: driver.now)


def test_a_card_is_known_by_its_uuid() -> None:
    """CUDA_VISIBLE_DEVICES=1,0: torch's index 0 is the driver's 1; a slice of a card goes by the slice's own name."""
    seen = list(cards(Driver(), "bbb", "aaa", "ccc").gauge(semconv.HW_GPU_UTILIZATION))
    assert [(labels["hw.id"], labels["device_id"]) for _, labels in seen] == [
        ("GPU-bbb", "0"),
        ("GPU-aaa", "1"),
        ("MIG-ccc", "2"),
    ]
    assert [value for value, _ in seen] == pytest.approx([0.41, 0.40, 0.42])


def test_units_are_the_conventions() -> None:
    """Shares, watts, joules, hertz; a reason that is no throttling is none; unknown errors share a series."""
    card = {"hw.id": "GPU-aaa", "hw.type": "gpu", "device_id": "0"}
    told = {
        (metric, *(value for key, value in labels.items() if key not in card)): value
        for metric, labels, value in cards(Driver(), "aaa")()
        if card.items() <= labels.items()
    }
    assert told == pytest.approx(
        {
            (semconv.HW_GPU_UTILIZATION,): 0.4,
            (semconv.HW_POWER,): 250,
            (semconv.HW_ENERGY,): 9000.5,
            (semconv.GPU_PROCESSES,): 2,
            (semconv.GPU_CLOCK, "sm"): 1.98e9,
            (semconv.GPU_CLOCK, "memory"): 2.619e9,
            **{(semconv.GPU_THROTTLED, reason): float(reason == "power_cap") for reason in nvml.REASONS.values()},
            (semconv.HW_ERRORS, "ecc_uncorrected"): 3,
            (semconv.HW_ERRORS, "xid_79"): 1,
            (semconv.HW_ERRORS, "xid_other"): 1,
        }
    )


def test_what_a_card_does_not_tell_is_absent() -> None:
    """A slice of a card (MIG) has no utilisation and no power: no series, and no zero."""
    driver = Driver(("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage"))
    told = {metric for metric, _, _ in cards(driver, "ccc")()}
    assert told == set(nvml.METRICS) - {semconv.HW_GPU_UTILIZATION, semconv.HW_POWER}


def test_one_look_serves_a_collection() -> None:
    """Seven instruments ask, the driver is asked once; the next collection asks again."""
    driver = Driver()
    found = cards(driver, "aaa")
    for _ in range(7):
        found()
    assert driver.calls.count("nvmlDeviceGetPowerUsage") == 1
    driver.now += 60
    found()
    assert driver.calls.count("nvmlDeviceGetPowerUsage") == 2


def test_a_slow_driver_rests(caplog: pytest.LogCaptureFixture) -> None:
    """A slow look is followed by a rest of a hundred times its seconds, twice that after the next one; a line says what
    is missing until then. The first look at a card, for which the driver prepares, may be slow. A driver that is quick
    again is asked as before.
    """
    driver = Driver()
    driver.takes = 1.0
    look = cards(driver, "aaa", "bbb")

    def found() -> set[str]:
        return {labels["hw.id"] for _, labels, _ in look()}

    assert len(found()) == 2
    driver.now += 60
    for rest in (200, 400):
        assert len(found()) == 2  # what it told is told
        looked, ended = driver.calls.count("nvmlDeviceGetUtilizationRates"), driver.now
        for share in (0.3, 0.6, 0.99):
            driver.now = ended + share * rest
            assert found() == set()
        assert driver.calls.count("nvmlDeviceGetUtilizationRates") == looked
        assert caplog.text.count(f"asked again in {rest} s") == 1
        driver.now = ended + rest
    driver.takes = 0.004
    for _ in range(3):
        assert len(found()) == 2
        driver.now += 1
    assert len(caplog.records) == 2


def test_without_the_extra_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """The binding is not installed: no series, no warning."""

    def load() -> Any:
        raise ImportError("pynvml")

    gpu: Any = FakeGpu(uuid="aaa")
    assert Cards(lambda: [gpu], load)() == []
    assert not caplog.records


def test_the_real_binding_without_a_driver(caplog: pytest.LogCaptureFixture) -> None:
    """In a container without NVML's library there are no series, one line, and every call that is made exists by that
    name.
    """
    real = importlib.import_module("pynvml")
    for name in [*vars(Driver), "NVMLError"]:
        if name.startswith(("nvml", "NVML")):
            assert hasattr(real, name), name
    try:
        real.nvmlInit()
    except real.NVMLError:
        gpu: Any = FakeGpu(uuid="aaa")
        assert Cards(lambda: [gpu], lambda: real)() == []
        assert "NVML is asked no more (NVMLError_LibraryNotFound" in caplog.text
    else:
        pytest.skip("this machine has NVML: tests/gpu asks it")


def test_reasons_and_members_agree() -> None:
    """The metric's closed list is what is written."""
    assert set(nvml.REASONS.values()) == set(semconv.M_THROTTLE_REASON.members)


def test_the_drivers_version_is_told_with_a_card_alone() -> None:
    """One version for all cards in use; none without a card, nor from a driver that does not say, which costs nothing
    else.
    """
    assert cards(Driver(), "aaa", "bbb").drivers() == ["550.54.15"]
    assert cards(Driver()).drivers() == []
    silent = cards(Driver(broken=("nvmlSystemGetDriverVersion",)), "aaa")
    assert silent.drivers() == []
    assert len(list(silent.gauge(semconv.HW_POWER))) == 1
