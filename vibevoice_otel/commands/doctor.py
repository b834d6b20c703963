"""``vibevoice-otel doctor``: what would be measured in this environment, where it would go, what is wrong and how to mend it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibevoice_otel import __version__, settings
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor

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
}
#: What sets the number of a server's processes: uvicorn's --workers, and both servers' default.
WORKERS = ("UVICORN_WORKERS", "WEB_CONCURRENCY")
GUNICORN = "GUNICORN_CMD_ARGS"
RESOURCE = "OTEL_RESOURCE_ATTRIBUTES"
KNOWN_EXPORTERS = {"otlp", "otlp_proto_grpc", "otlp_proto_http", "console", "none", "prometheus"}


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


def configuration(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Our settings and the standard OTEL_* variables."""
    try:
        settings.load(environ)
        chosen = sorted(name for name in environ if name.startswith(settings.PREFIX))
        yield Finding("ok", "settings", ", ".join(chosen) or "defaults")
    except settings.SettingsError as error:
        for problem in error.problems:
            yield Finding("wrong", "settings", problem)
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Finding("wrong", "OTEL_SDK_DISABLED", "is true: nothing is recorded. Mend: unset it")
    disabled = {name.strip() for name in environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    if disabled & {"vibevoice", "*"}:
        yield Finding(
            "wrong", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "switches vibevoice off. Mend: remove it from the list"
        )
    if not environ.get("OTEL_SERVICE_NAME") and "service.name" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        yield Finding(
            "note",
            "OTEL_SERVICE_NAME",
            "not set: the service shows as unknown_service. Mend: OTEL_SERVICE_NAME=my-speech-service",
        )


def exports(environ: Mapping[str, str], workers: int | None = None) -> Iterator[Finding]:
    """Where traces and metrics go, and whether somebody listens there; ``workers`` is what the operator says of them, None for nothing."""
    for signal in ("traces", "metrics"):
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        exporters = [name.strip() for name in environ.get(variable, "otlp").split(",") if name.strip()]
        for name in exporters:
            if name not in KNOWN_EXPORTERS and not _exporter_installed(signal, name):
                yield Finding(
                    "wrong",
                    variable,
                    f"{name!r} is no installed exporter: known are {', '.join(sorted(KNOWN_EXPORTERS))}",
                )
            elif name == "none":
                yield Finding("note", variable, f"none: no {signal} leave the process")
            elif name.startswith("otlp"):
                yield _otlp(environ, signal)
            elif name == "prometheus":
                yield _prometheus(environ, signal, variable, workers)


def _prometheus(environ: Mapping[str, str], signal: str, variable: str, workers: int | None) -> Finding:
    mend = f"Mend: {variable}=otlp and a Collector that offers them to Prometheus, or one worker of uvicorn"
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
    host = environ.get("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost")
    port = environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")
    says = f"served at http://{host}:{port}/metrics (without exemplars: only a Collector gives those)"
    if workers is None:
        says += "; for one process alone: `doctor --workers N` says whether N work"
    return Finding("ok", signal, says)


def identity(environ: Mapping[str, str], workers: int | None = None) -> Iterator[Finding]:
    """Workers that are given one service.instance.id."""
    given = dict(part.split("=", 1) for part in environ.get(RESOURCE, "").split(",") if "=" in part)
    named = next((value for name, value in given.items() if name.strip() == "service.instance.id"), None)
    several = workers or max(
        (int(value) for name in WORKERS if (value := environ.get(name, "").strip()).isdigit()), default=0
    )
    if named is None or several < 2:
        return
    with contextlib.suppress(settings.SettingsError):
        apart = settings.load(environ).worker_instance
        says = f"{several} workers are given one service.instance.id ({named})"
        if apart:
            yield Finding("note", RESOURCE, f"{says}: they go by {named}.1 to {named}.{several}")
        else:
            yield Finding(
                "wrong",
                RESOURCE,
                f"{says}, and each overwrites the others' counts. Mend: unset VIBEVOICE_OTEL_WORKER_INSTANCE",
            )


def _exporter_installed(signal: str, name: str) -> bool:
    return any(e.name == name for e in importlib.metadata.entry_points(group=f"opentelemetry_{signal}_exporter"))


def _otlp(environ: Mapping[str, str], signal: str) -> Finding:
    upper = signal.upper()
    protocol = (
        environ.get(f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    )
    default = "http://localhost:4318" if protocol.startswith("http") else "http://localhost:4317"
    endpoint = (
        environ.get(f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or default
    )
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    host, port = parts.hostname or "localhost", parts.port or (4318 if protocol.startswith("http") else 4317)
    try:
        with socket.create_connection((host, port), timeout=2):
            return Finding("ok", signal, f"OTLP ({protocol}) to {host}:{port}, where somebody listens")
    except OSError as error:
        mend = "Mend: start a Collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT"
        return Finding("wrong", signal, f"OTLP ({protocol}) to {host}:{port}: {error.strerror or error}. {mend}")


def hooks() -> tuple[list[Finding], list[tuple[str, str, str]]]:
    """Import whatever model code is installed with the hooks on; findings, and (part, where, found or missing) of each hook."""
    instrumentor = VibeVoiceInstrumentor()
    instrumentor.instrument(skip_dep_check=True)
    findings: list[Finding] = []
    if Path("demo/web/app.py").is_file() and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # in upstream's folder its server is found as uvicorn finds it
    try:
        for title, module in MODELS.items():
            with contextlib.suppress(ModuleNotFoundError, ValueError):
                if importlib.util.find_spec(module.partition(".")[0]) is None:
                    findings.append(Finding("note", title, "not installed"))
                    continue
                findings.append(_imported(title, module))
        rows = [(point.part, point.where, "found" if point.found else "missing") for point in instrumentor.hook_points]
    finally:
        instrumentor.uninstrument()
    missing = [row for row in rows if row[2] == "missing"]
    findings.extend(
        Finding(
            "wrong",
            "hook",
            f"{where} is not there: {part} is not measured; this model's version is newer or older than known",
        )
        for part, where, _ in missing
    )
    return findings, rows


def _imported(title: str, module: str) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ModuleNotFoundError as missing:
        return Finding("note", title, f"not in what is installed ({missing.name} is missing)")
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
    parser.add_argument("--hooks", action="store_true", help="list every hook, not only what is missing")
    arguments = parser.parse_args(argv)
    console = Console()
    findings = [
        *packages(),
        *configuration(os.environ),
        *exports(os.environ, arguments.workers),
        *identity(os.environ, arguments.workers),
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
        listing = Table("what is measured", "by hooking", "", box=None)
        listing.columns[1].overflow = "fold"
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
