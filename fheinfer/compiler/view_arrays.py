"""Views applied to arrays: what passes move constants through them with. Arrays have no batch axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.model.ops import Expand, Op, Permute, Reshape, Shape, Slice

F64 = NDArray[np.float64]
VIEWS_OF_ONE = (Reshape, Permute, Slice, Expand)
"""The views of one value that passes move constants through."""


def viewed(op: Op, array: NDArray[Any]) -> NDArray[Any]:
    """What one of `VIEWS_OF_ONE` makes of an array."""
    match op:
        case Reshape():
            return array.reshape(op.shape)
        case Permute():
            return array.transpose(op.order)
        case Slice():
            return array[(slice(None),) * op.axis + (slice(op.start, op.stop, op.step),)]
        case Expand():
            return np.broadcast_to(array, op.shape)
    raise TypeError(f"{op.kind} is no view of one value")


def compressed(value: F64) -> F64:
    """The same constant with size 1 on each axis along which it does not change."""
    for axis in range(value.ndim):
        first = value.take([0], axis)
        if value.shape[axis] > 1 and np.array_equal(value, np.broadcast_to(first, value.shape)):
            value = first
    return value


def pushed(op: Op, value: F64, shape: Shape) -> F64:
    """A constant of the input of a view, whose shape that is, as one of its output."""
    return compressed(viewed(op, np.broadcast_to(value, shape)))


def pulled(op: Op, value: F64, shape: Shape, fill: float) -> F64 | None:
    """A constant of the output of a view as one of its input, of that shape; `fill` where the output has nothing of it.

    None if two places of the output that are one of the input have different constants.
    """
    size = int(np.prod(shape))
    places = viewed(op, np.arange(size).reshape(shape))
    wanted = np.broadcast_to(value, places.shape)
    result = np.full(size, fill)
    result[places.ravel()] = wanted.ravel()
    return compressed(result.reshape(shape)) if np.array_equal(result[places], wanted) else None
