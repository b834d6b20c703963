"""How long ``insight`` takes on 30 days of 25 voices and 4 instances, and how much memory.

``python -m benchmarks.insight_store FOLDER`` fills a real Prometheus and a real VictoriaMetrics, by remote write, with
the series that insight reads, then runs each question in a process of its own, three times. ``--days``, ``--step``,
``--settings`` and ``--stores`` change what is made; a folder that is filled already is used as it is.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools import toolchain
from tools.ports import free_ports
from tools.stack.process import Process
from tools.stack.prometheus import Prometheus
from tools.stack.victoria import Victoria
from vibevoice_otel import semconv

VOICES, INSTANCES = 25, 4
#: Requests of a voice on one instance, a second.
RATE = 1 / 60
OF = {"job": "vibevoice", "service": "speech", "environment": "production"}
#: (cfg, steps); a voice is asked for at the first ``--settings`` of them, the first as often as all others together.
SETTINGS = (("1.5", "5"), ("1.3", "10"), ("2.0", "5"), ("1.5", "8"), ("1.8", "5"))
LENGTHS = ("short", "medium", "long")
FRAMES = 16  # of a request
#: Histograms of which insight reads the mean alone.
MEANS = (semconv.INFERENCE, semconv.LM_DURATION, semconv.DECODE_DURATION, semconv.PREFILL_DURATION)
LAST = "+Inf"
Series = tuple[str, dict[str, str], np.ndarray]


def instance(rng: np.random.Generator, labels: dict[str, str], ticks: int, step: float, count: int) -> Iterator[Series]:
    """All that one process reports, name by name; each voice at ``count`` settings."""
    requests = rng.poisson(RATE * step, (VOICES, ticks))
    shares = np.array([max(count - 1, 1), *[1] * (count - 1)], dtype=np.float64)
    settings = [
        ({"cfg": cfg, "steps": steps}, share)
        for (cfg, steps), share in zip(SETTINGS, shares / shares.sum(), strict=False)
    ]
    clock = {"clock": "device"}
    #: What a metric is cut by -> the labels of each part, and its share of the requests.
    cuts = {
        "": [({}, 1.0)],
        "setting": settings,
        "length": [({**of, "text_length_range": each}, w / len(LENGTHS)) for of, w in settings for each in LENGTHS],
        "step": [
            ({**of, **clock, "step_index": str(i)}, w * FRAMES) for of, w in settings for i in range(int(of["steps"]))
        ],
        "frame": [(clock, FRAMES)],
        "branch": [({**clock, "branch": each}, FRAMES) for each in ("positive", "negative")],
    }

    def histogram(metric: semconv.Metric, of: dict[str, str], events: np.ndarray, middle: float) -> Iterator[Series]:
        """Its buckets where insight reads them, its count and its sum."""
        edges = (*metric.buckets, float("inf"))
        share = 1 / (1 + (middle / np.maximum(np.array(metric.buckets), 1e-9)) ** 4)
        total = np.cumsum(events)
        for edge, part in zip(edges, (*share, 1.0), strict=True) if metric not in MEANS else ():
            yield (
                f"{metric.prometheus}_bucket",
                {**of, "le": LAST if edge == edges[-1] else f"{edge:g}"},
                np.floor(total * part),
            )
        yield f"{metric.prometheus}_count", of, np.floor(total)
        yield f"{metric.prometheus}_sum", of, total * middle

    for metric, middle, by in (
        (semconv.FIRST_AUDIO, 0.25, "length"), (semconv.RTF, 0.5, "setting"), (semconv.INFERENCE, 0.004, "step"),
        (semconv.GAP, 0.01, ""), (semconv.LM_DURATION, 0.01, "branch"), (semconv.DECODE_DURATION, 0.02, "frame"),
        (semconv.PREFILL_DURATION, 0.01, "frame"),
    ):  # fmt: skip
        for voice, (of, share) in itertools.product(range(VOICES), cuts[by]):
            yield from histogram(metric, {**labels, "voice": f"voice-{voice}", **of}, requests[voice] * share, middle)
    for metric, by, parts, amount in (
        (semconv.REQUESTS, "status", {"success": 0.985, "error": 0.01, "cancelled": 0.005}, 1.0),
        (semconv.FINISHED, "finish_reason", {"eos": 0.98, "length": 0.02}, 1.0),
        (semconv.AUDIO_PRODUCED, "", {"": 1.0}, 12.0), (semconv.GENERATE_BUSY, "", {"": 1.0}, 6.0),
        (semconv.UNDERRUN, "", {"": 0.01}, 1.0),
        (semconv.DEFECTIVE_FRAMES, "kind", {"silent": 0.05, "nan": 0.001}, 1.0),
    ):  # fmt: skip
        for voice, (of, share) in itertools.product(
            range(VOICES), settings if metric is semconv.REQUESTS else cuts[""]
        ):
            own = {**labels, "voice": f"voice-{voice}", **of}
            for value, part in parts.items():
                grown = np.floor(np.cumsum(requests[voice]) * part * amount * share)
                yield metric.prometheus, {**own, by: value} if by else own, grown
    card = {**labels, "hw_id": f"GPU-{labels['instance']}", "hw_type": "gpu", "device_id": "0"}
    yield semconv.HW_ENERGY.prometheus, card, np.cumsum(np.full(ticks, 200 * step))
    yield semconv.HW_POWER.prometheus, card, np.full(ticks, 200.0)
    yield semconv.GPU_MEMORY.prometheus, {**labels, "device_id": "0"}, 4e9 + 2e8 * rng.poisson(1.5, ticks)


def made(
    days: float, step: float, end: float, settings: int
) -> Iterator[tuple[str, dict[str, str], np.ndarray, np.ndarray]]:
    """(name, labels, times in seconds, values): half of the time version 1.2 runs, then four new processes with 1.3."""
    rng = np.random.default_rng(1)
    ticks = int(days * 86400 / step)
    times = end - step * np.arange(ticks)[::-1]
    for number in range(2 * INSTANCES):
        part = times[: ticks // 2] if number < INSTANCES else times[ticks // 2 :]
        labels = {**OF, "instance": f"i{number}"}
        version = "1.2" if number < INSTANCES else "1.3"
        info = {
            "version": "0.1.0",
            "adapter": "realtime",
            "service_version": version,
            "vibevoice_model_revision": f"r{version}",
        }
        yield semconv.BUILD_INFO.prometheus, {**labels, **info}, part, np.ones(len(part))
        for name, of, values in instance(rng, labels, len(part), step, settings):
            yield name, of, part, values


class RemoteWriter:
    """Prometheus' remote write, version 1: protobuf made by numpy, in snappy's frame without compression."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: list[bytes] = []
        self._size = 0
        self.samples = 0

    def add(self, labels: bytes, stamped: np.ndarray, values: np.ndarray) -> None:
        """A part of one series; ``stamped`` is :func:`stamps` of its times."""
        rows = stamped.copy()
        rows[:, 3:11] = np.ascontiguousarray(values, np.float64).view(np.uint8).reshape(-1, 8)
        series = labels + rows.tobytes()
        self._waiting.append(b"\x0a" + _varint(len(series)) + series)
        self._size += len(series)
        self.samples += len(values)
        if self._size > 4_000_000:
            self.send()

    def send(self) -> None:
        """What waits."""
        body = b"".join(self._waiting)
        self._waiting, self._size = [], 0
        framed = _varint(len(body)) + b"\xfc" + (len(body) - 1).to_bytes(4, "little") + body
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
        if body:
            with urllib.request.urlopen(urllib.request.Request(self._url, framed, headers), timeout=300):
                pass


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _labels(name: str, labels: dict[str, str]) -> bytes:
    def text(tag: int, value: str) -> bytes:
        return bytes([tag]) + _varint(len(value.encode())) + value.encode()

    pairs = (text(10, key) + text(18, value) for key, value in sorted({"__name__": name, **labels}.items()))
    return b"".join(b"\x0a" + _varint(len(pair)) + pair for pair in pairs)


