"""Outputs get ciphertexts of their own, so that a client that decrypts them sees nothing else of the network.

x ; linear ; slice (output)   =>   x ; linear ; slice ; repack (output)     one level
x ; sum_pool (output)         =>   x ; sum_pool ; repack (output)           likewise

A view shares the ciphertexts of the value that it is a part of, and a sum by rotations leaves parts of sums beside it.
A linear layer writes zeros beside its output, and what works slot by slot after that hides nothing either.
"""

from __future__ import annotations

import math
from dataclasses import replace

from fheinfer.compiler.maps import LINEAR
from fheinfer.compiler.program import Program
from fheinfer.compiler.views import VIEWS
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node


def separate_outputs(program: Program) -> Program:
    """Repacks the outputs whose ciphertexts hold more than they do."""
    graph = program.graph
    shared = {name: f"{name}/shared" for name in graph.outputs if _shares(graph, name)}
    if not shared:
        return program
    nodes: list[Node] = []
    for node in graph:
        inputs = tuple(shared.get(name, name) for name in node.inputs)
        nodes.append(replace(node, name=shared.get(node.name, node.name), inputs=inputs))
        if node.name in shared:
            nodes.append(Node(node.name, ops.Repack(), (shared[node.name],), module=node.module))
    return program.with_nodes(nodes)


def _shares(graph: Graph, name: str) -> bool:
    """Whether the ciphertexts of a value hold what the network computes and does not return there."""
    node = graph[name]
    if isinstance(node.op, (ops.Input, *LINEAR)):
        return False
    if isinstance(node.op, ops.SumPool):
        return True
    if isinstance(node.op, ops.Slice) and math.prod(graph.shapes[name]) < math.prod(graph.shapes[node.inputs[0]]):
        return not _of_the_input(graph, name)
    return any(_shares(graph, source) for source in node.inputs)


def _of_the_input(graph: Graph, name: str) -> bool:
    """Whether a value is a view of what the client has encrypted, and so tells it nothing."""
    node = graph[name]
    return isinstance(node.op, ops.Input) or (
        isinstance(node.op, VIEWS) and all(_of_the_input(graph, source) for source in node.inputs)
    )
