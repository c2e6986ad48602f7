"""Borders around a value: constants, or copies of its rows and columns by matrices."""

from __future__ import annotations

import math

import numpy as np

from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.parts import select
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.ops import Pad, Resample


def pad(c: Call) -> Value:
    """A border of a constant, or of copies by rows and columns; negative sizes crop."""
    x, mode = c.value(), c.get("mode", "constant")
    rank = len(x.shape)
    pads = c.numbers("paddings" if c.t.opset < 2 else "pads", 1, "the sizes") or []
    border = c.optional(2, "the constant")
    value = float(c.get("value", 0.0)) if border is None else float(border.reshape(-1)[0]) if border.size else 0.0
    given = c.numbers("", 3, "the axes")
    axes = [c.axis(axis, rank) for axis in given] if given else list(range(rank))
    if len(pads) != 2 * len(axes):
        c.fail(f"sizes {pads} do not fit a value of the shape {x.shape}")
    sides = {axis: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes) if pads[i] or pads[len(axes) + i]}
    if mode != "constant":
        return _copied_border(c, x, sides, mode)
    for axis, (before, after) in sides.items():
        x = select(c, x, axis, range(max(-before, 0), x.shape[axis] - max(-after, 0)))
    if x.batch in sides:
        x = c.t.with_batch(x, None)
    wide = [(max(sides.get(axis, (0, 0))[0], 0), max(sides.get(axis, (0, 0))[1], 0)) for axis in range(rank)]
    if not any(sum(pair) for pair in wide):
        return x
    inner = [side for axis, pair in enumerate(wide) if axis != x.batch for side in pair]
    shape = tuple(size + sum(pair) for size, pair in zip(x.shape, wide, strict=True))
    y = c.emit(Pad(tuple(inner)), x, shape=shape, batch=x.batch)
    return c.plus(y, np.pad(np.zeros(x.shape), wide, constant_values=value)) if value else y


def _copied_border(c: Call, x: Value, sides: dict[int, tuple[int, int]], mode: str) -> Value:
    modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        c.fail(f"mode {mode!r} is not supported; pad with a constant")
    matrices: dict[int, Array] = {}
    for axis, (before, after) in sides.items():
        size = x.shape[axis]
        places = np.arange(size)[max(-before, 0) : size - max(-after, 0)]
        places = np.pad(places, (max(before, 0), max(after, 0)), mode=modes[mode])  # type: ignore[call-overload]
        matrices[axis] = np.eye(size)[places]
    return resampled(c, x, matrices)


def resampled(c: Call, x: Value, matrices: dict[int, Array]) -> Value:
    """Matrices (new size, size) applied along axes; two at a time, as rows and columns of images."""
    todo = sorted(axis for axis, m in matrices.items() if m.shape[0] != m.shape[1] or (m != np.eye(len(m))).any())
    if x.batch in todo:
        c.fail("resizes or pads its batch axis; one input is evaluated at a time")
    while todo:
        chosen, todo = todo[-2:], todo[:-2]
        rest = [axis for axis in range(len(x.shape)) if axis not in chosen]
        order = [*rest, *chosen]
        moved = c.t.transpose(x, order)
        height = x.shape[chosen[0]] if len(chosen) == 2 else 1
        channels = math.prod(moved.shape) // (height * x.shape[chosen[-1]])
        image = c.t.reshape(moved, (1, channels, height, x.shape[chosen[-1]]), 0)
        rows = matrices[chosen[0]] if len(chosen) == 2 else np.eye(1)
        columns = matrices[chosen[-1]]
        op = Resample((len(rows), len(columns)), c.tensor("rows", rows), c.tensor("columns", columns))
        shape = [*(x.shape[axis] for axis in rest), *(len(matrices[axis]) for axis in chosen)]
        y = c.t.reshape(c.emit(op, image), shape, moved.batch)
        x = c.t.transpose(y, [order.index(axis) for axis in range(len(order))])
    return x


BORDERS: dict[str, Handler] = {"Pad": pad}
