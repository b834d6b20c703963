"""The answers for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from vibevoice_otel.insight.capacities import CapacityReport, CardAnswer, LimitAnswer
from vibevoice_otel.insight.compare.changes import Changes
from vibevoice_otel.insight.compare.figures import shown
from vibevoice_otel.insight.compare.report import Answer, Comparison, VoiceAnswer
from vibevoice_otel.insight.cost import CostReport
from vibevoice_otel.insight.profiles import Sensitivity, VoiceProfile, VoicesReport
from vibevoice_otel.insight.recommendation import Recommendation
from vibevoice_otel.insight.stats import Estimate, Quantile

_VERDICT = {"yes": "bold green", "no": "bold red"}
_NONE = "–"


def show(
    report: CapacityReport | VoicesReport | Recommendation | Comparison | Changes | CostReport, console: Console
) -> None:
    """Print one report."""
    _SHOWN[type(report)](report, console)


def _notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text("•", style="yellow"), Text(note))
        console.print(grid)


def _plain(*columns: Column) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))


def _table(*names: str, left: int = 1) -> Table:
    """Words in the ``left`` first columns and in the last one, numbers between."""
    words = {*range(left), len(names) - 1}
    return _plain(
        *(Column(name, justify="left" if n in words else "right", overflow="fold") for n, name in enumerate(names))
    )


# ------------------------------------------------------------------------------------------------------------- capacity


def _capacity(report: CapacityReport, console: Console) -> None:
    console.print(Text(f"Capacity, from {report.origin.describe()}", style="dim"))
    for card in report.cards:
        console.print(_card(report, card))
        _notes(console, card.notes)
    _notes(console, report.notes)
    if not report.cards and not report.notes:
        _notes(console, ["There is nothing to answer from."])


def _card(report: CapacityReport, card: CardAnswer) -> Panel:
    table = _table("limit", "streams", "interval", "because", left=1)
    for limit in card.limits:
        first = limit.name == card.binds_first
        table.add_row(
            Text(limit.name + (" ◀ first" if first else ""), style="bold" if first else ""),
            _limit(limit),
            _range(limit.low, limit.high),
            limit.why,
        )
    whole = [Text(card.per_card.text), Text("")] if card.per_card is not None else []
    body = Group(_headline(report, card), Text(""), table, Text(""), *whole, Text(_basis(card), style="dim"))
    return Panel(body, title=card.card, title_align="left", border_style="dim")


def _headline(report: CapacityReport, card: CardAnswer) -> Text:
    text = Text()
    if report.asked_streams is not None:
        unsure = card.holds_probability is not None and card.verdict not in {"yes", "no"}
        text = Text.assemble(
            (f"{report.asked_streams} streams? ", "bold"),
            (card.verdict.capitalize(), _VERDICT.get(card.verdict, "bold yellow")),
            f" ({card.holds_probability:.0%} sure). " if unsure else ". ",
        )
    if card.streams is None:
        text.append("How many streams it holds cannot be said.")
        return text
    open_ended = card.high is None
    text.append(f"It holds {'at least ' if open_ended else ''}")
    text.append(f"{card.streams} stream{'s' if card.streams != 1 else ''}", style="bold")
    if card.low is not None:
        interval = f"from {card.low} up" if open_ended else f"{card.low} to {card.high}"
        text.append(f" ({report.confidence:.0%} interval {interval})")
    if card.binds_first:
        text.append(f"; {card.binds_first} binds first")
        share = card.binds_share.get(card.binds_first)
        if share is not None and share < 0.995:
            text.append(f", {share:.0%} sure")
    text.append(".")
    if card.extrapolates:
        text.append(
            f" At most {card.most_seen} were ever seen at once: beyond that this is extrapolated.", style="yellow"
        )
    return text


def _limit(limit: LimitAnswer) -> str:
    if limit.streams is None:
        return _NONE
    return f"{'≥ ' if limit.at_least else ''}{limit.streams:.{_digits(limit.streams)}f}"


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return _NONE
    digits = _digits(low)
    if high is None or not math.isfinite(high):
        return f"from {low:.{digits}f}"
    return f"{low:.{digits}f} – {high:.{digits}f}"


def _basis(card: CardAnswer) -> str:
    processes = f"{card.processes} process{'es' if card.processes != 1 else ''}"
    hours = f"{card.hours:.1f} h of data in {card.blocks} blocks, " if card.blocks else ""
    naive = f" Peak memory divided by streams would have said {card.naive}." if card.naive is not None else ""
    return f"Rests on {card.requests} requests, {hours}{processes}; {card.slots} slot(s): {card.slots_source}.{naive}"


# --------------------------------------------------------------------------------------------------------------- voices


def _voices(report: VoicesReport, console: Console) -> None:
    console.print(Text(f"Voices, from {report.origin.describe()}; intervals at {report.confidence:.0%}", style="dim"))
    if report.most_stable:
        best = report.most_stable
        names = best.not_separable_from
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        alike = f"; not to be told apart from {', '.join(names[:4])}{more}" if names else ""
        told = f", {best.evidence}. {best.probability:.0%} sure to be the best{alike}."
        console.print(Text.assemble("Most stable: ", (best.voice, "bold green"), told))
    if report.voices:
        console.print(_profile_table(report.voices))
    outliers = [(p, o) for p in report.voices for o in p.outlier_in]
    for profile, outlier in outliers:
        ratio = "only it" if math.isinf(outlier.ratio) else f"{outlier.ratio:.1f} times the others"
        console.print(
            Text.assemble(
                ("Outlier: ", "bold red"),
                (profile.voice, "bold"),
                f" in {outlier.what}, {ratio} (p = {outlier.p_value:.1g}).",
            )
        )
    if report.most_stable and not outliers:
        console.print(Text("No voice is an outlier beyond chance.", style="green"))
    _sensitivity_table(report, console)
    _notes(console, report.notes)


def _profile_table(profiles: Iterable[VoiceProfile]) -> Table:
    table = _plain(
        Column("#", justify="right"),
        Column("voice", no_wrap=True),
        *(Column(name, justify="right") for name in (
            "requests", "P50", "P95", "P99", "late %", "failed %", "gaps %", "cut off %", "underruns\na minute",
            "defects\na minute", "real-time\nfactor",
        )),
    )  # fmt: skip
    for p in profiles:
        style = "red" if p.outlier_in else "dim" if p.rank is None else ""
        table.add_row(
            str(p.rank) if p.rank else _NONE,
            p.voice + (" (gone)" if p.vanished else ""),
            f"{p.requests:.0f}",
            _quantile(p.p50),
            _quantile(p.p95),
            _quantile(p.p99),
            _estimate(p.late_share, 100),
            _estimate(p.error_share, 100),
            _estimate(p.gap_share, 100),
            _estimate(p.cut_off, 100),
            _estimate(p.underruns),
            _estimate(p.defects),
            _NONE if p.real_time_factor is None else f"{p.real_time_factor:.2f}",
            style=style,
        )
    return table


def _quantile(quantile: Quantile | None) -> str:
    if quantile is None:
        return _NONE
    value = f"> {quantile.above:g} s" if quantile.value is None else _milliseconds(quantile.value)
    bounds = (
        f"{quantile.low * 1000:.0f}–{quantile.high * 1000:.0f}"
        if math.isfinite(quantile.high)
        else f"{quantile.low * 1000:.0f}–∞"
    )
    return f"{value}\n[dim]{bounds}[/dim]"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _estimate(estimate: Estimate | None, scale: float = 1.0, digits: int = 1) -> str:
    if estimate is None:
        return _NONE
    value, low, high = (f"{each * scale:.{digits}f}" for each in (estimate.value, estimate.low, estimate.high))
    return f"{value}\n[dim]{low}–{high}[/dim]"


def _sensitivity_table(report: VoicesReport, console: Console) -> None:
    rows = [("all voices", report.fleet), *((p.voice, p.sensitivity) for p in report.voices)]
    table = _plain(
        Column("sensitivity"),
        *(Column(f"{what}\n{more} more", justify="right") for what in ("first audio, ms", "odds of failing, ×")
          for more in ("a step", "1.0 cfg")),
    )  # fmt: skip
    for name, s in rows:
        if s != Sensitivity():
            table.add_row(
                name,
                _estimate(s.latency_per_step, 1000),
                _estimate(s.latency_per_cfg, 1000),
                _estimate(s.failure_odds_per_step, 1.0, 2),
                _estimate(s.failure_odds_per_cfg, 1.0, 2),
            )
    if table.rows:
        console.print(table)


# ------------------------------------------------------------------------------------------------------------ recommend


def _recommendation(report: Recommendation, console: Console) -> None:
    where = f", from {report.origin.describe()}" if report.origin else ""
    console.print(
        Text(f"Recommendation for {report.voice or 'any voice'}, {report.text_length_range} text{where}", style="dim")
    )
    colour = {True: "bold green", False: "bold red", None: "bold yellow"}[report.meets]
    console.print(Text.assemble("Use ", (f"steps {report.steps}, cfg {report.cfg:g}", colour), f": {report.reason}."))
    if report.candidates:
        table = _table(
            "steps", "cfg", "requests", "first audio\nin time", "fast\nenough", "rarely\nfails", "verdict", left=0
        )
        for c in report.candidates:
            chosen = (c.steps, c.cfg) == (report.steps, report.cfg)
            verdict = c.verdict if c.basis == "this voice" else f"{c.verdict} ({c.basis})"
            style = "bold" if chosen else "" if c.suits else "dim"
            sure = (_NONE if p is None else f"{p:.0%}" for p in (c.in_time, c.fed, c.sound))
            table.add_row(str(c.steps), f"{c.cfg:g}", f"{c.requests:.0f}", *sure, verdict, style=style)
        console.print(table)
    _notes(console, report.notes)


# -------------------------------------------------------------------------------------------------------------- compare

_COLOURS = {"worse": "bold red", "better": "bold green", "no different": "green", "cannot be told": "yellow"}


def _comparison(report: Comparison, console: Console) -> None:
    console.print(Text(f"A: {report.a}, from {report.origin_a.describe()}", style="dim"))
    console.print(Text(f"B: {report.b}, from {report.origin_b.describe()}", style="dim"))
    verdict = report.verdict if report.verdict != "cannot be told" else "not to be told from A"
    console.print(Text.assemble("B is ", (verdict, _COLOURS[report.verdict])))
    table = _table("figure", "A", "B", "change", "interval", "verdict")
    for answer in report.answers:
        table.add_row(*_answered(answer))
    console.print(table)
    if report.voices:
        console.print(Text("\nVoices that differ", style="bold"))
        voices = _table("voice", "figure", "A", "B", "change", "interval", "verdict", left=2)
        for voice in report.voices:
            voices.add_row(voice.voice, *_answered(voice))
        console.print(voices)
    intervals = (
        f"Intervals hold together at {report.confidence:.0%}; a change within {report.margin:.0%} counts as none."
    )
    _notes(console, [intervals, *report.notes])


def _answered(answer: Answer | VoiceAnswer) -> tuple[str | Text, ...]:
    found = answer.effect
    if found is None:
        return answer.name, _NONE, _NONE, _NONE, _NONE, Text(getattr(answer, "why", ""), style="dim")
    verdict = Text(answer.verdict, style=_COLOURS[answer.verdict])
    more = getattr(answer, "more", None)
    if more:
        verdict.append(f"; {more:,.0f} requests a side would tell", style="dim")
    digits, unit = (".2f", " points") if found.scale == "difference" else (".1f", " %")
    change = f"{found.change * 100:+{digits}}{unit}"
    bounds = f"{found.low * 100:+{digits}} .. {found.high * 100:+{digits}}"
    return answer.name, shown(found.a, answer.unit), shown(found.b, answer.unit), change, bounds, verdict


def _changes(report: Changes, console: Console) -> None:
    console.print(Text(f"Changes, from {report.origin.describe()}", style="dim"))
    for change in report.changes:
        when = datetime.fromtimestamp(change.time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        console.print(Text(f"{when}  {change.job}: {change.label} {change.before} -> {change.after}", style="bold"))
        if change.comparison is None:
            console.print(Text("  too close to another change, or to the window's end, to compare", style="dim"))
            continue
        moved = [each for each in change.comparison.answers if each.verdict in {"worse", "better"}]
        if not moved and not change.comparison.voices:
            console.print(
                Text(f"  nothing moved that can be told; all in all: {change.comparison.verdict}", style="dim")
            )
            continue
        table = _table("figure", "before", "after", "change", "interval", "verdict")
        for answer in moved:
            table.add_row(*_answered(answer))
        for voice in change.comparison.voices:
            name, *rest = _answered(voice)
            table.add_row(f"{name}, {voice.voice}", *rest)
        console.print(table)
    if not report.changes and not report.notes:
        console.print(Text("Nothing that is watched has changed.", style="dim"))
    _notes(console, report.notes)


def _cost(report: CostReport, console: Console) -> None:
    console.print(Text(f"Cost, from {report.origin.describe()}", style="dim"))
    totals = [f"{report.audio_minutes:,.1f} minutes of audio", f"{report.generating_seconds / 3600:,.2f} h generating"]
    if report.card_hours is not None:
        totals.append(f"{report.card_hours:,.2f} card hours on {report.cards} card{'s' if report.cards != 1 else ''}")
    if report.joules is not None:
        idle = "" if report.idle_joules is None else f", {report.idle_joules / 3.6e6:,.3f} of it idle"
        totals.append(f"{report.joules / 3.6e6:,.3f} kWh{idle}")
    if report.money is not None:
        totals.append(f"{report.money:,.2f} in all")
    console.print(Text("; ".join(totals)))
    table = _table("voice", "minutes", "generating s", "card s", "kJ", "money", "")
    for voice in report.voices:
        table.add_row(
            voice.voice,
            f"{voice.audio_minutes:,.1f}",
            f"{voice.generating:.1f}",
            *(_NONE if value is None else f"{value:,.{digits}f}" for value, digits in (
                (voice.card, 1), (None if voice.joules is None else voice.joules / 1000, 2), (voice.money, 4),
            )),
            "",
        )  # fmt: skip
    console.print(table)
    _notes(
        console, ["A minute of audio each; cards, energy and money are allocated by generating seconds.", *report.notes]
    )


_SHOWN: dict[type, Callable[[Any, Console], None]] = {
    CapacityReport: _capacity,
    VoicesReport: _voices,
    Recommendation: _recommendation,
    Comparison: _comparison,
    Changes: _changes,
    CostReport: _cost,
}
