"""Every activation becomes polynomials: what an evaluator of ciphertexts can compute.

x ; relu     =>   x ; chebyshev                                               a Chebyshev ReLU
             =>   x ; chebyshev p1 ; ... ; chebyshev pn ; multiply (x, pn)    x times a composite step
             =>   x ; quadratic (c0, c1, c2 per channel)
x ; silu     =>   x ; chebyshev                                               and all that are smooth, or bent a little
x ; clip     =>   x ; chebyshev                                               or x - t ; step ; multiply at every kink,
                                                                              and their sum with a series
x ; prelu    =>   relu as above, x times a factor per channel beside it ; add
x ; power    =>   x ; chebyshev or quadratics, exact
x, y ; product => x, y ; multiply
x ; paf      =>   x ; chebyshev p1 ; ... ; multiply
x ; herpn    =>   x ; quadratic

The last of them keeps the name, and all of them name the activation that they come from. How exact they are follows
from the bits that outputs are to keep, or from what approximates a ReLU (`fheinfer.approx.fidelity`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from fheinfer.approx import fidelity, fit, piecewise
from fheinfer.approx.composition import F64, Composition
from fheinfer.approx.fidelity import Fidelity
from fheinfer.approx.forms import Gate, Polynomial, Quadratic
from fheinfer.approx.functions import Function, function_of, leaky_relu
from fheinfer.approx.quadratic import folded
from fheinfer.compiler.passes.lowered_activations import Pieces
from fheinfer.compiler.passes.sizes import interval_of
from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node

IMPLAUSIBLE = 1e4
"""A range so many times the median of all is no range of the network: it would ruin every answer without a word."""


def approximate(program: Program) -> Program:
    """Replaces every activation by polynomials: a series takes about log2 of its degree in levels, a product one.

    Raises:
        PlanError: a range that is implausible or too large, or a form that does not approximate a ReLU.
    """
    _check_ranges(program)
    constants = dict(program.constants)
    asked, depth, kept = fidelity_of(program), depth_of(program.graph), program.kept
    nodes: list[Node] = []
    for node in program.graph:
        pieces = Pieces(node, program.graph.shapes[node.name], constants)
        if make := _FORMS.get(type(node.op), _function if node.op.activation else None):
            make(program, pieces, node.op, asked)
            pieces.finish()
            kept = min(kept, fidelity.kept_bits(pieces.error, depth, kinked=pieces.kinked))
        nodes += pieces.nodes or [node]
    if kept < math.inf:
        kept = fidelity.measured_bits(asked.relu, program.measured, otherwise=kept)
    return replace(program.with_nodes(nodes, constants), kept=kept)


def fidelity_of(program: Program) -> Fidelity:
    """Returns how exact the activations of a program have to be.

    Raises:
        UsageError: bits out of range.
    """
    if program.bits is None:
        return fidelity.named(program.relu)
    return fidelity.of_bits(program.bits, depth_of(program.graph), program.measured)


def depth_of(graph: Graph) -> int:
    """Returns the most activations in a row, of all ways from the input to an output."""
    depth: dict[str, int] = {}
    for node in graph:
        before = max((depth[name] for name in node.inputs), default=0)
        depth[node.name] = before + int(node.op.activation and not node.op.polynomial)
    return max([*depth.values(), 1])


def _check_ranges(program: Program) -> None:
    known = [value for value in program.ranges.values() if value > 0]
    if not known:
        return
    usual = statistics.median(known)
    for name, value in program.ranges.items():
        if value > IMPLAUSIBLE * usual:
            raise PlanError(
                f"the range {value:.3g} of activation {name!r} is {value / usual:.0e} times the median of all ranges; "
                "it cannot be evaluated encrypted: measure the ranges again (`fheinfer calibrate`), or train the "
                "network with a range penalty"
            )


def _relu(program: Program, pieces: Pieces, op: ops.Relu, asked: Fidelity) -> None:
    """ReLU is positively homogeneous: relu(x) = B relu(x / B), so that one polynomial on [-1, 1] serves every range."""
    activation, bound = asked.relu, program.range_of(pieces.node.name)
    if isinstance(activation, Quadratic):  # not homogeneous, and valid everywhere: of x as it is
        powers = np.repeat(activation.polynomials.powers()[0][:, None], pieces.shape[0], axis=1)
        pieces.quadratic(pieces.x, powers, bound)
        pieces.error, pieces.kinked = fit.typical_error(activation.evaluate, _positive, bound) / (bound or 1.0), True
    else:
        _relu_of(pieces, asked, bound)


def _positive(x: F64) -> F64:
    return np.maximum(x, 0.0)


def _relu_of(pieces: Pieces, asked: Fidelity, bound: float, name: str = "") -> str:
    """relu(x) by what was chosen for it."""
    activation = asked.relu
    if not isinstance(activation, Gate) and not (isinstance(activation, Polynomial) and activation.function == "ReLU"):
        raise PlanError(
            f"{activation.name} does not approximate the ReLU {pieces.node.name!r}; see `fheinfer approx list`"
        )
    pieces.error, pieces.kinked = piecewise.typical_of(activation), True
    if isinstance(activation, Gate):
        return pieces.gate(pieces.x, activation.step, bound, name)
    (series,) = activation.polynomials.stages
    return pieces.series(pieces.x, series, bound, bound, name)


def _function(program: Program, pieces: Pieces, op: ops.Op, asked: Fidelity) -> None:
    """Any function that is the same for all channels."""
    function = function_of(op)
    if function is None:
        raise PlanError(f"activation {pieces.node.name!r} ({op.kind}) has no approximation")
    _approximated(pieces, function, program.range_of(pieces.node.name), asked)


def _approximated(pieces: Pieces, function: Function, bound: float, asked: Fidelity) -> None:
    found = fidelity.choose(function, bound, asked)
    if found is None:
        raise PlanError(
            f"the range {bound:.3g} of the activation {pieces.node.name!r} is too large for {function.name} by one "
            f"polynomial of {piecewise.MAX_LEVELS} levels; measure the ranges again (`fheinfer calibrate`), ask for "
            "fewer bits, or train the network with a range penalty"
        )
    largest = function.largest(bound) or 1.0
    pieces.kinked = bool(function.inside(bound))
    pieces.error = found.typical / largest if pieces.kinked else asked.smooth
    pieces.approximation(found, largest)


def _prelu(program: Program, pieces: Pieces, op: ops.Prelu, asked: Fidelity) -> None:
    """a x + (1 - a) relu(x), with a by channel: one level more than a ReLU by a series, and none by a composite."""
    slopes = program.constants[op.weight]
    bound = program.range_of(pieces.node.name)
    if np.ptp(slopes) == 0:
        _approximated(pieces, leaky_relu(float(slopes[0])), bound, asked)
        return
    straight = pieces.scaled(pieces.x, slopes, "slope")
    if isinstance(asked.relu, Gate):
        pieces.error, pieces.kinked = piecewise.typical_of(asked.relu), True
        bent = pieces.gate(pieces.x, asked.relu.step, bound, "relu", pieces.scaled(pieces.x, 1 - slopes, "jump"))
    else:
        bent = pieces.scaled(_relu_of(pieces, asked, bound, "relu"), 1 - slopes, "jump")
    pieces.add("sum", ops.Add(), bent, straight)


def _power(program: Program, pieces: Pieces, op: ops.Power, asked: Fidelity) -> None:
    """Exact: squares of squares where the exponent is a power of two, else one series."""
    exponent, bound = op.exponent, program.range_of(pieces.node.name)
    if exponent & (exponent - 1) == 0:
        x, square = pieces.x, np.repeat([[0.0], [0.0], [1.0]], pieces.shape[0], axis=1)
        for number in range(exponent.bit_length() - 1):
            x = pieces.quadratic(x, square, bound ** (2**number), f"square{number}")
        return
    series = chebyshev.poly2cheb([0.0] * exponent + [1.0])
    pieces.series(pieces.x, np.asarray(series, np.float64), bound, bound**exponent)


def _product(program: Program, pieces: Pieces, op: ops.Product, asked: Fidelity) -> None:
    """The product of two values, each in the slots by its own range as far as that is known."""
    measured = program.ranges.get(pieces.node.name, math.inf)
    bounds = [min(measured, max(map(abs, interval_of(program, name)))) for name in pieces.node.inputs]
    if not max(bounds) < math.inf:
        bounds = [program.range_of(pieces.node.name)] * 2  # says that it was never measured
    pieces.add("", ops.Multiply(bounds[0] or 1.0, bounds[1] or 1.0), *pieces.node.inputs)


def _paf(program: Program, pieces: Pieces, op: ops.Paf, asked: Fidelity) -> None:
    """A composite with coefficients of its own; the scale that it was trained at is its range."""
    odd = np.split(program.constants[op.coefficients], np.cumsum(op.lengths)[:-1])
    stages = [np.stack([np.zeros_like(c), c], axis=1).ravel().tolist() for c in odd]
    step = Composition.from_powers(stages).affine(0.5, 0.5)
    pieces.gate(pieces.x, step, float(program.constants[op.scale][0]))


def _herpn(program: Program, pieces: Pieces, op: ops.HerPN, asked: Fidelity) -> None:
    weight, bias, mean, var = (program.constants[name] for name in (op.weight, op.bias, op.mean, op.var))
    pieces.quadratic(pieces.x, folded(weight, bias, mean, var, op.eps), program.range_of(pieces.node.name))


_FORMS: dict[type[ops.Op], Callable[[Program, Pieces, Any, Fidelity], None]] = {
    ops.Relu: _relu,
    ops.Prelu: _prelu,
    ops.Power: _power,
    ops.Product: _product,
    ops.Paf: _paf,
    ops.HerPN: _herpn,
}
"""What becomes of each operation that is no function of its range alone."""
