"""avg_pool -> linear: the pool only sums, and the linear layer's weights carry the division.

avg_pool over H x W ; linear (W)   =>   avg_pool (sum) ; linear (W / (H * W))
"""

from __future__ import annotations

from dataclasses import replace

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError


def fold_pool(program: Program) -> Program:
    graph, constants, shapes = program.graph, dict(program.constants), program.graph.shapes()
    nodes = []
    for node in graph:
        if node.op == "avg_pool" and any(user.op != "linear" for user in graph.users(node.name)):
            raise PlanError(f"average pool {node.name!r} must be followed by a linear layer, which takes its division")
        if node.op == "linear" and graph[node.inputs[0]].op == "avg_pool":
            _, height, width = shapes[graph[node.inputs[0]].inputs[0]]
            name = f"{node.name}/weight"
            constants[name] = constants[node.weights["weight"]] / (height * width)
            node = replace(node, weights={**node.weights, "weight": name})
        nodes.append(node)
    return program.with_nodes(nodes, constants)
