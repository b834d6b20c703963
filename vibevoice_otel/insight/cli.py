"""``vibevoice-otel insight``: capacity, voices, recommend, compare, changes, cost."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from vibevoice_otel import insight, semconv
from vibevoice_otel.insight.source import Source, SourceError, parse_bytes, parse_duration

PROMETHEUS = "http://127.0.0.1:9090"
EXPORTER = "http://127.0.0.1:9464/metrics"
URL_VARIABLE = "VIBEVOICE_OTEL_PROMETHEUS_URL"
TOKEN_VARIABLE = "VIBEVOICE_OTEL_PROMETHEUS_TOKEN"  # noqa: S105 the variable's name


def main(argv: Sequence[str] | None = None) -> int:
    """Answer one question. Returns 0 when there is an answer (which may be that the data does not suffice), else 1."""
    arguments = _parser().parse_args(argv)
    try:
        with contextlib.closing(Progress(sys.stderr)) as arguments.progress:
            report = _ask(arguments)
        if arguments.plot:
            from vibevoice_otel.insight import plots

            plots.save(report, arguments.plot)
    except (SourceError, ValueError, OSError) as error:
        chosen = arguments.prometheus or arguments.scrape or os.environ.get(URL_VARIABLE)
        nowhere = not chosen and "cannot be reached" in str(error)  # the default address
        hint = " Without Prometheus, --scrape looks at the demo's metrics page." if nowhere else ""
        print(f"vibevoice-otel insight: {error}{hint}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"scipy", "matplotlib"}:
            raise
        print(
            f"vibevoice-otel insight: {error.name} is not installed: pip install 'vibevoice-otel[insight]'",
            file=sys.stderr,
        )
        return 1
    if arguments.json:
        print(json.dumps(plain(report), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        from vibevoice_otel.insight import tables

        tables.show(report, Console(highlight=False))
    return {"worse": WORSE, "cannot be told": CANNOT_BE_TOLD}.get(getattr(report, "verdict", ""), 0)


class Progress:
    """What is being read, in one line on a terminal that is gone when the answer comes; nothing where none watches."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._shown = stream, stream.isatty()
        self._began, self._queries = time.monotonic(), 0

    def __call__(self, series: str) -> None:
        """The next query, of ``series``, is being sent."""
        self._queries += 1
        if self._shown:
            taken = time.monotonic() - self._began
            self._stream.write(f"\r\x1b[2Kreading {series} (query {self._queries}, {taken:.0f} s)")
            self._stream.flush()

    def close(self) -> None:
        """Wipe the line."""
        if self._shown and self._queries:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


#: Of ``insight compare``, for pipelines: an error is 1, wrong use 2.
WORSE, CANNOT_BE_TOLD = 3, 4


