"""Constants into the weights of linear operations: factors and terms of what they read, and of what they give.

Constants are arrays with as many axes as the value, each of its size or 1 (`view_arrays.compressed`). A constant
that is taken changes the tensors of the node, under new names: those of the model stay as they are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fheinfer.compiler.maps import LAYERS
from fheinfer.compiler.rewriting import Rewriter
from fheinfer.model.ops import Conv2d, ConvTranspose2d, Linear, Op, Resample, Shape

F64 = NDArray[np.float64]


def takes_output_factor(op: Op, value: F64) -> bool:
    """Whether the output of an operation can be multiplied by a constant in its weights."""
    return isinstance(op, Linear) or (isinstance(op, LAYERS) and per_channel(value))


def takes_output_term(op: Op, value: F64) -> bool:
    """Whether a constant can be added in its bias."""
    return isinstance(op, Linear) or (isinstance(op, Conv2d | ConvTranspose2d) and per_channel(value))


def takes_input_factor(op: Op, value: F64) -> bool:
    """Whether its weights can multiply its input by a constant."""
    return takes_output_factor(op, value)


def takes_input_term(op: Op, value: F64) -> bool:
    """Whether its bias can account for a constant that its input lacks: not where padding would lack it, too."""
    return isinstance(op, Linear) or (isinstance(op, Conv2d) and per_channel(value) and not any(op.padding))


def per_channel(value: F64) -> bool:
    """Whether it is one number, or one per channel."""
    return all(size == 1 for size in value.shape[1:])


def scale_output(r: Rewriter, name: str, value: F64) -> None:
    """Multiplies the output of a node by a constant."""
    numbers = np.broadcast_to(value, (r.shapes[name][0],) + (1,) * (value.ndim - 1)).ravel()
    match r.nodes[name].op:
        case Linear(weight=weight, bias=bias):
            _set(r, name, weight=r.constants[weight] * numbers[:, None], bias=_times(r, bias, numbers))
        case Conv2d(weight=weight, bias=bias):
            _set(r, name, weight=r.constants[weight] * numbers[:, None, None, None], bias=_times(r, bias, numbers))
        case ConvTranspose2d(weight=weight, bias=bias, groups=groups):
            array = r.constants[weight]
            by_group = numbers.reshape(groups, 1, -1, 1, 1)
            parts = array.reshape(groups, -1, *array.shape[1:])
            _set(r, name, weight=(parts * by_group).reshape(array.shape), bias=_times(r, bias, numbers))
        case Resample(gain=gain):
            _set(r, name, gain=numbers if gain is None else r.constants[gain] * numbers)


def shift_output(r: Rewriter, name: str, value: F64) -> None:
    """Adds a constant to the output of a node."""
    bias = getattr(r.nodes[name].op, "bias", None)
    numbers = np.array(np.broadcast_to(value.ravel(), r.shapes[name][:1]))
    _set(r, name, bias=numbers if bias is None else r.constants[bias] + numbers)


def scale_input(r: Rewriter, name: str, value: F64, shape: Shape) -> None:
    """Multiplies what a node reads, of that shape, by a constant."""
    op = r.nodes[name].op
    if isinstance(op, Resample):
        scale_output(r, name, value)
    elif isinstance(op, Linear):
        _set(r, name, weight=r.constants[op.weight] * np.broadcast_to(value, shape).ravel())
    elif isinstance(op, Conv2d):
        weight = r.constants[op.weight]
        by_group = np.broadcast_to(value.ravel(), shape[:1]).reshape(op.groups, 1, -1, 1, 1)
        parts = weight.reshape(op.groups, -1, *weight.shape[1:])
        _set(r, name, weight=(parts * by_group).reshape(weight.shape))
    elif isinstance(op, ConvTranspose2d):
        numbers = np.broadcast_to(value.ravel(), shape[:1])
        _set(r, name, weight=r.constants[op.weight] * numbers[:, None, None, None])


def shift_input(r: Rewriter, name: str, value: F64, shape: Shape) -> None:
    """Adds to the output of a node what a constant would add that its input, of that shape, lacks."""
    op = r.nodes[name].op
    if isinstance(op, Linear):
        shift_output(r, name, r.constants[op.weight] @ np.broadcast_to(value, shape).ravel())
    elif isinstance(op, Conv2d):
        weight = r.constants[op.weight].sum(axis=(2, 3))
        by_group = np.broadcast_to(value.ravel(), shape[:1]).reshape(op.groups, -1)
        parts = weight.reshape(op.groups, -1, math.prod(weight.shape[1:]))
        shift_output(r, name, np.einsum("goi,gi->go", parts, by_group).reshape(-1, 1, 1))


def _times(r: Rewriter, name: str | None, numbers: F64) -> F64 | None:
    return None if name is None else r.constants[name] * numbers


def _set(r: Rewriter, name: str, **arrays: F64 | None) -> None:
    """Gives a node other tensors, under names of its own."""
    r.change(name, **{role: r.constant(f"{name}/{role}", a) for role, a in arrays.items() if a is not None})
