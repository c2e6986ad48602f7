"""Padding with zeros becomes a convolution of one pixel, which `merge_linear` makes part of those after it.

x ; pad (rows, columns)  =>   x ; conv 1x1 of each channel by 1, padded so
x ; pad (channels)       =>   x ; conv 1x1 whose weight is an identity with rows of zeros
"""

from __future__ import annotations

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.errors import GraphError
from fheinfer.model.graph import Node
from fheinfer.model.ops import Conv2d, Pad, Reshape, Shape


def lower_pads(program: Program) -> Program:
    """Replaces every pad, for a level where nothing linear follows.

    Raises:
        GraphError: padding of a value that has no image's form, on more than three parts of its axes.
    """
    r = Rewriter(program)
    for node in r:
        if isinstance(node.op, Pad):
            _pad(r, node, node.op)
    return r.finish()


def _pad(r: Rewriter, node: Node, op: Pad) -> None:
    x, shape = node.inputs[0], r.shapes[node.inputs[0]]
    image, sides = as_image(shape, op.sides)
    if image is None:
        raise GraphError(
            f"node {node.name!r} (pad) pads a value of {len(shape)} axes on too many of them; pad one axis at a time"
        )
    if image != shape:
        x = r.add(f"{node.name}/image", Reshape(image), x, like=node)
    before, after = sides[0]
    channels = image[0]
    padding = (*sides[1], *sides[2])
    if before or after:
        weight = np.pad(np.eye(channels), ((before, after), (0, 0)))[:, :, None, None]
        groups = 1
    else:
        weight, groups = np.ones((channels, 1, 1, 1)), channels
    name = r.constant(f"{node.name}/weight", weight)
    conv = Conv2d(before + channels + after, 1, 1, padding, name, groups=groups)
    y = r.add(f"{node.name}/padded", conv, x, like=node)
    r.turn(node, Reshape(r.shapes[node.name]), y)


def as_image(shape: Shape, sides: tuple[int, ...]) -> tuple[Shape | None, list[tuple[int, int]]]:
    """A shape (C, H, W) that has the axes to be padded for axes, those between them joined; and their padding."""
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    if len(shape) == 3:
        return shape, pairs
    axes, pads = list[int](), list[tuple[int, int]]()
    for size, pair in zip(shape, pairs, strict=True):
        if axes and pair == (0, 0) and pads[-1] == (0, 0):
            axes[-1] *= size
        else:
            axes.append(size)
            pads.append(pair)
    while len(axes) < 3:  # a vector is one pixel of many channels; two axes are channels and columns
        at = len(axes) if len(axes) == 1 else 1
        axes.insert(at, 1)
        pads.insert(at, (0, 0))
    return (tuple(axes) if len(axes) == 3 else None), pads
