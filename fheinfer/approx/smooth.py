"""ReLU, SiLU and GELU by one Chebyshev series.

SiLU is x / 2 + x tanh(x / 2) / 2 and GELU is x / 2 + x erf(x / sqrt(2)) / 2: half the identity plus an even function,
as ReLU is. So the odd coefficients beyond the first are zero. Unlike ReLU they are not homogeneous: the range is part
of the function, and cannot be folded into scales.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numpy.polynomial import chebyshev

from fheinfer.approx.chebyshev import relu as relu_coefficients
from fheinfer.approx.composition import F64, Composition
from fheinfer.approx.forms import Function, Polynomial
from fheinfer.errors import UsageError

MAX_DEGREE = 2031
"""The largest degree in OpenFHE's table of depths."""
_erf = np.vectorize(erf, otypes=[np.float64])


def silu(x: F64) -> F64:
    """Returns x / (1 + exp(-x)) (Elfwing, Uchibe and Doya, 2017)."""
    return np.asarray(x / 2 * (1 + np.tanh(x / 2)), dtype=np.float64)


def gelu(x: F64) -> F64:
    """Returns x Phi(x), with the error function, not its tanh approximation (Hendrycks and Gimpel, 2016)."""
    return np.asarray(x / 2 * (1 + _erf(x / sqrt(2))), dtype=np.float64)


def _relu(x: F64) -> F64:
    return np.maximum(x, 0)


FUNCTIONS: dict[str, tuple[str, Function, str]] = {
    "silu": ("SiLU", silu, "Elfwing, Uchibe and Doya, arXiv 1702.03118; Chebyshev interpolation"),
    "gelu": ("GELU", gelu, "Hendrycks and Gimpel, arXiv 1606.08415, section 2; Chebyshev interpolation"),
}


def chebyshev_relu(degree: int) -> Polynomial:
    """Returns ReLU on [-1, 1] by the weighted least squares of `fheinfer.approx.chebyshev`.

    Raises:
        UsageError: a degree out of range.
    """
    _check(degree)
    return Polynomial(
        name=f"relu:{degree}",
        polynomials=_series(relu_coefficients(degree)),
        function="ReLU",
        target=_relu,
        source="Chebyshev series by weighted least squares, docs/explanation/precision.md; degrees: Rovida and "
        "Leporati, 2024/460",
    )


def smooth(name: str, degree: int, bound: float) -> Polynomial:
    """Returns SiLU or GELU on [-bound, bound], interpolated at Chebyshev nodes.

    Raises:
        UsageError: a degree or a bound out of range.
    """
    _check(degree)
    if not 0 < bound <= 1e6:
        raise UsageError(f"{name} needs a range between 0 and 10^6, not {bound:g}")
    title, function, source = FUNCTIONS[name]
    nodes = chebyshev.chebpts1(degree + 1)
    coefficients = np.asarray(chebyshev.chebfit(nodes, function(bound * nodes), degree), dtype=np.float64)
    coefficients[1::2] = 0  # rounding noise of an even function
    coefficients[1] = bound / 2
    return Polynomial(
        name=f"{name}:{degree}:{bound:g}",
        polynomials=_series(coefficients),
        scale=bound,
        bound=bound,
        function=title,
        target=function,
        source=source,
    )


def _series(coefficients: F64) -> Composition:
    """Keeps a zero as the last coefficient, so that degree and levels are those of the name."""
    coefficients.flags.writeable = False
    return Composition((coefficients,))


def _check(degree: int) -> None:
    if not 2 <= degree <= MAX_DEGREE:
        raise UsageError(f"degree {degree} of a Chebyshev series; choose 2 to {MAX_DEGREE}")
