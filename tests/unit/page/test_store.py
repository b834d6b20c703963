"""The page's memory of finished requests: bounded, and true to the records."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.support.builders import add_frame, assembly, finish, request
from vibevoice_otel import semconv
from vibevoice_otel.page import rows
from vibevoice_otel.page.store import Store
from vibevoice_otel.recording.records import Batch, Operation

PLENTY = 64 * 1024 * 1024


def numbered(number: int, frames: int = 2) -> Batch:
    batch = finish(request(frames=frames))
    return dataclasses.replace(batch, request=number, trace_id=1000 + number)


def test_the_ring_keeps_the_latest_requests() -> None:
    """Past ``max_requests`` the oldest goes first."""
    store = Store(max_requests=3, max_bytes=PLENTY)
    for number in range(5):
        store.consume(numbered(number))
    assert [each["number"] for each in store.summaries()] == [2, 3, 4]
    assert store.find("1") is None
    assert store.version == 5


def test_the_ring_keeps_within_its_bytes() -> None:
    """Large requests push older ones out before the count is reached; the latest always stays."""
    store = Store(max_requests=1000, max_bytes=40_000)
    for number in range(20):
        store.consume(numbered(number, frames=20))
    kept = [each["number"] for each in store.summaries()]
    assert kept[-1] == 19
    assert 1 <= len(kept) < 10


def test_a_request_is_found_by_number_and_by_trace() -> None:
    """A browser knows its trace id before the request has a number here."""
    store = Store(10, PLENTY)
    store.consume(numbered(7))
    kept = store.find(f"{1007:032x}")
    assert kept is not None
    assert kept is store.find("7")
    assert store.find("nonsense") is None


def test_a_drained_stream_is_one_request() -> None:
    """Batches of one long stream add up, and it is in the list once it has ended."""
    timeline = request(frames=4)
    work = assembly(timeline)
    store = Store(10, PLENTY)
    drained = work.drain()
    assert drained is not None
    store.consume(drained)
    assert store.summaries() == []
    assert timeline.web_closed is not None
    store.consume(work.finish(end=timeline.web_closed))
    (summary,) = store.summaries()
    kept = store.find("1")
    assert kept is not None
    assert len(kept.batches) == 2
    assert summary["frames"] == 4


def test_an_endless_stream_lets_its_oldest_insides_go() -> None:
    """One stream of hours neither fills the store nor vanishes: what is let go is counted."""
    timeline = request(frames=2, steps=20)
    work = assembly(timeline)
    store = Store(10, max_bytes=400_000)
    at = 10_000_000_000
    for _ in range(40):
        for _ in range(30):
            add_frame(timeline, at, 20)
            at += 60_000_000
        drained = work.drain()
        assert drained is not None
        store.consume(drained)
    kept = store.find(f"{0xABC:032x}")
    assert kept is not None
    assert kept.weight < 150_000
    assert kept.omitted > 10_000
    assert len(kept.batches) == 40


def test_a_model_loaded_at_start_up_is_no_request() -> None:
    """An operation outside any request has no end to wait for, so it is not kept as one that is open."""
    store = Store(10, PLENTY)
    load = Operation(semconv.MODEL_LOAD, 0, 5, span_id=77, parent_id=0)
    batch = numbered(1)
    store.consume(dataclasses.replace(batch, root_id=77, operations=[load], blocks=[], final=False, status=None))
    assert store.find("1") is None


def test_the_summary_says_what_the_records_say() -> None:
    """Figures of the list stem from the root record, not from a reckoning of their own."""
    store = Store(
        10,
        PLENTY,
        lambda status, root: root.seconds < 1 if status is semconv.Status.SUCCESS else None,
        lambda _status, root: root.attributes[semconv.WORST_GAP.key] > 0,
    )
    store.consume(numbered(3))
    (summary,) = store.summaries()
    assert summary["first_audio"] == 0.017
    assert sum(summary["parts"].values()) == 0.017
    assert (summary["status"], summary["voice"], summary["frames"], summary["in_time"]) == (
        "success",
        "en-Carter_man",
        2,
        True,
    )
    assert summary["started"] == 0
    assert (summary["gap"], summary["continuous"]) == (0.0, False)


def _flat(batch: Batch) -> list[tuple[str, str, str, int, int, str]]:
    words = {word: span.name for span, word in rows.KINDS.items()}
    found = []
    for part in rows.encode(batch, origin=0):
        columns = (part["kind"], part["id"], part["parent"], part["start"], part["end"], part["info"])
        found.extend((words[k], i, p, s, e, str(sorted(a.items()))) for k, i, p, s, e, a in zip(*columns, strict=True))
    return sorted(found)


def test_rows_are_the_exported_spans() -> None:
    """What the browser draws and what the exporters send is the same list: names, ids, parents, times, attributes."""
    batch = finish(request(frames=700))
    exported = []
    for op in batch.operations:
        exported.append((op.span.name, op.span_id, op.parent_id, op.start, op.end, op.attributes))
    for block in batch.blocks:
        exported.extend(
            (block.span.name, own, parent, start, end, said) for start, end, own, parent, said in block.rows()
        )
    expected = sorted(
        (n, f"{i:016x}", f"{p:016x}" if p else "", s, e, str(sorted(a.items()))) for n, i, p, s, e, a in exported
    )
    assert _flat(batch) == expected


def test_no_message_is_large() -> None:
    """A large trace is encoded piece by piece, so that the interpreter is never held for long."""
    assert max(len(part["id"]) for part in rows.encode(finish(request(frames=5000)), origin=0)) == rows.CHUNK


def test_left_out_spans_are_marked_and_the_text_is_never_shown() -> None:
    """The budget's word on each row is told; the spoken text is not, even where the operator lets it into the
    traces.
    """
    timeline = request()
    timeline.asked.text = "my secret words"
    batch = finish(timeline)
    steps = batch.block(semconv.STEP)
    assert steps is not None
    steps.exported = np.array([True, False, True, False])
    parts = list(rows.encode(batch, origin=0))
    kept = [kept for part in parts for kind, kept in zip(part["kind"], part["kept"], strict=True) if kind == "step"]
    assert kept == [True, False, True, False]
    assert "my secret words" not in str(parts)
