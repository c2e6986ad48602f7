"""Chebyshev series: the form every polynomial is evaluated in, because its coefficients stay small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray


def interpolate(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], degree: int) -> NDArray[np.float64]:
    """Coefficients c_0 .. c_degree of sum c_k T_k(x) that meets `function` at the degree + 1 Chebyshev nodes of [-1, 1]."""
    return np.asarray(chebyshev.chebinterpolate(function, degree), dtype=np.float64)


def relu(degree: int) -> NDArray[np.float64]:
    """max(x, 0) on [-1, 1]; the largest error, about 0.3 / degree, is at zero."""
    return interpolate(lambda x: np.maximum(x, 0.0), degree)


def max_error(coefficients: NDArray[np.float64], function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
              samples: int = 20001) -> float:
    """Largest error on [-1, 1], sampled."""
    x = np.linspace(-1, 1, samples)
    return float(np.abs(chebyshev.chebval(x, coefficients) - function(x)).max())
