"""Names of the arrays that the answers are computed with."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]
Blocks = NDArray[np.bool_]
