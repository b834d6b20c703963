"""Every setting, typed and validated: ``VIBEVOICE_OTEL_*`` from the environment.

A wrong value never stops the service: :func:`load` collects every problem, and the instrumentor then logs them and leaves
telemetry off. Each message names the variable, the value and what is allowed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from vibevoice_otel import semconv

PREFIX = "VIBEVOICE_OTEL_"
T = TypeVar("T")


class SettingsError(ValueError):
    """One or more settings are wrong; ``problems`` holds a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _boolean(text: str) -> bool:
    value = text.strip().lower()
    if value in {"true", "1", "yes", "on"}:
        return True
    if value in {"false", "0", "no", "off", ""}:
        return False
    raise ValueError("true or false")


def _number(low: float, high: float, unit: str = "") -> Callable[[str], float]:
    def parse(text: str) -> float:
        allowed = f"a number from {low:g} to {high:g}{unit and ' ' + unit}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(allowed) from None
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(allowed)
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        allowed = f"a whole number from {low} to {high}"
        if not re.fullmatch(r"\s*\d{1,12}\s*", text) or not low <= int(text) <= high:
            raise ValueError(allowed)
        return int(text)

    return parse


def _routes(text: str) -> tuple[str, ...]:
    routes = tuple(part.strip() for part in text.split(",") if part.strip())
    if not routes or any(not r.startswith("/") for r in routes):
        raise ValueError("comma-separated URL paths, each starting with / (for example /stream,/v2/stream)")
    return routes


def _address(text: str) -> str:
    if not text.strip():
        return ""
    match = re.fullmatch(r"\s*(\[[0-9A-Fa-f:]+\]|[^\s:\[\]]+):(\d{1,5})\s*", text)
    if not match or int(match.group(2)) > 65535:
        raise ValueError("host:port (for example 127.0.0.1:9465), or nothing for off")
    return text.strip()


def _url(*schemes: str, example: str, holds: str = "") -> Callable[[str], str]:
    def parse(text: str) -> str:
        value = text.strip()
        if value and (not re.fullmatch(rf"({'|'.join(schemes)})://[^\s/?#]+[^\s]*", value) or holds not in value):
            raise ValueError(
                f"a {' or '.join(schemes)} address{holds and f' with {holds} in it'} (for example {example}), or nothing"
            )
        return value

    return parse


def _file(text: str) -> str:
    value = text.strip()
    if value and not os.access(value, os.R_OK):
        raise ValueError("a PEM file that this process can read, or nothing")
    return value


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if any(not re.fullmatch(r"[a-z0-9._-]+", host) for host in hosts):
        raise ValueError("comma-separated host names without port (for example tts.example.org)")
    return hosts


