"""A sum of two convolutions of one value is one convolution; so is a convolution plus the value itself.

x ; a = conv (A) ; b = conv (B) ; add (a, b)   =>   x ; conv (A + B), under the sum's name
x ; a = conv (A) ; add (a, x)                  =>   x ; conv (A + I)

The smaller kernel stands in the middle of the larger. It saves a convolution, and the residual blocks of networks with
one convolution each become a plain chain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.model.graph import Graph, Node

F64 = NDArray[np.float64]


def merge_shortcuts(program: Program) -> Program:
    graph, constants = program.graph, dict(program.constants)
    merged: dict[str, Node] = {}  # sum -> the convolution that takes its place
    gone: set[str] = set()
    for node in graph:
        if node.op == "add" and (pair := _pair(graph, node)):
            conv, other = pair
            merged[node.name] = _sum(node, conv, other, constants)
            gone |= {n.name for n in pair if n is not None}
    nodes = [merged.get(node.name, node) for node in graph if node.name not in gone]
    return program.with_nodes(nodes, constants)


def _pair(graph: Graph, node: Node) -> tuple[Node, Node | None] | None:
    """The convolution with the larger kernel and the other one, or None for the value itself; None if none fits."""
    a, b = (graph[name] for name in node.inputs)
    own = [n for n in (a, b) if n.op == "conv2d" and graph.users(n.name) == (node,) and _same_size(n)]
    if len(own) == 2 and a.inputs == b.inputs and a.attrs["stride"] == b.attrs["stride"]:
        return (a, b) if a.attrs["kernel"] >= b.attrs["kernel"] else (b, a)
    for conv, other in ((a, b), (b, a)):
        if conv in own and conv.inputs == (other.name,) and conv.attrs["stride"] == 1:
            return conv, None
    return None


def _same_size(conv: Node) -> bool:
    return bool(conv.attrs["kernel"] % 2 and conv.attrs["padding"] == conv.attrs["kernel"] // 2)


def _sum(node: Node, conv: Node, other: Node | None, constants: dict[str, F64]) -> Node:
    weight = constants[conv.weights["weight"]].copy()
    middle = conv.attrs["kernel"] // 2
    if other is None:
        channels = np.arange(weight.shape[0])
        weight[channels, channels, middle, middle] += 1
    else:
        smaller = constants[other.weights["weight"]]
        first, size = middle - other.attrs["kernel"] // 2, other.attrs["kernel"]
        weight[:, :, first : first + size, first : first + size] += smaller
    names = {"weight": f"{node.name}/weight"}
    constants[names["weight"]] = weight
    biases = [constants[n.weights["bias"]] for n in (conv, other) if n is not None and "bias" in n.weights]
    if biases:
        names["bias"] = f"{node.name}/bias"
        constants[names["bias"]] = np.sum(biases, axis=0)
    return replace(conv, name=node.name, weights=names)
