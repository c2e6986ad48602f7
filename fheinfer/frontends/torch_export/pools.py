"""Pools, reductions and resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fheinfer.frontends.torch_export.call import Call, Handler, as_image, from_image, pair
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.ops import GlobalAvgPool, MaxPool, MeanPool, Reduce, Resample

Pairs = tuple[tuple[int, int], ...]


def _windows(c: Call, x: Value, space: int) -> tuple[Pairs, Pairs]:
    """(kernel, stride) and (before, after) of rows and columns; a last window that is not full makes `after` larger."""
    kernel = pair(c["kernel_size"], space)
    stride = pair(c["stride"], space) if c.get("stride") else kernel
    padding, dilation = pair(c["padding"], space), pair(c.get("dilation", 1), space)
    steps, sides = [(1, 1)] * (2 - space), [(0, 0)] * (2 - space)
    for axis, (k, s, p, d) in enumerate(zip(kernel, stride, padding, dilation, strict=True)):
        after, size = p, x.inner[3 - space + axis]
        if c.get("ceil_mode"):
            count = -(-(size + 2 * p - d * (k - 1) - 1) // s) + 1
            count -= (count - 1) * s >= size + p  # a window that begins outside is omitted
            after = max(p, (count - 1) * s + d * (k - 1) + 1 - size - p)
        steps.append((k, s))
        sides.append((p, after))
    return tuple(steps), tuple(sides)


def max_pool(c: Call) -> Any:
    """max_pool1d and max_pool2d."""
    space = _rank(c)
    x = as_image(c, c.value(), _checked(c, space))
    steps, sides = _windows(c, x, space)
    dilation = (1,) * (2 - space) + pair(c["dilation"], space)
    op = MaxPool(_first(steps), _second(steps), _flat(sides), dilation)
    y = from_image(c, c.emit(op, x))
    return [y, None] if len(c.shapes) > 1 else y


def average_pool(c: Call) -> Value:
    """avg_pool1d and avg_pool2d."""
    space = _rank(c)
    x = as_image(c, c.value(), _checked(c, space))
    steps, sides = _windows(c, x, space)
    counted, full = bool(c["count_include_pad"]), c.get("divisor_override")
    even = all(before == after for before, after in sides)
    if even and (not full or counted or not any(_flat(sides))):
        y = c.emit(MeanPool(_first(steps), _second(steps), _flat(sides), counted), x)
        area = math.prod(_first(steps))
        return from_image(c, c.t.times(y, area / full) if full else y)
    if full:
        c.fail("has uneven windows and a divisor of its own; leave out divisor_override")
    matrices = [
        _means(size, k, s, before, after, counted)
        for size, (k, s), (before, after) in zip(x.inner[1:], steps, sides, strict=True)
    ]
    return from_image(c, resample(c, x, *matrices))


def _means(size: int, kernel: int, stride: int, before: int, after: int, counted: bool) -> Array:
    """Means of windows as a matrix; padding counts up to `before` at both ends, as PyTorch has it."""
    matrix = np.zeros(((size + before + after - kernel) // stride + 1, size))
    for i, row in enumerate(matrix):
        start = i * stride - before
        inside = range(max(start, 0), min(start + kernel, size))
        row[inside] = 1 / (min(start + kernel, size + before) - start if counted else len(inside))
    return matrix


def resample(c: Call, x: Value, rows: Array, columns: Array) -> Value:
    """Matrices for rows and columns of an image."""
    size = (rows.shape[0], columns.shape[0])
    names = (c.t.tensor(c.t.place(role), array) for role, array in (("rows", rows), ("columns", columns)))
    return c.emit(Resample(size, *names), x)


def adaptive_average_pool(c: Call) -> Value:
    """adaptive_avg_pool1d and adaptive_avg_pool2d: one mean, even windows, or matrices."""
    space = _rank(c)
    x = as_image(c, c.value(), _checked(c, space))
    wanted, size = _adaptive(c, x, space), x.inner[1:]
    if wanted == size:
        return from_image(c, x)
    if wanted == (1, 1):
        return from_image(c, c.emit(GlobalAvgPool(), x, shape=x.shape[:2], batch=0))
    if all(n % k == 0 for n, k in zip(size, wanted, strict=True)):
        return from_image(c, c.emit(MeanPool((size[0] // wanted[0], size[1] // wanted[1])), x))
    matrices = []
    for n, count in zip(size, wanted, strict=True):
        matrix = np.zeros((count, n))
        for i, row in enumerate(matrix):
            inside = range(i * n // count, -(-(i + 1) * n // count))
            row[inside] = 1 / len(inside)
        matrices.append(matrix)
    return from_image(c, resample(c, x, *matrices))


def adaptive_max_pool(c: Call) -> Any:
    """adaptive_max_pool1d and adaptive_max_pool2d, of even windows."""
    space = _rank(c)
    x = as_image(c, c.value(), _checked(c, space))
    wanted, size = _adaptive(c, x, space), x.inner[1:]
    if any(n % k for n, k in zip(size, wanted, strict=True)):
        c.fail(f"has uneven windows: {size} pixels to {wanted}; use a size that divides them")
    y = from_image(c, c.emit(MaxPool((size[0] // wanted[0], size[1] // wanted[1])), x))
    return [y, None] if len(c.shapes) > 1 else y


def _adaptive(c: Call, x: Value, space: int) -> tuple[int, ...]:
    given = c["output_size"]
    sizes = [given] * space if isinstance(given, int) else list(given) * (space if len(given) == 1 else 1)
    sizes = [1] * (2 - space) + sizes
    return tuple(n if wanted is None else int(wanted) for n, wanted in zip(x.inner[1:], sizes, strict=True))


def mean(c: Call) -> Value:
    """The mean over axes."""
    return _reduced(c, mean=True)


def total(c: Call) -> Value:
    """The sum over axes."""
    return _reduced(c, mean=False)


def _reduced(c: Call, mean: bool) -> Value:
    x = c.value()
    axes = c.axes(c.get("dim"), len(x.shape))
    batch = x.batch
    if batch is not None and not c.get("keepdim"):
        batch = None if batch in axes else batch - sum(axis < batch for axis in axes)
    inner = tuple(x.axis(axis) for axis in axes if axis != x.batch and x.shape[axis] > 1)
    if not inner:
        return c.t.reshape(x, c.shape, batch)
    if mean and inner == (1, 2) and len(x.inner) == 3:
        return c.t.reshape(c.emit(GlobalAvgPool(), x, shape=(x.inner[0],), batch=None), c.shape, batch)
    kept = tuple(1 if axis in inner else size for axis, size in enumerate(x.inner))
    return c.t.reshape(c.emit(Reduce(inner, mean, keepdims=True), x, shape=kept, batch=None), c.shape, batch)


def largest(c: Call) -> Any:
    """amax and max over axes, as a max pool of one window."""
    x = c.value()
    if "other" in c.arguments:
        c.fail("is the larger of two values; use a max pool, or relu(a - b) + b")
    axes = c.axes(c.get("dim"), len(x.shape))
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    moved = c.t.transpose(x, [*kept, *axes])
    count = math.prod(x.shape[axis] for axis in axes)
    image = c.t.reshape(moved, (1, math.prod(x.shape[axis] for axis in kept), 1, count), 0)
    y = c.emit(MaxPool((1, count)), image)
    batch = 0 if c.shape and c.shape[0] == 1 else None
    result = c.t.reshape(y, c.shape, batch)
    return [result, None] if len(c.shapes) > 1 else result


def upsample(c: Call) -> Value:
    """Interpolation of any kind that is linear: PyTorch's own results for the unit vectors are the matrices."""
    x = c.value("input" if "input" in c.arguments else "self")
    space = len(x.shape) - 2
    image = as_image(c, x, _checked(c, space))
    return from_image(c, resample(c, image, *_matrices(c, image, space, _interpolated)))


