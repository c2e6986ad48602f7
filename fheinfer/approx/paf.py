"""Signs of low degree (PAFs, polynomial approximated functions): f_n, flat at 1, after g_n, steep at 0.

f_n(x) = sum_{i=0}^{n} 4^-i C(2i, i) x (1 - x^2)^i; g_n was found numerically by Cheon, Kim and Kim, Efficient
Homomorphic Comparison Methods with Optimal Complexity (ASIACRYPT 2020, ePrint 2019/1234). They compose g first and f
last, as the mathematical notation f o g says. Tong et al. (SmartPAF, MLSys 2024, arXiv 2404.03216, equation 7) write
f o g and evaluate f first, which their training compensates. Untrained, f first has two to eight times the error, so g
first is the default, and `:f-first` selects the other order.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import comb

from fheinfer.approx.composition import Composition
from fheinfer.approx.forms import Gate
from fheinfer.approx.measure import SIGN_TOLERANCE, sign_band

F_FIRST = "f-first"
_A7_ERROR = 0.014
"""Error of the sign of a7 on the band it was designed for, 11/128; the others were not designed for a band."""
_CHEON = "Cheon, Kim and Kim, ePrint 2019/1234: f_n and g_n"
_SMART = "composition: SmartPAF, arXiv 2404.03216, Table 2"


def f(n: int) -> tuple[float, ...]:
    """Returns the coefficients of 1, x, x^2, ... of f_n, computed exactly."""
    powers = [Fraction(0)] * (2 * n + 2)
    for i in range(n + 1):
        for k in range(i + 1):  # (1 - x^2)^i
            powers[2 * k + 1] += Fraction(comb(2 * i, i) * comb(i, k) * (-1) ** k, 4**i)
    return tuple(map(float, powers))


def _odd(*numerators: float, over: int = 1) -> tuple[float, ...]:
    return tuple(c for n in numerators for c in (0.0, n / over))


POLYNOMIALS: Mapping[str, tuple[float, ...]] = {
    "f1": f(1),
    "f2": f(2),
    "g1": _odd(2126, -1359, over=1024),
    "g2": _odd(3334, -6108, 3796, over=1024),
    "g3": _odd(4589, -16577, 25614, -12860, over=1024),
    # Minimax, the first stage on [11/128, 1] (Lee et al., ePrint 2020/834), to the digits that SmartPAF starts from.
    "a7/1": _odd(7.30445164958251, -34.6825871108659, 59.8596518298826, -31.8755225906466),
    "a7/2": _odd(2.40085652217597, -2.63125454261783, 1.54912674773593, -0.331172956504304),
}
"""Coefficients of 1, x, x^2, ..."""

PAFS: Mapping[str, tuple[str, ...]] = {
    "2f12g1": ("g1", "g1", "f1", "f1"),
    "a7": ("a7/1", "a7/2"),
    "f2g3": ("g3", "f2"),
    "f2g2": ("g2", "f2"),
    "f1g2": ("g2", "f1"),
    "f1": ("f1",),
    "f2": ("f2",),
}
"""By name: the polynomials, first applied first. a7, f1 and f2 have one order only."""


def stages(name: str, order: str = "") -> tuple[str, ...]:
    """Returns the names of a PAF's polynomials in the order in which they are applied."""
    first = PAFS[name]
    return first[::-1] if order == F_FIRST and has_two_orders(name) else first


def has_two_orders(name: str) -> bool:
    """Tells whether a PAF has both f and g, so that their order matters."""
    return len({p[0] for p in PAFS[name]}) > 1


def paf(name: str, order: str = "") -> Gate:
    """Returns ReLU by the PAF of that name. The order is `F_FIRST`, or "" for g first."""
    sign = Composition.from_powers([POLYNOMIALS[p] for p in stages(name, order)])
    suffix = f":{F_FIRST}" if order == F_FIRST and has_two_orders(name) else ""
    source = "Lee et al., ePrint 2020/834: minimax, alpha = 7; " + _SMART if name == "a7" else f"{_CHEON}; {_SMART}"
    band = sign_band(sign, _A7_ERROR if name == "a7" else SIGN_TOLERANCE)
    return Gate(name=name + suffix, polynomials=sign, function="ReLU", source=source, band=band)
