"""When a request's trace has come in whole: its root, the SERVER span and the model's spans travel in exports of their
own, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.receiver import ReceivedSpan

SERVER_KIND = 2


def whole(spans: Sequence[ReceivedSpan]) -> bool:
    """Whether the spans of one trace hold its root, its SERVER span, every parent, and the frames and steps that the
    root and its frames count.
    """
    named: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        named.setdefault(span.name, []).append(span)
    if semconv.SYNTHESIZE.name not in named or not any(span.kind == SERVER_KIND for span in spans):
        return False
    ids = {span.span_id for span in spans}
    own = {span.name for span in semconv.SPANS} - {semconv.SYNTHESIZE.name}
    roots, frames = named[semconv.SYNTHESIZE.name], named.get(semconv.FRAME.name, [])
    omitted = _counted(roots, semconv.SPANS_OMITTED)
    return (
        all(span.parent_id in ids for span in spans if span.name in own)
        and len(frames) + omitted >= _counted(roots, semconv.FRAMES)
        and len(named.get(semconv.STEP.name, [])) + omitted >= _counted(frames, semconv.FRAME_STEPS)
    )


def _counted(spans: Sequence[ReceivedSpan], attribute: semconv.Attribute) -> int:
    values: list[Any] = [span.attributes.get(attribute.key, 0) for span in spans]
    return sum(values)
