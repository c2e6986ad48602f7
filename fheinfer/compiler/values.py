"""Types that programs and plans share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Arrays = Mapping[str, F64]
"""Constants by name."""
Scale = float | F64
"""value = slot * scale: one number, or one per channel."""
