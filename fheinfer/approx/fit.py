"""Chebyshev series for any function of one number: interpolation of smooth ones, least squares for those with kinks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

from fheinfer.approx.composition import F64

SPREAD = 0.15
"""Standard deviation of a layer's inputs, in ranges: most are far smaller than the largest that calibration found."""
EVENLY = 1e-4
"""Weight that all of the range has beside: it keeps the ends accurate."""

_GRID = 8192


def weight(x: F64) -> F64:
    """Returns how much an error at x, in ranges, counts (docs/explanation/precision.md)."""
    return np.exp(-(x**2) / (2 * SPREAD**2)) + EVENLY


def interpolated(function: Callable[[F64], F64], bound: float, degree: int) -> F64:
    """Returns the series in T_k(x / bound), of a function without kinks, that is exact at Chebyshev nodes."""
    nodes = chebyshev.chebpts1(degree + 1)
    values = function(bound * nodes)
    angles = np.arccos(nodes)[:, None] * np.arange(degree + 1)
    series = 2 / (degree + 1) * (values @ np.cos(angles))
    series[0] /= 2
    return np.asarray(series, np.float64)


def weighted(function: Callable[[F64], F64], bound: float, degree: int) -> F64:
    """Returns the series in T_k(x / bound) of least squares under `weight`, as for ReLU (`fheinfer.approx.chebyshev`).

    On a fine grid of Chebyshev nodes the normal matrix is (m_|j-k| + m_j+k) / 2 with the cosine moments m of the
    weight; its condition is that of the weight, 1 / EVENLY.
    """
    count = max(_GRID, 8 * (degree + 1))
    x = chebyshev.chebpts1(count)
    w = weight(x)
    moments, right = _moments(w, 2 * degree + 1), _moments(w * function(bound * x), degree + 1)
    k = np.arange(degree + 1)
    normal = (moments[np.abs(k[:, None] - k)] + moments[k[:, None] + k]) / 2
    return np.asarray(np.linalg.solve(normal, right), np.float64)


def _moments(values: F64, count: int) -> F64:
    """Returns the sums of values * T_k, k < count, over the Chebyshev nodes in ascending order: a cosine transform."""
    n = len(values)
    falling = values[::-1]  # x_j = cos(pi (j + 1/2) / n)
    spectrum = np.fft.fft(np.concatenate([falling, falling[::-1]]))[:count]
    turned = spectrum * np.exp(-0.5j * np.pi * np.arange(count) / n)
    return np.asarray(turned.real / 2, np.float64)


def largest_error(series: F64, function: Callable[[F64], F64], bound: float, samples: int = 4001) -> float:
    """Returns the largest |error| of a series in T_k(x / bound) on [-bound, bound], close to the nodes of its waves."""
    x = np.cos(np.linspace(0, np.pi, max(samples, 8 * len(series))))
    x = np.concatenate([x, np.linspace(-1, 1, samples)])
    return float(np.abs(chebyshev.chebval(x, series) - function(bound * x)).max())


def typical_error(value: Callable[[F64], F64], function: Callable[[F64], F64], bound: float) -> float:
    """Returns the root mean square of value(x) - function(x) on [-bound, bound], weighted by how usual inputs are."""
    x = np.linspace(-1, 1, 8001)
    w = np.exp(-(x**2) / (2 * SPREAD**2))
    with np.errstate(over="ignore", invalid="ignore"):
        missed = value(bound * x) - function(bound * x)
    return float(np.sqrt((w * missed**2).sum() / w.sum()))
