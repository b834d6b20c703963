"""Every setting, typed and validated: from ``OTEL_CONFIG_FILE``, from ``VIBEVOICE_OTEL_*``, else the default.

A wrong value never stops the service. A wrong variable leaves VibeVoice telemetry off (:class:`Reading` holds every
problem); a wrong option of a configuration file costs its own effect and shuts the doors (:func:`read`). Each
message names the variable or the key, the value and what is allowed. An unknown variable is a warning and nothing more.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, TypeVar

from vibevoice_otel import config_file, semconv

PREFIX = "VIBEVOICE_OTEL_"
T = TypeVar("T")
#: What follows a Service's name in the variables that Kubernetes sets for it in every pod of its namespace (service
#: links).
_LINK = re.compile(
    r"([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


#: Upstream's own route: unset, it is speech where a model is hooked. A route that an operator names is speech in any
#: program, this one too, so a setting that reads the same is told from the default by identity.
DEFAULT_ROUTES = ("/stream",)


def _boolean(text: str) -> bool:
    value = text.strip().lower()
    if value in {"true", "1", "yes", "on"}:
        return True
    if value in {"false", "0", "no", "off", ""}:
        return False
    raise ValueError("true or false")


def _checked(read: Callable[[str], T], allowed: str, holds: Callable[[T], object]) -> Callable[[str], T]:
    """What ``read`` makes of the text, where ``holds`` agrees; else a ValueError that says what is allowed."""

    def parse(text: str) -> T:
        try:
            value = read(text)
        except ValueError:
            raise ValueError(allowed) from None
        if not holds(value):
            raise ValueError(allowed)
        return value

    return parse


def _number(low: float, high: float, unit: str = "") -> Callable[[str], float]:
    allowed = f"a number from {low:g} to {high:g}{unit and ' ' + unit}"
    return _checked(float, allowed, lambda value: low <= value <= high)


fraction = _number(0, 1)


def _digits(text: str) -> int:
    """Decimal digits alone, where int() takes signs and underscores too."""
    if not text.strip().isdecimal():
        raise ValueError
    return int(text)


def _whole(low: int, high: int) -> Callable[[str], int]:
    return _checked(_digits, f"a whole number from {low} to {high}", lambda value: low <= value <= high)


def _gpu_profile(text: str) -> float | None:
    value = text.strip().lower()
    if value in {"off", "false", "0", "no", ""}:
        return None
    if value == "on-demand":
        return 0.0
    try:
        return 60 * _number(1, 10_080)(value)
    except ValueError:
        raise ValueError("off, on-demand, or minutes between samples from 1 to 10080") from None


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_routes = _checked(
    _parts,
    "comma-separated URL paths, each starting with / (for example /stream,/v2/stream)",
    lambda routes: routes and all(route.startswith("/") for route in routes),
)
_names = _checked(
    _parts,
    "at most 1000 comma-separated names of at most 64 characters",
    lambda names: len(names) <= 1000 and all(len(name) <= 64 for name in names),
)
_hosts = _checked(
    lambda text: _parts(text.lower()),
    "comma-separated host names without port (for example tts.example.org)",
    lambda hosts: all(re.fullmatch(r"[a-z0-9._-]+", host) for host in hosts),
)


def _text_like(holds: Callable[[str], object], allowed: str) -> Callable[[str], str]:
    """Nothing, or a text that ``holds`` agrees with."""
    return _checked(str.strip, allowed, lambda value: not value or holds(value))


_DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_class = _text_like(_DOTTED.fullmatch, "module:Class (for example my.speech.model:MyVibeVoice), or nothing")
_function = _text_like(_DOTTED.fullmatch, "module:function (for example myservice.auth:tenant), or nothing")
_file = _text_like(lambda path: os.access(path, os.R_OK), "a PEM file that this process can read, or nothing")


def _is_address(text: str) -> bool:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[^\s:\[\]]+):(\d{1,5})", text)
    return match is not None and int(match[2]) <= 65535


_address = _text_like(_is_address, "host:port (for example 127.0.0.1:9465), or nothing for off")


def _url(*schemes: str, example: str, holds: str = "") -> Callable[[str], str]:
    return _text_like(
        re.compile(rf"(?=.*{re.escape(holds)})({'|'.join(schemes)})://[^\s/?#]+[^\s]*").fullmatch,
        f"a {' or '.join(schemes)} address{holds and f' with {holds} in it'} (for example {example}), or nothing",
    )


def _setting(default: T, parse: Callable[[str], T], about: str) -> T:
    metadata = {"parse": parse, "about": about}
    value: Any = field(default=default, metadata=metadata)
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose. The variable of field ``x_y`` is ``VIBEVOICE_OTEL_X_Y``."""

    routes: tuple[str, ...] = _setting(
        DEFAULT_ROUTES, _routes, "Paths that are speech requests, over WebSockets and HTTP."
    )
    model: str = _setting(
        "", _class, "A model class that is not known by what it has, as module:Class; it is observed like upstream's."
    )
    capture_text: bool = _setting(False, _boolean, "Put the spoken text on vibevoice.synthesize. Off: it is nowhere.")
    query_traceparent: bool = _setting(
        False,
        _boolean,
        "Continue the trace that a WebSocket's URL names (?traceparent=); else only while the live page is on. A "
        "header wins.",
    )
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
    audio_checks: bool = _setting(
        False,
        _boolean,
        "Look into the audio: silence inside speech, clipping, offset, level, chunks said twice. Holds 2 s of it at "
        "most.",
    )
    audio_loudness: bool = _setting(
        False,
        _boolean,
        "Among the checks of the audio, its loudness in LUFS, with the extra 'loudness'. Takes 80 MB of memory, and "
        "most of a second at start.",
    )
    response_headers: bool = _setting(
        False,
        _boolean,
        "Answer with traceresponse (WebSocket and HTTP) and Server-Timing (HTTP): the caller's side of trace and time.",
    )
    tenant_baggage: str = _setting(
        "",
        str.strip,
        "W3C baggage member that names the tenant, for showback; only names in VIBEVOICE_OTEL_TENANTS are taken.",
    )
    tenants: tuple[str, ...] = _setting(
        (), _names, "Tenants that the baggage may name, each with series of its own; all others are 'other'."
    )
    tenant_hook: str = _setting(
        "",
        _function,
        "module:function that names a request's tenant from its ASGI scope, in place of baggage; nothing for none.",
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
        fraction,
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
    gpu_profile: float | None = _setting(
        None,
        _gpu_profile,
        "Kernels' share of a frame by the GPU's profiler: off, on-demand (`vibevoice-otel gpu sample`), or each so "
        "many minutes too.",
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
    tail_share: float = _setting(
        0.0,
        fraction,
        "Share of traces that vibevoice_tail keeps whatever their outcome, where OTEL_TRACES_SAMPLER_ARG says nothing.",
    )
    tail_override_caller: bool = _setting(
        False, _boolean, "vibevoice_tail keeps a failed or slow request even where the caller decided not to sample it."
    )
    worker_instance: bool = _setting(
        True, _boolean, "Tell workers apart that share a service.instance.id set from outside: .N behind the id."
    )
    shutdown_timeout: float = _setting(
        5.0, _number(0.1, 300, "seconds"), "How long a shutdown waits for the last export."
    )


def variable(name: str) -> str:
    """The environment variable of a field: ``drain_interval`` -> ``VIBEVOICE_OTEL_DRAIN_INTERVAL``."""
    return PREFIX + name.upper()


def is_service_link(name: str) -> bool:
    """Whether ``name`` is a variable that Kubernetes sets for a Service whose name begins like our prefix."""
    return name.startswith(PREFIX) and _LINK.fullmatch(name[len(PREFIX) :]) is not None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sources of settings give: :func:`read`."""

    settings: Settings
    problems: list[str]  # wrong variables: telemetry stays off
    refused: list[str]  # wrong or unknown options of a configuration file: the doors stay shut
    warnings: list[str]  # unknown variables: nothing follows
    enabled: bool = True  # False: the configuration file says ``enabled: false``


def read(environ: Mapping[str, str] | None = None, options: Mapping[str, Any] | None = None) -> Reading:
    """The settings: an option wins over the variable, and that over the default.

    Args:
        environ: the variables; the process's by default.
        options: keywords of ``instrument()``. They stand beside what ``OTEL_CONFIG_FILE`` says below
            ``instrumentation/development: python: vibevoice:``, and win over it.

    Returns:
        The settings and what was wrong. With an option refused the live page is off and the text is not captured,
        for the key that was not understood may be the one that guards them.
    """
    env = os.environ if environ is None else environ
    known = {f.name: f for f in fields(Settings)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, spec in known.items():
        text = env.get(variable(name))
        if text is None:
            continue
        try:
            values[name] = spec.metadata["parse"](text)
        except ValueError as error:
            problems.append(f"{variable(name)}={text!r} is not valid: allowed is {error}")
    section = config_file.section(env)
    refused: list[str] = []
    for where, each in ((section.where, section.options), ("instrument()", options or {})):
        for key, value in each.items():
            if key not in known:
                refused.append(f"{where}: {key} is not a setting{_nearest(key, known)}")
            elif value is not None:
                try:
                    values[key] = known[key].metadata["parse"](_text(value))
                except ValueError as error:
                    refused.append(f"{where}: {key}={value!r} is not valid: allowed is {error}")
    for one, other in (("page_cert", "page_key"), ("metrics_cert", "metrics_key")):
        if bool(values.get(one)) != bool(values.get(other)) and not any(
            name.startswith(variable(one[:-4])) for name in problems
        ):
            problems.append(f"{variable(one)} and {variable(other)}: allowed is both or neither")
    chosen = Settings(**values) if not problems else Settings()
    if refused:
        chosen = replace(chosen, page="", capture_text=False)
    return Reading(chosen, problems, refused, unknown(env), section.enabled)


def unknown(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each VIBEVOICE_OTEL_ variable that is no setting and no service link."""
    known = {variable(f.name) for f in fields(Settings)}
    return [
        f"{name} is not a setting{_nearest(name, known)}"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known | CLI_VARIABLES and not is_service_link(name)
    ]


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; the nearest is {found[0]}" if found else ""


def _text(value: object) -> str:
    """An option as the text of the variable that means the same."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _options(self: Any, **given: Any) -> None:
    for each in fields(self):
        setattr(self, each.name, given.pop(each.name, None))
    self.misspelt = given


#: What declarative configuration makes of ``instrumentation/development: python: vibevoice:``. It takes any key, so
#: that one that is misspelt reaches :func:`read`; a dataclass of its own would end in a stack trace and in defaults.
Options = make_dataclass(
    "Options",
    [*((f.name, Any, field(default=None)) for f in fields(Settings)), ("misspelt", Any, field(default=None))],
    init=False,
    namespace={"__init__": _options, "__doc__": "The settings as a configuration file names them."},
)


#: Read elsewhere (the command line, the build), so not unknown to us.
CLI_VARIABLES = frozenset({"VIBEVOICE_OTEL_PROMETHEUS_URL", "VIBEVOICE_OTEL_PROMETHEUS_TOKEN", "VIBEVOICE_OTEL_CACHE"})
