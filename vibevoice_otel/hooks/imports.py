"""One import hook a module, for the life of the process (wrapt takes none back): it calls what waits for the module
by then.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType

from wrapt.importer import register_post_import_hook  # type: ignore[import-untyped]

Attach = Callable[[ModuleType], object]
_waiting: dict[str, list[Attach]] = {}


def when_imported(module: str, attach: Attach) -> Callable[[], object]:
    """Call ``attach`` with ``module`` as soon as that is imported; now, if it is. Returns what takes the wish back."""
    loaded = sys.modules.get(module)
    if loaded is not None and not getattr(getattr(loaded, "__spec__", None), "_initializing", False):
        attach(loaded)
        return lambda: None
    known = module in _waiting
    _waiting.setdefault(module, []).append(attach)
    if not known:
        register_post_import_hook(functools.partial(_imported, module), module)
    return functools.partial(_forget, module, attach)


def _imported(name: str, module: ModuleType) -> None:
    for attach in _waiting.pop(name, []):
        attach(module)


def _forget(module: str, attach: Attach) -> None:
    if attach in _waiting.get(module, ()):
        _waiting[module].remove(attach)
