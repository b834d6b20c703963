"""``vibevoice-otel gpu sample``: how busy the card's kernels are, by its profiler, in one frame of one synthetic
request.

The service takes the sample where ``VIBEVOICE_OTEL_GPU_PROFILE`` is ``on-demand`` or a number of minutes, while no
other request is open, and at most once in ten seconds. The request is marked (W3C baggage ``vibevoice.synthetic=true``,
``vibevoice.gpu.sample=true``) and counts in no objective and no latency. The answer is read from the service's metrics
page; it also stands on the frame's span and in ``vibevoice_kernel_share``.
"""

from __future__ import annotations

import argparse
import sys
import time

from vibevoice_otel import semconv
from vibevoice_otel.commands import clients
from vibevoice_otel.commands.probe import SYNTHETIC_BAGGAGE, Probe
from vibevoice_otel.insight.snapshot import SnapshotSource
from vibevoice_otel.insight.source import SourceError
from vibevoice_otel.semconv import SharePart, Status

SAMPLE_BAGGAGE = "vibevoice.gpu.sample=true"
#: Long enough for a few frames: the first ones warm the card.
TEXT = "This sentence is spoken to see how busy the card is while it speaks, and nobody has to listen to it."
#: Seconds within which the service has told of the request's end.
PATIENCE = 10.0


def shares(page: str) -> dict[str, tuple[float, float]]:
    """(sum, count) of the kernels' shares so far, by part of the frame."""
    source = SnapshotSource.scrape(page)
    label, series = semconv.M_SHARE_PART.key, semconv.KERNEL_SHARE.prometheus
    sums, counts = (
        {point.labels[label]: point.value for point in source.growth(f"{series}{suffix}", (label,))}
        for suffix in ("_sum", "_count")
    )
    return {part: (total, counts[part]) for part, total in sums.items()}


def main(argv: list[str] | None = None) -> int:
    """Take one sample; 0 when it was taken, 1 when the service took none, 2 for wrong use."""
    parser = argparse.ArgumentParser(
        prog="vibevoice-otel gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["sample"], help="sample: one frame under the profiler")
    clients.add_options(parser)
    parser.add_argument(
        "--metrics",
        default="http://127.0.0.1:9464/metrics",
        metavar="URL",
        help="the service's metrics page (%(default)s)",
    )
    chosen = parser.parse_args(argv)
    try:
        before = shares(chosen.metrics)
        probe = Probe(
            chosen.url, TEXT, headers=dict(chosen.header), baggage=(SYNTHETIC_BAGGAGE, SAMPLE_BAGGAGE),
            client=clients.chosen_client(chosen),
        )  # fmt: skip
        outcome = probe.once()
        print(outcome)
        if outcome.status is not Status.SUCCESS:
            return 1
        found = _wait(chosen.metrics, before)
    except SourceError as error:
        print(f"error: the metrics page cannot be read: {error}", file=sys.stderr)
        return 1
    if not found:
        print(
            "no sample was taken. Is VIBEVOICE_OTEL_GPU_PROFILE set, does the model lie on a CUDA device, was "
            "another request open, or the last sample less than ten seconds ago?",
            file=sys.stderr,
        )
        return 1
    for part in SharePart:
        if part.value in found:
            print(f"kernels at work in {found[part.value]:.1%} of the {part.value}")
    whole = found[SharePart.FRAME.value]
    print(f"a faster host could save at most {1 - whole:.0%} of the frame" if whole < 1 else "the card never waits")
    return 0


def _wait(page: str, before: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Shares of the sample that has come since ``before``; none when none comes."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = {}
        for part, (total, count) in shares(page).items():
            earlier = before.get(part, (0.0, 0.0))
            if count > earlier[1]:
                found[part] = (total - earlier[0]) / (count - earlier[1])
        if found:
            return found
        time.sleep(0.5)
    return {}
