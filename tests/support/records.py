"""Random records: what hypothesis draws blocks, operations and batches from."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from vibevoice_otel import semconv
from vibevoice_otel.recording.records import Batch, Block, Column, Labels, Operation

IDS = st.integers(1, 2**64 - 1)
TIMES = st.integers(0, 2**62)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
WHOLE = st.one_of(st.integers(0, 300), st.integers(-(2**63), 2**63 - 1))
DOUBLE = st.floats(allow_nan=False)
SCALARS = st.one_of(st.booleans(), WHOLE, DOUBLE, TEXT)
KEYS = st.sampled_from(
    [a.key for a in semconv.STEP.attributes + semconv.FRAME.attributes + semconv.LM_FORWARD.attributes]
)
CHILDREN = [span for span in semconv.SPANS if span is not semconv.SYNTHESIZE]


@st.composite
def columns(draw: st.DrawFn, rows: int) -> Column:
    kind = draw(st.sampled_from(["shared", "whole", "small", "double", "names"]))
    if kind == "shared":
        return draw(SCALARS)
    if kind == "double":
        some = st.one_of(DOUBLE, st.just(float("nan")))  # not a number: this row has no such attribute
        return np.array(draw(st.lists(some, min_size=rows, max_size=rows)), np.float64)
    if kind == "names":
        return np.array(
            draw(st.lists(st.sampled_from(["", "nan", "silent", "gr\u00fcn"]), min_size=rows, max_size=rows)), np.str_
        )
    values = WHOLE if kind == "whole" else st.integers(0, 9)
    return np.array(draw(st.lists(values, min_size=rows, max_size=rows)), np.int64)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    rows = draw(st.integers(0, 12))

    def many(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    return Block(
        draw(st.sampled_from(CHILDREN)),
        np.array(many(TIMES), np.int64),
        np.array(many(TIMES), np.int64),
        np.array(many(IDS), np.uint64),
        np.array(many(st.one_of(st.just(0), IDS)), np.uint64),  # 0: directly under the request
        {key: draw(columns(rows)) for key in draw(st.lists(KEYS, unique=True, max_size=4))},
        draw(st.none() | st.lists(st.booleans(), min_size=rows, max_size=rows).map(lambda bits: np.array(bits, bool))),
    )


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    error = draw(st.none() | st.text("abcXYZ_\u00e9", min_size=1, max_size=12))
    attributes = draw(st.dictionaries(KEYS, SCALARS, max_size=4))
    return Operation(draw(st.sampled_from(CHILDREN)), draw(TIMES), draw(TIMES), draw(IDS), draw(IDS), attributes, error)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    root = Operation(semconv.SYNTHESIZE, 1, draw(TIMES) + 1, 0, 0, {semconv.FRAMES.key: 2}, None)
    return Batch(
        request=1, trace_id=0, root_id=0, server_id=0, sampled=True, recording=True,
        labels=Labels("v", "1.5", "5", "short"),
        operations=[*draw(st.lists(operations(), max_size=3)), root], blocks=draw(st.lists(blocks(), max_size=3)),
        final=True, status=semconv.Status.SUCCESS,
    )  # fmt: skip
