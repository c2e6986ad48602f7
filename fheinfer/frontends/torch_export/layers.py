"""Convolutions, linear layers, products with constant matrices and batch norm: what has weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fheinfer.frontends.torch_export.call import Call, Handler, as_image, from_image, numbers, pair
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.ops import Add, BatchNorm, Conv2d, ConvTranspose2d, Linear


def convolution(c: Call) -> Value:
    """conv1d, conv2d and convolution, transposed ones included."""
    if c.get("transposed"):
        return transposed_convolution(c)
    weight, bias = c.needed("weight"), c.constant("bias")
    space = _space(c, weight)
    x = as_image(c, c.value("input"), space)
    lead = 2 - space
    stride, dilation = pair(c["stride"], space), pair(c["dilation"], space)
    sides = _sides(c, weight.shape[2:], dilation)
    op = Conv2d(
        weight.shape[0],
        (1,) * lead + tuple(weight.shape[2:]),
        (1,) * lead + stride,
        (0, 0) * lead + sides,
        c.tensor("weight", weight, _with_rows(weight, space)),
        None if bias is None else c.tensor("bias", bias),
        (1,) * lead + dilation,
        c["groups"],
    )
    return from_image(c, c.emit(op, x))


def transposed_convolution(c: Call) -> Value:
    """conv_transpose1d and conv_transpose2d."""
    weight, bias = c.needed("weight"), c.constant("bias")
    space = _space(c, weight)
    x = as_image(c, c.value("input"), space)
    lead = 2 - space
    op = ConvTranspose2d(
        weight.shape[1] * c["groups"],
        (1,) * lead + tuple(weight.shape[2:]),
        (1,) * lead + pair(c["stride"], space),
        (0, 0) * lead + tuple(side for side in pair(c["padding"], space) for _ in range(2)),
        c.tensor("weight", weight, _with_rows(weight, space)),
        None if bias is None else c.tensor("bias", bias),
        (1,) * lead + pair(c["dilation"], space),
        c["groups"],
        (0,) * lead + pair(c["output_padding"], space),
    )
    return from_image(c, c.emit(op, x))


def _space(c: Call, weight: Tensor) -> int:
    space = weight.dim() - 2
    if space not in (1, 2):
        c.fail(f"is {space}-dimensional; use convolutions of one or two dimensions")
    return space


def _with_rows(weight: Tensor, space: int) -> Array:
    array = numbers(weight)
    return array if space == 2 else array[:, :, None]


def _sides(c: Call, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Padding before and after, axis by axis."""
    given, sides = c["padding"], list[int]()
    if given == "valid":
        return (0, 0) * len(kernel)
    if given == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple(side for total in totals for side in (total // 2, total - total // 2))
    for side in pair(given, len(kernel)):
        sides += [side, side]
    return tuple(sides)


def linear(c: Call) -> Value:
    """A linear layer on the last axis."""
    weight = c.needed("weight")
    return rows(c, c.value("input"), weight, numbers(weight), c.constant("bias"))


def matrix_product(c: Call) -> Value:
    """mm, matmul, bmm, mv and dot, one operand of which is constant."""
    names = ("self", next(name for name in ("other", "mat2", "vec", "vec2", "tensor") if name in c.arguments))
    left, right = (c[name] for name in names)
    if isinstance(left, Value) and isinstance(right, Value):
        c.fail(
            "multiplies two matrices that both depend on the input, as attention does; only products with constant "
            "matrices are supported"
        )
    if isinstance(left, Value):
        return _times_matrix(c, left, right)
    if left.dim() > 2 or len(right.shape) < 2 or left.dim() < 2:
        c.fail("multiplies a constant of more or fewer than two axes; use a linear layer")
    flipped = [*range(len(right.shape) - 2), len(right.shape) - 1, len(right.shape) - 2]  # (W x)^T = x^T W^T
    return c.t.transpose(rows(c, c.t.transpose(right, flipped), left, numbers(left), None), flipped)


def _times_matrix(c: Call, x: Value, matrix: Tensor) -> Value:
    array = numbers(matrix)
    if array.ndim == 1:
        y = rows(c, x, matrix, array[None], None)
        return c.t.reshape(y, c.shape, y.batch if y.batch is not None and y.batch < len(c.shape) else None)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim > 2:
        c.fail("multiplies by a stack of constant matrices; use one linear layer for all")
    y = rows(c, x, matrix, np.swapaxes(array, 0, 1), None)
    return c.t.reshape(y, c.shape, y.batch)


def addmm(c: Call) -> Value:
    """beta * self + alpha * (mat1 @ mat2), mat2 constant."""
    x, matrix, bias = c.value("mat1"), c.needed("mat2"), c["self"]
    array = float(c.get("alpha", 1)) * np.swapaxes(numbers(matrix), 0, 1)
    beta = float(c.get("beta", 1))
    if isinstance(bias, Tensor) and bias.dim() == 1 and beta == 1:
        return rows(c, x, matrix, array, bias)
    y = rows(c, x, matrix, array, None)
    if isinstance(bias, Value):
        return c.emit(Add(), *c.t.common(y, c.t.times(bias, beta)))
    return c.t.plus(y, beta * numbers(bias))


def rows(c: Call, x: Value, given: Tensor, weight: Array, bias: Tensor | None) -> Value:
    """A linear layer (out, in) on the last axis of a value: where there are other axes, a 1x1 convolution."""
    out, features = weight.shape
    if not x.shape or x.shape[-1] != features:
        c.fail(f"multiplies a value of the shape {x.shape} by a weight of {weight.shape}")
    if x.batch == len(x.shape) - 1:
        x = c.t.with_batch(x, None)
    result, count = (*x.shape[:-1], out), math.prod(x.shape) // features
    named = None if bias is None else c.tensor("bias", bias)
    if count == 1:
        op = Linear(out, c.tensor("weight", given, weight), named)  # reads all features, in whatever shape
        return c.emit(op, c.t.unshaped(x), shape=result, batch=x.batch)
    flat = c.t.reshape(x, (1, count, features), 0)
    image = c.t.reshape(c.t.transpose(flat, (0, 2, 1)), (1, features, count, 1), 0)
    y = c.emit(Conv2d(out, 1, 1, 0, c.tensor("weight", given, weight[:, :, None, None]), named), image)
    back = c.t.transpose(c.t.reshape(y, (1, out, count), 0), (0, 2, 1))
    return c.t.reshape(back, result, x.batch)


def batch_norm(c: Call) -> Any:
    """Batch norm with running statistics, of values of any rank."""
    mean, var = c.constant("running_mean"), c.constant("running_var")
    if c.get("training") or mean is None or var is None:
        c.fail("normalises by statistics of its input; use running statistics (track_running_stats) and net.eval()")
    x = c.value("input")
    if len(x.shape) < 2:
        c.fail(f"takes a value of the shape {x.shape}, which has no channels")
    x = c.t.leading(x)
    ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
    weight, bias = c.constant("weight"), c.constant("bias")
    given = (ones if weight is None else weight, zeros if bias is None else bias, mean, var)
    if float(var.min()) < 0:
        c.fail("has a negative variance; train the network again")
    roles = ("weight", "bias", "running_mean", "running_var")
    op = BatchNorm(float(c["eps"]), *(c.tensor(role, tensor) for role, tensor in zip(roles, given, strict=True)))
    flat = x if len(x.inner) <= 3 else c.t.reshape(x, (*x.shape[:3], math.prod(x.shape[3:])), 0)
    y = c.t.reshape(c.emit(op, flat), x.shape, 0)
    return [y, *[None] * (len(c.shapes) - 1)] if len(c.shapes) > 1 else y


LAYERS: dict[str, Handler] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution),
    **dict.fromkeys(("mm", "matmul", "bmm", "mv", "dot"), matrix_product),
    "linear": linear,
    "addmm": addmm,
    **dict.fromkeys(("batch_norm", "native_batch_norm", "_native_batch_norm_legit"), batch_norm),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "cudnn_batch_norm"), batch_norm),
}
