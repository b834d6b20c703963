"""The last export: whatever ends the process, requests that ended are exported, and those that are open end as
``error``, ``shutdown``.

uvicorn stops gracefully on SIGTERM and then raises the signal again, which ends the process without atexit. So its
shutdown is hooked, and a handler of our own waits on SIGTERM where no other is set. Together they wait no longer than
the setting, whatever the Collector, the event loop's executor and the model's threads do.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from vibevoice_otel import failures, forking
from vibevoice_otel.hooks.hooks import Hooks

if TYPE_CHECKING:
    from vibevoice_otel.recording.recorder import Recorder

logger = logging.getLogger(__name__)
NAME = "guard"
LATE = (
    "the last export has not ended within %g s (VIBEVOICE_OTEL_SHUTDOWN_TIMEOUT): what %s still holds is lost, as the "
    "process ends without another try; see whether the Collector answers"
)
#: Seconds after a last flush within which another belongs to the same end of the process.
SAME_END = 1.0


@contextlib.contextmanager
def _survived() -> Iterator[None]:
    """The process goes on, or ends, whatever telemetry meets inside: that is logged."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        logger.warning("the last export failed\n%s", failures.stack(error))


def _beside(work: Callable[[], object]) -> threading.Thread:
    """Have ``work`` done on a thread of its own."""

    def run() -> None:
        with _survived():
            work()

    thread = threading.Thread(target=run, name="vibevoice-otel-last-export", daemon=True)
    thread.start()
    return thread


class LastExport:
    """Flushes the recorder and the providers, at most once at a time and within a bounded time.

    Args:
        recorder: the recorder, None while nothing has been recorded.
        providers: the tracer and the meter provider, asked for when the time has come.
        timeout: seconds that a flush may take.
    """

    def __init__(
        self, recorder: Callable[[], Recorder | None], providers: Callable[[], tuple[object, ...]], timeout: float
    ) -> None:
        self._recorder = recorder
        self._providers = providers
        self._timeout = timeout
        forking.begin(self._renew)
        self._ending = float("-inf")  # when the process's last flush must be over

    def _renew(self) -> None:
        self._once = threading.Lock()
        self._flushed: list[tuple[Any, threading.Thread]] = []  # at the last end: providers, and what flushes each

    def used(self) -> bool:
        """Whether anything has been recorded in this very process."""
        recorder = self._recorder()
        return recorder is not None and recorder.alive

    def closing(self, *, now_closing: bool) -> None:
        """Requests that are cut off from now on (or no longer) are cut off by the service, not by the listener."""
        recorder = self._recorder()
        if recorder is not None:
            recorder.closing = now_closing

    def flush(self, *, end_open: bool) -> bool:
        """Export what has ended, with ``end_open`` what is open too; False when the time ran out.

        Runs on threads of its own: the caller may hold any lock, and force_flush of the SDK's processors heeds no
        timeout.
        """
        deadline = self._deadline(end_open=end_open)
        if not self._once.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return False
        try:
            (ended,) = self._in_time([lambda: self._end(end_open=end_open)], deadline)
            if ended.is_alive():
                return False
            providers = [each for each in self._providers() if hasattr(each, "force_flush")]
            left = max(1, int((deadline - time.monotonic()) * 1000))
            threads = self._in_time([partial(each.force_flush, left) for each in providers], deadline)
            if end_open:
                self._flushed = list(zip(providers, threads, strict=True))
            return not any(each.is_alive() for each in threads)
        finally:
            self._once.release()

    def leave_late(self) -> None:
        """At the process's exit: a provider whose last flush has not come back by now is not waited for again. Its own
        handler of the exit would wait, for up to half a minute more.
        """
        late = [provider for provider, thread in self._flushed if thread.is_alive()]
        if late:
            logger.warning(LATE, self._timeout, ", ".join(type(each).__name__ for each in late))
        for provider in late:
            atexit.unregister(getattr(provider, "shutdown", None))  # type: ignore[arg-type]

    async def flush_beside(self, *, end_open: bool) -> None:
        """:meth:`flush`, awaited on a thread of its own: a busy or wedged executor of the loop's cannot hold
        it back.
        """
        import asyncio  # noqa: PLC0415 - slow to import, and a program that awaits has it

        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def run() -> None:
            try:
                self.flush(end_open=end_open)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has not waited, and is closed
                    loop.call_soon_threadsafe(done.set)

        _beside(run)
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(done.wait(), self._timeout)

    def _deadline(self, *, end_open: bool) -> float:
        """When this flush must be over. An end that is told twice (uvicorn's,
        then the signal's) has the time of one.
        """
        deadline = time.monotonic() + self._timeout
        if end_open:
            self._ending = min(deadline, self._ending) if time.monotonic() < self._ending + SAME_END else deadline
            return self._ending
        return deadline

    def _end(self, *, end_open: bool) -> None:
        recorder = self._recorder()
        if recorder is None:
            return
        recorder.flush(self._timeout)
        if end_open:
            recorder.end_open()

    @staticmethod
    def _in_time(work: list[Callable[[], object]], deadline: float) -> list[threading.Thread]:
        """Do all of it side by side until the deadline; a thread that still works then is late."""
        threads = [_beside(each) for each in work]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return threads


def hook_uvicorn(hooks: Hooks, module: ModuleType, export: LastExport) -> None:
    """Hook uvicorn's Server.shutdown."""
    part = "the export of what is left when uvicorn stops"
    hooks.replace_in(module, "Server", "shutdown", partial(_shutdown, export), part)


async def _shutdown(export: LastExport, original: Callable[..., Any], server: Any, /, *args: Any, **kwargs: Any) -> Any:
    with _survived():
        export.closing(now_closing=True)
    try:
        return await original(server, *args, **kwargs)
    finally:
        # Told by a signal the process is about to end; stopped by its own program it may go on, and serve again.
        ending = bool(getattr(server, "_captured_signals", ()))
        with _survived():
            await export.flush_beside(end_open=ending)
        if not ending:
            with _survived():
                export.closing(now_closing=False)


def hook_multiprocessing(hooks: Hooks, util: ModuleType, export: LastExport) -> None:
    """Have the last export of a child that ``multiprocessing`` forked: it ends by ``os._exit``, and atexit never runs.

    Its own finalizers do run. They can be registered once the child has begun, for it forgets its parent's.
    """

    def begin(each: LastExport) -> None:
        def finish() -> None:
            if each.used():
                each.flush(end_open=True)

        util.Finalize(None, finish, exitpriority=0)

    active = [True]
    util.register_after_fork(export, lambda each: begin(each) if active else None)  # holds the export weakly
    hooks.on_undo(active.clear)


class SignalGuard:
    """Where SIGTERM would end the process at once, the last export comes first.

    A handler that the program sets later replaces ours. One that it had set before is left alone: it ends by other
    ways.
    """

    def __init__(self, export: LastExport) -> None:
        self._export: LastExport | None = export
        self._pid = os.getpid()

    def install(self, hooks: Hooks) -> None:
        """Put the handler in, where it is wanted and this is the main thread."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._handle)
            hooks.on_undo(self._remove)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        with _survived():
            export = self._export
            if export is not None and (os.getpid() == self._pid or export.used()):
                export.flush(end_open=True)  # a forked helper has nothing to tell, and must not linger
        signal.raise_signal(number)

    def _remove(self) -> None:
        self._export = (
            None  # from another thread than the main one the handler cannot be taken out; it then does nothing
        )
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
