"""What the activations of a model take, before a parameter set is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fheinfer.approx import Activation
from fheinfer.approx import activation as find_activation
from fheinfer.approx.fidelity import of_bits
from fheinfer.approx.levels import series_levels
from fheinfer.compiler.passes.approximate import approximate, depth_of
from fheinfer.compiler.passes.max_pools import max_pools
from fheinfer.compiler.presets import Preset
from fheinfer.compiler.program import Program
from fheinfer.compiler.wanted import require_number
from fheinfer.crypto.backends import backend
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import UsageError
from fheinfer.model import ops
from fheinfer.model.graph import Node
from fheinfer.model.model import Model

RANGE_MARGIN = 1.2
"""Activations are valid up to this many times the largest input seen in calibration."""
_DEPENDS_ON_NO_SET = "1"


def require_margin(margin: float) -> None:
    """Refuses what is no factor on ranges.

    Raises:
        UsageError: no number, or not positive.
    """
    require_number("margin", margin, RANGE_MARGIN)
    if not 0 < margin < math.inf:
        raise UsageError(f"the margin is a factor on the ranges, and {margin:g} is none; try {RANGE_MARGIN}")


def measured_at(model: Model, margin: float) -> Mapping[str, float]:
    """What calibration measured of the bits that outputs keep: it says nothing of another margin."""
    return model.kept_bits if margin == RANGE_MARGIN else {}


def relu_of(
    model: Model, activation: str | Activation | None, bits: float | None, default: str, margin: float = RANGE_MARGIN
) -> Activation:
    """Returns what approximates a ReLU of a network.

    Args:
        activation: asked for by name, or itself.
        bits: that outputs are to keep, instead.
        default: name of the activation where neither says anything.
        margin: factor on the ranges.

    Raises:
        UsageError: both are given, no activation has that name, or bits are out of range.
    """
    if bits is not None and activation is not None:
        raise UsageError("give the bits that outputs keep, or the activation that approximates a ReLU, not both")
    if bits is not None:
        return of_bits(bits, depth_of(model.graph), measured_at(model, margin)).relu
    chosen = default if activation is None else activation
    return chosen if isinstance(chosen, Activation) else find_activation(chosen)


def polynomials_of(
    model: Model,
    activation: str | Activation | None = None,
    bits: float | None = None,
    margin: float = RANGE_MARGIN,
) -> Program:
    """Returns the network with polynomials in place of activations and max pools, and all else as it was.

    Args:
        model: with the range of every activation.
        activation, bits, margin: as of `compile`.

    Raises:
        UsageError: a margin that is not positive; see `relu_of`.
        PlanError: a range is missing or implausible.
    """
    require_margin(margin)
    params = parameter_set(_DEPENDS_ON_NO_SET)
    program = Program(
        graph=model.graph,
        constants={name: array.astype("float64") for name, array in model.tensors.items()},
        ranges={name: bound * margin for name, bound in model.ranges.items()},
        params=params,
        backend=backend("native"),
        relu=relu_of(model, activation, bits, Preset().activation, margin),
        input_bound=model.input_bound,
        bits=bits,
        measured=measured_at(model, margin),
    )
    return approximate(max_pools(program))


def activation_levels(
    model: Model,
    activation: str | Activation | None = None,
    bits: float | None = None,
    margin: float = RANGE_MARGIN,
) -> dict[str, int]:
    """Returns the levels that every activation, product and max pool consumes on the native backend, by node.

    Raises:
        UsageError, PlanError: as `polynomials_of`.
    """
    program = polynomials_of(model, activation, bits, margin)
    left: dict[str, int] = {}
    owner = ""
    known = {node.name for node in model.graph}
    levels: dict[str, int] = {}
    for node in program.graph:
        group = next((name for name in _prefixes(node.name) if name in known), node.name)
        if group != owner:
            left, owner = {}, group
        left[node.name] = max((left.get(name, 0) for name in node.inputs), default=0) + _depth(program, node)
        if node.name == group and model.graph[group].op.ranged:
            levels[group] = left[node.name]
    return levels


def _prefixes(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _depth(program: Program, node: Node) -> int:
    if isinstance(node.op, ops.Chebyshev):
        return series_levels(len(program.constants[node.op.coefficients]) - 1)
    return int(isinstance(node.op, ops.Multiply | ops.Quadratic | ops.MultiplyConstant | ops.Resample))
