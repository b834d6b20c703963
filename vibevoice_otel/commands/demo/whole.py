"""When a request's trace has come in whole: its root, the SERVER span and the model's spans travel in exports of their
own, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vibevoice_otel import semconv
from vibevoice_otel.commands.demo.receiver import ReceivedSpan

SERVER_KIND = 2
#: Spans that the service makes of a request; clients make the others.
OWN = frozenset(span.name for span in semconv.SPANS) - {semconv.LISTEN.name, semconv.PROBE.name}


def whole(spans: Sequence[ReceivedSpan]) -> bool:
    """Whether the spans of one trace hold a request, its SERVER span, every parent, and as many spans as the request
    says that it has.
    """
    own = [span for span in spans if span.name in OWN]
    roots = [span for span in own if span.name == semconv.SYNTHESIZE.name]
    ids = {span.span_id for span in spans}
    told: list[Any] = [root.attributes[semconv.SPANS_EXPORTED.key] for root in roots]
    return (
        bool(roots)
        and any(span.kind == SERVER_KIND for span in spans)
        and all(span.parent_id in ids for span in own if span.name != semconv.SYNTHESIZE.name)
        and len(own) >= sum(told)
    )