def stamps(times: np.ndarray) -> np.ndarray:
    """Samples at ``times`` in seconds, shape (n, 18), without their values."""
    at = (times * 1000).astype(np.int64)
    rows = np.empty((len(at), 18), np.uint8)
    rows[:, :3], rows[:, 11] = (18, 16, 9), 16
    for place in range(6):  # milliseconds of our century take six bytes of seven bits
        rows[:, 12 + place] = (at >> 7 * place) & 127 | (128 if place < 5 else 0)
    return rows


#: Seconds that are written at once: Prometheus takes no sample older than half of its newest block.
SLICE = 6 * 3600


def fill(url: str, chosen: argparse.Namespace, end: float) -> None:
    """Write all in order of time, as a store receives it."""
    began, writer = time.monotonic(), RemoteWriter(url)
    series = [
        (_labels(name, labels), times, values)
        for name, labels, times, values in made(chosen.days, chosen.step, end, chosen.settings)
    ]
    for begin in np.arange(end - chosen.days * 86400, end, SLICE):
        known: dict[tuple[float, float], tuple[slice, np.ndarray]] = {}
        for labels, times, values in series:
            if times[-1] <= begin or times[0] > begin + SLICE:
                continue
            key = times[0], times[-1]
            if key not in known:
                first, last = np.searchsorted(times, [begin, begin + SLICE], side="right")
                known[key] = slice(first, last), stamps(times[first:last])
            part, stamped = known[key]
            writer.add(labels, stamped, values[part])
        writer.send()
    print(f"{len(series):,} series, {writer.samples:,} samples in {time.monotonic() - began:.0f} s", flush=True)


