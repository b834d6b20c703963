"""The share of ordinary traces that a tail-sampling gateway keeps, decided from the trace id alone.

The service (which exemplars it offers), ``OTEL_TRACES_SAMPLER=traceidratio`` (head) and collector/gateway.yaml (tail)
read the same bits with the same comparison. So a trace in a smaller share is in every larger one, and an exemplar never
names a trace that a later stage drops.
"""

from __future__ import annotations

_BITS = 32
_RANGE = float(1 << _BITS)


def in_share(trace_id: int, share: float) -> bool:
    """Whether the trace is in the share (0 to 1): the upper half of the trace id's lower 64 bits, as a fraction, lies
    below it.
    """
    return float((trace_id >> _BITS) & ((1 << _BITS) - 1)) < share * _RANGE
