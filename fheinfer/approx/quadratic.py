"""Polynomials of degree 2 that replace ReLU in networks trained with them: one level, valid everywhere."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from fheinfer.approx.composition import F64, Composition
from fheinfer.approx.forms import Quadratic
from fheinfer.model.ops import HERMITE

_HERPN = HERMITE[2] / np.sqrt(2)

POWERS = {
    "square": (0.0, 0.0, 1.0),
    "relu-aq": (0.25, 0.5, 0.125),
    # ReLU's first Hermite coefficients 1/sqrt(2 pi), 1/2, 1/sqrt(4 pi) on He_0, He_1, He_2 / sqrt(2): x^2 - 1 has to be
    # divided by sqrt(2), or it is not the projection. (Where a batch norm follows every term, any factor will do.)
    "herpn": (_HERPN, 0.5, _HERPN),
}
"""Coefficients of 1, x, x^2."""

_SOURCES = {
    "square": "Gilad-Bachrach et al., CryptoNets, ICML 2016; a baseline in arXiv 2105.10879",
    "relu-aq": "a baseline in Lee et al., arXiv 2105.10879",
    "herpn": "Park et al., AESPA, arXiv 2201.06699: HerPN, without its normalisation",
}


def quadratic(name: str) -> Quadratic:
    """Returns the quadratic of that name. `square` is x^2 exactly; the others approximate ReLU."""

    def square(x: F64) -> F64:
        return x * x

    def relu(x: F64) -> F64:
        return np.maximum(x, 0)

    return Quadratic(
        name=name,
        polynomials=Composition.of([chebyshev.poly2cheb(POWERS[name])]),
        bound=float("inf"),
        function="x^2" if name == "square" else "ReLU",
        target=square if name == "square" else relu,
        source=_SOURCES[name],
    )


def folded(weight: ArrayLike, bias: ArrayLike, mean: ArrayLike, var: ArrayLike, eps: float) -> F64:
    """Returns what a `herpn` node computes with fixed statistics: c_0 + c_1 x + c_2 x^2 per channel, as (3, channels).

    Args:
        weight, bias: (channels,), as in `fheinfer.train.herpn`, which has the formula.
        mean, var: (2, channels), of both Hermite terms.
        eps: added to the variances.
    """
    mean, var = (np.asarray(a, dtype=np.float64) for a in (mean, var))
    factor = np.asarray(weight) * np.array(HERMITE[1:])[:, None] / np.sqrt(var + eps)
    linear, square = factor[0], factor[1] / np.sqrt(2)
    return np.stack([np.asarray(bias) - (factor * mean).sum(0) - square, linear, square])
