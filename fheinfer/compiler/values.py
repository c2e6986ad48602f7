"""Types that programs and plans share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core

F64 = NDArray[np.float64]
Arrays = Mapping[str, F64]
"""Constants by name."""
Scale = float | F64
"""value = slot * scale: one number, or what broadcasts to the value's shape."""
Value = tuple[_core.Ciphertext, ...]
"""What a step reads and makes: the ciphertexts of a tensor (`packing.Packing`)."""
