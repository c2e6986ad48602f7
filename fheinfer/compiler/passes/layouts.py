"""Gives every node the layout of its output: attribute `layout`.

The input lies unpacked (gap 1); a strided convolution multiplies the gap and keeps the grid; the sum of a pool stands
in the first slot of each channel; features of a linear layer in the first slots.
"""

from __future__ import annotations

from fheinfer import _core
from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node
from fheinfer.packing import Layout, input_layout


def layouts(program: Program) -> Program:
    of: dict[str, Layout] = {}
    nodes = []
    for node in program.graph:
        _check(node)
        of[node.name] = layout = _layout(node, [of[i] for i in node.inputs])
        if layout.period > program.params.slots:
            raise PlanError(
                f"node {node.name!r} needs {layout.period} slots; set {program.params.name} has {program.params.slots}"
            )
        nodes.append(node.with_attrs(layout=layout))
    return program.with_nodes(nodes)


_KNOWN = ("input", "conv2d", "avg_pool", "linear", "add", "chebyshev", "multiply", "quadratic")


def _check(node: Node) -> None:
    if node.op not in _KNOWN:
        raise PlanError(f"node {node.name!r}: {node.op} cannot be evaluated encrypted yet; use networks without it")


def conv_of(node: Node) -> _core.Conv2d:
    """The core's description of a conv2d node."""
    return _core.Conv2d(node.attrs["kernel"], node.attrs["stride"], node.attrs["padding"])


def _layout(node: Node, inputs: list[Layout]) -> Layout:
    if node.op == "input":
        return input_layout(node.attrs["shape"])
    if node.op == "conv2d":
        return _core.conv2d_output(inputs[0], node.attrs["out_channels"], conv_of(node))
    if node.op == "avg_pool":
        return _core.sum_pool_output(inputs[0])
    if node.op == "linear":
        return _core.linear_output(inputs[0], node.attrs["out_features"])
    return inputs[0]
