"""Gives every value its layout: where its elements are in the slots of a ciphertext.

The input is unpacked (gap 1); a strided convolution multiplies the gap and keeps the grid; the sum of a pool is in the
first slot of each channel; features of a linear layer are in the first slots. The output layer gets its mask.
"""

from __future__ import annotations

from dataclasses import replace

from fheinfer import _core
from fheinfer.compiler.program import Program
from fheinfer.compiler.steps import conv_of
from fheinfer.crypto.params import parameter_sets
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node
from fheinfer.model.ops import Conv2d, Input, Linear, SumPool
from fheinfer.packing import Layout, input_layout


def pack(program: Program) -> Program:
    """Gives every value its layout in the slots.

    Raises:
        PlanError: a value that needs more slots than the set has, or a layer that no layout serves.
    """
    layouts: dict[str, Layout] = {}
    nodes: list[Node] = []
    for node in program.graph:
        if node is program.graph.output and isinstance(node.op, Linear):
            node = replace(node, op=replace(node.op, mask=True))
        layouts[node.name] = layout = _layout(node, [layouts[name] for name in node.inputs])
        if layout.period > program.params.slots:
            raise PlanError(
                f"node {node.name!r} needs {layout.period} slots; set {program.params.name} has "
                f"{program.params.slots}; {_advice(layout.period)}"
            )
        nodes.append(node)
    return replace(program.with_nodes(nodes), layouts=layouts)


def _advice(slots: int) -> str:
    """What to do where a set has fewer slots than that."""
    names = [params.name for params in parameter_sets() if params.slots >= slots]
    if names:
        return f"choose a set that has as many: {', '.join(names)}"
    return "no set has as many (`fheinfer sets`): make the input smaller, or the network narrower there"


def _layout(node: Node, inputs: list[Layout]) -> Layout:
    op = node.op
    try:
        if isinstance(op, Input):
            return input_layout(op.shape)
        if isinstance(op, Conv2d):
            return _core.conv2d_output(inputs[0], op.out_channels, conv_of(op))
        if isinstance(op, SumPool):
            return _core.sum_pool_output(inputs[0])
        if isinstance(op, Linear):
            return _core.linear_output(inputs[0], op.out_features)
    except PlanError as error:
        raise PlanError(f"node {node.name!r} ({op.kind}): {error}") from None
    return inputs[0]
