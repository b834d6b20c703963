"""Marks requests whose speech is suspect, before anything else reads their records."""

from __future__ import annotations

from collections.abc import Iterator

from vibevoice_otel import semconv
from vibevoice_otel.recording.checks.pace import Paces
from vibevoice_otel.recording.records import Batch, Operation
from vibevoice_otel.semconv import Status, Suspect

#: Attribute -> (limit, what lies above it is).
LIMITS = {
    semconv.AUDIO_SILENCE.key: (2.0, Suspect.SILENCE),  # seconds between two sounds: a speaker's pauses are shorter
    semconv.AUDIO_CLIPPED.key: (0.001, Suspect.CLIPPING),  # share of samples at full scale
    semconv.AUDIO_OFFSET.key: (0.01, Suspect.OFFSET),  # constant offset as a share of full scale: -40 dBFS
    semconv.AUDIO_REPEATED.key: (1, Suspect.REPETITION),  # chunks that are the one before over again
}


class Judge:
    """A sink that writes ``vibevoice.speech.suspect`` on a finished request's record."""

    def __init__(self) -> None:
        self._paces = Paces()

    def consume(self, batch: Batch) -> None:
        root = batch.operation(semconv.SYNTHESIZE) if batch.final and not (batch.synthetic or batch.warm_up) else None
        if root is None:
            return
        found = [suspect.value for suspect in self._suspicions(batch, root)]
        if found:
            root.attributes[semconv.SUSPECT.key] = ",".join(found)

    def _suspicions(self, batch: Batch, root: Operation) -> Iterator[Suspect]:
        of = root.attributes
        characters, audio = of.get(semconv.TEXT_LENGTH.key), of.get(semconv.AUDIO_DURATION.key)
        whole = batch.status is Status.SUCCESS and of.get(semconv.FINISH_REASON.key) != semconv.FinishReason.STOPPED
        if whole and isinstance(characters, int) and isinstance(audio, float):
            silence = float(of.get(semconv.LEADING_SILENCE.key, 0.0))
            model = f"{of.get(semconv.GEN_AI_MODEL.key, '')}@{of.get(semconv.MODEL_REVISION.key, '')}"
            verdict = self._paces.judge(batch.labels.voice, model, characters, audio - silence)
            if verdict is not None:
                yield verdict
        for key, (limit, suspect) in LIMITS.items():
            value = of.get(key)
            if isinstance(value, int | float) and value > limit:
                yield suspect
