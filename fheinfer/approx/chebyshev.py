"""Chebyshev series: the form every polynomial is evaluated in, because its coefficients stay small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def interpolate(function: Function, degree: int) -> NDArray[np.float64]:
    """Coefficients c_0 .. c_degree of the series that meets `function` at the degree + 1 Chebyshev nodes of [-1, 1]."""
    n = degree + 1
    nodes = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    return np.asarray(chebyshev.chebvander(nodes, degree).T @ function(nodes)) * np.where(np.arange(n) == 0, 1, 2) / n


def relu(degree: int) -> NDArray[np.float64]:
    """max(x, 0) on [-1, 1]; the largest error, about 0.5 / degree, is at zero."""
    return interpolate(lambda x: np.maximum(x, 0.0), degree)


def max_error(
    coefficients: NDArray[np.float64],
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    samples: int = 20001,
) -> float:
    """Largest error on [-1, 1], sampled."""
    x = np.linspace(-1, 1, samples)
    return float(np.abs(chebyshev.chebval(x, coefficients) - function(x)).max())
