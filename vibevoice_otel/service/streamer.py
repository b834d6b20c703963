"""The audio queue between the generation thread and the socket."""

from __future__ import annotations

import time
from queue import Empty, Queue

import torch

STOP = None


class AudioStreamer:
    """The queue of one request. ``put`` and ``end`` are called by the generation thread; an AudioSampleIterator reads.

    Args:
        deadline: time.monotonic() at which the reader gives up, None for never.

    Attributes:
        audio_queues: as upstream's has it, a queue for each sample of the batch; a request is a batch of one.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.audio_queues: list[Queue[torch.Tensor | None]] = [Queue()]

    def put(self, audio: torch.Tensor) -> None:
        """Queue ``audio`` (any shape), on the CPU."""
        self.audio_queues[0].put(audio.detach().cpu())

    def end(self) -> None:
        """Tell the reader that no more comes."""
        self.audio_queues[0].put(STOP)


class AudioSampleIterator:
    """The chunks of an AudioStreamer, as they come."""

    def __init__(self, streamer: AudioStreamer) -> None:
        self.streamer = streamer

    def __iter__(self) -> AudioSampleIterator:
        return self

    def __next__(self) -> torch.Tensor:
        """The next chunk.

        Raises:
            StopIteration: at the end.
            TimeoutError: at the streamer's deadline.
        """
        deadline = self.streamer.deadline
        wait = None if deadline is None else deadline - time.monotonic()
        try:
            if wait is not None and wait <= 0:  # late is late, even with chunks at hand
                raise Empty
            chunk = self.streamer.audio_queues[0].get(timeout=wait)
        except Empty:
            raise TimeoutError("the request took longer than the service allows") from None
        if chunk is STOP:
            raise StopIteration
        return chunk
