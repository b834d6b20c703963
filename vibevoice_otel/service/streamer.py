"""The audio queue between the generation thread and the socket."""

from __future__ import annotations

import time
from collections.abc import Iterable
from queue import Empty, Queue
from typing import Any

import torch

STOP = None


class AudioStreamer:
    """One queue a sample of the batch. ``put`` and ``end`` are called by the generation thread, the iterators read.

    Args:
        batch_size: number of samples generated at once.
        deadline: time.monotonic() at which readers give up, None for never.
    """

    def __init__(self, batch_size: int = 1, deadline: float | None = None) -> None:
        self.batch_size = batch_size
        self.deadline = deadline
        self.audio_queues: list[Queue[torch.Tensor | None]] = [Queue() for _ in range(batch_size)]
        self.finished_flags = [False] * batch_size

    def put(self, audio_chunks: torch.Tensor, sample_indices: Iterable[Any]) -> None:
        """Queue ``audio_chunks[i]`` (any shape) for sample ``sample_indices[i]``, on the CPU."""
        for row, sample in enumerate(sample_indices):
            index = int(sample)
            if index < self.batch_size and not self.finished_flags[index]:
                self.audio_queues[index].put(audio_chunks[row].detach().cpu())

    def end(self) -> None:
        """Tell every reader that no more comes. Idempotent."""
        for index, queue in enumerate(self.audio_queues):
            if not self.finished_flags[index]:
                self.finished_flags[index] = True
                queue.put(STOP)

    def get_stream(self, sample_index: int) -> AudioSampleIterator:
        return AudioSampleIterator(self, sample_index)


class AudioSampleIterator:
    """Chunks of one sample, as they come."""

    def __init__(self, streamer: AudioStreamer, sample_index: int) -> None:
        self.streamer = streamer
        self.sample_index = sample_index

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
            chunk = self.streamer.audio_queues[self.sample_index].get(timeout=wait)
        except Empty:
            raise TimeoutError("the request took longer than the service allows") from None
        if chunk is STOP:
            raise StopIteration
        return chunk
