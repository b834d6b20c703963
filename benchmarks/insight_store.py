"""How long ``insight`` takes on 30 days of 25 voices and 4 instances, and how much memory.

``python -m benchmarks.insight_store FOLDER`` fills a real Prometheus (promtool's backfill) and a real VictoriaMetrics
(its import) with the series that insight reads, then runs each question in a process of its own, three times.
``--days``, ``--step``, ``--settings`` and ``--stores`` change what is made; a folder that is filled already is used as
it is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools import toolchain
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


def fill_victoria(victoria: Victoria, days: float, step: float, end: float, settings: int) -> tuple[int, int]:
    """Series and samples, sent as JSON lines, a few series a request."""
    series = samples = 0
    lines: list[str] = []

    def send() -> None:
        body = "\n".join(lines).encode()
        lines.clear()
        with urllib.request.urlopen(urllib.request.Request(f"{victoria.url}/api/v1/import", data=body), timeout=300):
            pass

    for name, labels, times, values in made(days, step, end, settings):
        stamps = ",".join(map(str, (times * 1000).astype(np.int64).tolist()))
        numbers = ",".join(map(str, values.tolist()))
        lines.append(
            f'{{"metric":{json.dumps({"__name__": name, **labels})},"values":[{numbers}],"timestamps":[{stamps}]}}'
        )
        series, samples = series + 1, samples + len(values)
        if len(lines) == 100:
            send()
    send()
    with urllib.request.urlopen(f"{victoria.url}/internal/force_flush", timeout=300):
        pass
    return series, samples


def fill_prometheus(data: Path, days: float, step: float, end: float, settings: int) -> None:
    """By promtool, all in blocks as long as they may be: it reads the whole text once for each block."""
    text = data.with_suffix(".om")
    scratch = data.parent / "families"
    scratch.mkdir(parents=True, exist_ok=True)
    counters = {metric.prometheus for metric in semconv.METRICS if metric.instrument == "counter"}
    open_files = {}
    for name, labels, times, values in made(days, step, end, settings):
        if name not in open_files:
            open_files[name] = (scratch / name).open("w", encoding="utf-8")
        prefix = f"{name}{{{','.join(f'{k}={json.dumps(v)}' for k, v in labels.items())}}} "
        open_files[name].write(
            "".join(f"{prefix}{v:.10g} {t:.0f}\n" for t, v in zip(times.tolist(), values.tolist(), strict=True))
        )
    for file in open_files.values():
        file.close()
    with text.open("wb") as whole:
        histograms = [m.prometheus for m in semconv.METRICS if m.instrument == "histogram"]
        for base in histograms:
            parts = [f"{base}{suffix}" for suffix in ("_bucket", "_count", "_sum") if f"{base}{suffix}" in open_files]
            if parts:
                whole.write(f"# TYPE {base} histogram\n".encode())
                for part in parts:
                    whole.write((scratch / part).read_bytes())
                    (scratch / part).unlink()
                    del open_files[part]
        for name in open_files:
            kind = "counter" if name in counters else "gauge"
            whole.write(f"# TYPE {name.removesuffix('_total') if kind == 'counter' else name} {kind}\n".encode())
            whole.write((scratch / name).read_bytes())
            (scratch / name).unlink()
        whole.write(b"# EOF\n")
    command = [
        str(toolchain.require("promtool")),
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "--max-block-duration=768h",
        "-q",
    ]
    subprocess.run([*command, str(text), str(data)], check=True)
    text.unlink()


def measure(url: str, end: float, days: float) -> None:
    """Each question three times, in processes of their own: seconds, the most memory, and the exit code."""
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
        seconds, memory, code = [], 0.0, 0
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
            before = time.monotonic()
            run = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
            _, status, used = os.wait4(run.pid, 0)
            run.returncode = code = os.waitstatus_to_exitcode(status)
            seconds.append(time.monotonic() - before)
            memory = max(memory, used.ru_maxrss / 1024)
        print(f"| {name} | {min(seconds):.1f} s | {max(seconds):.1f} s | {memory:.0f} MB | {code} |", flush=True)


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
        full = (chosen.folder / "victoria" / "filled").exists()
        with Victoria(chosen.folder / "victoria") as victoria:
            if not full:
                series, samples = fill_victoria(victoria, chosen.days, chosen.step, end, chosen.settings)
                print(f"{series:,} series, {samples:,} samples")
                (chosen.folder / "victoria" / "filled").touch()
            print("VictoriaMetrics")
            measure(victoria.url, end, chosen.days)
    if "prometheus" in chosen.stores:
        data = chosen.folder / "prometheus" / "data"
        if not (chosen.folder / "prometheus" / "filled").exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            fill_prometheus(data, chosen.days, chosen.step, end, chosen.settings)
            (chosen.folder / "prometheus" / "filled").touch()
        with Prometheus(chosen.folder / "prometheus") as prometheus:
            print("Prometheus")
            measure(prometheus.url, end, chosen.days)


if __name__ == "__main__":
    main()