def apart(url: str, chosen: argparse.Namespace, end: float) -> None:
    """:func:`fill` in a process of its own: what it held would count as the memory of the commands measured later."""
    filling = multiprocessing.get_context("spawn").Process(target=fill, args=(url, chosen, end))
    filling.start()
    filling.join()
    if filling.exitcode:
        raise SystemExit(filling.exitcode)


def fill_prometheus(folder: Path, chosen: argparse.Namespace, end: float) -> None:
    """One that scrapes nothing: a sample of now would close its door to those of last month."""
    (folder / "bare.yml").write_text("global: {}\n")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        str(toolchain.require("prometheus")), f"--config.file={folder / 'bare.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}", "--log.level=warn",
        "--storage.tsdb.retention.time=60d", "--web.enable-remote-write-receiver",
        "--storage.tsdb.min-block-duration=18h", "--storage.tsdb.max-block-duration=54h",
    ]  # fmt: skip
    with Process("filling", command, folder, ready=f"http://{address}/-/ready"):
        apart(f"http://{address}/api/v1/write", chosen, end)


def measure(url: str, store: int, end: float, days: float) -> None:
    """Each question three times, in processes of their own: seconds, the least processor seconds of the command and of
    the store (process ``store``), the most memory, and the exit code.
    """
    at, window = ["--at", f"{end:.0f}"], ["--window", f"{days:g}d"]
    begin, middle = end - days * 86400, end - days / 2 * 86400
    questions = {
        "compare": ["--before", f"{begin:.0f}..{middle:.0f}", "--after", f"{middle:.0f}..{end:.0f}"],
        "changes": [*window, *at],
        "voices": [*window, *at],
        "recommend": [*window, *at, "--text-length", "300"],
        "cost": [*window, *at],
    }
    for name, arguments in questions.items():
        seconds, worked, memory, code = [], [], 0.0, 0
        for _ in range(3):
            command = [
                sys.executable,
                "-m",
                "vibevoice_otel",
                "insight",
                name,
                *arguments,
                "--json",
                "--prometheus",
                url,
            ]
            before, busy = time.monotonic(), processor(store)
            run = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
            _, status, used = os.wait4(run.pid, 0)
            run.returncode = code = os.waitstatus_to_exitcode(status)
            seconds.append(time.monotonic() - before)
            worked.append((used.ru_utime + used.ru_stime, processor(store) - busy))
            memory = max(memory, used.ru_maxrss / 1024)
        own, its = (min(column) for column in zip(*worked, strict=True))
        print(
            f"| {name} | {min(seconds):.1f} s | {max(seconds):.1f} s | {own:.1f} s | {its:.1f} s | {memory:.0f} MB "
            f"| {code} |",
            flush=True,
        )


def processor(pid: int) -> float:
    """Seconds of processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--step", type=float, default=300, help="seconds between two samples")
    parser.add_argument("--settings", type=int, default=1, help="of each voice, five at most")
    parser.add_argument("--stores", default="victoria,prometheus")
    chosen = parser.parse_args()
    stamp = chosen.folder / "end"
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if not stamp.exists():
        stamp.write_text(str(time.time() // 300 * 300))
    end = float(stamp.read_text())
    if "victoria" in chosen.stores:
        filled = chosen.folder / "victoria" / "filled"
        with Victoria(chosen.folder / "victoria") as victoria:
            if not filled.exists():
                apart(victoria.write, chosen, end)
                with urllib.request.urlopen(f"{victoria.url}/internal/force_flush", timeout=300):
                    filled.touch()
            print("VictoriaMetrics", flush=True)
            measure(victoria.url, victoria.process.pid, end, chosen.days)
    if "prometheus" in chosen.stores:
        folder = chosen.folder / "prometheus"
        folder.mkdir(exist_ok=True)
        if not (folder / "filled").exists():
            fill_prometheus(folder, chosen, end)
            (folder / "filled").touch()
        with Prometheus(folder) as prometheus:
            print("Prometheus", flush=True)
            measure(prometheus.url, prometheus.process.pid, end, chosen.days)


if __name__ == "__main__":
    main()
