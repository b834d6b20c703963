"""``OTEL_CONFIG_FILE``: what the file says of us, and the metrics pages that it opens.

The SDK (1.45 and later, with opentelemetry-configuration) configures itself by this file and reads few variables then.
A file that cannot be read is the SDK's to report: it configures nothing.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "OTEL_CONFIG_FILE"
KEY = "instrumentation/development.python.vibevoice"
#: The pull reader of declarative configuration, and its port and host where the file names none.
PULL, PROMETHEUS, PORT, HOST = "pull", "prometheus/development", 9464, "localhost"


@dataclass(frozen=True, slots=True)
class Section:
    """The file's section on VibeVoice."""

    options: Mapping[str, Any] = field(default_factory=dict)
    enabled: bool = True
    where: str = ""  # file and key, for messages


def section(environ: Mapping[str, str]) -> Section:
    """The section of the file that ``environ`` names; an empty one where there is no such file or it is not valid."""
    path = environ.get(VARIABLE)
    if not path:
        return Section()
    instrumentation = getattr(load(path), "instrumentation_development", None)
    options = dict((getattr(instrumentation, "python", None) or {}).get("vibevoice") or {})
    return Section(options, bool(options.pop("enabled", True)), f"{path} {KEY}")


def load(path: str) -> Any | None:
    """The parsed file, its ``${VARIABLES}`` replaced; None where the SDK could not load it either."""
    try:
        from opentelemetry.configuration import load_config_file  # noqa: PLC0415 - an optional part of the SDK
    except ImportError:
        return None
    try:
        return load_config_file(path)
    except Exception:  # noqa: BLE001 - the SDK logs what is wrong with it
        return None


def pages(configuration: Any) -> list[tuple[str, int]]:
    """Host and port of each metrics page that the parsed file opens."""
    readers = getattr(getattr(configuration, "meter_provider", None), "readers", None) or ()
    pulls = (getattr(getattr(reader, PULL, None), "exporter", None) for reader in readers)
    exporters = (getattr(each, "prometheus_development", None) for each in pulls)
    return [(each.host or HOST, each.port or PORT) for each in exporters if each is not None]


def without_pages(path: str) -> str | None:
    """A copy of the file without its pull readers, its ``${VARIABLES}`` left as they stand; None where it has none.

    The copy is readable by this user alone and is removed when this process ends.
    """
    import yaml  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - comes with opentelemetry-configuration

    root: Any = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    readers = _value(_value(root, "meter_provider"), "readers")
    kept = [each for each in getattr(readers, "value", ()) if _value(each, PULL) is None]
    if readers is None or len(kept) == len(readers.value):
        return None
    if kept:
        readers.value[:] = kept
    else:  # a meter provider needs a reader; without the provider the SDK measures nothing
        root.value[:] = [pair for pair in root.value if pair[0].value != "meter_provider"]
    handle, copy = tempfile.mkstemp(".yaml", "vibevoice-otel-")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(yaml.serialize(root))
    atexit.register(_remove, copy, os.getpid())
    return copy


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked child leaves it to the process that made it
        Path(path).unlink(missing_ok=True)


def _value(node: Any, key: str) -> Any | None:
    """The node below ``key`` of a mapping."""
    pairs = node.value if isinstance(getattr(node, "value", None), list) else ()
    return next((value for name, value in (p for p in pairs if isinstance(p, tuple)) if name.value == key), None)