def _setting(default: T, parse: Callable[[str], T], about: str) -> T:
    metadata = {"parse": parse, "about": about}
    value: Any = field(default=default, metadata=metadata)
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose. The variable of field ``x_y`` is ``VIBEVOICE_OTEL_X_Y``."""

    routes: tuple[str, ...] = _setting(("/stream",), _routes, "WebSocket paths that are speech requests.")
    capture_text: bool = _setting(False, _boolean, "Put the spoken text on vibevoice.synthesize. Off: it is nowhere.")
    websocket_spans: bool = _setting(
        False, _boolean, "Keep the FastAPI instrumentation's span for every WebSocket message."
    )
    slo_first_audio: float = _setting(
        semconv.SLO_FIRST_AUDIO_SECONDS, _number(0.001, 3600, "seconds"), "First-audio objective in seconds."
    )
    slo_gap: float = _setting(
        semconv.SLO_GAP_SECONDS,
        _number(0.001, 60, "seconds"),
        "Continuity objective: the longest gap in seconds that is good.",
    )
    playback_buffer: float = _setting(
        0.0,
        _number(0, 60, "seconds"),
        "Seconds of audio that your listeners gather before they play; gaps are told for such a listener.",
    )
    max_attribute_sets: int = _setting(
        2000, _whole(10, 1_000_000), "Attribute sets an instrument before the overflow series."
    )
    max_series: int = _setting(
        50_000, _whole(100, 10_000_000), "Prometheus series a process before the overflow series."
    )
    max_cfg: float = _setting(10.0, _number(0.1, 1000), "cfg above this is labelled 'other'.")
    max_steps: int = _setting(50, _whole(1, 1000), "steps and step_index above this share one label.")
    max_voices: int = _setting(200, _whole(1, 10_000), "Voices that get a label of their own; the rest is 'other'.")
    trace_share: float = _setting(
        1.0,
        _number(0, 1),
        "Share of ordinary traces that a gateway behind this service keeps: exemplars are offered of those alone.",
    )
    drain_interval: float = _setting(
        5.0, _number(0.05, 600, "seconds"), "How often a long stream's finished frames are exported."
    )
    max_spans_per_second: int = _setting(
        20_000, _whole(1, 10_000_000), "Spans a second before step spans are left out by value."
    )
    max_trace_spans: int = _setting(
        20_000, _whole(20, 10_000_000), "Spans a trace (Tempo refuses a trace of over 5 MB)."
    )
    fast_path: bool = _setting(
        True, _boolean, "Write spans and histogram increments a block at a time where the SDK allows it."
    )
    page: str = _setting("", _address, "Address of the live page; nothing for off.")
    page_token: str = _setting("", str.strip, "Bearer token that the live page asks for; nothing for none.")
    page_cert: str = _setting("", _file, "Certificate (PEM, with its chain) of the live page; nothing for plain HTTP.")
    page_key: str = _setting("", _file, "Private key (PEM) of the live page's certificate.")
    metrics_token: str = _setting(
        "", str.strip, "Bearer token that /metrics asks for (OTEL_METRICS_EXPORTER=prometheus); nothing for none."
    )
    metrics_cert: str = _setting("", _file, "Certificate (PEM, with its chain) of /metrics; nothing for plain HTTP.")
    metrics_key: str = _setting("", _file, "Private key (PEM) of the certificate of /metrics.")
    page_service: str = _setting(
        "",
        _url("ws", "wss", example="ws://127.0.0.1:8000/stream"),
        "The service's WebSocket as a browser reaches it; nothing: found out.",
    )
    page_hosts: tuple[str, ...] = _setting((), _hosts, "Further host names under which the live page may be reached.")
    page_requests: int = _setting(200, _whole(1, 10_000), "Finished requests that the live page keeps.")
    page_memory: int = _setting(64, _whole(1, 4096), "MiB of finished requests that the live page keeps.")
    page_listener: bool = _setting(
        False, _boolean, "Turn what browsers on the live page report into vibevoice.listener.* metrics."
    )
    page_grafana: str = _setting(
        "", _url("http", "https", example="http://127.0.0.1:3000"), "Grafana, linked from the live page."
    )
    page_tempo: str = _setting(
        "",
        _url("http", "https", example="http://127.0.0.1:3200/api/traces/{trace_id}", holds="{trace_id}"),
        "Where a trace is seen, linked from the live page; {trace_id} stands for its id.",
    )
    tail_buffer: int = _setting(
        20_000,
        _whole(100, 10_000_000),
        "Spans that wait for their trace's outcome (OTEL_TRACES_SAMPLER=vibevoice_tail).",
    )
    tail_override_caller: bool = _setting(
        False, _boolean, "vibevoice_tail keeps a failed or slow request even where the caller decided not to sample it."
    )
    shutdown_timeout: float = _setting(
        5.0, _number(0.1, 300, "seconds"), "How long a shutdown waits for the last export."
    )


def variable(name: str) -> str:
    """The environment variable of a field: ``drain_interval`` -> ``VIBEVOICE_OTEL_DRAIN_INTERVAL``."""
    return PREFIX + name.upper()


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from ``environ`` (the process's by default).

    Raises:
        SettingsError: with every wrong or unknown variable, not only the first.
    """
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    problems: list[str] = []
    known = {variable(f.name): f for f in fields(Settings)}
    for name, spec in known.items():
        text = env.get(name)
        if text is None:
            continue
        try:
            values[spec.name] = spec.metadata["parse"](text)
        except ValueError as error:
            problems.append(f"{name}={text!r} is not valid: allowed is {error}")
    for one, other in (("page_cert", "page_key"), ("metrics_cert", "metrics_key")):
        if bool(values.get(one)) != bool(values.get(other)) and not any(
            name.startswith(variable(one[:-4])) for name in problems
        ):
            problems.append(f"{variable(one)} and {variable(other)}: allowed is both or neither")
    # A misspelt setting must not be silently ignored. Names used by the command line alone are not ours to judge.
    unknown = (
        name for name in sorted(env) if name.startswith(PREFIX) and name not in known and name not in CLI_VARIABLES
    )
    problems.extend(f"{name} is not a setting: known are {', '.join(sorted(known))}" for name in unknown)
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


#: Read elsewhere (the command line, the build), so not unknown to us.
CLI_VARIABLES = frozenset({"VIBEVOICE_OTEL_PROMETHEUS_URL", "VIBEVOICE_OTEL_PROMETHEUS_TOKEN", "VIBEVOICE_OTEL_CACHE"})
