"""The answers as one picture each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vibevoice_otel.insight.capacities import CapacityReport, CardAnswer
from vibevoice_otel.insight.compare.report import Comparison
from vibevoice_otel.insight.profiles import VoicesReport
from vibevoice_otel.insight.recommendation import Recommendation

_NOTHING = "there is too little data to draw: ask without --plot to see what is missing"
_BLUE, _ORANGE, _GREY, _RED = (
    "#0072b2",
    "#e69f00",
    "#777777",
    "#d55e00",
)  # told apart by the colour-blind too (Okabe and Ito)


def save(report: CapacityReport | VoicesReport | Recommendation | Comparison, path: str) -> None:
    """Write the report's picture.

    Raises:
        ValueError: when the file's ending is no kind of picture, or the report holds nothing to draw.
        OSError: when the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in {".png", ".svg", ".pdf"}:
        raise ValueError(f"--plot {path}: allowed are files that end in .png, .svg or .pdf")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=130, layout="constrained")
    draw = _DRAWN.get(type(report))
    if draw is None:
        raise ValueError("--plot: of this answer there is no picture")
    draw(report, figure)
    figure.savefig(path)


def _capacity(report: CapacityReport, figure: Any) -> None:
    cards = (card for card in report.cards if any(limit.streams is not None for limit in card.limits))
    card = next(cards, None)
    if card is None:
        raise ValueError(_NOTHING)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4)) if card.curve else (figure.subplots(), None)
    _limits(left, report, card)
    if right is None or card.curve is None:
        return
    curve = card.curve
    streams, used = np.array(curve.seen).T if curve.seen else (np.empty(0), np.empty(0))
    right.scatter(streams, used, s=10, color=_GREY, alpha=0.35, linewidths=0, label="allocated, as scraped")
    right.fill_between(
        curve.streams,
        curve.low,
        curve.high,
        color=_BLUE,
        alpha=0.25,
        linewidth=0,
        label=f"{report.confidence:.0%} interval",
    )
    right.plot(curve.streams, curve.middle, color=_BLUE, label="99 % of moments stay below,\nfragmentation included")
    right.axhline(curve.limit, color=_RED, linestyle="--", label=f"limit, {curve.limit:g} GiB")
    right.axvspan(
        card.most_seen,
        max(curve.streams[-1], card.most_seen),
        color=_GREY,
        alpha=0.08,
        label="never seen: extrapolated",
    )
    right.set(xlabel="streams at once", ylabel="GPU memory (GiB)", xlim=(0, None), ylim=(0, None), title="Memory")
    right.legend(fontsize=8, loc="lower right")
    right.xaxis.get_major_locator().set_params(integer=True)
    _tidy(right)


