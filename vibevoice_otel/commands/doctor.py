"""``vibevoice-otel doctor``: what would be measured in this environment, where it would go, what is wrong and how to
mend it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from vibevoice_otel import __version__, config_file, semconv, settings
from vibevoice_otel.commands import exporters
from vibevoice_otel.insight.snapshot import SnapshotSource
from vibevoice_otel.insight.source import SourceError

Level = Literal["ok", "note", "wrong"]
MARKS: dict[Level, str] = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "wrong": "[red]wrong[/red]"}
#: Model code that the adapters know, by module; each is imported to look for its hooks.
MODELS = {
    "transformers' native VibeVoice": "transformers.models.vibevoice.modeling_vibevoice",
    "microsoft/VibeVoice, streaming": "vibevoice.modular.modeling_vibevoice_streaming_inference",
    "microsoft/VibeVoice, long-form": "vibevoice.modular.modeling_vibevoice_inference",
    "microsoft/VibeVoice, its processor": "vibevoice.processor.vibevoice_processor",
    "microsoft/VibeVoice, its server": "demo.web.app",
    "the embedded service": "vibevoice_otel.service.engine",
    "Starlette or FastAPI": "starlette.applications",
    "Flask": "flask.app",
}
#: What sets the number of a server's processes: uvicorn's --workers, and both servers' default.
WORKERS = ("UVICORN_WORKERS", "WEB_CONCURRENCY")
GUNICORN = "GUNICORN_CMD_ARGS"
RESOURCE = "OTEL_RESOURCE_ATTRIBUTES"
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; a wrong one says how to mend it."""

    level: Level
    subject: str
    says: str


def packages() -> Iterator[Finding]:
    """The distribution that makes the launcher work, our entry point, the web instrumentation."""
    for name, why in (
        ("opentelemetry-distro", "without it opentelemetry-instrument does nothing at all"),
        ("opentelemetry-sdk", "nothing is recorded without it"),
        ("opentelemetry-instrumentation-fastapi", "without it a request has no SERVER span above vibevoice.synthesize"),
    ):
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203 - three rounds
            yield Finding("wrong", name, f"not installed: {why}. Mend: pip install {name}")
    names = [e.name for e in importlib.metadata.entry_points(group="opentelemetry_instrumentor")]
    if "vibevoice" in names:
        yield Finding("ok", "entry point", f"opentelemetry-instrument finds vibevoice-otel {__version__}")
    else:
        yield Finding(
            "wrong",
            "entry point",
            "vibevoice-otel is importable but not installed. Mend: pip install vibevoice-otel (not PYTHONPATH)",
        )


def internals() -> Iterator[Finding]:
    """What is used of the SDK's insides: each is tried; where one fails the public API serves,
    which costs CPU alone.
    """
    try:
        from vibevoice_otel.sdk import exporters, histograms, spans  # noqa: PLC0415 - a release may have moved a name
    except ImportError as error:
        yield Finding("note", "opentelemetry-sdk", f"unsupported internals ({error}): the public API serves")
        return
    except Exception as error:  # noqa: BLE001 - opentelemetry.propagate raises at import for an unknown propagator
        yield Finding("note", "opentelemetry-sdk", f"its insides could not be tried ({type(error).__name__}: {error})")
        return
    for each in (spans.CHOSEN_IDS, exporters.HTTP_BYTES, exporters.GRPC_BYTES, histograms.AGGREGATIONS):
        yield Finding("ok" if each.works() else "note", "opentelemetry-sdk", each.explain())


