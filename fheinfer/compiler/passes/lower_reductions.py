"""Sums and means over axes become sum_pool, which rotations compute at no level, or convolutions with constant weights.

x ; avg_pool over H x W           =>   x ; sum_pool ; multiply_constant (1 / (H * W))
x ; reduce over height and width  =>   likewise, and a reshape where the axes are kept
x ; reduce over other axes        =>   x ; conv over all of these axes, channels summed or each by itself ; reshape

`fold_backward` and `fold_forward` move the division into a linear operation beside it.
"""

from __future__ import annotations

import math

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.model.graph import Node
from fheinfer.model.ops import Conv2d, GlobalAvgPool, MultiplyConstant, Permute, Reduce, Reshape, SumPool


def lower_reductions(program: Program) -> Program:
    """Replaces global average pools, sums and means over axes."""
    r = Rewriter(program)
    for node in r:
        if isinstance(node.op, GlobalAvgPool):
            _reduce(r, node, (1, 2), mean=True)
        elif isinstance(node.op, Reduce):
            _reduce(r, node, node.op.axes, mean=node.op.mean)
    return r.finish()


def global_mean(r: Rewriter, node: Node, x: str, *, factor: float) -> None:
    """Turns a node into the sum of each channel of an image, times a factor, in the shape that the node has."""
    shape = r.shapes[x]
    if shape[1:] == (1, 1) and factor == 1:
        y = x
    else:
        y = r.add(f"{node.name}/sum", SumPool(), x, like=node)
        if factor != 1:
            value = r.constant(f"{node.name}/factor", np.full((1,), factor))
            y = r.add(f"{node.name}/scaled", MultiplyConstant(value, (1,)), y, like=node)
    r.turn(node, Reshape(r.shapes[node.name]), y)


def _reduce(r: Rewriter, node: Node, axes: tuple[int, ...], *, mean: bool) -> None:
    x, shape = node.inputs[0], r.shapes[node.inputs[0]]
    factor = 1 / math.prod(shape[axis] for axis in axes) if mean else 1.0
    image, over = shape, set(axes)
    if len(shape) > 3:  # the axes that stay become channels, the others rows
        kept = [axis for axis in range(len(shape)) if axis not in over]
        x = r.add(f"{node.name}/order", Permute((*kept, *sorted(over))), x, like=node)
        image, over = (math.prod(shape[axis] for axis in kept), math.prod(shape[axis] for axis in over), 1), {1}
    elif len(shape) < 3:
        image = (shape[0], 1, *(shape[1:] or (1,)))
        over = {2 if axis == 1 else 0 for axis in over}
    if image != r.shapes[x]:
        x = r.add(f"{node.name}/image", Reshape(image), x, like=node)
    if 0 not in over and all(axis in over or image[axis] == 1 for axis in (1, 2)):
        global_mean(r, node, x, factor=factor)
    else:
        r.turn(node, Reshape(r.shapes[node.name]), _convolved(r, node, x, over, factor))


def _convolved(r: Rewriter, node: Node, x: str, over: set[int], factor: float) -> str:
    """The sum over axes of an image by a convolution as large as they are."""
    channels, *size = r.shapes[x]
    kernel = tuple(length if axis in over else 1 for axis, length in enumerate(size, start=1))
    out, width, groups = (1, channels, 1) if 0 in over else (channels, 1, channels)
    weight = r.constant(f"{node.name}/weight", np.full((out, width, *kernel), factor))
    op = Conv2d(out, kernel, 1, 0, weight, groups=groups)
    return r.add(f"{node.name}/sum", op, x, like=node)
