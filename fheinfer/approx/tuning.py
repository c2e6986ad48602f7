"""Coefficients of a PAF fitted to the inputs of a layer: weighted least squares on their histogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fheinfer.approx.composition import F64
from fheinfer.approx.paf import POLYNOMIALS, stages

FLOOR = 0.001
"""Share of the weight that is spread evenly over `OUTSIDE` times the range, whatever the inputs are."""
OUTSIDE = 1.05
_STEPS = 200


def initial(name: str, order: str = "") -> list[F64]:
    """Returns the untrained PAF of that name: coefficients of x, x^3, ... of each polynomial, in the order applied."""
    return [np.array(POLYNOMIALS[p][1::2]) for p in stages(name, order)]


def evaluated(coefficients: Sequence[F64], x: F64) -> tuple[F64, F64]:
    """Returns s(x) of the composite s, and its derivatives by every coefficient as (len(x), coefficients)."""
    value, columns = x, np.empty((len(x), 0))
    for stage in coefficients:
        even = value[:, None] ** (2 * np.arange(len(stage)))
        powers, slope = even * value[:, None], even @ (stage * (2 * np.arange(len(stage)) + 1))
        columns = np.hstack([columns * slope[:, None], powers])
        value = powers @ stage
    return value, columns


def tuned(
    coefficients: Sequence[F64],
    x: F64,
    weights: F64,
    floor: float = FLOOR,
    function: Callable[[F64], F64] | None = None,
) -> list[F64]:
    """Returns the coefficients with the least weighted square error, by Levenberg and Marquardt's method.

    The error of ReLU is |x| |sign(x) - s(x)| / 2, which is linear in s; another function f has 2 f(x) / x - 1 in place
    of the sign, of which a composite follows the odd part. A share `floor` of the weight goes to a grid
    over [-OUTSIDE, OUTSIDE]: without it the fit is good on the bulk of the inputs and bad everywhere else.

    Args:
        coefficients: where to start from, as of `initial`.
        x: inputs divided by the scale, none of them 0; (n,).
        weights: how often each occurs; (n,), not all 0.
        floor: share of the weight that goes to the grid.
        function: what the activation was, of x; ReLU by default.
    """
    grid = np.linspace(-OUTSIDE, OUTSIDE, 400)  # even, so that 0 is not in it
    points = np.concatenate([x, grid])
    share = np.concatenate([(1 - floor) * weights / weights.sum(), np.full(len(grid), floor / len(grid))])
    factor = np.abs(points) / 2 * np.sqrt(share)
    target = np.sign(points) if function is None else 2 * function(points) / points - 1
    lengths = np.cumsum([len(stage) for stage in coefficients])[:-1]
    best, damping = np.concatenate(list(coefficients)), 1e-3
    value, columns = evaluated(coefficients, points)
    miss, jacobian = factor * (target - value), factor[:, None] * columns
    for _ in range(_STEPS):
        # Least squares of both, rather than normal equations: p(a x) and q(x / a) make one composite for any a.
        held = np.diag(np.sqrt(damping) * np.linalg.norm(jacobian, axis=0))
        step = np.linalg.lstsq(np.vstack([jacobian, held]), np.append(miss, np.zeros(len(best))), rcond=None)[0]
        with np.errstate(over="ignore", invalid="ignore"):
            value, columns = evaluated(np.split(best + step, lengths), points)
            trial = factor * (target - value)
            gained = 1 - np.sum(trial**2) / np.sum(miss**2)
        if gained > 0:  # false for NaN, too
            best, miss, jacobian, damping = best + step, trial, factor[:, None] * columns, max(damping / 5, 1e-9)
            if gained < 1e-9:
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    return np.split(best, lengths)
