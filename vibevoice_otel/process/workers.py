"""Several worker processes and a metrics page: one port cannot serve the pages of all.

Under uvicorn's and hypercorn's --workers the launcher fails in every worker, because the parent holds the port; under
gunicorn and granian the workers inherit a page that only the parent serves, and the parent serves no request. So the
parent, before its first worker, gives up the page, takes it from what the workers inherit, and says so once. Where
there is one worker in a process of its own (--reload, hypercorn) the parent only hands over the port. A page whose port
another program holds is given up as well (:func:`unless_free`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any

from vibevoice_otel import config_file
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.process import metrics_page

logger = logging.getLogger(__name__)
VARIABLE = "OTEL_METRICS_EXPORTER"
EXPORTER = "prometheus"
PORT = "OTEL_EXPORTER_PROMETHEUS_PORT"
PART = "metrics of several workers"
SEVERAL = "with several worker processes"
COPIES = "under %s, whose workers are copies of the process that serves the page"


def attach(hooks: Hooks) -> None:
    """Hook what starts workers, as it is imported."""
    for module, owner, name, prepare in (
        ("uvicorn.supervisors.multiprocess", "Multiprocess", "run", lambda *_: _give_up(SEVERAL)),
        ("uvicorn.supervisors.basereload", "BaseReload", "run", _hand_over),
        ("gunicorn.arbiter", "Arbiter", "start", lambda *_: _give_up(COPIES % "gunicorn")),
        ("hypercorn.run", None, "run", _hypercorn),
        ("granian.server.mp", "MPServer", "startup", _granian),
    ):
        hooks.on_import(module, functools.partial(_hook, hooks, owner, name, prepare))


def _hook(hooks: Hooks, owner: str | None, name: str, prepare: Callable[..., object], module: ModuleType) -> None:
    found = module if owner is None else hooks.owner(module, owner, PART)
    if found is not None:
        hooks.replace(found, name, functools.partial(_before, prepare), PART)


def _before(prepare: Callable[..., object], original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    if EXPORTER in chosen() or os.environ.get(config_file.VARIABLE):
        prepare(*args)
    return original(*args, **kwargs)


def _hypercorn(config: Any) -> None:
    """--workers 0 serves in this very process; one worker is a process of its own."""
    if config.workers == 1:
        _hand_over()
    elif config.workers > 1:
        _give_up(SEVERAL)


def _granian(server: Any, *_: object) -> None:
    if multiprocessing.get_start_method() == "fork":
        _give_up(COPIES % "granian")
    elif server.workers > 1:
        _give_up(SEVERAL)
    else:
        _hand_over()


def chosen() -> list[str]:
    """The metrics exporters that the environment names."""
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _give_up(why: str) -> None:
    if metrics_page.close_all():
        take_from_environment(f"does not work {why}: one port cannot serve the metrics of all")


def take_from_environment(because: str) -> None:
    """Take the page from what this process and its children are configured by, and say so."""
    path = os.environ.get(config_file.VARIABLE)
    if path:
        where, before = config_file.VARIABLE, path
        os.environ[where] = config_file.without_pages(path) or path
        mend = "Give its meter_provider a periodic reader with an otlp exporter"
    else:
        where, before = VARIABLE, os.environ.get(VARIABLE, "")
        os.environ[where] = ",".join(name for name in chosen() if name != EXPORTER) or "none"
        mend = f"Set {VARIABLE}=otlp"
    logger.error(
        "%s=%s %s, so there is no /metrics. %s and let a Collector offer the metrics to Prometheus, or run one worker "
        "of uvicorn. Traces and other exporters go on.", where, before, because, mend,
    )  # fmt: skip


def _hand_over(*_: object) -> None:
    """The one worker shall have the port, and not Python's resource tracker, which the launcher instruments as well."""
    metrics_page.close_all()
    with _configured(**{VARIABLE: "none", config_file.VARIABLE: ""}):
        resource_tracker.ensure_running()


@contextlib.contextmanager
def _configured(**variables: str) -> Iterator[None]:
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def unless_free() -> None:
    """Give up a page whose port another program holds: the SDK would raise, and the launcher then instruments nothing
    at all.
    """
    path = os.environ.get(config_file.VARIABLE)
    if path:
        pages = config_file.pages(config_file.load(path))
    elif EXPORTER in chosen():
        port = os.environ.get(PORT) or "9464"
        if not port.isdigit():  # tcp://...: Kubernetes' link to a Service called otel-exporter-prometheus
            del os.environ[PORT]
            logger.warning("%s=%s is no port and is left out; /metrics is at 9464.", PORT, port)
            port = "9464"
        pages = [(os.environ.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost", int(port))]
    else:
        return
    for host, port_number in pages:
        if not free(host, port_number):
            take_from_environment(f"does not work: port {port_number} of {host} is taken by another program")
            return


def free(host: str, port: int) -> bool:
    """Whether a server can listen there; asked by listening, and released at once."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as http.server does
            probe.bind(address)
    except OSError:
        return False
    return True
