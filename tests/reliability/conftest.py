"""Services and receivers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .harness import Service, Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    receiver = Sink()
    yield receiver
    receiver.close()


@pytest.fixture
def start(sink: Sink) -> Iterator[Callable[..., Service]]:
    """Start a service with environment variables: ``start(OTEL_TRACES_SAMPLER="always_off", command=(...))``."""
    running: list[Service] = []

    def begin(*, command: tuple[str, ...] = (), port: int | None = None, **environment: str) -> Service:
        more = {"port": port} if port is not None else {}
        service = Service(sink, environment, command, **more)  # type: ignore[arg-type]
        running.append(service)
        return service

    yield begin
    for service in running:
        service.close()