def _limits(axes: Any, report: CapacityReport, card: CardAnswer) -> None:
    answered = [limit for limit in card.limits if limit.streams is not None]
    for row, limit in enumerate(answered):
        value = limit.streams or 0.0
        colour = _ORANGE if limit.name == card.binds_first else _BLUE
        axes.barh(row, value, color=colour, alpha=0.8, height=0.55)
        if limit.low is not None:
            if limit.high is not None and np.isfinite(limit.high):
                axes.plot([limit.low, limit.high], [row, row], color="black", linewidth=1.5, marker="|")
            else:
                axes.annotate(
                    "at least", (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
                )
    if report.asked_streams is not None:
        axes.axvline(report.asked_streams, color=_RED, linestyle="--", label=f"{report.asked_streams} asked for")
        axes.legend(fontsize=8)
    axes.invert_yaxis()
    title = (
        "Streams it holds" if card.streams is None else f"Holds {card.streams} stream{'s' if card.streams != 1 else ''}"
    )
    axes.set(
        yticks=range(len(answered)), yticklabels=[limit.name for limit in answered], xlabel="streams", xlim=(0, None),
        title=f"{title} ({card.card})",
    )  # fmt: skip
    _tidy(axes)


def _voices(report: VoicesReport, figure: Any) -> None:
    profiles = [p for p in report.voices if p.p95 is not None and p.unhappy is not None]
    if not profiles:
        raise ValueError(_NOTHING)
    figure.set_size_inches(10, max(3.0, 1.2 + 0.32 * len(profiles)))
    left, right = figure.subplots(1, 2, sharey=True)
    for row, p in enumerate(profiles):
        colour = _RED if p.outlier_in else _BLUE
        for quantile, marker, at in ((p.p50, "o", row - 0.12), (p.p95, "D", row + 0.12)):
            if quantile is not None and quantile.value is not None:
                left.plot(quantile.value, at, marker=marker, color=colour, markersize=5)
                if np.isfinite(quantile.high):
                    left.plot([quantile.low, quantile.high], [at, at], color=colour, linewidth=2, alpha=0.35)
        assert p.unhappy is not None
        right.plot([100 * p.unhappy.low, 100 * p.unhappy.high], [row, row], color=colour, linewidth=2, alpha=0.5)
        right.plot(100 * p.unhappy.value, row, "o", color=colour, markersize=5)
    left.axvline(report.slo_seconds, color=_GREY, linestyle="--", linewidth=1)
    left.invert_yaxis()
    left.set(
        yticks=range(len(profiles)),
        yticklabels=[p.voice + (" (outlier)" if p.outlier_in else "") for p in profiles],
        xlabel="first audio (s): ● P50, ◆ P95, bars: bucket bounds",
        title="Latency",
    )
    right.set(xlabel="failed or late (%), shrunk, with interval", xlim=(0, None), title="Stability, best first")
    for axes in (left, right):
        _tidy(axes)


def _recommendation(report: Recommendation, figure: Any) -> None:
    tried = [c for c in report.candidates if c.in_time is not None and c.fed is not None]
    if not tried:
        raise ValueError(_NOTHING)
    axes = figure.subplots()
    for c in tried:
        sure = min(c.in_time or 0.0, c.fed or 0.0)
        chosen = (c.steps, c.cfg) == (report.steps, report.cfg)
        axes.scatter(
            c.steps,
            c.cfg,
            s=60 + 340 * sure,
            color=_ORANGE if chosen else _BLUE if c.suits else _GREY,
            alpha=0.8,
            linewidths=0,
        )
        axes.annotate(f"{sure:.0%}", (c.steps, c.cfg), ha="center", va="center", fontsize=7, color="white")
    axes.margins(0.15)
    axes.set(
        xticks=sorted({c.steps for c in tried}),
        yticks=sorted({c.cfg for c in tried}),
        xlabel="diffusion steps",
        ylabel="cfg",
        title=f"{report.voice or 'any voice'}, {report.text_length_range} text: how sure each setting keeps up\n"
        "orange: recommended, blue: keeps up, grey: does not",
    )
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)


def _comparison(report: Comparison, figure: Any) -> None:
    """Each relative change with its interval; the band is what counts as none."""
    told = [each for each in report.answers if each.effect is not None and each.effect.scale == "ratio"]
    if not told:
        raise ValueError(_NOTHING)
    axes = figure.subplots()
    axes.axvspan(-report.margin * 100, report.margin * 100, color=_GREY, alpha=0.15, linewidth=0)
    axes.axvline(0, color=_GREY, linewidth=1)
    colours = {"worse": _RED, "better": _BLUE}
    for row, answer in enumerate(reversed(told)):
        effect = answer.effect
        assert effect is not None
        colour = colours.get(answer.verdict, _GREY)
        axes.plot([effect.low * 100, effect.high * 100], [row, row], color=colour, linewidth=2)
        axes.plot(effect.change * 100, row, "o", color=colour)
    axes.set(
        yticks=range(len(told)),
        yticklabels=[each.name for each in reversed(told)],
        xlabel=f"change from A to B, % ({report.confidence:.0%} intervals that hold together; less is better)",
    )
    axes.set_title(f"A: {report.a}   B: {report.b}", fontsize=10)


_DRAWN: dict[type, Callable[[Any, Any], None]] = {
    CapacityReport: _capacity,
    VoicesReport: _voices,
    Comparison: _comparison,
    Recommendation: _recommendation,
}
