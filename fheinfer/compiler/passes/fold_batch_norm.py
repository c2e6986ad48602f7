"""conv2d -> batch_norm becomes one conv2d with a bias, under the batch norm's name.

conv (W) ; bn (g, b, mean, var)   =>   conv (W * g / sqrt(var + eps), b - mean * g / sqrt(var + eps))
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError


def fold_batch_norm(program: Program) -> Program:
    graph, constants = program.graph, dict(program.constants)
    folded: dict[str, str] = {}  # convolution -> the batch norm that takes its place
    nodes = []
    for node in graph:
        if node.op == "conv2d":
            users = graph.users(node.name)
            if len(users) == 1 and users[0].op == "batch_norm":
                folded[node.name] = users[0].name
                continue
        if node.op != "batch_norm":
            nodes.append(node)
            continue
        conv = graph[node.inputs[0]]
        if folded.get(conv.name) != node.name:
            raise PlanError(f"batch norm {node.name!r} does not follow a convolution of its own; it cannot be folded")
        gain, shift, mean, var = (constants[node.weights[r]] for r in ("weight", "bias", "mean", "var"))
        factor = gain / np.sqrt(var + node.attrs["eps"])
        bias = constants[conv.weights["bias"]] if "bias" in conv.weights else 0.0
        weight_name, bias_name = f"{node.name}/weight", f"{node.name}/bias"
        constants[weight_name] = constants[conv.weights["weight"]] * factor[:, None, None, None]
        constants[bias_name] = (bias - mean) * factor + shift
        nodes.append(replace(conv, name=node.name, weights={"weight": weight_name, "bias": bias_name}))
    return program.with_nodes(nodes, constants)