def _interpolated(c: Call, basis: torch.Tensor, axis: int) -> torch.Tensor:
    """The operation on (1, channels, n, 1) or (1, channels, 1, n), along one axis only."""
    sizes = [1] * len(c.shape[2:])
    sizes[axis] = c.shape[2 + axis]
    arguments = {name: value for name, value in c.arguments.items() if name not in ("input", "self", "output_size")}
    scales = arguments.get("scale_factors")
    arguments = {name: value for name, value in arguments.items() if not name.startswith("scale")}
    name = str(c.target).split(".")[1]
    function = getattr(torch.ops.aten, name).default
    scale_names = [argument.name for argument in function._schema.arguments if argument.name.startswith("scale")]
    given = scales or [c.arguments.get(scale) for scale in scale_names]
    if given and given[axis] is not None:
        arguments[scale_names[axis]] = float(given[axis])
    arguments = {
        key: value for key, value in arguments.items() if any(a.name == key for a in function._schema.arguments)
    }
    return torch.as_tensor(function(basis, sizes, **arguments))


def reflected(c: Call) -> Value:
    """Padding by reflection or repetition, of the last one or two axes."""
    x = c.value()
    space = len(pair(c["pad"], 1)) // 2
    image = as_image(c, x, _checked(c, space))
    return from_image(c, resample(c, image, *_matrices(c, image, space, _padded)))


def _padded(c: Call, basis: torch.Tensor, axis: int) -> torch.Tensor:
    ends = list(c["pad"])
    space = len(ends) // 2
    sides = [0] * len(ends)
    first = 2 * (space - 1 - axis)
    sides[first : first + 2] = ends[first : first + 2]
    mode = c.get("mode") or ("reflect" if "reflection" in str(c.target) else "replicate")
    return torch.nn.functional.pad(basis, sides, mode=str(mode))


def _matrices(c: Call, x: Value, space: int, function: Any) -> list[Array]:
    """What a linear function does along rows and columns, as matrices (result, input)."""
    matrices = [np.eye(1)] if space == 1 else []
    for axis, size in enumerate(x.inner[3 - space :]):
        shape = [1] * space
        shape[axis] = size
        basis = torch.eye(size, dtype=torch.float64).reshape(1, size, *shape)
        matrices.append(function(c, basis, axis).reshape(size, -1).T.numpy())
    return matrices


def _rank(c: Call) -> int:
    """Axes in space that the name of the operation says."""
    name = str(c.target)
    return next((count for count in (1, 2, 3) if f"{count}d" in name), 2)


def _checked(c: Call, space: int) -> int:
    if space not in (1, 2):
        c.fail(f"is {space}-dimensional; only 1-d and 2-d ones are supported")
    return space


def _first(pairs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(pair[0] for pair in pairs)


def _second(pairs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(pair[1] for pair in pairs)


def _flat(pairs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(side for pair in pairs for side in pair)


POOLS: dict[str, Handler] = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices"), max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), adaptive_average_pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), adaptive_max_pool),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), upsample),
    **dict.fromkeys(("_upsample_nearest_exact1d", "_upsample_nearest_exact2d"), upsample),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"), upsample),
    **dict.fromkeys(("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), upsample),
    **dict.fromkeys(("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"), reflected),
    **dict.fromkeys(("amax", "max"), largest),
    "mean": mean,
    "sum": total,
}
