"""Putting hooks into foreign code, and taking them out again.

A hook attaches when the module that holds it is imported, so nothing heavy is imported on our account. A function that
an upstream release renamed costs its own part and one warning, never the service.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from vibevoice_otel import failures, forking
from vibevoice_otel.failures import P, T
from vibevoice_otel.hooks.imports import when_imported
from vibevoice_otel.hooks.wrappers import After, Before, Find, Here, guarded, noted

logger = logging.getLogger(__name__)
_ABSENT = object()
#: Attribute of a function that stands in another's place: its :class:`_Slot`.
MARK = "__vibevoice_otel__"
#: Parameters of an ASGI application, behind the object that it is a method of.
ASGI = ("scope", "receive", "send")
#: Called in the original's place, with the original and then the call's arguments.
Hook = Callable[..., Any]


def _nobody(_what: str, _reason: str, _count: int) -> None:
    """Hears of drops when nothing observes."""


@dataclass(slots=True)
class HookPoint:
    """One function that an adapter wants, and whether it was there. ``vibevoice-otel doctor`` prints these."""

    adapter: str
    where: str  # module.Class.function
    part: str  # what of the telemetry depends on it
    found: bool


class _Slot:
    """What a replacement calls: a hook, or, once that is taken out, nothing but the original.

    A replacement that another library has wrapped stays inside that wrapper when its hook leaves. The next hook for
    that place is put into it.
    """

    def __init__(self, hooks: Hooks, hook: Hook | None, where: str) -> None:
        self._first, self._hook, self._where = hooks, hook, where
        self.hooks: Hooks | None = hooks

    def wrap(self, target: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            hook = self._hook
            return target(*args, **kwargs) if hook is None else hook(target, *args, **kwargs)

        return call

    def wrap_coroutine(self, target: Callable[..., Any]) -> Callable[..., Any]:
        call = self.wrap(target)

        async def replacement(*args: Any, **kwargs: Any) -> Any:
            return await call(*args, **kwargs)

        async def application(owner: Any, /, scope: Any, receive: Any, send: Any) -> None:
            await call(owner, scope, receive, send)

        # uvicorn calls what it serves without arguments: where that raises no TypeError at once, it is a factory.
        is_application = tuple(inspect.signature(target).parameters)[1:] == ASGI
        return functools.wraps(target)(application if is_application else replacement)

    def fill(self, hooks: Hooks, hook: Hook | None) -> None:
        """Serve ``hooks`` from now on. A hot hook was made once, is stateless, and tells its first owner what fails."""
        self.hooks, self._hook, self._first.on_drop = hooks, hook, hooks.on_drop

    def empty(self) -> None:
        self.hooks = self._hook = None
        self._first.on_drop = _nobody

    def failed(self, error: BaseException) -> None:
        failures.failed(self._first.on_drop, self._where, error)


@dataclass(eq=False)
class Hooks:
    """The hooks of one adapter.

    Args:
        adapter: its name, for messages.
        on_drop: told (what, reason, count) when a hook is missing or fails.
        here: says what the calling thread works for; for :meth:`note`.
    """

    adapter: str
    on_drop: Callable[[str, str, int], None]
    here: Here | None = None
    points: list[HookPoint] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)  # whose hooks have been put in
    _undo: list[Callable[[], object]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        forking.renew_in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def on_import(self, module: str, attach: Callable[[ModuleType], object]) -> None:
        """Call ``attach(module)`` as soon as ``module`` is imported (now, if it is)."""

        def imported(loaded: ModuleType) -> None:
            try:
                attach(loaded)
            except Exception:
                self.on_drop("hooks", "attach_error", 1)
                logger.warning(
                    "hooks for %s could not be attached; what they would have measured is missing",
                    module,
                    exc_info=True,
                )
            else:
                self.modules.append(module)

        self._undo.append(when_imported(module, imported))

    def replace(self, owner: Any, name: str, hook: Hook, part: str) -> None:
        """Have each call of ``owner.name`` go to ``hook``, which is given the original and then the call's arguments;
        where there is none, one warning says so.

        What the hook itself raises is counted and logged, and the call goes on without it. A coroutine's sees to that
        itself (:meth:`failed`).

        ``owner`` is a class, a module or an object. A class method's ``original`` takes the class first. Replacing
        twice is harmless, by another adapter too (they share what upstream's models share): the second time does
        nothing.
        """

        def make(original: Callable[..., Any], slot: _Slot) -> Callable[..., Any]:
            if inspect.iscoroutinefunction(original):
                return slot.wrap_coroutine(original)
            return guarded(original, slot.wrap, slot.failed)

        self._put(owner, name, hook, make, part)

    def replace_hot(self, owner: Any, name: str, make: Callable[[Any], Callable[..., Any]], part: str) -> None:
        """:meth:`replace` by ``make(original)``, between which and the caller nothing stands: it sees to its own
        failures.
        """
        self._put(owner, name, None, lambda original, _: functools.wraps(original)(make(original)), part)

    def _put(
        self,
        owner: Any,
        name: str,
        hook: Hook | None,
        make: Callable[[Any, _Slot], Callable[..., Any]],
        part: str,
    ) -> None:
        kind = owner if isinstance(owner, type) else type(owner)
        home = owner.__name__ if isinstance(owner, ModuleType) else f"{kind.__module__}.{kind.__qualname__}"
        where = f"{home}.{name}"
        with self._lock:
            original: Any = getattr(owner, name, None)
            own = vars(owner).get(name, _ABSENT)  # what a class inherits may be hooked for another reason
            slot = getattr(getattr(own, "__func__", own), MARK, None)
            if slot is not None:
                if slot.hooks is None:  # ours of an earlier time, inside another library's wrapper
                    slot.fill(self, hook)
                    self._undo.append(slot.empty)
                return
            found = callable(original)
            self._found(where, part, found=found)
            if not found:
                return
            bind: type[staticmethod[..., Any] | classmethod[Any, ..., Any]] | None = (
                staticmethod if isinstance(own, staticmethod) else None
            )
            if isinstance(owner, type) and getattr(original, "__self__", None) is owner:
                # bound afresh at each call, so that a subclass stays itself
                bind, original = classmethod, original.__func__
            slot = _Slot(self, hook, where)
            replacement = make(original, slot)
            setattr(replacement, MARK, slot)
            setattr(owner, name, bind(replacement) if bind is not None else replacement)
            self._undo += slot.empty, lambda: _restore(owner, name, own, replacement)

    def note(
        self,
        owner: Any,
        name: str,
        part: str,
        before: Before | None,
        after: After | None = None,
        find: Find | None = None,
    ) -> None:
        """Have ``before`` and ``after`` note each call of ``owner.name`` (:func:`wrappers.noted`); else as
        :meth:`replace`.

        For the functions that every frame calls; :meth:`replace` is for those that need more than a note.
        """
        here = self.here
        assert here is not None

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            where = f"{getattr(original, '__module__', '')}.{getattr(original, '__qualname__', name)}"
            return noted(original, before, after, lambda error: self.failed(where, error), here, find)

        self.replace_hot(owner, name, make, part)

    def replace_in(self, module: ModuleType, owner: str, name: str, hook: Hook, part: str) -> None:
        """:meth:`replace` ``name`` of the class ``owner`` of ``module``, where there is one (:meth:`owner`)."""
        found = self.owner(module, owner, part)
        if found is not None:
            self.replace(found, name, hook, part)

    def owner(self, module: ModuleType, name: str, part: str) -> Any | None:
        """The class ``name`` of ``module``; None, with one warning, when there is none."""
        found = getattr(module, name, None)
        if not isinstance(found, type):
            self._found(f"{module.__name__}.{name}", part, found=False)
            return None
        return found

    def _found(self, where: str, part: str, *, found: bool) -> None:
        self.points.append(HookPoint(self.adapter, where, part, found))
        if not found:
            self.on_drop("hooks", "missing", 1)
            newer = "a newer vibevoice-otel may support this release"
            logger.warning("%s is not there, so %s is not measured; everything else is; %s", where, part, newer)

    def failed(self, where: str, error: BaseException) -> None:
        """A hook's own mistake: counted, and logged once for each ``where``."""
        failures.failed(self.on_drop, where, error)

    def attempt(self, where: str, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What ``act`` returns; None where it failed, which is told as by :meth:`failed`."""
        return failures.attempt(self.on_drop, where, act, *args, **kwargs)

    def on_undo(self, restore: Callable[[], object]) -> None:
        """Have ``restore`` called by :meth:`undo`: for what is put in by other means than :meth:`replace`."""
        self._undo.append(restore)

    def undo(self) -> None:
        """Restore every function that was replaced and attach no more.
        One that cannot be restored costs itself alone.
        """
        with self._lock:
            for restore in reversed(self._undo):
                self.attempt(f"taking out a hook of {self.adapter}", restore)
            self._undo.clear()
            self.points.clear()
            self.modules.clear()
            self.on_drop = _nobody


def _restore(owner: Any, name: str, own: object, replacement: Callable[..., Any]) -> None:
    present = vars(owner).get(name)
    if isinstance(present, staticmethod | classmethod):
        present = present.__func__
    if present is not replacement:
        return  # another library wrapped it after us: our wrapper stays inside theirs, and passes on
    if own is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, own)
