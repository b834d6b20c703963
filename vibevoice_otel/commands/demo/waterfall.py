"""A trace as a waterfall in the terminal: one line a span, its bar where it was in time; runs of equal steps are
folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.receiver import ReceivedSpan

COLOURS = {
    semconv.QUEUE.name: "yellow", semconv.MODEL_LOAD.name: "magenta", semconv.VOICE_LOAD.name: "magenta",
    semconv.PREPROCESS.name: "blue",
    semconv.PREFILL.name: "cyan", semconv.LM_FORWARD.name: "cyan", semconv.STEP.name: "green",
    semconv.DECODE.name: "bright_blue", semconv.FIRST_CHUNK.name: "bold red", semconv.FRAME.name: "white",
}  # fmt: skip
FOLDED = (semconv.STEP.name, semconv.LM_FORWARD.name, semconv.CONNECTOR.name)


def render(console: Console, spans: Sequence[ReceivedSpan], frames: int = 2) -> None:
    """Print the trace of ``spans``; ``frames`` of its frames in full, the rest as one line."""
    root = next(s for s in spans if s.name == semconv.SYNTHESIZE.name)
    top = next((s for s in spans if s.span_id == root.parent_id), root)
    children: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)
    total = max(1, max(s.end for s in spans) - top.start)
    width = max(24, min(72, console.width - 62))
    table = Table(
        Column("span", no_wrap=True), Column("start ms", justify="right"), Column("ms", justify="right"),
        Column(f"0 … {total / 1e6:.0f} ms", no_wrap=True), box=None, padding=(0, 1), header_style="bold",
    )  # fmt: skip

    def line(label: str, start: int, end: int, name: str) -> None:
        left = min(width - 1, round((start - top.start) / total * width))
        length = max(1, round((end - start) / total * width))
        bar = Text(" " * left + "█" * min(length, width - left), style=COLOURS.get(name, "dim"))
        table.add_row(label, f"{(start - top.start) / 1e6:.1f}", f"{(end - start) / 1e6:.1f}", bar)

    def walk(span: ReceivedSpan, depth: int) -> None:
        line("  " * depth + _label(span), span.start, span.end, span.name)
        below = children.get(span.span_id, [])
        hidden = [s for s in below if s.name == semconv.FRAME.name][frames:]
        for group in _folded(s for s in below if s not in hidden):
            if len(group) == 1:
                walk(group[0], depth + 1)
            else:
                line(
                    "  " * (depth + 1) + f"{_label(group[0])} ×{len(group)}",
                    group[0].start,
                    group[-1].end,
                    group[0].name,
                )
        if hidden:
            line(
                "  " * (depth + 1) + f"{len(hidden)} more frames (after {frames})",
                hidden[0].start,
                hidden[-1].end,
                semconv.FRAME.name,
            )

    walk(top, 0)
    console.print(table)


def _label(span: ReceivedSpan) -> str:
    name = span.name.removeprefix("vibevoice.")
    details = (
        span.attributes.get(semconv.CACHE.key),
        span.attributes.get(semconv.LM_BRANCH.key),
        span.attributes.get(semconv.VOICE.key),
    )
    return " ".join([name, *(str(d) for d in details if d and name != "synthesize")])


def _folded(spans: Iterable[ReceivedSpan]) -> list[list[ReceivedSpan]]:
    """Neighbours of the same folded kind, together."""
    alike = groupby(spans, lambda span: (span.name, _label(span)) if span.name in FOLDED else span.span_id)
    return [list(group) for _, group in alike]
