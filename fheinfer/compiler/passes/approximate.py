"""Every activation becomes polynomials: what an evaluator of ciphertexts can compute.

x ; relu   =>   x ; chebyshev                                               a Chebyshev ReLU
           =>   x ; chebyshev p1 ; ... ; chebyshev pn ; multiply (x, pn)    x times a composite step
           =>   x ; quadratic (c0, c1, c2 per channel)
x ; silu   =>   x ; chebyshev                                               likewise gelu; the range gives the degree
x ; paf    =>   x ; chebyshev p1 ; ... ; multiply
x ; herpn  =>   x ; quadratic

The last of them keeps the name, and all of them name the activation that they come from.
"""

from __future__ import annotations

import statistics

import numpy as np

from fheinfer.approx.composition import Composition
from fheinfer.approx.forms import Gate, Polynomial, Quadratic
from fheinfer.approx.measure import error
from fheinfer.approx.quadratic import folded
from fheinfer.approx.smooth import smooth
from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.model.graph import Node

Constants = dict[str, np.ndarray]
SMOOTH_ERROR = 2**-10
"""Largest error of a series for SiLU or GELU, of its range: what a bootstrap adds is no less."""
IMPLAUSIBLE = 1e4
"""A range so many times the median of all is no range of the network: it would ruin every answer without a word."""


def approximate(program: Program) -> Program:
    """Replaces every activation by polynomials: a series takes about log2 of its degree in levels, a product one.

    Raises:
        PlanError: a range that is implausible or too large, or a form that does not approximate a ReLU.
    """
    constants = dict(program.constants)
    _check_ranges(program)
    nodes: list[Node] = []
    for node in program.graph:
        op = node.op
        if isinstance(op, ops.Relu):
            nodes += _relu(program, node, constants)
        elif isinstance(op, ops.Silu | ops.Gelu):
            nodes.append(_smooth(node, program.range_of(node.name), constants))
        elif isinstance(op, ops.Paf):
            nodes += _paf(node, op, constants)
        elif isinstance(op, ops.HerPN):
            weight, bias, mean, var = (constants[name] for name in (op.weight, op.bias, op.mean, op.var))
            powers = folded(weight, bias, mean, var, op.eps)
            nodes.append(_quadratic(node, powers, program.range_of(node.name), constants))
        else:
            nodes.append(node)
    return program.with_nodes(nodes, constants)


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


def _relu(program: Program, node: Node, constants: Constants) -> list[Node]:
    """ReLU is positively homogeneous: relu(x) = B relu(x / B), so that one polynomial on [-1, 1] serves every range."""
    activation, bound = program.relu, program.range_of(node.name)
    if isinstance(activation, Quadratic):  # not homogeneous, and valid everywhere: of x as it is
        channels = program.graph.shapes[node.name][0]
        powers = np.repeat(activation.polynomials.powers()[0][:, None], channels, axis=1)
        return [_quadratic(node, powers, bound, constants)]
    if isinstance(activation, Gate):
        return _gate(node, activation.step, bound, constants)
    if not isinstance(activation, Polynomial) or activation.function != "ReLU":
        raise PlanError(f"{activation.name} does not approximate the ReLU {node.name!r}; see `fheinfer approx list`")
    (series,) = activation.polynomials.stages
    return [_series(node, series, bound, constants)]


def _series(node: Node, series: np.ndarray, bound: float, constants: Constants) -> Node:
    """bound * series(x / bound)."""
    name = f"{node.name}/coefficients"
    constants[name] = series
    return Node(node.name, ops.Chebyshev(name, bound, bound), node.inputs, activation=node.name)


def _smooth(node: Node, bound: float, constants: Constants) -> Node:
    """SiLU and GELU depend on their range: the first series exact enough, of those that use all of their levels."""
    for levels in range(3, 8):
        series = smooth(node.op.kind, 2**levels - 1, bound)
        if error(series).largest <= SMOOTH_ERROR * bound:
            return _series(node, series.polynomials.stages[0] / bound, bound, constants)
    raise PlanError(f"the range {bound:.3g} of the activation {node.name!r} is too large for one polynomial")


def _paf(node: Node, op: ops.Paf, constants: Constants) -> list[Node]:
    """A composite with coefficients of its own; the scale that it was trained at is its range."""
    odd = np.split(constants[op.coefficients], np.cumsum(op.lengths)[:-1])
    stages = [np.stack([np.zeros_like(c), c], axis=1).ravel().tolist() for c in odd]
    step = Composition.from_powers(stages).affine(0.5, 0.5)
    return _gate(node, step, float(constants[op.scale][0]), constants)


def _quadratic(node: Node, powers: np.ndarray, bound: float, constants: Constants) -> Node:
    """`powers`: coefficients of 1, x and x^2 by channel, (3, channels)."""
    op = ops.Quadratic(f"{node.name}/c0", f"{node.name}/c1", f"{node.name}/c2", bound)
    constants.update(zip(op.tensors.values(), powers, strict=True))
    return Node(node.name, op, node.inputs, activation=node.name)


def _gate(node: Node, step: Composition, bound: float, constants: Constants) -> list[Node]:
    """x times a composite step of x / bound."""
    nodes: list[Node] = []
    last = node.inputs[0]
    for number, series in enumerate(step.stages, start=1):
        name = f"{node.name}/p{number}"
        constants[f"{name}/coefficients"] = series
        op = ops.Chebyshev(f"{name}/coefficients", bound if number == 1 else 1.0, 1.0)
        nodes.append(Node(name, op, (last,), activation=node.name))
        last = name
    return [*nodes, Node(node.name, ops.Multiply(bound), (node.inputs[0], last), activation=node.name)]
