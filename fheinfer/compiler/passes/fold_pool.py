"""avg_pool -> linear: the pool only sums, and the linear layer's weights carry the division.

avg_pool over H x W ; linear (W)   =>   sum_pool ; linear (W / (H * W))

Rotations add up a power of two of pixels. Where H or W is none, the linear layer reads every pixel instead:

avg_pool over H x W ; linear (W)   =>   linear (W / (H * W), once per pixel)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import GlobalAvgPool, Linear, SumPool


def fold_pool(program: Program) -> Program:
    """Moves the division of every global average pool into the linear layer after it; a sum consumes no level.

    Raises:
        PlanError: such a pool that something else than a linear layer reads.
    """
    graph, constants = program.graph, dict(program.constants)
    nodes: list[Node] = []
    for node in graph:
        if isinstance(node.op, GlobalAvgPool):
            if any(not isinstance(user.op, Linear) for user in graph.users(node.name)):
                raise PlanError(
                    f"average pool {node.name!r} must be followed by a linear layer, which takes its division"
                )
            if not _summed(graph, node):
                continue
            node = replace(node, op=SumPool())
        elif isinstance(node.op, Linear):
            source = graph[node.inputs[0]]
            if isinstance(source.op, GlobalAvgPool):
                _, height, width = graph.shapes[source.inputs[0]]
                name = f"{node.name}/weight"
                weight = constants[node.op.weight] / (height * width)
                summed = _summed(graph, source)
                constants[name] = weight if summed else np.repeat(weight, height * width, axis=1)
                inputs = node.inputs if summed else source.inputs
                node = replace(node, op=replace(node.op, weight=name), inputs=inputs)
        nodes.append(node)
    return program.with_nodes(nodes, constants)


def _summed(graph: Graph, pool: Node) -> bool:
    """Whether rotations can sum the pixels of each channel."""
    return all(size & (size - 1) == 0 for size in graph.shapes[pool.inputs[0]][1:])
