"""Scale: what a store of metrics costs a series and a sample, measured; and a model that says what a number of streams
needs.

``python -m benchmarks.scale`` measures (11 minutes); with ``--quick`` smaller. ``needs`` is the model, ``table`` what
docs/scale.md shows of it.
"""

from __future__ import annotations

import http.server
import json
import math
import random
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks import harness
from tools import toolchain
from tools.ports import free_ports
from tools.schema import series
from tools.stack.process import Process
from vibevoice_otel import semconv

SCRAPE_S: Final = 15.0  # as shipped
#: A trace of 10 s at 5 steps a frame (docs/performance.md).
SPANS_A_STREAM: Final = 77.0
HELD_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What one of each costs: CPU in microseconds, memory and disk in bytes. Those of traces: docs/performance.md, up
    to 80,000 spans/s.
    """

    agent_us_a_span: float = 8.0
    balancer_us_a_span: float = 7.5
    gateway_us_a_span: float = 5.5
    #: From 164 MiB at 5,000 spans a second to 937 at 40,000, each held for 30 s.
    gateway_bytes_a_held_span: float = 772.0
    wire_bytes_a_span: float = 119.0
    #: Measured by this file with Prometheus 3.14, the dearest of several runs.
    store_us_a_sample: float = 1.7
    store_bytes_a_series: float = 2_235.0
    store_disk_bytes_a_sample: float = 2.6


@dataclass(frozen=True, slots=True)
class Needs:
    """What so many streams at once need of each part."""

    streams: int
    processes: int
    spans_a_second: float
    agent_cores: float
    balancer_cores: float
    gateway_cores: float
    gateway_gib: float
    traces_gib_a_day: float  # that the gateways keep, on the wire, before a store compresses
    series: int
    samples_a_second: float
    store_cores: float
    store_gib: float
    store_disk_gib_a_day: float


def needs(
    streams: int, costs: Costs, *, streams_a_process: int = 8, series_a_process: int = 5_000, share: float = 0.1
) -> Needs:
    """The model: every part's cost is what it handles times what one of those costs.

    Args:
        streams: open at once, on average.
        costs: measured.
        streams_a_process: slots of a service's process.
        series_a_process: docs/telemetry.md computes 30,000 for 25 voices, 3 settings and a GPU, every combination; a
            process that has spoken with few of them has a fraction.
        share: of the traces, kept by the gateways.
    """
    gib = 1 << 30
    spans, processes = streams * SPANS_A_STREAM, math.ceil(streams / streams_a_process)
    total = processes * series_a_process
    samples = total / SCRAPE_S
    return Needs(
        streams=streams,
        processes=processes,
        spans_a_second=spans,
        agent_cores=spans * costs.agent_us_a_span / 1e6,
        balancer_cores=spans * costs.balancer_us_a_span / 1e6,
        gateway_cores=spans * costs.gateway_us_a_span / 1e6,
        gateway_gib=spans * HELD_S * costs.gateway_bytes_a_held_span / gib,
        traces_gib_a_day=spans * share * costs.wire_bytes_a_span * 86_400 / gib,
        series=total,
        samples_a_second=samples,
        store_cores=samples * costs.store_us_a_sample / 1e6,
        store_gib=total * costs.store_bytes_a_series / gib,
        store_disk_gib_a_day=samples * costs.store_disk_bytes_a_sample * 86_400 / gib,
    )


def table(costs: Costs) -> str:
    """The model's answers for docs/scale.md, in Markdown."""
    found = [needs(streams, costs) for streams in (100, 1_000, 10_000)]
    rows: list[tuple[str, Callable[[Needs], float], str]] = [
        ("processes of the service", lambda each: each.processes, ",.0f"),
        ("spans a second", lambda each: each.spans_a_second, ",.0f"),
        ("all agents together, cores", lambda each: each.agent_cores, ".2f"),
        ("first tier, cores", lambda each: each.balancer_cores, ".2f"),
        ("gateways, cores", lambda each: each.gateway_cores, ".2f"),
        ("gateways, GiB that traces wait in", lambda each: each.gateway_gib, ".1f"),
        ("traces that are kept, GiB a day as sent", lambda each: each.traces_gib_a_day, ",.1f"),
        ("series", lambda each: each.series, ",.0f"),
        ("samples a second", lambda each: each.samples_a_second, ",.0f"),
        ("Prometheus, cores for scraping", lambda each: each.store_cores, ".2f"),
        ("Prometheus, GiB of memory for series", lambda each: each.store_gib, ".1f"),
        ("Prometheus, GiB of disk a day", lambda each: each.store_disk_gib_a_day, ".1f"),
    ]
    lines = [
        "| streams at once | " + " | ".join(f"{each.streams:,}" for each in found) + " |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | " + " | ".join(format(read(each), style) for each in found) + " |" for name, read, style in rows
    ]
    return "\n".join(lines)


