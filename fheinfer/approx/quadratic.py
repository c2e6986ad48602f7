"""Polynomials of degree 2 that stand in for ReLU in networks trained with them: one level, valid everywhere."""

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
    """`square` stands for x^2 and is exact; the others stand for ReLU."""

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
    """What a `herpn` node computes once its statistics are fixed: c_0 + c_1 x + c_2 x^2 a channel, as (3, channels).

    weight, bias (channels,) and mean, var (2, channels) as in `fheinfer.train.herpn`, where the formula is.
    """
    mean, var = (np.asarray(a, dtype=np.float64) for a in (mean, var))
    gain = np.asarray(weight) * np.array(HERMITE[1:])[:, None] / np.sqrt(var + eps)
    linear, square = gain[0], gain[1] / np.sqrt(2)
    return np.stack([np.asarray(bias) - (gain * mean).sum(0) - square, linear, square])