def plain(value: Any) -> Any:
    """A report as JSON holds it: no infinity, no NaN (both become null), no tuple, no curve for plots."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "curve"}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _ask(arguments: argparse.Namespace) -> Any:
    if arguments.question == "compare":
        return _compare(arguments)
    source = _source(arguments)
    if arguments.question == "cost":
        from vibevoice_otel.insight.cost import Prices, cost

        return cost(source, Prices(arguments.price_card_hour, arguments.price_kwh))
    if arguments.question == "changes":
        from vibevoice_otel.insight.compare.changes import changes

        def opened(window: float, end: float, of: dict[str, str]) -> Source:
            return _source(arguments, Span(end - window, end, ""), of)

        return changes(source, opened, margin=arguments.margin)
    if arguments.question == "capacity":
        return insight.capacity(
            source,
            streams=arguments.streams,
            gpu_memory=arguments.gpu_memory,
            concurrency=arguments.concurrency,
            cores=arguments.cores,
            slo_seconds=arguments.slo,
        )
    if arguments.question == "voices":
        return insight.voices(source, slo_seconds=arguments.slo)
    rails = insight.Rails(slo_seconds=arguments.slo, prefer=arguments.prefer)
    return insight.recommend(source, text_length=arguments.text_length, voice=arguments.voice, rails=rails)


#: Labels that the series themselves carry; any other is looked for on target_info and vibevoice_build_info.
ON_SERIES = {"job", "instance", "service", "environment", "voice", "cfg", "steps", "text_length_range"}


def _compare(arguments: argparse.Namespace) -> Any:
    from vibevoice_otel.insight.compare.report import Labelled, compare

    by_time, by_label = (arguments.before, arguments.after), (arguments.a, arguments.b)
    if (None in by_time and by_time != (None, None)) or bool(by_label[0]) != bool(by_label[1]):
        raise ValueError("each way to choose has two sides: --before and --after, --a and --b")
    if by_time == (None, None) and not by_label[0]:
        raise ValueError(
            "which two sides? --before 2d..1d --after 1d..now, or --a service_version=1.2 --b service_version=1.3"
        )
    sides = [
        Labelled(
            _source(arguments, span, dict(labels)), " ".join([*(f"{k}={v}" for k, v in labels), said or ""]).strip()
        )
        for span, labels, said in (
            (arguments.before, arguments.a, arguments.before and arguments.before.said),
            (arguments.after, arguments.b, arguments.after and arguments.after.said),
        )
    ]
    return compare(*sides, margin=arguments.margin, paired=arguments.before is None)


def _source(arguments: argparse.Namespace, span: Span | None = None, chosen: dict[str, str] | None = None) -> Source:
    chosen = chosen or {}
    match = {**dict(arguments.match), **{name: value for name, value in chosen.items() if name in ON_SERIES}}
    if arguments.environment:
        match["environment"] = arguments.environment
    token = os.environ.get(TOKEN_VARIABLE, "")
    if arguments.token_file:
        token = Path(arguments.token_file).read_text(encoding="utf-8").strip()
    common = {"match": match, "token": token, "headers": dict(arguments.header), "ca_file": arguments.ca_file}
    if arguments.scrape:
        return insight.SnapshotSource.scrape(arguments.scrape, **common)
    url = arguments.prometheus or os.environ.get(URL_VARIABLE) or PROMETHEUS
    window, end = (arguments.window, arguments.at) if span is None else (span.end - span.begin, span.end)
    of = {name: value for name, value in chosen.items() if name not in ON_SERIES}
    return insight.PrometheusSource(url, window=window, end=end, of=of, progress=arguments.progress, **common)


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _number(read: Callable[[str], float], valid: Callable[[float], bool], allowed: str) -> Callable[[str], Any]:
    """The parser of a number, which ``read`` reads and ``valid`` admits; a refusal says what is ``allowed``."""

    @_checked
    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = read(text)
            if valid(value):
                return value
        raise ValueError(f"{text!r} is not allowed: {allowed}")

    return parse


def _percent(text: str) -> float:
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


_count = _number(int, lambda value: 1 <= value <= 1_000_000, "a whole number from 1 to 1000000")
_length = _number(int, lambda value: 0 <= value <= 10_000_000, "a number of characters from 0 to 10000000")
_seconds = _number(float, lambda value: 0 < value <= 3600, "seconds above 0, at most 3600")
_price = _number(float, lambda value: 0 <= value < 1e9, "a price of 0 or more")
_share = _number(_percent, lambda value: 0 < value < 1, "a share between 0 and 1, such as 0.03 or 3%")


@_checked
def _moment(text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{text!r} is not a time: allowed is 2026-11-24T12:00:00Z or seconds since 1970") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


@_checked
def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise ValueError(f"{text!r} is not allowed: NAME=VALUE")
    return name.strip(), value


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of time in Unix seconds, and how it was written."""

    begin: float
    end: float
    said: str


