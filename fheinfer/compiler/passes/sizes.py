"""How large a value of the network can be, as far as ranges of activations and the operations after them say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fheinfer.approx.functions import function_of
from fheinfer.compiler.program import Program
from fheinfer.model import ops
from fheinfer.model.graph import Node

Interval = tuple[float, float]
"""(lowest, highest); infinite where nothing is known."""

ANYTHING: Interval = (-math.inf, math.inf)
_WITHIN = (ops.Reshape, ops.Permute, ops.Slice, ops.Expand, ops.MaxPool, ops.GlobalAvgPool)
"""Operations whose output is between the lowest and the highest input."""
_WITH_ZEROS = (ops.Pad, ops.MeanPool)
"""And those whose output may be nearer to zero, too."""


def interval_of(program: Program, name: str) -> Interval:
    """Returns between which numbers a value of the network lies; infinite ones where nothing says so."""
    known: dict[str, Interval] = {}
    graph = program.graph
    for node in graph:
        known[node.name] = _interval(program, node, [known[i] for i in node.inputs])
        if node.name == name:
            break
    return known[name]


def _interval(program: Program, node: Node, inputs: list[Interval]) -> Interval:
    op = node.op
    if isinstance(op, ops.Input):
        return -program.input_bound, program.input_bound
    if isinstance(op, _WITHIN):
        return inputs[0]
    if isinstance(op, _WITH_ZEROS):
        return min(inputs[0][0], 0.0), max(inputs[0][1], 0.0)
    if isinstance(op, ops.Concat):
        return min(low for low, _ in inputs), max(high for _, high in inputs)
    if isinstance(op, ops.Add):
        return sum(low for low, _ in inputs), sum(high for _, high in inputs)
    if isinstance(op, ops.AddConstant):
        constant = program.constants[op.value]
        return inputs[0][0] + float(constant.min()), inputs[0][1] + float(constant.max())
    if (function := function_of(op)) and node.name in program.ranges:
        return _image(function.value, program.ranges[node.name])
    return ANYTHING


def _image(function: Callable[[np.ndarray], np.ndarray], bound: float) -> Interval:
    values = function(np.linspace(-bound, bound, 2001))
    return float(values.min()), float(values.max())
