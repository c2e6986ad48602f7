"""A sum of two convolutions of one value is one convolution; so is a convolution plus the value itself.

x ; a = conv (A) ; b = conv (B) ; add (a, b)   =>   x ; conv (A + B), under the sum's name
x ; a = conv (A) ; add (a, x)                  =>   x ; conv (A + I)

The smaller kernel is in the middle of the larger one. It saves a convolution, and the residual blocks of networks with
one convolution each become a plain chain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.model.graph import Graph, Node
from fheinfer.model.ops import Add, Conv2d

F64 = NDArray[np.float64]


def merge_shortcuts(program: Program) -> Program:
    """Makes one convolution of a sum of two convolutions of one value, or of a convolution and what it reads."""
    graph, constants = program.graph, dict(program.constants)
    merged: dict[str, Node] = {}  # sum -> the convolution that takes its place
    gone: set[str] = set()
    for node in graph:
        if isinstance(node.op, Add) and (pair := _pair(graph, node)):
            (conv, op), *others = pair
            total = _sum(node.name, op, others[0][1] if others else None, constants)
            merged[node.name] = Node(node.name, total, conv.inputs)
            gone |= {n.name for n, _ in pair}
    nodes = [merged.get(node.name, node) for node in graph if node.name not in gone]
    return program.with_nodes(nodes, constants)


def _pair(graph: Graph, node: Node) -> list[tuple[Node, Conv2d]]:
    """The two convolutions that become one, that of the larger kernel first; one alone if the other addend is what it
    reads; [] if none fits."""
    addends = [graph[name] for name in node.inputs]
    own = [
        (n, n.op) for n in addends if graph.users(n.name) == (node,) and isinstance(n.op, Conv2d) and _same_size(n.op)
    ]
    if len(own) == 2 and own[0][0].inputs == own[1][0].inputs and own[0][1].stride == own[1][1].stride:
        return sorted(own, key=lambda conv: conv[1].kernel, reverse=True)
    for conv, op in own:
        if conv.inputs[0] in node.inputs and op.stride == (1, 1):
            return [(conv, op)]
    return []


def _same_size(op: Conv2d) -> bool:
    return bool(op.kernel[0] % 2) and op.padding[0] == op.kernel[0] // 2


def _sum(name: str, conv: Conv2d, other: Conv2d | None, constants: dict[str, F64]) -> Conv2d:
    weight = constants[conv.weight].copy()
    middle = conv.kernel[0] // 2
    if other is None:
        channels = np.arange(weight.shape[0])
        weight[channels, channels, middle, middle] += 1
    else:
        first = middle - other.kernel[0] // 2
        inside = slice(first, first + other.kernel[0])
        weight[:, :, inside, inside] += constants[other.weight]
    constants[f"{name}/weight"] = weight
    biases = [constants[op.bias] for op in (conv, other) if op is not None and op.bias]
    if biases:
        constants[f"{name}/bias"] = np.sum(biases, axis=0)
    return replace(conv, weight=f"{name}/weight", bias=f"{name}/bias" if biases else None)
