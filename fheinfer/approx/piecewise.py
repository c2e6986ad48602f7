"""Any activation on [-bound, bound]: one Chebyshev series, or a series and a ReLU by a composite sign for each kink.

A function f whose slope jumps by j at t is j relu(x - t) and a rest without that kink. So a function with kinks is a
series of as high a degree as they need, or a series of the rest beside x - t times a step for each of them, whose
levels do not add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from fheinfer.approx import fit
from fheinfer.approx.composition import F64
from fheinfer.approx.forms import Activation, Gate
from fheinfer.approx.functions import Function, Kink
from fheinfer.approx.levels import series_levels

MAX_LEVELS = 10
"""Of one series: degree 1023, of some 60 products."""
PEAK = 20.0
"""How many times its typical error a series by least squares may err at the most: ReLU by degree 1023 does 18 times."""
NOISE = 1e-13
"""A series that is exact but for rounding."""


@dataclass(frozen=True, eq=False)
class Approximation:
    """A function of one number by polynomials: series(x / radius) + the sum of jump * relu(x - at) over the kinks.

    bound    largest |input| that it is valid for
    radius   what the input of every polynomial is divided by: `bound`, or more where shifted inputs are larger
    series   coefficients of T_0, T_1, ...; those of a polynomial of x alone where there are kinks as well
    kinks    those that `gate` evaluates; none without it
    gate     ReLU by a composite sign
    largest, typical  error on [-bound, bound]: the largest, and the root mean square weighted as inputs usually are
    """

    function: Function
    bound: float
    radius: float
    series: F64
    kinks: tuple[Kink, ...] = ()
    gate: Gate | None = None

    @property
    def degree(self) -> int:
        """The degree of the series."""
        return len(self.series) - 1

    @property
    def alone(self) -> bool:
        """Whether it is x times (slope + jump * step(x)) and nothing else: one kink at zero between straight lines."""
        return self.gate is not None and len(self.kinks) == 1 and not self.kinks[0].at and not self._bent

    @property
    def _bent(self) -> bool:
        return self.degree > 1 or abs(self.series[0]) > NOISE * self.radius

    @property
    def levels(self) -> int:
        """Levels consumed in the native evaluator."""
        if self.gate is None:
            return series_levels(self.degree)
        beside = series_levels(self.degree) if self.degree else 0
        return max(self.gate.levels, 0 if self.alone else beside)

    def evaluate(self, x: ArrayLike) -> F64:
        """Evaluates it at any inputs, also beyond the range, where the values are worthless."""
        inputs = np.asarray(x, np.float64)
        found = np.asarray(chebyshev.chebval(inputs / self.radius, self.series), np.float64)
        if self.gate is not None:
            for kink in self.kinks:
                found = found + kink.jump * self.radius * self.gate.evaluate((inputs - kink.at) / self.radius)
        return found

    @property
    def largest(self) -> float:
        """Largest |error| on [-bound, bound]."""
        x = np.concatenate([np.cos(np.linspace(0, np.pi, max(4001, 8 * len(self.series)))), np.linspace(-1, 1, 8001)])
        near = (
            np.linspace(-0.1, 0.1, 4001) * self.radius + [[k.at] for k in self.function.kinks or (Kink(0, 0),)]
        ).ravel()
        points = np.concatenate([self.bound * x, near[np.abs(near) <= self.bound]])
        return float(np.abs(self.evaluate(points) - self.function.value(points)).max())

    @property
    def typical(self) -> float:
        """Root mean square of the error on [-bound, bound], weighted by how usual inputs are (`fit.typical_error`)."""
        return fit.typical_error(self.evaluate, self.function.value, self.bound)


def smooth_series(function: Function, bound: float, error: float, most: int = MAX_LEVELS) -> Approximation | None:
    """Returns the first series, of those that use all of their levels, whose largest error is `error`; None if none is.

    Args:
        error: absolute.
        most: levels of the longest to try.
    """
    for levels in range(1, most + 1):
        series = fit.interpolated(function.value, bound, 2**levels - 1)
        if fit.largest_error(series, function.value, bound) <= error:
            return Approximation(function, bound, bound, series)
    return None


def kinked_series(function: Function, bound: float, error: float, most: int = MAX_LEVELS) -> Approximation | None:
    """Returns the first series by least squares, of those that use all of their levels, whose typical error is `error`.

    Its largest error is `PEAK` times that at most.

    Args:
        error: absolute.
        most: levels of the longest to try.
    """
    for levels in range(2, most + 1):
        series = fit.weighted(function.value, bound, 2**levels - 1)
        found = Approximation(function, bound, bound, series)
        if found.typical <= error and found.largest <= PEAK * error:
            return found
    return None


def gated(function: Function, bound: float, gate: Gate, error: float, typical: float) -> Approximation | None:
    """Returns the function by a composite sign at every kink and a series of the rest within `error`; None if none is.

    Args:
        error: absolute, of the rest.
        typical: absolute typical error of the rest, where the largest cannot be within `error`.
    """
    kinks = function.inside(bound)
    radius = bound + max((abs(kink.at) for kink in kinks), default=0.0)

    def rest(x: F64) -> F64:  # without the kinks beyond the range, too: the series sees all of the radius
        left = np.zeros_like(x)
        for kink in function.kinks:
            beyond = -np.maximum(kink.at - x, 0) if kink.at <= -bound else -np.maximum(x - kink.at, 0)
            left = left + kink.jump * beyond
        return function.value(x) + left

    slope = (rest(np.array([bound])) - rest(np.array([-bound])))[0] / 2
    middle = rest(np.array([0.0]))[0]
    x = np.linspace(-bound, bound, 2001)
    if np.abs(rest(x) - middle - slope * x / bound).max() <= NOISE * max(bound, abs(middle)):
        line = np.array([middle, slope * radius / bound]) if abs(slope) > NOISE * bound else np.array([middle])
        return Approximation(function, bound, radius, line, kinks, gate)
    wide = Function(f"{function.name} without its kinks", rest)
    found = smooth_series(wide, radius, error) or kinked_series(wide, radius, typical)
    return None if found is None else Approximation(function, bound, radius, found.series, kinks, gate)


@lru_cache(maxsize=64)
def typical_of(relu: Activation) -> float:
    """Returns the typical error on [-1, 1] of what approximates a ReLU."""
    return fit.typical_error(relu.evaluate, lambda x: np.maximum(x, 0), 1.0)
