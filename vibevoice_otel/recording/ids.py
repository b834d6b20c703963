"""Span ids, many at a time."""

from __future__ import annotations

import threading

import numpy as np
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from vibevoice_otel import forking
from vibevoice_otel.recording.records import Ids

#: Drawn at once: a draw costs as much as a thousand ids.
POOL = 4096


class RandomIds:
    """Uniform 64-bit ids from numpy's generator, seeded by the operating system and again after a fork. Safe for any
    thread.
    """

    def __init__(self) -> None:
        forking.begin(self._seed)

    def _seed(self) -> None:
        self._lock = threading.Lock()
        self._generator = np.random.default_rng()
        self._pool: Ids = np.empty(0, np.uint64)
        self._next = 0

    def take(self, count: int) -> Ids:
        with self._lock:
            first, self._next = self._next, self._next + count
            if self._next > len(self._pool):
                # Raw words are 30 times cheaper than bounded integers; zero, once in 2**64, is no id.
                self._pool = np.maximum(self._generator.bit_generator.random_raw(POOL + count), np.uint64(1))
                first, self._next = 0, count
            taken: Ids = self._pool[first : first + count].copy()  # a view would keep the whole pool alive
            return taken


class GeneratorIds:
    """Ids from the operator's own generator, one call each."""

    def __init__(self, generator: IdGenerator) -> None:
        self._generator = generator

    def take(self, count: int) -> Ids:
        return np.array([self._generator.generate_span_id() for _ in range(count)], np.uint64)


def source(generator: IdGenerator | None) -> RandomIds | GeneratorIds:
    """Numpy's ids unless the operator configured another generator, which is then honoured."""
    if generator is None or type(generator) is RandomIdGenerator:
        return RandomIds()
    return GeneratorIds(generator)
