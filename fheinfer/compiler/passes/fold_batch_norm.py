"""conv2d -> batch_norm becomes one conv2d with a bias, under the batch norm's name.

conv (W) ; bn (g, b, mean, var)   =>   conv (W * g / sqrt(var + eps), b - mean * g / sqrt(var + eps))
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node
from fheinfer.model.ops import BatchNorm, Conv2d


def fold_batch_norm(program: Program) -> Program:
    """Folds every batch norm into the convolution before it, so that it consumes no level.

    Raises:
        PlanError: a batch norm that does not follow a convolution of its own.
    """
    graph, constants = program.graph, dict(program.constants)
    folded: dict[str, str] = {}  # convolution -> the batch norm that takes its place
    nodes: list[Node] = []
    for node in graph:
        if isinstance(node.op, Conv2d):
            users = graph.users(node.name)
            if len(users) == 1 and isinstance(users[0].op, BatchNorm):
                folded[node.name] = users[0].name
                continue
        if not isinstance(node.op, BatchNorm):
            nodes.append(node)
            continue
        source = graph[node.inputs[0]]
        conv = source.op
        if not isinstance(conv, Conv2d) or folded.get(source.name) != node.name:
            raise PlanError(f"batch norm {node.name!r} does not follow a convolution of its own; it cannot be folded")
        bn = node.op
        gain, shift, mean, var = (constants[name] for name in (bn.weight, bn.bias, bn.mean, bn.var))
        factor = gain / np.sqrt(var + bn.eps)
        bias = constants[conv.bias] if conv.bias else 0.0
        weight_name, bias_name = f"{node.name}/weight", f"{node.name}/bias"
        constants[weight_name] = constants[conv.weight] * factor[:, None, None, None]
        constants[bias_name] = (bias - mean) * factor + shift
        nodes.append(Node(node.name, replace(conv, weight=weight_name, bias=bias_name), source.inputs))
    return program.with_nodes(nodes, constants)
