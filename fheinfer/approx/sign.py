"""Composite minimax approximations of sign(x), computed by Remez exchange one stage after another.

Stage 1 is the odd polynomial nearest to 1 on [eta, 1]; it leaves values in [1 - tau, 1 + tau], and the next stage is
the odd polynomial nearest to 1 there (Lee, Lee, No and Kim, ePrint 2020/834: such a composition is the best of its
degrees). With a guard band e every interval is wider: [eta, 1 + e], then [1 - tau - e, 1 + tau + e]. Inputs up to
1 + e, and noise up to e between stages, are then harmless; without one, 1 % outside the range can turn into 10^163.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import inf
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, model_validator

from fheinfer.approx import remez
from fheinfer.approx.composition import F64, Composition
from fheinfer.approx.remez import Mpf, Progress
from fheinfer.errors import UsageError

DIGITS = 50
MAX_STAGES = 12
_SHOWN = 22  # digits kept of a coefficient: five more than a double holds


class SignStage(BaseModel, frozen=True, extra="forbid"):
    """One odd polynomial: coefficients of T_1, T_3, ... on [-1, 1], the bound of the next stage divided out."""

    degree: int = Field(ge=1, le=remez.MAX_DEGREE)
    domain: tuple[Decimal, Decimal]
    error: Decimal
    coefficients: tuple[Decimal, ...]

    @model_validator(mode="after")
    def _complete(self) -> SignStage:
        if self.degree % 2 == 0 or len(self.coefficients) != (self.degree + 1) // 2:
            raise ValueError(f"degree {self.degree} with {len(self.coefficients)} odd coefficients")
        return self

    def series(self) -> F64:
        """Returns the coefficients of T_0 to T_degree."""
        full = np.zeros(self.degree + 1)
        full[1::2] = [float(c) for c in self.coefficients]
        return full


class SignComposite(BaseModel, frozen=True, extra="forbid"):
    """A composite within `error` of sign(x) for eta <= |x| <= 1 + guard; between -eta and eta it changes sign."""

    eta: Decimal = Field(gt=0, lt=1)
    guard: Decimal = Field(ge=0, lt=1)
    stages: tuple[SignStage, ...] = Field(min_length=1, max_length=MAX_STAGES)

    @property
    def degrees(self) -> tuple[int, ...]:
        """The degree of every stage, first stage first."""
        return tuple(stage.degree for stage in self.stages)

    @property
    def error(self) -> float:
        """Largest |p(x) - sign(x)| for eta <= |x| <= 1 + guard."""
        return float(self.stages[-1].error)

    def composition(self) -> Composition:
        """Returns the polynomials in double precision."""
        return Composition.of(stage.series() for stage in self.stages)


def generate(
    degrees: Sequence[int],
    eta: float,
    guard: float = 0.0,
    *,
    digits: int = DIGITS,
    tolerance: float = 1e-20,
    progress: Progress | None = None,
) -> SignComposite:
    """Computes the minimax composite of these degrees, which takes seconds.

    Args:
        degrees: odd, first stage first.
        eta: smallest |x| for which the sign has to be right, in (0, 1).
        guard: how far beyond 1 an input may go, and how much noise is allowed between stages.
        digits: of the arithmetic; 50 are plenty up to degree 63.
        tolerance: on (largest - smallest extremum) / largest.
        progress: called with a line per iteration.

    Raises:
        UsageError: an argument out of range, or no convergence.
    """
    if not 0 < len(degrees) <= MAX_STAGES:
        raise UsageError(f"a composite has 1 to {MAX_STAGES} stages, not {len(degrees)}")
    if not 0 < eta < 1 or not 0 <= guard < 1:
        raise UsageError(f"eta = {eta:g} with guard = {guard:g}: both lie between 0 and 1")
    mp = remez.context(digits)
    lowest, bound, e = mp.mpf(eta), 1 + mp.mpf(guard), mp.mpf(guard)
    stages = []
    for number, degree in enumerate(degrees, start=1):

        def tell(text: str, number: int = number) -> None:
            if progress:
                progress(f"stage {number} of {len(degrees)}: {text}")

        found = remez.minimax_odd(mp, degree, lowest, bound, tolerance=tolerance, progress=tell)
        after = 1 + found.error + e if number < len(degrees) else mp.mpf(1)
        # The first stage sees x itself, which ends at 1; every other one its input divided by the bound.
        series = _rescaled(mp, found, bound) if number == 1 and guard else found.coefficients
        stages.append(
            SignStage(
                degree=degree,
                domain=(_decimal(mp, lowest), _decimal(mp, bound)),
                error=_decimal(mp, found.error),
                coefficients=tuple(_decimal(mp, c / after) for c in series),
            )
        )
        lowest, bound = 1 - found.error - e, 1 + found.error + e
        if number < len(degrees) and lowest <= 0:
            raise UsageError(
                f"stage {number} leaves the sign in [{mp.nstr(lowest, 4)}, {mp.nstr(bound, 4)}], guard included: "
                "raise eta or its degree, or lower the guard"
            )
    return SignComposite(eta=_decimal(mp, mp.mpf(eta)), guard=_decimal(mp, e), stages=tuple(stages))


def relu_error(composition: Composition, eta: float) -> float:
    """Returns max |x (1 - s(|x|)) / 2| for 0 <= x <= 1: the largest error of x (1 + s(x)) / 2 as ReLU."""
    x = np.concatenate([np.linspace(0, 1.5 * eta, 4001).clip(0, 1), np.linspace(eta, 1, 20001)])
    return float(np.abs(x * (1 - composition(x)) / 2).max())


def search_eta(
    alpha: int, degrees: Sequence[int], guard: float = 0.0, *, progress: Progress | None = None
) -> tuple[int, float]:
    """Finds the integer zeta for which eta = zeta 2^-alpha gives ReLU its smallest error on [-1, 1], and that error.

    The error is |x| tau / 2 beyond eta, which falls as eta grows, or that of the band, which grows with it. So it has
    one minimum: doubling finds an interval around it, and halving that finds it.

    Raises:
        UsageError: no eta is large enough for this guard, or a degree that is out of range.
    """
    known: dict[int, float] = {}

    def error(zeta: int) -> float:
        if zeta not in known:
            if progress:
                progress(f"eta = {zeta} * 2^-{alpha}")
            eta = zeta / 2**alpha
            try:
                made = generate(degrees, eta, guard, digits=30, tolerance=1e-8)
            except UsageError:  # so small that the guard band crosses zero
                known[zeta] = inf
            else:
                known[zeta] = relu_error(made.composition(), eta)
        return known[zeta]

    last = (1 << alpha) - 1
    high = 2
    while high < last and error(high) <= error(high // 2):
        high = min(2 * high, last)
    low = max(high // 4, 1)
    while high - low > 1:
        middle = (low + high) // 2
        falls = error(middle) == inf or error(middle + 1) < error(middle)
        low, high = (middle, high) if falls else (low, middle)
    best = min((low, high), key=error)
    if error(best) == inf:
        raise UsageError(f"no eta works for degrees {list(degrees)} with a guard of {guard:g}; lower the guard")
    return best, error(best)


def _rescaled(mp: Any, found: remez.OddMinimax, bound: Mpf) -> tuple[Mpf, ...]:
    """Coefficients in T_k(x) of a polynomial given in T_k(x / bound), by interpolation at Chebyshev nodes."""
    count = found.degree + 1
    nodes = [mp.pi * (2 * i + 1) / (2 * count) for i in range(count)]
    values = [remez.evaluate(list(found.coefficients), mp.cos(angle) / bound) for angle in nodes]
    return tuple(
        2 * mp.fsum(v * mp.cos(k * angle) for v, angle in zip(values, nodes, strict=True)) / count
        for k in range(1, count, 2)
    )


def _decimal(mp: Any, value: Mpf) -> Decimal:
    return Decimal(mp.nstr(value, _SHOWN, strip_zeros=True))