@_checked
def _span(text: str) -> Span:
    first, dots, last = text.partition("..")
    if not dots:
        raise ValueError(f"{text!r} is not a stretch of time: allowed is FROM..TO, such as 2d..1d, 1d..now")
    now = time.time()

    def moment(part: str) -> float:
        if part == "now":
            return now
        try:
            return now - parse_duration(part)
        except ValueError:
            return float(_moment(part))

    begin, end = moment(first), moment(last)
    if not begin < end:
        raise ValueError(f"{text!r}: the stretch ends before it begins")
    return Span(begin, end, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vibevoice-otel insight",
        description="Answers from what was measured. docs/insight.md explains every method.",
    )
    shared = argparse.ArgumentParser(add_help=False)
    where = shared.add_argument_group("where the data is")
    either = where.add_mutually_exclusive_group()
    either.add_argument(
        "--prometheus",
        metavar="URL",
        help=f"Prometheus or a compatible store (default {PROMETHEUS}, or {URL_VARIABLE})",
    )
    either.add_argument(
        "--scrape",
        metavar="URL",
        nargs="?",
        const=EXPORTER,
        help=f"one look at a metrics page instead, such as the demo's (default {EXPORTER})",
    )
    where.add_argument(
        "--window", metavar="DURATION", type=_checked(parse_duration), default=86400.0, help="how far back (default 1d)"
    )
    where.add_argument("--at", metavar="TIME", type=_moment, help="end of the window (default now)")
    where.add_argument("--environment", metavar="NAME", help="only series with this environment label")
    where.add_argument(
        "--match",
        metavar="LABEL=VALUE",
        type=_pair,
        action="append",
        default=[],
        help="only series with this label; repeatable",
    )
    where.add_argument("--token-file", metavar="FILE", help=f"file with a bearer token (or {TOKEN_VARIABLE})")
    where.add_argument(
        "--header",
        metavar="NAME=VALUE",
        type=_pair,
        action="append",
        default=[],
        help="more request headers; repeatable",
    )
    where.add_argument("--ca-file", metavar="FILE", help="authority of the server's certificate, PEM")
    shown = shared.add_argument_group("how it is shown")
    shown.add_argument("--json", action="store_true", help="for machines")
    shown.add_argument("--plot", metavar="FILE.png", help="a picture as well")
    default = semconv.SLO_FIRST_AUDIO_SECONDS
    shared.add_argument(
        "--slo", metavar="SECONDS", type=_seconds, default=default, help=f"first-audio objective (default {default:g})"
    )

    questions = parser.add_subparsers(
        dest="question", required=True, metavar="{capacity,voices,recommend,compare,changes,cost}"
    )
    capacity = questions.add_parser(
        "capacity", parents=[shared], help="how many streams a card holds, and what stops it first"
    )
    capacity.add_argument("--streams", metavar="N", type=_count, help="how many are wanted: answers yes or no")
    capacity.add_argument(
        "--gpu-memory",
        metavar="SIZE",
        type=_checked(parse_bytes),
        help="memory of the card in question, such as 24GiB (default: as seen)",
    )
    capacity.add_argument(
        "--concurrency",
        metavar="N",
        type=_count,
        help="requests the service works on at once (default: inferred from the waits)",
    )
    capacity.add_argument(
        "--cores", metavar="N", type=_count, help="of the host: how many processes have one each (default: not known)"
    )
    questions.add_parser("voices", parents=[shared], help="a quality profile of each voice, ranked")
    recommend = questions.add_parser("recommend", parents=[shared], help="steps and cfg for a text and a voice")
    recommend.add_argument(
        "--text-length", metavar="CHARACTERS", type=_length, required=True, help="length of the text"
    )
    recommend.add_argument("--voice", metavar="NAME", help="the voice that will speak (default: any)")
    recommend.add_argument(
        "--prefer", choices=["model", "long-text"], default="model",
        help="model: the model's own cfg of 1.5 for every text; long-text: 1.3 for texts from 200 characters "
             "(docs/insight.md)",
    )  # fmt: skip
    compare = questions.add_parser(
        "compare",
        parents=[shared],
        help="what a change changed, with intervals: before and after, or a canary beside its stable",
        description="Ends with 0 where nothing is worse, 3 where something is, 4 where it cannot be told, 1 on an "
        "error.",
    )
    for name, other in (("before", "2d..1d"), ("after", "1d..now")):
        compare.add_argument(f"--{name}", metavar="FROM..TO", type=_span, help=f"its stretch of time, such as {other}")
    for name in ("a", "b"):
        compare.add_argument(
            f"--{name}", metavar="LABEL=VALUE", type=_pair, action="append", default=[],
            help="its label, such as service_version=1.2 or environment=canary; any label of the series, of "
                 "target_info or "
            "of vibevoice_build_info; repeatable",
        )  # fmt: skip
    changes = questions.add_parser(
        "changes", parents=[shared], help="new versions, models and drivers within the window, and what moved at each"
    )
    cost = questions.add_parser(
        "cost", parents=[shared], help="cards, hosts and energy of a minute of audio, by voice, in your money"
    )
    for name, of in (("card-hour", "an hour of a card"), ("kwh", "a kilowatt-hour")):
        cost.add_argument(f"--price-{name}", metavar="PRICE", type=_price, help=f"of {of}, in any currency")
    for each in (compare, changes):
        each.add_argument(
            "--margin", metavar="SHARE", type=_share, default=0.03, help="a change that does not matter (default 3%%)"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
