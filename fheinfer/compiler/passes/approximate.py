"""Every activation becomes polynomials: what an evaluator of ciphertexts can compute.

x ; relu   =>   x ; chebyshev                                                 a Chebyshev ReLU
           =>   x ; chebyshev p1 ; ... ; chebyshev pn ; multiply (x, pn)      x times a composite step
           =>   x ; quadratic (c0, c1, c2 a channel)
x ; silu   =>   x ; chebyshev                                                 and so gelu, of a degree by its range
x ; paf    =>   x ; chebyshev p1 ; ... ; multiply
x ; herpn  =>   x ; quadratic

The last of them keeps the name. Attribute `range` is the largest |input| a polynomial has to serve: `scales` makes it
1. `unit` is the value that an output of 1 stands for, and `activation` the node all of them come from.
"""

from __future__ import annotations

import numpy as np

from fheinfer.approx.composition import Composition
from fheinfer.approx.forms import Activation, Gate, Polynomial, Quadratic
from fheinfer.approx.measure import error
from fheinfer.approx.quadratic import folded
from fheinfer.approx.smooth import FUNCTIONS, smooth
from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node

Constants = dict[str, np.ndarray]
SMOOTH_ERROR = 2**-10
"""Largest error of a series for SiLU or GELU, of its range: what a bootstrap adds is no less."""


def approximate(program: Program) -> Program:
    shapes, constants = program.graph.shapes(), dict(program.constants)
    nodes: list[Node] = []
    for node in program.graph:
        if node.op == "relu":
            nodes += _relu(node, program.activation, _range(program, node), shapes[node.name][0], constants)
        elif node.op in FUNCTIONS:
            nodes.append(_smooth(node, _range(program, node), constants))
        elif node.op == "paf":
            nodes += _paf(node, constants)
        elif node.op == "herpn":
            nodes.append(_herpn(node, _range(program, node), constants))
        else:
            nodes.append(node)
    return program.with_nodes(nodes, constants)


def _range(program: Program, node: Node) -> float:
    if node.name not in program.ranges:
        raise PlanError(
            f"no range is known for the activation {node.name!r}; "
            "measure it with `fheinfer weights import FILE --data FOLDER`"
        )
    return program.ranges[node.name] or 1.0  # a layer that is all zero fits any


def _relu(node: Node, activation: Activation, bound: float, channels: int, constants: Constants) -> list[Node]:
    """ReLU is positively homogeneous: relu(x) = B relu(x / B), so that one polynomial on [-1, 1] serves every range."""
    if isinstance(activation, Quadratic):  # not homogeneous, and valid everywhere: of x as it is
        powers = np.repeat(activation.polynomials.powers()[0][:, None], channels, axis=1)
        return [_quadratic(node, powers, bound, constants)]
    if isinstance(activation, Gate):
        return _gate(node, activation.step, bound, constants)
    if not isinstance(activation, Polynomial) or activation.function != "ReLU":
        raise PlanError(f"{activation.name} cannot stand for the ReLU {node.name!r}; see `fheinfer approx list`")
    (series,) = activation.polynomials.stages
    return [_series(node, series, bound, constants)]


def _series(node: Node, series: np.ndarray, bound: float, constants: Constants) -> Node:
    """bound * series(x / bound)."""
    name = f"{node.name}/coefficients"
    constants[name] = series
    attrs = {"activation": node.name, "range": bound, "unit": bound}
    return Node(node.name, "chebyshev", node.inputs, {"coefficients": name}, attrs)


def _smooth(node: Node, bound: float, constants: Constants) -> Node:
    """SiLU and GELU depend on their range: the first series exact enough, of those that use all of their levels."""
    for levels in range(3, 8):
        series = smooth(node.op, 2**levels - 1, bound)
        if error(series).largest <= SMOOTH_ERROR * bound:
            return _series(node, series.polynomials.stages[0] / bound, bound, constants)
    raise PlanError(f"the range {bound:.3g} of the activation {node.name!r} is too large for one polynomial")


def _paf(node: Node, constants: Constants) -> list[Node]:
    """A composite with coefficients of its own; what it was trained at is its range."""
    lengths = [(degree + 1) // 2 for degree in node.attrs["degrees"]]
    odd = np.split(constants[node.weights["coefficients"]], np.cumsum(lengths)[:-1])
    stages = [np.stack([np.zeros_like(c), c], axis=1).ravel().tolist() for c in odd]
    step = Composition.from_powers(stages).affine(0.5, 0.5)
    return _gate(node, step, float(constants[node.weights["scale"]][0]), constants)


def _herpn(node: Node, bound: float, constants: Constants) -> Node:
    weight, bias, mean, var = (constants[node.weights[role]] for role in ("weight", "bias", "mean", "var"))
    return _quadratic(node, folded(weight, bias, mean, var, node.attrs["eps"]), bound, constants)


def _quadratic(node: Node, powers: np.ndarray, bound: float, constants: Constants) -> Node:
    """`powers`: coefficients of 1, x and x^2 by channel, (3, channels)."""
    weights = {role: f"{node.name}/{role}" for role in ("c0", "c1", "c2")}
    constants.update(zip(weights.values(), powers, strict=True))
    return Node(node.name, "quadratic", node.inputs, weights, {"activation": node.name, "range": bound})


def _gate(node: Node, step: Composition, bound: float, constants: Constants) -> list[Node]:
    """x times a composite step of x / bound."""
    nodes: list[Node] = []
    last = node.inputs[0]
    for number, series in enumerate(step.stages, start=1):
        name = f"{node.name}/p{number}"
        constants[f"{name}/coefficients"] = series
        attrs = {"activation": node.name, "range": bound if number == 1 else 1.0, "unit": 1.0}
        nodes.append(Node(name, "chebyshev", (last,), {"coefficients": f"{name}/coefficients"}, attrs))
        last = name
    product = {"activation": node.name, "range": bound}
    return [*nodes, Node(node.name, "multiply", (node.inputs[0], last), attrs=product)]
