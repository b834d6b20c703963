"""The agent's queue on a disk that is full, and on one whose power fails.
Both need the right to mount a file system.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.stack.emitter import Emitter, Meters, metrics_to
from tests.stack.fixtures import eventually, need
from tools.stack.collector import Collector
from tools.stack.process import Process
from tools.stack.traces import TraceStore

FULL = "no space left on device"
SPANS = 143  # of a request with 20 frames: SERVER, synthesize, generate, 20 x 7
SPAN_BYTES = 100  # at least
BATCH = 524_288 + SPANS * 200  # collector/agent.yaml: a batch leaves as soon as it holds min_size


def _root(*command: str | Path) -> None:
    try:
        subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        pytest.skip(f"mounting a file system is not possible here ({command[0]}: {str(said).strip()})")


@contextmanager
def mounted(folder: Path, *how: str | Path) -> Iterator[Path]:
    """``folder`` with a file system in it."""
    folder.mkdir(parents=True, exist_ok=True)
    _root("mount", *how, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("then", ["it goes on", "kill -9, then room", "kill -9, still full"])
def test_a_full_disk_is_said_and_survived(then: str, tmp_path: Path) -> None:
    """Spans that find no room are refused, counted and logged with the reason; metrics go on; what was accepted is
    delivered, and the next spans are taken. Through a kill -9 that holds once there is room again; started on a disk
    that is still full, the agent cannot put back the (at most three) batches that were under way: it says so, and loses
    those.
    """
    need("otelcol-vibevoice")
    queue = tmp_path / "agent" / "queue"
    with (
        mounted(queue, "-t", "tmpfs", "-o", "size=6m", "none"),
        TraceStore(limit=10_000) as store,
        Collector("agent", tmp_path / "agent", store.endpoint) as agent,
    ):
        store.refuse = grpc.StatusCode.UNAVAILABLE
        emitter = Emitter(agent.grpc, timeout=1)
        accepted, refused = list[str](), 0
        # Not the sender's three failures: some of them may be of an agent that is busy, and says nothing.
        while agent.counted("otelcol_exporter_enqueue_failed_spans_total") < 3 * SPANS:
            request = emitter.whole(frames=20)
            if emitter.flush():
                accepted.append(request.trace_id)
            else:
                refused += 1
            assert len(accepted) < 2000, "the disk was never full"
        assert accepted
        assert refused
        assert agent.process.running
        assert eventually(lambda: FULL in agent.process.log.read_text())
        meters = Meters(metrics_to(agent.grpc))
        meters.record()
        assert meters.flush(), "metrics need no disk"
        meters.close()

        if then.startswith("kill"):
            agent.process.kill()
            if then.endswith("room"):
                _root("mount", "-o", "remount,size=16m", queue)
            agent.restart()
        store.refuse, began = None, time.monotonic()

        def missing() -> list[str]:
            arrived = set(store.ids())
            return [trace_id for trace_id in accepted if trace_id not in arrived]

        told = "Errors occurred while moving items for dispatching back to queue"

        def over() -> bool:
            """All has arrived, but for what the agent could not put back, and said so."""
            left = missing()
            allowed = then.endswith("full") and len(left) <= 3 * BATCH // (SPANS * SPAN_BYTES)
            return not left or (allowed and told in agent.process.log.read_text())

        assert eventually(over), len(missing())
        lost = missing()
        print(
            f"{then}: {len(accepted)} traces accepted before the disk was full, {len(lost)} lost, "
            f"{time.monotonic() - began:.1f} s"
        )
        if then.endswith("full"):
            eventually(lambda: set(missing()) <= set(accepted[: len(missing()) + 5]))
            lost = missing()
            assert set(lost) <= set(accepted[: len(lost) + 5]), "the oldest, which were under way"
        else:
            assert not lost
        request, spans = emitter.whole(), emitter.take()
        assert eventually(lambda: emitter.send(spans))
        assert eventually(lambda: len(store.spans(request.trace_id)) >= 17)
        emitter.close()


def _snapshot(image: Path, copy: Path, process: Process) -> None:
    """What the disk holds at this moment: what had been written to it, and not what the kernel was yet to write.

    The process is stopped meanwhile (it is killed afterwards), and two copies are alike when nothing was written
    between them.
    """
    subprocess.run(["kill", "-STOP", str(process.pid)], check=True)
    again = copy.with_suffix(".again")
    for _ in range(20):
        shutil.copyfile(image, copy)
        shutil.copyfile(image, again)
        if copy.read_bytes() == again.read_bytes():
            break
    else:
        pytest.fail("the disk was written to all the time")
    again.unlink()
    process.kill()


@pytest.mark.parametrize("fsync", [True, False], ids=["with fsync", "without"])
def test_power_loss(fsync: bool, tmp_path: Path) -> None:
    """The power fails in the middle of writing: the agent starts again from what the disk then held and works, and
    every trace that arrives is whole. With COLLECTOR_FSYNC nothing that was acknowledged is lost; without, what the
    kernel had not yet written is.
    """
    need("otelcol-vibevoice")
    image, after = tmp_path / "disk", tmp_path / "disk-after"
    image.write_bytes(bytes(32 * 2**20))
    _root("mkfs.ext4", "-q", image)
    variables = {"COLLECTOR_FSYNC": str(fsync).lower()}
    with TraceStore(limit=10_000) as store:
        store.refuse = grpc.StatusCode.UNAVAILABLE
        with (
            mounted(tmp_path / "before" / "queue", "-o", "loop", image),
            Collector("agent", tmp_path / "before", store.endpoint, variables) as agent,
        ):
            emitter = Emitter(agent.grpc)
            acknowledged: dict[str, float] = {}
            until = time.monotonic() + 4
            while time.monotonic() < until:
                request = emitter.whole()
                assert emitter.flush()
                acknowledged[request.trace_id] = time.monotonic()
                time.sleep(0.02)
            failed = time.monotonic()
            _snapshot(image, after, agent.process)
            emitter.close()
        with (
            mounted(tmp_path / "after" / "queue", "-o", "loop", after),
            Collector("agent", tmp_path / "after", store.endpoint, variables) as agent,
        ):
            store.refuse = None
            emitter = Emitter(agent.grpc)
            request = emitter.whole()
            assert emitter.flush()
            assert eventually(lambda: len(store.spans(request.trace_id)) == 17)
            if fsync:
                eventually(lambda: acknowledged.keys() <= set(store.ids()))
            else:
                time.sleep(5)
            emitter.close()
        arrived = {
            trace_id: {span.span_id for span in store.spans(trace_id)}
            for trace_id in acknowledged
            if trace_id in store.ids()
        }
    assert all(len(spans) == 17 for spans in arrived.values())
    lost = [failed - at for trace_id, at in acknowledged.items() if trace_id not in arrived]
    print(
        f"fsync {fsync}: {len(acknowledged)} traces acknowledged in 4 s, {len(lost)} lost, the oldest "
        f"{max(lost, default=0):.1f} s old"
    )
    if fsync:
        assert not lost
