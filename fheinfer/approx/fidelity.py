"""From the bits that the outputs of a network are to keep to the polynomials that keep them.

Bits are those of docs/precision.md: -log2 of the error of an input's worst output, relative to its largest one, in the
median over inputs. Measured on ResNet20, 32 and 44, HEIR's LeNet-5, MLPerf Tiny's ResNet8 and a checkerboard with every
ReLU replaced (docs/activations.md): what a typical error in each of up to `SHORT` activations in a row leaves, or more,
is `LEFT`; errors add up in deeper networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fheinfer.approx import minimax, piecewise, registry
from fheinfer.approx.forms import Activation, Gate, Polynomial, Quadratic
from fheinfer.approx.functions import Function
from fheinfer.approx.piecewise import Approximation
from fheinfer.errors import UsageError

OFFERED = (5, 8, 11)
"""Bits that docs/activations.md has prices for; any other number between `LEAST` and `MOST` may be asked for, too."""
LEAST, MOST = 1.0, 12.0
SHORT = 20
"""Activations in a row up to which their number does not show."""
FINEST = 2.0**-15.9
"""Typical error of ReLU by degree 1023, which no series is asked to be below."""
LEFT = (0.0, 4.6, 8.0, 11.7, 20.0)
"""Bits of the outputs that an activation with kinks leaves whose typical error is 2^-`KINKED` of its largest output.

The middle three are what degree 63, degree 255 and minimax:13 left of the networks that lost most; the others are a
guess. A series too coarse loses more than its error says, as the layers after it get other inputs than they had."""
KINKED = (6.3, 10.15, 12.95, 16.8, 25.1)
SMOOTH = 5.0
"""Bits by which the largest error of a smooth one has to be finer."""
SURELY_SMOOTH = 4
"""Levels of a series by interpolation that no other is shorter than."""
LONGEST = 8
"""Levels of the longest series for a function with kinks. At N = 2^16 a bootstrap leaves 13 levels of 47 bits at the
most, three or four of which the next one needs to begin. A composite can be bootstrapped between its stages."""
UNSAID = 2.0**-10
"""Largest error of a smooth activation, of its largest output, where no bits are asked for."""


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How exact the activations of a network have to be.

    smooth  largest error of an activation without kinks, of its largest output
    kinked  typical error of one with kinks (`fit.typical_error`), of its largest output
    relu    what approximates a ReLU: also the kinks of all others if it is a composite sign
    chosen  whether `relu` was asked for by name, and so counts more than the errors
    longest  levels of the longest series for a function with kinks: from there on it takes a composite
    """

    smooth: float
    kinked: float
    relu: Activation
    chosen: bool = True
    longest: int = LONGEST


def named(relu: Activation) -> Fidelity:
    """Returns the fidelity of a ReLU that was asked for: other activations with kinks are no worse than that."""
    series = isinstance(relu, Polynomial) and not isinstance(relu, Quadratic) and relu.function == "ReLU"
    return Fidelity(UNSAID, max(piecewise.typical_of(relu), FINEST) if series else UNSAID, relu)


@lru_cache(maxsize=16)
def of_bits(bits: float, depth: int = 1, longest: int = LONGEST) -> Fidelity:
    """Returns what keeps so many bits of the outputs.

    Args:
        depth: activations in a row, the most of any way through the network.
        longest: levels of the longest series; more where a parameter set has room for them.

    Raises:
        UsageError: fewer bits than `LEAST` or more than `MOST`.
    """
    if not LEAST <= bits <= MOST:
        raise UsageError(f"{bits:g} bits of the outputs; choose {LEAST:g} to {MOST:g}, such as 5, 8 or 11")
    finer = bits + max(0.0, math.log2(depth / SHORT))
    kinked, smooth = 2.0 ** -float(np.interp(finer, LEFT, KINKED)), 2.0 ** -(finer + SMOOTH)
    for levels in range(3, longest + 1):
        relu = registry.activation(f"relu:{2**levels - 1}")
        if piecewise.typical_of(relu) <= kinked:
            return Fidelity(smooth, kinked, relu, False, longest)
    return Fidelity(smooth, kinked, _composite(kinked), False, longest)


def kept_bits(error: float, depth: int, *, kinked: bool) -> float:
    """Returns the bits of the outputs that activations of such an error leave, at least: the rule of this module.

    Args:
        error: of an activation, of its largest output: the typical one with kinks, else the largest.
        depth: activations in a row, the most of any way through the network.
        kinked: whether the activation has kinks.
    """
    if not error:
        return math.inf
    exact = -math.log2(error)
    left = float(np.interp(exact, KINKED, LEFT)) if kinked else exact - SMOOTH
    return max(0.0, left - max(0.0, math.log2(depth / SHORT)))


def choose(function: Function, bound: float, fidelity: Fidelity) -> Approximation | None:
    """Returns the polynomials of fewest levels for an activation on [-bound, bound]; None if none are exact enough.

    A function without kinks inside the range is the first series within the error, or one by least squares if the range
    is so wide that it looks bent, and that takes fewer levels. One with kinks is a series, too, as long as that may be,
    and from there on a series with a composite sign for each kink; with a composite as the ReLU that was asked for, it
    is that at once.
    """
    largest = function.largest(bound)
    error = fidelity.kinked * largest
    if not function.inside(bound):
        found = piecewise.smooth_series(function, bound, fidelity.smooth * largest)
        if found is None or (not fidelity.chosen and found.levels > SURELY_SMOOTH):
            most = found.levels - 1 if found else fidelity.longest
            return piecewise.kinked_series(function, bound, error, most) or found
        return found
    relu = fidelity.relu
    if fidelity.chosen and isinstance(relu, Gate):
        return piecewise.gated(function, bound, relu, fidelity.smooth * largest, error)
    found = piecewise.kinked_series(function, bound, error, fidelity.longest)
    if found is not None:
        return found
    kinks = function.inside(bound)
    radius = bound + max(abs(kink.at) for kink in kinks)
    gate = _composite(error / (radius * sum(abs(kink.jump) for kink in kinks)))
    found = piecewise.gated(function, bound, gate, fidelity.smooth * largest, error / 2)
    if found is not None and found.typical <= error:
        return found
    return piecewise.kinked_series(function, bound, error)


def _composite(error: float) -> Gate:
    """The first composite of that typical error, else the last there is."""
    for alpha in minimax.PUBLISHED:
        gate = registry.from_composite(minimax.composite(alpha), f"minimax:{alpha}", minimax.SOURCE)
        if piecewise.typical_of(gate) <= error:
            break
    return gate
