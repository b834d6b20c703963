"""``OTEL_TRACES_SAMPLER=vibevoice_tail``: every request is recorded, a share is sampled at once, the rest waits for its
outcome.

``OTEL_TRACES_SAMPLER_ARG`` is the share (0 to 1) that is kept whatever happens. A trace outside it is recorded without
the sampled flag: metrics read it, no exporter takes it, and sampling/tail.py exports it whole once it has failed, been
slow, or run dry.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from vibevoice_otel import settings
from vibevoice_otel.sampling.share import in_share
from vibevoice_otel.settings import Settings

logger = logging.getLogger(__name__)
NAME = "vibevoice_tail"
ARGUMENT = "OTEL_TRACES_SAMPLER_ARG"


class TailSampler(Sampler):
    """Samples ``share`` of the traces that begin here and records the others; a remote parent's decision is respected.

    Args:
        share: 0 to 1, of traces that are kept whatever their outcome; None for what the settings say at the first
            decision.
        override: record what a caller decided not to sample too, so that it is kept when it fails. Read from the
            settings as well where ``share`` is None.
    """

    #: Says to the instrumentor that a TailProcessor belongs beside this sampler, whatever wraps or names the class.
    vibevoice_tail = True

    def __init__(self, share: float | None = 0.0, *, override: bool = False) -> None:
        if share is not None and not 0.0 <= share <= 1.0:
            raise ValueError(f"share {share!r} is not from 0 to 1")
        self._share = share
        self._override = override

    def follow(self, chosen: Settings) -> None:
        """Take the share and the override from ``chosen``, where none was given to the constructor."""
        if self._share is None:
            self._share, self._override = chosen.tail_share, chosen.tail_override_caller

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        del name, kind, links, trace_state  # the caller's trace state is what goes on
        if self._share is None:
            self.follow(settings.read().settings)
        parent = trace.get_current_span(parent_context)
        decision = self._decide(parent, trace_id)
        state = parent.get_span_context().trace_state if parent.get_span_context().is_valid else None
        return SamplingResult(decision, None if decision is Decision.DROP else attributes, state)

    def _decide(self, parent: trace.Span, trace_id: int) -> Decision:
        caller = parent.get_span_context()
        if not caller.is_valid:
            return Decision.RECORD_AND_SAMPLE if in_share(trace_id, self._share or 0.0) else Decision.RECORD_ONLY
        if caller.trace_flags.sampled:
            return Decision.RECORD_AND_SAMPLE
        if caller.is_remote:
            return Decision.RECORD_ONLY if self._override else Decision.DROP
        # A parent in this process that is a span at all was recorded; one that has ended no longer says so itself.
        return Decision.RECORD_ONLY if isinstance(parent, ReadableSpan) else Decision.DROP

    def get_description(self) -> str:
        share = "settings" if self._share is None else f"{self._share:g}"
        return f"VibeVoiceTail{{share={share},override={self._override}}}"


def from_settings() -> TailSampler:
    """The sampler of a configuration file (``sampler: vibevoice_tail:``), which the SDK makes without arguments.

    Its share is the setting ``tail_share``. What the file says is read at the first decision, after the file has been
    applied.
    """
    return TailSampler(None)


def from_environment(argument: str | None) -> TailSampler:
    """The sampler for ``OTEL_TRACES_SAMPLER_ARG`` (the entry point). A wrong value is told, and every trace kept: none
    is lost by it.
    """
    chosen = settings.read().settings  # the instrumentor says what is wrong with them
    share = chosen.tail_share
    if argument is not None and argument.strip():
        try:
            share = settings.fraction(argument)
        except ValueError:
            logger.error(  # noqa: TRY400 - the sentence says it all
                "%s=%r is not valid for %s: allowed is the share of traces to keep whatever their outcome, from 0 to "
                "1. "
                "Every trace is kept until it is mended.", ARGUMENT, argument, NAME,
            )  # fmt: skip
            share = 1.0
    return TailSampler(share, override=chosen.tail_override_caller)
