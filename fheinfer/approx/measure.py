"""Errors of activations, measured by evaluating them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fheinfer.approx.composition import F64, Composition
from fheinfer.approx.forms import Activation, Band, Maximum, MaxPool, Signed

SIGN_TOLERANCE = 2.0**-4
"""Error up to which a sign counts as valid, where it was not designed for a band."""

_UNIFORM = 40001
_NEAR_ZERO = np.geomspace(1e-5, 1, 8001)


@dataclass(frozen=True)
class Error:
    """Largest |approximation - exact|, where it is, and the root mean square over uniform inputs."""

    largest: float
    at: float
    rms: float


def error(activation: Activation, lowest: float | None = None, highest: float | None = None) -> Error:
    """Measures the error on [-1, 1], on the whole range of an activation with another scale, or on [lowest, highest].

    For max it is taken over the differences of the operands. For max-pool `largest` is a bound, rounds * error of one
    max (at worst the tournament adds the errors up), and `rms` is taken over uniform windows.
    """
    if isinstance(activation, MaxPool):
        return _pool_error(activation)
    low = -activation.scale if lowest is None else lowest
    high = activation.scale if highest is None else highest
    uniform = np.linspace(low, high, _UNIFORM)
    near = np.concatenate([-_NEAR_ZERO[::-1], _NEAR_ZERO]) * max(abs(low), abs(high))
    found = np.abs(missed(activation, uniform))
    points = np.concatenate([uniform, near[(near >= low) & (near <= high)]])
    sizes = np.abs(missed(activation, points))
    top = int(np.argmax(sizes))
    return Error(float(sizes[top]), float(points[top]), float(np.sqrt(np.mean(found**2))))


def sign_band(sign: Composition, tolerance: float = SIGN_TOLERANCE) -> Band | None:
    """Returns the smallest band from which the sign is within `tolerance` up to 1; None if it is not even so at 1."""
    x = np.union1d(_NEAR_ZERO, np.linspace(0, 1, 20001))
    bad = ~(np.abs(sign(x) - 1) <= tolerance)
    if bad[-1]:
        return None
    first = int(np.flatnonzero(bad)[-1]) + 1
    return Band(float(x[first]), float(np.abs(sign(x[first:]) - 1).max()))


def valid_range(activation: Activation, tolerance: float | None = None, limit: float = 4.0) -> float:
    """Returns how large |input| / scale may get with the error within `tolerance` (default: the largest on [-1, 1]).

    It is less than 1 for polynomials that were tuned on the bulk of a distribution, more than 1 where an activation
    tolerates inputs beyond its range, and `limit` at most.
    """
    allowed = error(activation).largest * (1 + 1e-6) if tolerance is None else tolerance
    x = np.linspace(0, limit, 40001) * activation.scale
    with np.errstate(over="ignore", invalid="ignore"):
        good = (np.abs(missed(activation, x)) <= allowed) & (np.abs(missed(activation, -x)) <= allowed)
    bad = np.flatnonzero(~good)
    return limit if bad.size == 0 else float(x[max(bad[0] - 1, 0)] / activation.scale)


def missed(activation: Activation, x: F64) -> F64:
    """Returns approximation - exact at every x; for max, with the operands x and 0."""
    if isinstance(activation, Maximum):
        zero = np.zeros_like(x)
        return activation.evaluate(x, zero) - activation.exact(x, zero)
    return activation.evaluate(x) - activation.exact(x)


def _pool_error(pool: MaxPool) -> Error:
    pair = error(pool.pair)
    windows = np.random.default_rng(0).uniform(-pool.bound, pool.bound, (4000, pool.kernel**2))
    rms = float(np.sqrt(np.mean(missed(pool, windows) ** 2)))
    return Error(pool.rounds * pair.largest, pair.at, rms)


def describe(activation: Activation) -> dict[str, Any]:
    """Returns all facts about an activation, measured errors included, as values that JSON can hold."""
    found = error(activation)
    band = activation.band if isinstance(activation, Signed) else None
    one_input = not isinstance(activation, (Maximum, MaxPool))
    finite = bool(np.isfinite(activation.bound))
    return {
        "name": activation.name,
        "function": activation.function,
        "form": activation.form,
        "degrees": list(activation.degrees),
        "levels": activation.levels,
        "openfhe_levels": activation.openfhe_levels,
        "error": found.largest,
        "error_at": found.at,
        "rms": found.rms,
        "bits": -float(np.log2(found.largest)) if found.largest else None,
        "band": asdict(band) if band else None,
        "bound": activation.bound if finite else None,
        "valid_range": valid_range(activation) if finite and one_input else None,
        "source": activation.source,
    }
