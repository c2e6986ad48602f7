"""Pools of windows side by side become what evaluators compute already.

mean_pool ; conv   =>   conv, strided, of as many pixels more
max_pool ; conv    =>   max(a, b) = a + relu(b - a), with b the same picture moved by one pixel to the left, then up,
                        each difference a convolution ; then conv, strided, of the upper left corner of each window

Where something else follows, the strided convolution stands alone, for a level. The ReLU is that of the parameter set,
and only ever sees differences between outputs of another one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node

OVERSHOOT = 1.1
"""How much larger than its range the output of a polynomial ReLU may be: differences need no more than that."""
_CENTRE = (1, 1)
_RIGHT, _BELOW = (1, 2), (2, 1)

F64 = NDArray[np.float64]
Constants = dict[str, F64]


def pools(program: Program) -> Program:
    graph, shapes = program.graph, program.graph.shapes()
    constants, ranges = dict(program.constants), dict(program.ranges)
    windows: dict[str, tuple[str, F64]] = {}  # pool that the convolutions after it take in -> what they read, and how
    nodes: list[Node] = []
    for node in graph:
        if node.op in ("mean_pool", "max_pool"):
            x, (channels, *size), kernel = node.inputs[0], shapes[node.inputs[0]], node.attrs["kernel"]
            if any(length % kernel for length in size):
                raise PlanError(f"{node.op} {node.name!r}: windows of {kernel} do not fill {size[0]}x{size[1]}")
            window = np.full((kernel, kernel), kernel**-2.0)
            if node.op == "max_pool":
                window = np.eye(1, kernel**2).reshape(kernel, kernel)
                added = _maxima(node, channels, constants)
                ranges |= {n.name: _range(program, node) * OVERSHOOT for n in added if n.op == "relu"}
                nodes, x = nodes + added, added[-1].name
            if all(user.op == "conv2d" and user.attrs["stride"] == 1 for user in graph.users(node.name)):
                windows[node.name] = x, window
            else:
                nodes.append(_each(node.name, x, channels, window, kernel, 0, constants))
        elif node.op == "conv2d" and node.inputs[0] in windows:
            nodes.append(_strided(node, *windows[node.inputs[0]], constants))
        else:
            nodes.append(node)
    return replace(program.with_nodes(nodes, constants), ranges=ranges)


def _range(program: Program, pool: Node) -> float:
    if pool.inputs[0] not in program.ranges:
        raise PlanError(f"max_pool {pool.name!r} must follow a ReLU, whose range is that of its comparisons")
    return program.ranges[pool.inputs[0]]


def _maxima(pool: Node, channels: int, constants: Constants) -> list[Node]:
    """The maximum of each window, at its upper left corner; what stands elsewhere means nothing."""
    if pool.attrs["kernel"] != 2:
        raise PlanError(f"max_pool {pool.name!r}: encrypted it has to be of 2x2")
    x, nodes = pool.inputs[0], list[Node]()
    for neighbour, name in ((_RIGHT, f"{pool.name}/rows"), (_BELOW, f"{pool.name}/corners")):
        taps = np.zeros((3, 3))
        taps[_CENTRE], taps[neighbour] = -1, 1
        nodes.append(_each(f"{name}/difference", x, channels, taps, 1, 1, constants))
        nodes.append(Node(f"{name}/relu", "relu", (f"{name}/difference",)))
        nodes.append(Node(name, "add", (x, f"{name}/relu")))
        x = name
    return nodes


def _strided(conv: Node, x: str, window: F64, constants: Constants) -> Node:
    """The convolution of what every window holds."""
    stride, name = len(window), f"{conv.name}/windows"
    constants[name] = np.asarray(np.kron(constants[conv.weights["weight"]], window), np.float64)
    sizes = {"kernel": stride * conv.attrs["kernel"], "stride": stride, "padding": stride * conv.attrs["padding"]}
    return replace(conv.with_attrs(**sizes), inputs=(x,), weights={**conv.weights, "weight": name})


def _each(name: str, x: str, channels: int, taps: F64, stride: int, padding: int, constants: Constants) -> Node:
    """A convolution of every channel with the same taps, into itself."""
    constants[f"{name}/weight"] = np.eye(channels)[:, :, None, None] * taps
    attrs = {"out_channels": channels, "kernel": len(taps), "stride": stride, "padding": padding}
    return Node(name, "conv2d", (x,), {"weight": f"{name}/weight"}, attrs)
