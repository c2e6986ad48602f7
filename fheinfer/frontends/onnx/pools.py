"""Pools and reductions."""

from __future__ import annotations

import math

import numpy as np

from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.translation import Operand
from fheinfer.frontends.onnx.windows import Windows, as_image, from_image, windows
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.ops import Abs, GlobalAvgPool, MaxPool, MeanPool, Power, Reduce, Resample


def max_pool(c: Call) -> list[Operand | None]:
    """MaxPool of one or two dimensions, without the positions of the largest values."""
    x, space = as_image(c)
    w = windows(c, space, c.get("kernel_shape", ()), x.shape, ceil=bool(c.get("ceil_mode", 0)))
    return [from_image(c, c.emit(MaxPool(w.kernel, w.stride, w.sides, w.dilation), x), space), None]


def average_pool(c: Call) -> Value:
    """AveragePool of one or two dimensions; uneven windows become two matrices, for rows and columns."""
    x, space = as_image(c)
    ceil, count_pad = bool(c.get("ceil_mode", 0)), bool(c.get("count_include_pad", 0))
    plain = windows(c, space, c.get("kernel_shape", ()), x.shape)
    w = windows(c, space, c.get("kernel_shape", ()), x.shape, ceil=True) if ceil else plain
    even = w.before == w.after and (count_pad or not any(w.before)) and w.after == plain.after
    if even and all(d == 1 or k == 1 for d, k in zip(w.dilation, w.kernel, strict=True)):
        return from_image(c, c.emit(MeanPool(w.kernel, w.stride, w.sides), x), space)
    rows, columns = (_averages(w, i, n, plain.after[i], count_pad) for i, n in enumerate(x.shape[2:]))
    size = (rows.shape[0], columns.shape[0])
    op = Resample(size, c.tensor("rows", rows), c.tensor("columns", columns))
    return from_image(c, c.emit(op, x), space)


def _averages(w: Windows, axis: int, size: int, after: int, count_pad: bool) -> Array:
    """The means of windows along one axis of `size` as a matrix; `after` is the padding that may count."""
    span = w.dilation[axis] * (w.kernel[axis] - 1) + 1
    count = (size + w.before[axis] + w.after[axis] - span) // w.stride[axis] + 1
    matrix = np.zeros((count, size))
    for i in range(count):
        start = i * w.stride[axis] - w.before[axis]
        pixels = range(start, start + span, w.dilation[axis])
        inside = [pixel for pixel in pixels if 0 <= pixel < size]
        counted = [pixel for pixel in pixels if pixel < size + after] if count_pad else inside
        matrix[i, inside] = 1 / max(len(counted), 1)
    return matrix


def global_average_pool(c: Call) -> Value:
    """The mean over all axes in space."""
    x, shape = _global(c)
    return c.t.reshape(c.emit(GlobalAvgPool(), x, shape=x.shape[:2], batch=0), shape, 0)


def global_max_pool(c: Call) -> Value:
    """The largest value over all axes in space."""
    x, shape = _global(c)
    return c.t.reshape(c.emit(MaxPool(x.shape[2:]), x), shape, 0)


def _global(c: Call) -> tuple[Value, tuple[int, ...]]:
    """The operand as an image, and the shape of the result."""
    x = c.t.leading(c.value())
    if len(x.shape) < 3:
        c.fail(f"takes a value of the shape {x.shape}, which has no axes in space")
    image = (*x.shape[:2], math.prod(x.shape[2:-1]), x.shape[-1])
    return c.t.reshape(x, image, 0), (*x.shape[:2], *[1] * (len(x.shape) - 2))


def _reduced_axes(c: Call, rank: int) -> list[int]:
    axes = c.numbers("axes", 1, "the axes")
    if not axes:
        return [] if c.get("noop_with_empty_axes") else list(range(rank))
    return sorted({c.axis(axis, rank) for axis in axes})


def _after_reduction(c: Call, x: Value, axes: list[int]) -> tuple[tuple[int, ...], int | None]:
    """Shape and batch axis of the result."""
    batch = None if x.batch in axes and not c.get("keepdims", 1) else x.batch
    if c.get("keepdims", 1):
        return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), batch
    shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return shape, None if batch is None else batch - sum(axis < batch for axis in axes)


def _reduce(c: Call, x: Value, mean: bool) -> Value:
    axes = _reduced_axes(c, len(x.shape))
    shape, batch = _after_reduction(c, x, axes)
    inner = tuple(x.axis(axis) for axis in axes if axis != x.batch and x.shape[axis] > 1)
    if not inner:
        return c.t.reshape(x, shape, batch)
    if mean and inner == (1, 2) and len(x.inner) == 3:
        return c.t.reshape(c.emit(GlobalAvgPool(), x, shape=(x.inner[0],), batch=None), shape, batch)
    kept = tuple(1 if axis in inner else size for axis, size in enumerate(x.inner))
    return c.t.reshape(c.emit(Reduce(inner, mean, keepdims=True), x, shape=kept, batch=None), shape, batch)


def reduce_mean(c: Call) -> Value:
    """The mean over axes."""
    return _reduce(c, c.value(), mean=True)


def reduce_sum(c: Call) -> Value:
    """The sum over axes."""
    return _reduce(c, c.value(), mean=False)


def reduce_sum_square(c: Call) -> Value:
    """The sum of squares over axes."""
    return _reduce(c, c.emit(Power(2), c.value()), mean=False)


def reduce_l1(c: Call) -> Value:
    """The sum of absolute values over axes."""
    return _reduce(c, c.emit(Abs(), c.value()), mean=False)


def reduce_max(c: Call) -> Value:
    """The largest value over axes, as a max pool of one window."""
    x = c.value()
    axes = _reduced_axes(c, len(x.shape))
    shape, batch = _after_reduction(c, x, axes)
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    moved = c.t.transpose(x, [*kept, *axes])
    count = math.prod(x.shape[axis] for axis in axes)
    image = c.t.reshape(moved, (1, math.prod(x.shape[axis] for axis in kept), 1, count), 0)
    return c.t.reshape(c.emit(MaxPool((1, count)), image), shape, batch)


POOLS: dict[str, Handler] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
    "ReduceL1": reduce_l1,
    "ReduceMax": reduce_max,
    "ReduceMean": reduce_mean,
    "ReduceSum": reduce_sum,
    "ReduceSumSquare": reduce_sum_square,
}
