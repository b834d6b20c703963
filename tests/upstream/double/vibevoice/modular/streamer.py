"""One queue a sample, a stop signal at its end, and an iterator that waits at the other side."""

from queue import Queue


class AudioStreamer:
    def __init__(self, batch_size, stop_signal=None, timeout=None):
        self.batch_size = batch_size
        self.stop_signal = stop_signal
        self.timeout = timeout
        self.audio_queues = [Queue() for _ in range(batch_size)]
        self.finished_flags = [False] * batch_size

    def put(self, audio_chunks, sample_indices):
        for row, sample in enumerate(sample_indices):
            index = sample.item()
            if index < self.batch_size and not self.finished_flags[index]:
                self.audio_queues[index].put(audio_chunks[row].detach().cpu(), timeout=self.timeout)

    def end(self, sample_indices=None):
        wanted = range(self.batch_size) if sample_indices is None else [int(sample) for sample in sample_indices]
        for index in wanted:
            if not self.finished_flags[index]:
                self.audio_queues[index].put(self.stop_signal, timeout=self.timeout)
                self.finished_flags[index] = True

    def get_stream(self, sample_idx):
        return AudioSampleIterator(self, sample_idx)


class AudioSampleIterator:
    def __init__(self, streamer, sample_idx):
        self.streamer = streamer
        self.sample_idx = sample_idx

    def __iter__(self):
        return self

    def __next__(self):
        chunk = self.streamer.audio_queues[self.sample_idx].get(timeout=self.streamer.timeout)
        if chunk is self.streamer.stop_signal:
            raise StopIteration
        return chunk
