"""What the recorder's thread takes of the processor for a frame, where eight streams share one interpreter at the pace
of a card's slow host: ``python -m benchmarks.own_threads`` (a minute).

The model and its card take no time (the card is made up), so that the thread wakes and works beside nothing; frames are
as far apart as an H100's were (benchmarks.card, its part ``cost``).
"""

from __future__ import annotations

import statistics
import threading
import time

from benchmarks.counted import DryCard
from benchmarks.replay import Model, close_request, deliver, open_request
from benchmarks.telemetry import observed
from vibevoice_otel.recording.device.cuda import CudaDevice
from vibevoice_otel.recording.device.notes import StreamNotes
from vibevoice_otel.recording.timeline import bound

STREAMS, STEPS = 8, 10
#: Seconds from a stream's frame to its next one.
PACE = 2.4
SHORT, LONG, ROUNDS = 2, 6, 3


def seconds(frames: int) -> float:
    """Of processor that the recorder's thread took for so many frames of each stream."""
    stack, first = observed(), Model.observed()
    recorder, device = stack.recorder, CudaDevice(DryCard, 0)

    def speak(number: int) -> None:
        timeline, model = open_request(recorder, STEPS), first.another()
        timeline.runs[0].device = notes = StreamNotes(timeline.runs[0], device)
        notes.begin()
        with bound(timeline):
            model.begin()
            time.sleep(PACE * number / STREAMS)
            for _ in range(frames):
                model.frame(STEPS)
                deliver(timeline, model)
                time.sleep(PACE)
        notes.end()
        close_request(recorder, timeline)

    streams = [threading.Thread(target=speak, args=(number,)) for number in range(STREAMS)]
    for each in streams:
        each.start()
    for each in streams:
        each.join()
    recorder.flush(60)
    thread = recorder._thread
    assert thread is not None
    assert thread.ident is not None
    taken = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    stack.shutdown()
    return taken


def main() -> None:
    seconds(1)  # what the first loads is no part of it
    found = [(seconds(LONG) - seconds(SHORT)) / (LONG - SHORT) / STREAMS for _ in range(ROUNDS)]
    print(
        f"the recorder's thread, a frame: {statistics.median(found) * 1e6:,.0f} us of processor "
        f"({min(found) * 1e6:,.0f} .. {max(found) * 1e6:,.0f}, {ROUNDS} rounds)"
    )


if __name__ == "__main__":
    main()
