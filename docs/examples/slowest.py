"""A sink: the slowest first audio of each voice so far."""

from vibevoice_otel import semconv
from vibevoice_otel.recording.records import Batch


class Slowest:
    """Reads every finished batch of records, on the recorder's thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def consume(self, batch: Batch) -> None:
        first = batch.operation(semconv.FIRST_CHUNK)
        if first is not None:
            voice = batch.labels.voice
            self.seconds[voice] = max(first.seconds, self.seconds.get(voice, 0.0))
