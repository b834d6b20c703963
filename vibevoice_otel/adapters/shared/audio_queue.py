"""The audio queue (AudioStreamer, AudioSampleIterator): its backlog, and what is read from it.

A streamer is made where its request is served, and carries that request to the thread that generates and to the one
that reads.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from vibevoice_otel.adapters.shared import links
from vibevoice_otel.adapters.shared.audio import note_chunk
from vibevoice_otel.hooks.hooks import Hooks
from vibevoice_otel.recording.clock import now
from vibevoice_otel.recording.timeline import Timeline, thread


def hook_streamer(hooks: Hooks, module: ModuleType) -> None:
    """Hook a module with AudioStreamer and AudioSampleIterator: the audio queue and what is read from it."""
    streamer = hooks.owner(module, "AudioStreamer", "the audio queue's backlog")
    iterator = hooks.owner(module, "AudioSampleIterator", "audio defects, leading silence and audio seconds")
    if streamer is not None:
        hooks.replace(streamer, "__init__", _streamer_init, "the audio queue's backlog")
        hooks.note(
            streamer,
            "put",
            "frames put in the audio queue",
            _put_begins,
            _has_put,
            links.of,
        )
    if iterator is not None:
        hooks.note(
            iterator, "__next__", "audio defects, leading silence and audio seconds", None, _chunk_taken, _of_iterator
        )


def _streamer_init(original: Callable[..., Any], streamer: Any, /, *args: Any, **kwargs: Any) -> None:
    original(streamer, *args, **kwargs)
    timeline = thread.timeline or links.around()
    if timeline is not None:
        links.mark(streamer, timeline)
        queues = getattr(streamer, "audio_queues", ())
        timeline.backlog = lambda: max((each.qsize() for each in queues), default=0)


def _put_begins(timeline: Timeline, _args: Any, _kwargs: Any) -> Any:
    timeline.last_progress = at = now()
    timeline.puts.append(at)
    run = thread.run
    return None if run is None else run.device


def _has_put(_timeline: Timeline, device: Any, _result: Any) -> None:
    device.seen()  # to queue the audio it was moved to the CPU, which waited for it


def _of_iterator(iterator: Any) -> Timeline | None:
    return links.of(getattr(iterator, "streamer", None))


def _chunk_taken(timeline: Timeline, _token: Any, chunk: Any) -> None:
    if chunk is not None:
        note_chunk(timeline, chunk)
