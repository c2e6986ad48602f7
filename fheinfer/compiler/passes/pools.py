"""Pools of windows side by side become what evaluators compute already.

mean_pool ; conv   =>   conv, strided, over as many pixels more
max_pool ; conv    =>   max(a, b) = a + relu(b - a), with b the same image moved by one pixel to the left, then up,
                        each difference a convolution ; then conv, strided, of the upper left corner of each window

Where something else follows, the strided convolution is a step of its own, for a level. The ReLU is approximated as all
others are, and only ever sees differences between outputs of another one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError
from fheinfer.model.graph import Node
from fheinfer.model.ops import Add, Conv2d, MaxPool, MeanPool, Relu

OVERSHOOT = 1.1
"""How much larger than its range the output of a polynomial ReLU may be: differences need no more than that."""
_CENTRE = (1, 1)
_RIGHT, _BELOW = (1, 2), (2, 1)

F64 = NDArray[np.float64]
Constants = dict[str, F64]


def pools(program: Program) -> Program:
    """Replaces every pool by convolutions, and those of maxima by ReLUs, too; a level where no convolution absorbs it.

    Raises:
        PlanError: windows that do not fill the pixels, maxima of other windows than 2x2, or of anything but a ReLU.
    """
    graph = program.graph
    constants, ranges = dict(program.constants), dict(program.ranges)
    windows: dict[str, tuple[str, F64]] = {}  # pool that the convolutions after it absorb -> what they read, and how
    nodes: list[Node] = []
    for node in graph:
        if isinstance(node.op, MeanPool | MaxPool):
            x, (channels, *size), kernel = node.inputs[0], graph.shapes[node.inputs[0]], node.op.kernel[0]
            if any(length % kernel for length in size):
                raise PlanError(
                    f"{node.op.kind} {node.name!r}: windows of {kernel} do not fill {size[0]}x{size[1]} pixels; "
                    f"choose windows that do, or an input whose height and width here are multiples of {kernel}"
                )
            window = np.full((kernel, kernel), kernel**-2.0)
            if isinstance(node.op, MaxPool):
                window = np.eye(1, kernel**2).reshape(kernel, kernel)
                added = _maxima(node, kernel, channels, constants)
                ranges |= {n.name: _range(program, node) * OVERSHOOT for n in added if isinstance(n.op, Relu)}
                nodes, x = nodes + added, added[-1].name
            if all(isinstance(user.op, Conv2d) and user.op.stride == (1, 1) for user in graph.users(node.name)):
                windows[node.name] = x, window
            else:
                nodes.append(_each(node.name, x, channels, window, kernel, 0, constants))
        elif isinstance(node.op, Conv2d) and node.inputs[0] in windows:
            nodes.append(_strided(node.name, node.op, *windows[node.inputs[0]], constants))
        else:
            nodes.append(node)
    return replace(program.with_nodes(nodes, constants), ranges=ranges)


def _range(program: Program, pool: Node) -> float:
    if pool.inputs[0] not in program.ranges:
        raise PlanError(f"max_pool {pool.name!r} must follow a ReLU, whose range is that of its comparisons")
    return program.ranges[pool.inputs[0]]


def _maxima(pool: Node, kernel: int, channels: int, constants: Constants) -> list[Node]:
    """The maximum of each window, at its upper left corner; the other pixels mean nothing."""
    if kernel != 2:
        raise PlanError(f"max_pool {pool.name!r}: encrypted it has to be of 2x2 windows")
    x, nodes = pool.inputs[0], list[Node]()
    for neighbour, name in ((_RIGHT, f"{pool.name}/rows"), (_BELOW, f"{pool.name}/corners")):
        difference = np.zeros((3, 3))
        difference[_CENTRE], difference[neighbour] = -1, 1
        nodes.append(_each(f"{name}/difference", x, channels, difference, 1, 1, constants))
        nodes.append(Node(f"{name}/relu", Relu(), (f"{name}/difference",)))
        nodes.append(Node(name, Add(), (x, f"{name}/relu")))
        x = name
    return nodes


def _strided(name: str, conv: Conv2d, x: str, window: F64, constants: Constants) -> Node:
    """The convolution of what every window holds."""
    stride, weight = len(window), f"{name}/windows"
    constants[weight] = np.asarray(np.kron(constants[conv.weight], window), np.float64)
    kernel, padding = stride * conv.kernel[0], stride * conv.padding[0]
    return Node(name, replace(conv, kernel=kernel, stride=stride, padding=padding, weight=weight), (x,))


def _each(name: str, x: str, channels: int, kernel: F64, stride: int, padding: int, constants: Constants) -> Node:
    """A convolution of every channel with the same kernel, into itself."""
    constants[f"{name}/weight"] = np.eye(channels)[:, :, None, None] * kernel
    return Node(name, Conv2d(channels, len(kernel), stride, padding, f"{name}/weight"), (x,))
