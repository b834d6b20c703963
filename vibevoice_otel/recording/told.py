"""Tells what asked, while a request was served, how the request ended."""

from __future__ import annotations

from vibevoice_otel.recording.records import Batch


class Told:
    """A sink that hands a request's final records to its ``Used.on_end``. It stands behind the judge of speech."""

    def consume(self, batch: Batch) -> None:
        if batch.on_end is not None and batch.final:
            batch.on_end(batch)
