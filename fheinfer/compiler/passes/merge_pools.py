"""Average pools become part of the convolution or linear layer beside them: a level less, and more kernel offsets.

mean_pool k ; conv n   =>   conv of k n offsets, k times the stride         conv n ; mean_pool k   =>   likewise
mean_pool ; linear     =>   linear, each column once per pixel of its window

`canonicalise(pools=False)` does without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.passes.merge_linear import merged
from fheinfer.compiler.program import Program
from fheinfer.model.ops import Conv2d

F64 = NDArray[np.float64]


def merge_pools(program: Program) -> Program:
    """Merges every pool that reads, or is read by, a linear operation alone, where that is exact."""
    return merged(program, lambda first, second, cheap: cheap or is_mean(*first) or is_mean(*second))


def is_mean(op: Conv2d, weight: F64) -> bool:
    """Whether a convolution is an average of windows of each channel, up to factors."""
    depthwise = op.groups == op.out_channels == len(weight) and weight.shape[1] == 1 and op.kernel != (1, 1)
    return depthwise and bool(np.ptp(weight, axis=(1, 2, 3)).max() <= 1e-12 * np.abs(weight).max())
