"""What the service can be told, by ``VIBEVOICE_SERVICE_*``, each validated with a message that names it.

No variable ends in ``_HOST`` or ``_PORT``: Kubernetes sets VIBEVOICE_SERVICE_HOST and VIBEVOICE_SERVICE_PORT in every
pod beside a Service called ``vibevoice``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vibevoice_otel.service import voices
from vibevoice_otel.service.faults import Faults

PREFIX = "VIBEVOICE_SERVICE_"
LISTEN = PREFIX + "LISTEN"
DEFAULT_VOICE = "en-Carter_man"


class ServiceSettingsError(ValueError):
    """A setting is wrong; the message names it and what is allowed."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The variable of field ``x_y`` is ``VIBEVOICE_SERVICE_X_Y``; of ``host`` and ``port``,
    VIBEVOICE_SERVICE_LISTEN=host:port.
    """

    model: str = "random"  # or a path, or a hub id
    device: str = "cpu"
    host: str = "127.0.0.1"
    port: int = 8000
    voice: str = DEFAULT_VOICE
    cfg: float = 1.5
    steps: int = 5
    concurrency: int = 2
    queue: int = 8  # requests that may wait for a slot; beyond, the service is busy
    timeout: float = 60.0  # seconds, waiting included
    drain: float = 0.0  # seconds that SIGTERM waits for open streams; 0 cuts them off
    max_text: int = 2000  # characters; the random model speaks that many well within the timeout
    seed: int = 0
    auto_parameters: str = ""  # a Prometheus whose measurements decide for steps=auto and cfg=auto; nothing for off
    auto_prefer: str = "model"  # the cfg it aims at: the model's own, or 1.3 for long texts
    auto_control: float = 0.05  # share of such requests that keep the service's own setting, to hold the others against
    summary: bool = False  # a last message with the trace and the request's times, by this service's own clock
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        checks: dict[str, tuple[bool, str]] = {
            "model": (bool(self.model.strip()), "random, a checkpoint's path, or a hub id"),
            "device": (re.fullmatch(r"cpu|mps|cuda(:\d+)?", self.device) is not None, "cpu, cuda, cuda:N or mps"),
            "voice": (self.voice in voices.NAMES, f"one of {', '.join(voices.NAMES)}"),
            "port": (0 <= self.port <= 65535, "0 to 65535"),
            "cfg": (0 < self.cfg <= 10, "a number above 0, at most 10"),
            "steps": (1 <= self.steps <= 100, "1 to 100"),
            "concurrency": (1 <= self.concurrency <= 1024, "1 to 1024"),
            "queue": (0 <= self.queue <= 100_000, "0 to 100000"),
            "timeout": (0 < self.timeout <= 3600, "seconds above 0, at most 3600"),
            "drain": (0 <= self.drain <= 3600, "seconds, 0 (cut open streams off) to 3600"),
            "auto_parameters": (
                re.fullmatch(r"(https?://[^\s/@?#]+(/[^\s?#]*)?)?", self.auto_parameters) is not None,
                "nothing for off, or a Prometheus' address such as http://127.0.0.1:9090",
            ),
            "auto_prefer": (self.auto_prefer in {"model", "long-text"}, "model or long-text"),
            "auto_control": (0.01 <= self.auto_control <= 0.5, "a share, 0.01 to 0.5"),
            "max_text": (1 <= self.max_text <= 1_000_000, "1 to 1000000 characters"),
        }
        for name, (ok, allowed) in checks.items():
            if not ok:
                variable = "--port" if name == "port" else PREFIX + name.upper()
                raise ServiceSettingsError(f"{variable}={getattr(self, name)!r} is not valid: allowed is {allowed}")

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> ServiceSettings:
        """From the environment; ``overrides`` (from the command line) win.

        Raises:
            ServiceSettingsError: naming the variable and what is allowed.
        """
        env = os.environ if environ is None else environ
        known = {PREFIX + spec.name.upper(): spec for spec in fields(cls) if spec.name not in {"host", "port"}}
        values = {
            spec.name: _parse(variable, str(spec.type), env[variable])
            for variable, spec in known.items()
            if variable in env
        }
        if LISTEN in env:
            values["host"], values["port"] = _listen(env[LISTEN])
        values.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**values)


def _listen(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"\s*(\[[0-9A-Fa-f:]+\]|[^\s:\[\]]+):(\d{1,5})\s*", text)
    if not match or int(match.group(2)) > 65535:
        raise ServiceSettingsError(f"{LISTEN}={text!r} is not valid: allowed is host:port (for example 0.0.0.0:8000)")
    return match.group(1).strip("[]"), int(match.group(2))


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.strip().lower()]


def _parse(variable: str, kind: str, text: str) -> Any:
    if kind == "Faults":
        try:
            return Faults.from_mapping(json.loads(text))
        except ValueError as error:
            raise ServiceSettingsError(f"{variable} is not valid: {error}") from None
    converters: dict[str, tuple[Any, str]] = {
        "int": (int, "a whole number"),
        "float": (float, "a number"),
        "str": (str, "text"),
        "bool": (_boolean, "true or false"),
    }
    convert, allowed = converters[kind]
    try:
        return convert(text)
    except (ValueError, KeyError):
        raise ServiceSettingsError(f"{variable}={text!r} is not valid: allowed is {allowed}") from None
