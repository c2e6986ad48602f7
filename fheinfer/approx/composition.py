"""Polynomials applied one after another, each as a Chebyshev series whose input stays in [-1, 1].

In powers of x the coefficients of a composite sign are as large as 10^5 and cancel; as Chebyshev series they stay below
1.3. A stage whose output exceeds 1 has its coefficients divided by that bound, which the next stage takes into its own:
p_2(y) = q(y / b), with q a series on [-1, 1]. So normalising costs no level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev, polynomial
from numpy.typing import ArrayLike, NDArray

from fheinfer.approx.levels import openfhe_series_levels, series_levels

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Composition:
    """The composition stages[-1] o ... o stages[0]. A stage is a read-only array: coefficients of T_0 to T_degree."""

    stages: tuple[F64, ...]

    @classmethod
    def of(cls, stages: Iterable[ArrayLike]) -> Composition:
        """Makes one from Chebyshev coefficients; trailing zeros are dropped."""
        return cls(tuple(_frozen(np.trim_zeros(np.array(s, dtype=np.float64), "b")) for s in stages))

    @classmethod
    def from_powers(cls, stages: Sequence[Sequence[float]]) -> Composition:
        """Makes one from coefficients of 1, x, x^2, ...; each stage is divided by its largest value on its domain."""
        normalised: list[F64] = []
        bound = 1.0
        for powers in stages:
            stretched = np.array(powers) * bound ** np.arange(len(powers))
            series = np.asarray(chebyshev.poly2cheb(stretched), dtype=np.float64)
            after = max(1.0, _largest(np.array(powers), bound)) if len(normalised) + 1 < len(stages) else 1.0
            normalised.append(series / after)
            bound = after
        return cls.of(normalised)

    @property
    def degrees(self) -> tuple[int, ...]:
        """The degree of every stage, first stage first."""
        return tuple(len(stage) - 1 for stage in self.stages)

    @property
    def levels(self) -> int:
        """Levels consumed in the native evaluator: the sum of ceil(log2(degree + 1))."""
        return sum(map(series_levels, self.degrees))

    @property
    def openfhe_levels(self) -> int:
        """Levels consumed if every stage goes through OpenFHE's EvalChebyshevSeries."""
        return sum(map(openfhe_series_levels, self.degrees))

    def __call__(self, x: ArrayLike) -> F64:
        """Evaluates it at every x. Outside [-1, 1] it explodes, and overflows to inf or NaN without a warning."""
        y = np.asarray(x, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            for stage in self.stages:
                y = np.asarray(chebyshev.chebval(y, stage), dtype=np.float64)
        return y

    def powers(self) -> tuple[F64, ...]:
        """Returns the normalised stages in powers of x: for reading, not for evaluating."""
        return tuple(np.asarray(chebyshev.cheb2poly(stage), dtype=np.float64) for stage in self.stages)

    def affine(self, factor: float, constant: float) -> Composition:
        """Returns factor * self + constant. Only the coefficients of the last stage change, so it costs no level."""
        last = self.stages[-1] * factor
        last[0] += constant
        return Composition((*self.stages[:-1], _frozen(last)))


def _largest(powers: F64, bound: float) -> float:
    """max |p| on [-bound, bound]: at the ends or where the derivative vanishes."""
    roots = polynomial.polyroots(polynomial.polyder(powers))
    inside = roots[(np.abs(roots.imag) < 1e-9) & (np.abs(roots.real) <= bound)].real
    return float(np.abs(polynomial.polyval(np.append(inside, [-bound, bound]), powers)).max())


def _frozen(array: F64) -> F64:
    array.flags.writeable = False
    return array
