"""A service on a GPU, the card being a fake: what travels to the receivers is device time and the allocator's
counters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_gpu import plugin
from tests.reliability.harness import wait_for
from vibevoice_otel.commands import gpu

from .conftest import Running

GIB = plugin.GIB


@pytest.fixture
def scraped(start: Callable[..., Running], tmp_path: Path) -> tuple[Running, Path]:
    environment = plugin.environment(tmp_path)
    return start(fresh=True, **environment), Path(environment[plugin.MEMORY])


def test_device_times_and_memory_leave_the_process(scraped: tuple[Running, Path]) -> None:
    """Steps are timed by the device's clock in spans and histogram, no series has two clocks, and the memory gauges
    follow the card.
    """
    service, memory = scraped
    _, trace = service.speak(text="The card is not there.", steps=5)
    steps = trace.named("vibevoice.diffusion.step")
    assert steps
    assert {span.attributes["vibevoice.clock"] for span in steps} == {"device"}
    assert all(span.attributes["vibevoice.host.duration"] > 0 for span in steps)
    frames = trace.named("vibevoice.frame")
    assert all(0 <= span.attributes["vibevoice.frame.device.idle"] <= 1 for span in frames)
    assert all(span.attributes["vibevoice.frame.host_bound"] > 0 for span in frames)
    divided = service.samples("vibevoice_frame_limit_seconds_total")
    assert sum(divided.values()) == pytest.approx(
        sum(
            span.attributes["vibevoice.frame.host_bound"] + span.attributes["vibevoice.frame.device_wait"]
            for span in frames
        )
    )
    (generate,) = trace.named("vibevoice.generate")
    assert max(span.attributes["vibevoice.clock.error"] for span in frames) < (generate.end - generate.start) / 1e9
    assert generate.attributes["vibevoice.device.id"] == "0"
    assert generate.attributes["vibevoice.gpu.memory.request.peak"] == 2 * GIB

    counts = service.samples("vibevoice_inference_duration_seconds_count")
    assert sum(counts.values()) == len(steps)
    assert all(("clock", "device") in key for key in counts)
    begun = [
        service.total(f"vibevoice_kernel_{kind}_latency_seconds_count", device_id="0") for kind in ("launch", "queue")
    ]
    assert sum(begun) == len(steps)
    assert service.total("vibevoice_gpu_memory_bytes", device_id="0") == 2 * GIB
    assert service.total("vibevoice_gpu_memory_limit_bytes", device_id="0") == 8 * GIB
    plugin.set_memory(memory, allocated=7 * GIB, reserved=8 * GIB, free=0, retries=3, ooms=1)
    assert wait_for(lambda: service.total("vibevoice_gpu_memory_bytes", device_id="0") == 7 * GIB)
    assert service.total("vibevoice_gpu_memory_events_total", device_id="0", event="retry") == 3
    assert service.total("vibevoice_gpu_memory_events_total", device_id="0", event="oom") == 1


def test_a_sample_is_taken_on_demand_and_counts_in_no_latency(
    start: Callable[..., Running], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vibevoice-otel gpu sample` asks, one frame is profiled, its share comes back; the request is in no objective and
    no latency.
    """
    service = start(fresh=True, VIBEVOICE_OTEL_GPU_PROFILE="on-demand", **plugin.environment(tmp_path))
    page = f"http://127.0.0.1:{service.metrics_port}/metrics"
    stream = f"ws://127.0.0.1:{service.port}/stream"
    assert gpu.main(["sample", stream, "--metrics", page]) == 0
    said = capsys.readouterr().out
    assert "kernels at work in 2" in said  # a quarter of each millisecond, by the made-up profiler
    assert "a faster host could save at most 7" in said
    assert service.total("vibevoice_kernel_share_count", frame_part="frame") == 1
    assert service.total("vibevoice_kernel_share_sum", frame_part="steps") == pytest.approx(0.25, abs=0.05)
    assert not service.samples("vibevoice_first_audio_latency_seconds_count")
    assert not service.samples("vibevoice_inference_duration_seconds_count")


def test_without_leave_no_sample_is_taken(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Off by default: whoever asks hears why nothing came."""
    monkeypatch.setattr(gpu, "PATIENCE", 2.0)
    service = start(fresh=True, **plugin.environment(tmp_path))
    page = f"http://127.0.0.1:{service.metrics_port}/metrics"
    assert gpu.main(["sample", f"ws://127.0.0.1:{service.port}/stream", "--metrics", page]) == 1
    assert "VIBEVOICE_OTEL_GPU_PROFILE" in capsys.readouterr().err
    assert "vibevoice_kernel_share" not in service.metrics()


def test_a_service_without_a_gpu_has_no_gpu_series(service: Running) -> None:
    """Absence is the truth: no zero that would look like a card with nothing on it,
    and every duration is the host's.
    """
    assert "vibevoice_gpu_" not in service.metrics()
    assert all(("clock", "host") in key for key in service.samples("vibevoice_inference_duration_seconds_count"))
