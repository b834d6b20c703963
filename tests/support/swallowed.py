"""Failures of ours that production swallows: what tests/conftest.py fails a test for."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vibevoice_otel
from vibevoice_otel import failures
from vibevoice_otel.sdk import capability

#: The package whose failures are looked for.
OWN, PACKAGE = "vibevoice_otel", str(Path(vibevoice_otel.__file__).parent)

#: How failures.py begins its lines.
FAILED = "telemetry failed in "


class Swallowed(logging.Handler):
    """Collects the failures that production swallows: those of failures.py, and any other that a logger of ours tells
    with an exception or its stack, or a logger of OpenTelemetry with an exception that passed our code.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.met: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        own = record.name.split(".")[0] == OWN
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            stack = "".join(traceback.format_exception(*record.exc_info))
            if own or PACKAGE in stack:
                self.met.append(f"{record.getMessage()}\n{stack}")
        elif own and (failures.HIDDEN in record.getMessage() or record.name == capability.__name__):
            self.met.append(record.getMessage())

    def failed(self, where: str, error: BaseException) -> None:
        self.met.append(f"{where}\n{''.join(traceback.format_exception(error))}")

    def read(self, log: str) -> None:
        """What the log of a process that a test has started says of such failures."""
        self.met.extend(line for line in log.splitlines() if FAILED in line)

    def take(self) -> list[str]:
        met, self.met = self.met, []
        return met

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen from now on; what came before is nobody's."""
        self.take()
        loggers, tell = [logging.getLogger(name) for name in (OWN, "opentelemetry")], failures.warn_once

        def warn_once(where: str, error: BaseException) -> None:
            self.failed(where, error)
            tell(where, error)

        failures.warn_once = warn_once
        for each in loggers:
            each.addHandler(self)
        try:
            yield
        finally:
            failures.warn_once = tell
            for each in loggers:
                each.removeHandler(self)


#: Of the test that runs.
swallowed = Swallowed()
