"""The attempts of one load: a service may ask for an attention that is not installed, and load again without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vibevoice_otel import semconv
from vibevoice_otel.recording.records import AttributeValue

#: What each attempt of the load that is being timed failed with, None where it did not; None outside of any load.
attempts: ContextVar[list[str | None] | None] = ContextVar("vibevoice_otel_attempts", default=None)


@contextmanager
def load() -> Iterator[list[str | None]]:
    """Collect the attempts that are made in the block."""
    made: list[str | None] = []
    token = attempts.set(made)
    try:
        yield made
    finally:
        attempts.reset(token)


def told(made: list[str | None]) -> dict[str, AttributeValue]:
    """Attributes of a load that was tried more than once: how often, and what the attempts failed with."""
    if len(made) < 2:
        return {}
    errors = ",".join(dict.fromkeys(error for error in made if error is not None))
    return {semconv.LOAD_ATTEMPTS.key: len(made), **({semconv.LOAD_ATTEMPT_ERRORS.key: errors} if errors else {})}
