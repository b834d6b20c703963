"""Several worker processes and ``OTEL_METRICS_EXPORTER=prometheus``: one port cannot serve the pages of all.

Under uvicorn's --workers the launcher fails in every worker, because the parent holds the port; under gunicorn the workers inherit a
page that only the parent serves, and the parent speaks to nobody. So the parent, before its first worker, gives up the page, takes the
exporter from what the workers inherit, and says so once. With --reload there is one worker, and the parent only hands over the port.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any

from vibevoice_otel.hooks.hooks import Hooks

logger = logging.getLogger(__name__)
VARIABLE = "OTEL_METRICS_EXPORTER"
EXPORTER = "prometheus"
PART = "metrics of several workers"


def attach(hooks: Hooks) -> None:
    """Hook what starts workers, as it is imported."""
    uvicorn, gunicorn = (
        "with several worker processes",
        "under gunicorn, whose workers are copies of the process that serves the page",
    )
    for module, owner, name, prepare in (
        ("uvicorn.supervisors.multiprocess", "Multiprocess", "run", lambda: _give_up(uvicorn)),
        ("uvicorn.supervisors.basereload", "BaseReload", "run", _hand_over),
        ("gunicorn.arbiter", "Arbiter", "start", lambda: _give_up(gunicorn)),
    ):
        hooks.on_import(module, functools.partial(_hook, hooks, owner, name, prepare))


def _hook(hooks: Hooks, owner: str, name: str, prepare: Callable[[], object], module: ModuleType) -> None:
    found = hooks.owner(module, owner, PART)
    if found is not None:
        hooks.replace(found, name, lambda original: _before(prepare, original), PART)


def _before(prepare: Callable[[], object], original: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if EXPORTER in chosen():
            prepare()
        return original(*args, **kwargs)

    return run


def chosen() -> list[str]:
    """The metrics exporters that the environment names."""
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _give_up(why: str) -> None:
    rest = [name for name in chosen() if name != EXPORTER]
    before, os.environ[VARIABLE] = os.environ[VARIABLE], ",".join(rest) or "none"
    close_page()
    logger.error(
        "%s=%s does not work %s: one port cannot serve the metrics of all, so there is no /metrics. "
        "Set %s=otlp and let a Collector offer them to Prometheus, or run uvicorn with one worker.", VARIABLE, before, why, VARIABLE,
    )  # fmt: skip


def _hand_over() -> None:
    """The one worker shall have the port, and not Python's resource tracker, which the launcher instruments as well."""
    close_page()
    before, os.environ[VARIABLE] = os.environ[VARIABLE], "none"
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ[VARIABLE] = before


def close_page() -> int:
    """Close the SDK's metrics page in this process (its reader keeps no hold on it); returns how many there were."""
    exposition = sys.modules.get("prometheus_client.exposition")
    kind = getattr(exposition, "ThreadingWSGIServer", None)
    port = int(os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT") or 9464)
    if kind is None:
        return 0
    pages: list[Any] = [each for each in gc.get_objects() if issubclass(type(each), kind) and each.server_port == port]
    for page in pages:
        page.shutdown()
        page.server_close()
    return len(pages)
