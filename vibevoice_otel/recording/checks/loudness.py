"""How loud a listener finds one stream: integrated loudness by ITU-R BS.1770-4, with pyloudnorm.

pyloudnorm weights a window of the audio and measures its gating blocks, 400 ms each, one every 100 ms. What it measured
is kept as a histogram, and the standard's two gates are applied to all blocks of the request, so that no audio is held
beyond a window. Each window's filter begins anew; that moves the result by less than 0.01 LU.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from vibevoice_otel.semconv import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
    Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)

#: Samples of a window, of a gating block, and of what two windows share, so that no block is left out between them.
WINDOW, BLOCK, SHARED = (SAMPLE_RATE_HZ * tenths // 10 for tenths in (8, 4, 3))
#: Blocks at or below are silence (absolute gate, LUFS); so are those so many LU below the rest (relative gate).
ABSOLUTE, RELATIVE = -70.0, -10.0
#: Bins of the histogram, LU wide, from the absolute gate up.
BIN, BINS = 0.1, 1000
#: BS.1770: a block's loudness is this, and ten times the logarithm of its weighted power.
OFFSET = -0.691
#: The standard's own filter at any sampling rate (pyloudnorm's default is 0.1 LU off).
FILTER = "DeMan"


def library() -> Any:
    """pyloudnorm; None, and a warning, where it is not installed. Loading it takes most of a second, and 80 MB."""
    try:
        return importlib.import_module("pyloudnorm")
    except ImportError as error:
        logger.warning(
            "Loudness is not measured (%s): pip install 'vibevoice-otel[loudness]', or leave out "
            "VIBEVOICE_OTEL_AUDIO_LOUDNESS",
            error,
        )
        return None


class Loudness:
    """The loudness of one stream; used by one thread at a time."""

    def __init__(self, pyloudnorm: Any) -> None:
        self._make = pyloudnorm.Meter
        self._meter: Any = None  # made by the thread that checks
        self._rest: Samples = np.empty(0, np.float32)
        self._blocks: Floats = np.zeros((2, BINS))  # how many, and their power

    def add(self, samples: Samples) -> None:
        """What follows on what came before."""
        rest = np.concatenate((self._rest, samples)) if self._rest.size else samples
        while rest.size >= WINDOW:
            self._blocks += self._measured(rest[:WINDOW])
            rest = rest[WINDOW - SHARED :]
        self._rest = rest.copy()

    def gap(self) -> None:
        """Some audio was not checked: no block reaches across."""
        self._rest = self._rest[:0]

    def integrated(self) -> float | None:
        """LUFS of all so far; None where no block of 400 ms has sound."""
        blocks = self._blocks
        if self._rest.size >= BLOCK:
            blocks = blocks + self._measured(self._rest)
        count, power = blocks
        if not count.any():
            return None
        gate = OFFSET + 10 * np.log10(power.sum() / count.sum()) + RELATIVE
        first = max(0, int(np.floor((gate - ABSOLUTE) / BIN)))
        return float(OFFSET + 10 * np.log10(power[first:].sum() / count[first:].sum()))

    def _measured(self, window: Samples) -> Floats:
        """A window's blocks by loudness: how many, and their power."""
        self._meter = self._meter or self._make(SAMPLE_RATE_HZ, filter_class=FILTER)
        self._meter.integrated_loudness(window)
        found = np.array(self._meter.blockwise_loudness)
        found = found[found >= ABSOLUTE]
        place = np.minimum(((found - ABSOLUTE) / BIN).astype(np.int64), BINS - 1)
        weights = (None, 10 ** ((found - OFFSET) / 10))
        return np.stack([np.bincount(place, each, BINS).astype(np.float64) for each in weights])