class Pages(http.server.ThreadingHTTPServer):
    """/metrics of many processes of ours: the series that semconv.py makes, counters that grow as speech makes them
    grow.
    """

    daemon_threads = True

    def __init__(self, processes: int, voices: int) -> None:
        self._dice = random.Random(7)
        self._lines = [line for process in range(processes) for line in _lines(process, voices)]
        self._values = [0] * len(self._lines)
        pages = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pages.page()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def series(self) -> int:
        return len(self._lines)

    def page(self) -> bytes:
        """A third of the counters has grown since the last time."""
        for index in self._dice.sample(range(len(self._values)), len(self._values) // 3):
            self._values[index] += self._dice.randrange(1, 20)
        return "".join(f"{line} {value}\n" for line, value in zip(self._lines, self._values, strict=True)).encode()


def _lines(process: int, voices: int) -> Iterator[str]:
    common = f'instance="5ee7-{process:06d}",job="vibevoice",service="vibevoice",environment="production"'
    for metric in semconv.METRICS:
        if metric.source in series.ELSEWHERE:
            continue
        sets = max(1, series.of(metric) // (len(metric.buckets) + 3 if metric.instrument == "histogram" else 1))
        for index in range(max(1, sets * voices // series.VOICES // series.SETTINGS)):
            labels = f'{common},set="{index}"'
            if metric.instrument == "histogram":
                for edge in (*metric.buckets, "+Inf"):
                    yield f'{metric.prometheus}_bucket{{{labels},le="{edge}"}}'
                yield f"{metric.prometheus}_sum{{{labels}}}"
                yield f"{metric.prometheus}_count{{{labels}}}"
            else:
                yield f"{metric.prometheus}{{{labels}}}"


@dataclass(frozen=True, slots=True)
class Measured:
    """A store under a load."""

    series: int
    samples: float
    cpu_us_a_sample: float
    rss: float
    disk_bytes_a_sample: float


def prometheus(folder: Path, pages: Pages, seconds: float) -> Measured:
    """Prometheus, scraping every 2 s; its disk by a snapshot of its head, as a block."""
    (folder / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
                "scrape_configs": [
                    {
                        "job_name": "load",
                        "honor_labels": True,
                        "static_configs": [{"targets": [f"127.0.0.1:{pages.server_port}"]}],
                    }
                ],
            }
        )
    )
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        *(str(toolchain.require("prometheus")), f"--config.file={folder / 'prometheus.yml'}", "--log.level=warn"),
        *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}", "--web.enable-admin-api"),
    ]
    process = Process("prometheus", command, folder, ready=f"http://{address}/-/ready")
    try:
        samples, cpu, rss = _load(process, address, "prometheus_tsdb_head_samples_appended_total", seconds)
        request = urllib.request.Request(f"http://{address}/api/v1/admin/tsdb/snapshot", method="POST")
        total = _counter(address, "prometheus_tsdb_head_samples_appended_total")
        with urllib.request.urlopen(request, timeout=120) as answer:
            snapshot = folder / "data" / "snapshots" / json.load(answer)["data"]["name"]
        return Measured(pages.series, samples, cpu, rss, _size(snapshot) / total)
    finally:
        process.stop()


def victoria(folder: Path, pages: Pages, seconds: float) -> Measured:
    """VictoriaMetrics, scraping the same pages; its disk once it has flushed."""
    config = folder / "scrape.yml"
    target = {"targets": [f"127.0.0.1:{pages.server_port}"]}
    job = {
        "job_name": "load",
        "honor_labels": True,
        "scrape_interval": "2s",
        "scrape_timeout": "2s",
        "static_configs": [target],
    }
    config.write_text(json.dumps({"scrape_configs": [job]}))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        *(str(toolchain.require("victoria-metrics")), f"-httpListenAddr={address}", f"-promscrape.config={config}"),
        *(f"-storageDataPath={folder / 'data'}", "-loggerLevel=ERROR", "-promscrape.maxScrapeSize=256MB"),
    ]
    process = Process("victoria", command, folder, ready=f"http://{address}/health")
    try:
        samples, cpu, rss = _load(process, address, 'vm_rows_inserted_total{type="promscrape"}', seconds)
        for path in ("force_flush", "force_merge"):
            urllib.request.urlopen(f"http://{address}/internal/{path}", timeout=120).close()
        time.sleep(5)
        total = _counter(address, 'vm_rows_inserted_total{type="promscrape"}')
        return Measured(pages.series, samples, cpu, rss, _size(folder / "data" / "data") / total)
    finally:
        process.stop()


def _load(process: Process, address: str, counter: str, seconds: float) -> tuple[float, float, float]:
    """Samples a second, CPU microseconds a sample, and the largest resident size in the last half, after a warm-up of
    ten seconds.
    """
    time.sleep(10)
    own = psutil.Process(process.pid)
    began, first, cpu = time.monotonic(), _counter(address, counter), sum(own.cpu_times()[:2])
    resident = 0.0
    while (passed := time.monotonic() - began) < seconds:
        time.sleep(1)
        if passed > seconds / 2:
            resident = max(resident, float(own.memory_info().rss))
    samples, spent = _counter(address, counter) - first, sum(own.cpu_times()[:2]) - cpu
    return samples / (time.monotonic() - began), spent / samples * 1e6, resident


def _counter(address: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    options = harness.arguments(__doc__, seconds=150)
    sizes = (2, 4) if options.quick else (3, 10)
    rows: list[list[str | float | None]] = []
    found: dict[str, list[Measured]] = {}
    for name, store in (("Prometheus", prometheus), ("VictoriaMetrics", victoria)):
        for processes in sizes:
            pages = Pages(processes, voices=25)
            with tempfile.TemporaryDirectory() as folder:
                measured = store(Path(folder), pages, float(options.seconds))
            pages.shutdown()
            found.setdefault(name, []).append(measured)
            rows.append(
                [(f"{name}, {processes} "
                 "processes"), measured.series, measured.samples, measured.cpu_us_a_sample, measured.rss / 2**20,
                 measured.disk_bytes_a_sample]
            )  # fmt: skip
    notes = [
        f"{name}: {(large.rss - small.rss) / (large.series - small.series):,.0f} bytes of memory a series, between the "
        "two sizes"
        for name, (small, large) in found.items()
    ]
    columns = ["store and load", "series", "samples/s", "CPU us/sample", "RSS MiB", "disk bytes/sample"]
    harness.Report(
        "scale",
        "A store of metrics under the series of many processes, scraped every 2 s",
        "",
        columns,
        rows,
        notes=notes,
    ).write(options.out)


if __name__ == "__main__":
    main()
