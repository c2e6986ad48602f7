"""From the bits that the outputs of a network are to keep to the polynomials that keep them.

Bits are those of docs/explanation/precision.md: -log2 of the error of an input's worst output, relative to its largest
one, in the median over inputs. Measured on ResNet20, 32 and 44, HEIR's LeNet-5, MLPerf Tiny's ResNet8 and a
checkerboard with every ReLU replaced (docs/explanation/activations.md): what a typical error in each of up to `SHORT`
activations in a row leaves, or more, is `LEFT`; errors add up in deeper networks. Networks differ by two bits and more:
what calibration measured of one (`Model.kept_bits`) goes before the rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fheinfer.approx import minimax, piecewise, registry
from fheinfer.approx.forms import Activation, Gate, Polynomial, Quadratic
from fheinfer.approx.functions import Function
from fheinfer.approx.piecewise import Approximation
from fheinfer.errors import PlanError, UsageError

OFFERED = (5, 8, 11)
"""Bits that docs/explanation/activations.md has prices for; any other number between `LEAST` and `MOST` may be asked
for, too."""
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
REFERENCES = ("relu:31", "relu:63", "relu:127", "relu:255", *(f"minimax:{alpha}" for alpha in range(9, 15)))
"""What calibration puts in the place of ReLUs to see what it leaves of a network's outputs; the fewest levels first."""
SPREAD = 0.3
"""Bits by which the median over other inputs may be less than over the few that were measured."""
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
    """

    smooth: float
    kinked: float
    relu: Activation
    chosen: bool = True


def named(relu: Activation) -> Fidelity:
    """Returns the fidelity of a ReLU that was asked for: other activations with kinks are no worse than that."""
    series = isinstance(relu, Polynomial) and not isinstance(relu, Quadratic) and relu.function == "ReLU"
    return Fidelity(UNSAID, max(piecewise.typical_of(relu), FINEST) if series else UNSAID, relu)


def of_bits(bits: float, depth: int = 1, measured: Mapping[str, float] | None = None) -> Fidelity:
    """Returns what keeps so many bits of the outputs: the first of what was measured, else by the rule of this module.

    Args:
        depth: activations in a row, the most of any way through the network.
        measured: the bits that `REFERENCES` left of its outputs, by name; nothing where they were never measured.

    Raises:
        UsageError: fewer bits than `LEAST` or more than `MOST`.
        PlanError: nothing that was measured keeps so many.
    """
    if not LEAST <= bits <= MOST:
        raise UsageError(f"{bits:g} bits of the outputs; choose {LEAST:g} to {MOST:g}, such as 5, 8 or 11")
    finer = bits + _lost(depth)
    smooth = 2.0 ** -(finer + SMOOTH)
    if measured:
        enough = next((name for name in REFERENCES if measured.get(name, 0.0) - SPREAD >= bits), None)
        if enough is None:
            most = max(0.0, *measured.values()) - SPREAD
            raise PlanError(
                f"no approximation of ReLU keeps {bits:g} bits of this network's outputs: the finest left {most:.1f} "
                "in calibration; ask for fewer, calibrate without examples that are far larger than all others, or "
                "fine-tune the network to polynomials"
            )
        relu = registry.activation(enough)
        return replace(named(relu), smooth=smooth, kinked=piecewise.typical_of(relu))
    kinked = 2.0 ** -float(np.interp(finer, LEFT, KINKED))
    return Fidelity(smooth, kinked, _series(kinked) or _composite(kinked), False)


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
    return max(0.0, left - _lost(depth))


def measured_bits(relu: Activation, measured: Mapping[str, float], otherwise: float) -> float:
    """Returns the bits that outputs keep with this in the place of ReLUs, by what was measured of others; `otherwise`
    where that says nothing, of a composite that is none of them, and no more than that of a series coarser than all."""
    if relu.name in measured:
        return max(0.0, measured[relu.name] - SPREAD)
    series = [name for name in REFERENCES if name in measured and name.startswith("relu:")]
    if not series or not isinstance(relu, Polynomial) or relu.function != "ReLU":
        return otherwise
    exact, *others = (-math.log2(piecewise.typical_of(a)) for a in (relu, *map(registry.activation, series)))
    kept = max(0.0, float(np.interp(exact, others, [measured[name] for name in series])) - SPREAD)
    return kept if exact >= others[0] else min(kept, otherwise)


def _lost(depth: int) -> float:
    """Bits that errors cost which add up in so many activations in a row."""
    return max(0.0, math.log2(depth / SHORT))


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
            most = found.levels - 1 if found else LONGEST
            return piecewise.kinked_series(function, bound, error, most) or found
        return found
    relu = fidelity.relu
    if fidelity.chosen and isinstance(relu, Gate):
        return piecewise.gated(function, bound, relu, fidelity.smooth * largest, error)
    found = piecewise.kinked_series(function, bound, error, LONGEST)
    if found is not None:
        return found
    kinks = function.inside(bound)
    radius = bound + max(abs(kink.at) for kink in kinks)
    gate = _composite(error / (radius * sum(abs(kink.jump) for kink in kinks)))
    found = piecewise.gated(function, bound, gate, fidelity.smooth * largest, error / 2)
    if found is not None and found.typical <= error:
        return found
    return piecewise.kinked_series(function, bound, error)


@lru_cache(maxsize=16)
def _series(error: float) -> Activation | None:
    """The first series of that typical error that is not too long."""
    every = (registry.activation(f"relu:{2**levels - 1}") for levels in range(3, LONGEST + 1))
    return next((relu for relu in every if piecewise.typical_of(relu) <= error), None)


def _composite(error: float) -> Gate:
    """The first composite of that typical error, else the last there is."""
    for alpha in minimax.PUBLISHED:
        gate = registry.from_composite(minimax.composite(alpha), f"minimax:{alpha}", minimax.SOURCE)
        if piecewise.typical_of(gate) <= error:
            break
    return gate