def configuration(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Our settings and the standard OTEL_* variables."""
    reading = settings.read(environ)
    for problem in (*reading.problems, *reading.refused):
        yield Finding("wrong", "settings", problem)
    for warning in reading.warnings:
        yield Finding("note", "settings", f"{warning}. It changes nothing")
    if not (reading.problems or reading.refused):
        known = (settings.variable(each.name) for each in fields(settings.Settings))
        yield Finding("ok", "settings", ", ".join(name for name in known if name in environ) or "defaults")
    if not reading.enabled:
        yield Finding("wrong", config_file.VARIABLE, f"{config_file.KEY}: enabled: false. Mend: remove it")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Finding("wrong", "OTEL_SDK_DISABLED", "is true: nothing is recorded. Mend: unset it")
    disabled = {name.strip() for name in environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    if disabled & {"vibevoice", "*"}:
        yield Finding(
            "wrong", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "switches vibevoice off. Mend: remove it from the list"
        )
    if environ.get(config_file.VARIABLE):
        return
    if not environ.get("OTEL_SERVICE_NAME") and "service.name" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        yield Finding(
            "note",
            "OTEL_SERVICE_NAME",
            "not set: the service shows as unknown_service. Mend: OTEL_SERVICE_NAME=my-speech-service",
        )


def exports(environ: Mapping[str, str], workers: int | None = None, *, send: bool = False) -> Iterator[Finding]:
    """What the SDK makes of the environment or the configuration file, and what came back from an empty export to each
    exporter.

    Args:
        environ: the service's variables.
        workers: what the operator says of the number of processes, None for nothing.
        send: send to exporters of other protocols than OTLP too.
    """
    page = _page(environ, workers)
    if page is not None:
        yield page
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", settings.PREFIX))}
    command = [sys.executable, "-m", "vibevoice_otel.commands.exporters", *(["--send"] if send else [])]
    try:
        done = subprocess.run(  # noqa: S603 - this Python and our own module
            command,
            env=clean | dict(environ),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Finding("wrong", "OpenTelemetry", "the exporters could not be made within a minute")
        return
    found = exporters.findings(done.stdout.splitlines())
    for level, subject, says in found[:-1]:
        if subject == "metrics" and says.startswith("served at "):
            if page is not None:
                continue
            says += "" if workers else "; for one process alone: `doctor --workers N` says whether N work"  # noqa: PLW2901
        yield Finding(cast("Level", level), subject, says)
    if not found or found[-1][1]:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        yield Finding("wrong", "OpenTelemetry", f"the exporters could not be made: {last[:300]}")
    yield from temporality(environ)


def temporality(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What Prometheus does not take of what the OTLP exporter may be told to send."""
    chosen = environ.get(TEMPORALITY, "").strip().lower()
    if chosen in {"delta", "lowmemory"}:
        yield Finding("note", TEMPORALITY, f"{chosen}: Prometheus takes no delta temporality, and its exporters drop "
                                           "it without a word. "
                      "The shipped agent makes it cumulative; Prometheus' own OTLP endpoint needs "
                      "--enable-feature=otlp-deltatocumulative")  # fmt: skip
    if environ.get(AGGREGATION, "").strip().lower() == "base2_exponential_bucket_histogram":
        yield Finding("note", AGGREGATION, "base2_exponential_bucket_histogram: the shipped agent counts them in the "
                                           "buckets that "
                      "dashboards and alerts read, but for playback gaps and underruns, leading silence, memory per "
                      "step and the parts of first audio: their panels are empty. Another Collector leaves no series "
                      "that ends in "
                      "_bucket")  # fmt: skip


def _page(environ: Mapping[str, str], workers: int | None) -> Finding | None:
    """Why a metrics page cannot serve these processes; None where it can, or where there is none."""
    configured = environ.get(config_file.VARIABLE)
    if configured:
        pages = config_file.pages(config_file.load(configured))
        variable, mend = (
            config_file.VARIABLE,
            "Mend: a periodic reader with an otlp exporter in the file, or one worker of uvicorn",
        )
    else:
        pages = (
            [("", 0)] if "prometheus" in environ.get("OTEL_METRICS_EXPORTER", "").replace(" ", "").split(",") else []
        )
        variable = "OTEL_METRICS_EXPORTER"
        mend = f"Mend: {variable}=otlp and a Collector that offers them to Prometheus, or one worker of uvicorn"
    if not pages:
        return None
    if environ.get(GUNICORN, "").strip():
        return Finding(
            "wrong",
            variable,
            f"prometheus does not work under gunicorn ({GUNICORN} is set), with one worker neither. {mend}",
        )
    said = [("--workers", str(workers))] if workers is not None else [(name, environ.get(name, "")) for name in WORKERS]
    for name, value in said:
        if value.strip().isdigit() and int(value) > 1:
            return Finding(
                "wrong", variable, f"prometheus does not work with several workers ({name}={value.strip()}). {mend}"
            )
    return None


def identity(environ: Mapping[str, str], workers: int | None = None) -> Iterator[Finding]:
    """Workers that are given one service.instance.id."""
    given = dict(part.split("=", 1) for part in environ.get(RESOURCE, "").split(",") if "=" in part)
    named = next((value for name, value in given.items() if name.strip() == "service.instance.id"), None)
    several = workers or max(
        (int(value) for name in WORKERS if (value := environ.get(name, "").strip()).isdigit()), default=0
    )
    reading = settings.read(environ)
    if named is None or several < 2 or reading.problems:
        return
    says = f"{several} workers are given one service.instance.id ({named})"
    if reading.settings.worker_instance:
        yield Finding("note", RESOURCE, f"{says}: they go by {named}.1 to {named}.{several}")
    else:
        yield Finding(
            "wrong",
            RESOURCE,
            f"{says}, and each overwrites the others' counts. Mend: unset VIBEVOICE_OTEL_WORKER_INSTANCE",
        )


#: What each reason of an unlinked generation means, and what to do.
UNLINKED = {
    "no_object": "nothing that their request made reached the model: give the model's thread the request's context "
    "(asyncio.to_thread copies it), or make the AudioStreamer or the processor's output where the request is served",
    "ambiguous": "what they were given was made for two requests: make an AudioStreamer for each",
}


def unlinked(url: str) -> Iterator[Finding]:
    """Generations of a running service that stand alone though requests were being served, by reason.

    Args:
        url: of its metrics page, or of the Collector's: text in Prometheus' format.
    """
    try:
        page = SnapshotSource.scrape(url, match={"what": "links"})
    except SourceError as error:
        yield Finding("wrong", "links", str(error))
        return
    grown = page.growth(semconv.DROPPED.prometheus, ("reason",))
    counted = {point.labels.get("reason", ""): point.value for point in grown}
    for reason, count in sorted(counted.items()):
        if count:
            means = UNLINKED.get(reason, "see docs/servers.md")
            yield Finding("note", "links", f"{count:g} generations stayed unlinked ({reason}): {means}")
    if not any(counted.values()):
        yield Finding("ok", "links", "every generation found its request")


def hooks() -> tuple[list[Finding], list[tuple[str, str, str]]]:
    """Import whatever model code is installed with the hooks on; findings, and (part, where, found or missing) of each
    hook.
    """
    os.environ.pop(
        "OTEL_PROPAGATORS", None
    )  # one that is not installed is told elsewhere, and nothing could be imported
    from vibevoice_otel.instrumentor import VibeVoiceInstrumentor  # noqa: PLC0415

    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(skip_dep_check=True)
    if Path("demo/web/app.py").is_file() and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # in upstream's folder its server is found as uvicorn finds it
    try:
        findings = [_imported(title, module) for title, module in MODELS.items()]
        rows = [(point.part, point.where, "found" if point.found else "missing") for point in instrumentor.hook_points]
    finally:
        instrumentor.uninstrument()
    findings.extend(
        Finding(
            "wrong",
            "hook",
            f"{where} is not there: {part} is not measured; this model's version is newer or older than known",
        )
        for part, where, state in rows
        if state == "missing"
    )
    return findings, rows


def _imported(title: str, module: str) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ModuleNotFoundError as missing:
        absent = missing.name == module.partition(".")[0]
        says = "not installed" if absent else f"not in what is installed ({missing.name} is missing)"
        return Finding("note", title, says)
    except Exception as error:  # noqa: BLE001 - foreign code may fail in any way while it is imported
        if isinstance(error, ImportError) and module.startswith("vibevoice_otel."):
            return Finding("note", title, str(error))  # in upstream's environment ours need not run
        return Finding("wrong", title, f"{module} cannot be imported: {type(error).__name__}: {error}")
    top = module.partition(".")[0].replace("_", "-")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return Finding("ok", title, f"{top} {importlib.metadata.version(top)}")
    return Finding("ok", title, "importable")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="vibevoice-otel doctor", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="do not import the model code to look for its hooks (that takes seconds)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"worker processes that the server will have (otherwise {', '.join((*WORKERS, GUNICORN))})",
    )
    parser.add_argument(
        "--send", action="store_true", help="send an empty export by exporters of other protocols than OTLP too"
    )
    parser.add_argument(
        "--metrics",
        metavar="URL",
        help="the metrics page of a running service or of its Collector: which generations found no request, and why",
    )
    parser.add_argument("--hooks", action="store_true", help="list every hook, not only what is missing")
    arguments = parser.parse_args(argv)
    console = Console()
    findings = [
        *packages(),
        *internals(),
        *configuration(os.environ),
        *exports(os.environ, arguments.workers, send=arguments.send),
        *identity(os.environ, arguments.workers),
        *(unlinked(arguments.metrics) if arguments.metrics else ()),
    ]
    rows: list[tuple[str, str, str]] = []
    if not arguments.quick:
        with console.status("Importing the installed model code to look for its hooks …"):
            found, rows = hooks()
        findings.extend(found)
    table = Table(show_header=False, box=None, padding=(0, 1))
    for finding in findings:
        table.add_row(
            MARKS[finding.level], f"[bold]{finding.subject}[/bold]", escape(finding.says)
        )  # 'package[extra]' is no markup
    console.print(table)
    if rows:
        console.print(f"{sum(row[2] == 'found' for row in rows)} of {len(rows)} hooks found.")
    if arguments.hooks:
        listing = Table("what is measured", Column("by hooking", overflow="fold"), "", box=None)
        for row in sorted(rows):
            listing.add_row(*row)
        console.print(listing)
    wrong = sum(finding.level == "wrong" for finding in findings)
    console.print(
        "[green]All is well.[/green]"
        if not wrong
        else f"[red]{wrong} {'thing is' if wrong == 1 else 'things are'} wrong.[/red]"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
