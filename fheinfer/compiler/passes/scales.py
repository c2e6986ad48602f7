"""Decides by how much each node's slots are smaller than its values (attribute `scale`: value = slot * scale), and
folds every factor into weights and polynomial coefficients, so that no level is spent on scaling.

A polynomial ReLU wants its input in [-1, 1]: the node before it gets scale B, the range. ReLU commutes with positive
factors, so its output may have any scale S for free (attribute `gain` = B / S on its coefficients). S is B too, except
where the output goes unchanged into a residual sum: both addends need the scale of that sum.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.graph.ir import Node


def scales(program: Program) -> Program:
    graph = program.graph
    scale: dict[str, float] = {graph.input.name: program.input_bound}
    required = {node.name: _required(program, node) for node in graph}
    constants, nodes = dict(program.constants), []
    for node in graph:
        if node.op == "input":
            node = node.with_attrs(scale=program.input_bound)
        elif node.op in ("conv2d", "linear"):
            scale[node.name] = out = required[node.name] or _bound(program, node, scale)
            weight, bias = f"{node.name}/scaled_weight", f"{node.name}/scaled_bias"
            constants[weight] = constants[node.weights["weight"]] * (scale[node.inputs[0]] / out)
            names = {"weight": weight}
            if "bias" in node.weights:
                constants[bias] = constants[node.weights["bias"]] / out
                names["bias"] = bias
            node = replace(node, weights=names).with_attrs(scale=out)
        elif node.op == "relu":
            before = scale[node.inputs[0]]
            scale[node.name] = out = required[node.name] or before
            node = node.with_attrs(scale=out, gain=before / out)
        else:
            addends = {scale[i] for i in node.inputs}
            if len(addends) > 1:
                raise PlanError(f"the inputs of {node.name!r} have different scales {sorted(addends)}")
            scale[node.name] = addends.pop()
            node = node.with_attrs(scale=scale[node.name])
        nodes.append(node)
    return program.with_nodes(nodes, constants)


def _required(program: Program, node: Node) -> float | None:
    """The scale a node's users ask of it: that of the ReLU it feeds, directly or through sums."""
    asked = {s for user in program.graph.users(node.name) if (s := _asked_by(program, user)) is not None}
    if len(asked) > 1:
        raise PlanError(f"node {node.name!r} feeds activations of different ranges {sorted(asked)}")
    return asked.pop() if asked else None


def _asked_by(program: Program, user: Node) -> float | None:
    if user.op == "relu":
        if user.name not in program.ranges:
            raise PlanError(
                f"no range is known for the activation {user.name!r}; "
                "measure it with `fheinfer weights import FILE --data FOLDER`"
            )
        return program.ranges[user.name] or 1.0  # a layer that is all zero fits any scale
    return _required(program, user) if user.op == "add" else None


def _bound(program: Program, node: Node, scale: dict[str, float]) -> float:
    """A bound on the output of a layer that feeds no activation: the largest row of |W| times the largest input."""
    weight = program.constants[node.weights["weight"]]
    rows = np.abs(weight).reshape(weight.shape[0], -1).sum(axis=1) * scale[node.inputs[0]]
    source = program.graph[node.inputs[0]]
    if source.op == "avg_pool":  # sums `positions` values of that size
        _, height, width = program.graph.shapes()[source.inputs[0]]
        rows = rows * height * width
    bias = np.abs(program.constants[node.weights["bias"]]) if "bias" in node.weights else 0.0
    return float((rows + bias).max()) or 1.0
