"""Views: shapes, order and parts of a value, joins, and padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from fheinfer.frontends.torch_export.call import Call, Handler, numbers
from fheinfer.frontends.torch_export.pools import reflected
from fheinfer.frontends.translation import Value
from fheinfer.model.ops import Concat, Pad, Permute, Reshape, Shape, Slice

MAX_PARTS = 256
"""Slices that one selection of entries may fall into."""


def same(c: Call) -> Value:
    """What changes nothing: contiguous, clone, dropout in evaluation mode."""
    if c.get("train"):
        c.fail("is in training mode; call net.eval() before the export")
    return c.value("self" if "self" in c.arguments else "input")


def reshape(c: Call) -> Value:
    """view, reshape, flatten, squeeze, unsqueeze: the same numbers in the same order."""
    return _reshaped(c, c.value(), c.shape)


def _reshaped(c: Call, x: Value, shape: Shape) -> Value:
    """The batch stays where all before it stays, else the first axis is taken for it if it has one entry."""
    batch = x.batch
    if batch is not None and x.shape[: batch + 1] != shape[: batch + 1]:
        batch = 0 if shape and shape[0] == 1 else None
    return c.t.reshape(x, shape, batch)


def permute(c: Call) -> Value:
    """Axes in another order."""
    x = c.value()
    return c.t.transpose(x, [c.axis(int(axis), len(x.shape)) for axis in c["dims"]])


def transpose(c: Call) -> Value:
    """Two axes exchanged; the last two of `t` and `mT`."""
    x = c.value()
    rank = len(x.shape)
    first, second = (c.axis(int(c.get(f"dim{i}", default)), rank) for i, default in ((0, -2), (1, -1)))
    order = list(range(rank))
    order[first], order[second] = second, first
    return c.t.transpose(x, order) if rank > 1 else x


def move_axes(c: Call) -> Value:
    """movedim: axes to other places, the rest in order."""
    x = c.value()
    rank = len(x.shape)
    source, target = ([c.axis(axis, rank) for axis in _listed(c[name])] for name in ("source", "destination"))
    rest = [axis for axis in range(rank) if axis not in source]
    order = [source[target.index(i)] if i in target else rest.pop(0) for i in range(rank)]
    return c.t.transpose(x, order)


def _listed(given: int | Sequence[int]) -> list[int]:
    return [given] if isinstance(given, int) else [int(axis) for axis in given]


def expand(c: Call) -> Value:
    """Broadcast to a shape."""
    return c.t.expand(c.value(), c.shape)


def repeat(c: Call) -> Value:
    """Copies one after the other along axes."""
    x = c.value()
    counts = [int(count) for count in (c.get("repeats") or c.get("dims"))]
    x = _reshaped(c, x, (1,) * (len(counts) - len(x.shape)) + x.shape)
    counts = [1] * (len(x.shape) - len(counts)) + counts
    for axis, count in enumerate(counts):
        if count < 1:
            c.fail("repeats nothing")
        if count > 1:
            x = concatenate(c, [x] * count, axis)
    return x


def join(c: Call) -> Value:
    """cat: values and constants one after the other along an axis."""
    found = (_as_value(c, given, c["tensors"]) for given in c["tensors"])
    values = [value for value in found if value is not None]
    return concatenate(c, values, c.axis(int(c["dim"]), len(values[0].shape)))


def _as_value(c: Call, given: Any, all_: Sequence[Any]) -> Value | None:
    """A constant becomes a value that does not depend on the input."""
    if isinstance(given, Value):
        return given
    if given.numel() == 0:
        return None
    first = next(value for value in all_ if isinstance(value, Value))
    zero = c.t.times(_any_entry(c, first), np.asarray(0.0))
    wide = c.t.expand(c.t.reshape(zero, (1,) * given.dim(), zero.batch if given.dim() else None), tuple(given.shape))
    return c.t.plus(wide, numbers(given))


def _any_entry(c: Call, x: Value) -> Value:
    for axis in range(len(x.shape)):
        if axis != x.batch and x.shape[axis] > 1:
            x = part(c, x, axis, 0, 1, 1)
    return x


def concatenate(c: Call, values: Sequence[Value], axis: int) -> Value:
    """Values one after the other along one of their axes."""
    if len(values) == 1:
        return values[0]
    batch = values[0].batch if values[0].batch != axis else None
    values = [c.t.with_batch(value, batch) for value in values]
    first = values[0]
    shape = (*first.shape[:axis], sum(value.shape[axis] for value in values), *first.shape[axis + 1 :])
    return c.emit(Concat(first.axis(axis), len(values)), *values, shape=shape, batch=batch)


def part(c: Call, x: Value, axis: int, start: int, stop: int, step: int) -> Value:
    """Every `step`-th entry of an axis from `start` up to `stop`."""
    size = x.shape[axis]
    if (start, step) == (0, 1) and stop == size:
        return x
    if axis == x.batch:
        c.fail("takes entries of the batch; one input is evaluated at a time")
    shape = (*x.shape[:axis], len(range(start, stop, step)), *x.shape[axis + 1 :])
    return c.emit(Slice(x.axis(axis), start, stop, step), x, shape=shape, batch=x.batch)


def slice_(c: Call) -> Value:
    """Entries of one axis from a start to an end."""
    x = c.value()
    axis = c.axis(int(c["dim"]), len(x.shape))
    start, stop, step = slice(c.get("start"), c.get("end"), int(c["step"])).indices(x.shape[axis])
    if stop <= start:
        c.fail("leaves nothing")
    return part(c, x, axis, start, stop, step)


def narrow(c: Call) -> Value:
    """So many entries of an axis from a start."""
    x = c.value()
    axis, start = c.axis(int(c["dim"]), len(x.shape)), c["start"]
    if isinstance(start, Value | Tensor):
        c.fail("starts at an entry that is no number")
    start = int(start) % x.shape[axis]
    return part(c, x, axis, start, start + int(c["length"]), 1)


def select(c: Call) -> Value:
    """One entry of an axis, which goes."""
    x = c.value()
    axis = c.axis(int(c["dim"]), len(x.shape))
    if isinstance(c["index"], Value):
        c.fail("selects by an index that depends on the input; use constant ones")
    index = int(c["index"]) % x.shape[axis]
    return _without(c, part(c, x, axis, index, index + 1, 1), axis)


def _without(c: Call, x: Value, axis: int) -> Value:
    batch = x.batch
    if batch is not None:
        batch = None if batch == axis else batch - (batch > axis)
    return c.t.reshape(x, (*x.shape[:axis], *x.shape[axis + 1 :]), batch)


def split(c: Call) -> list[Value]:
    """split, chunk, tensor_split and unbind: parts of an axis."""
    x = c.value()
    axis = c.axis(int(c.get("dim", 0)), len(x.shape))
    if "unbind" in str(c.target):
        return [_without(c, part(c, x, axis, i, i + 1, 1), axis) for i in range(x.shape[axis])]
    parts, start = [], 0
    for shape in c.shapes:
        size = shape[axis]
        parts.append(part(c, x, axis, start, start + size, 1))
        start += size
    return parts


def index(c: Call) -> Value:
    """Entries of one axis by constant indices."""
    x, given = c.value(), c.get("indices", c.get("index"))
    axis = c.axis(int(c["dim"]), len(x.shape)) if "dim" in c.arguments else 0
    if isinstance(given, list):
        kept = [i for i, one in enumerate(given) if one is not None]
        if len(kept) != 1:
            c.fail("takes entries by several indices at once; index one axis at a time")
        axis, given = kept[0], given[kept[0]]
    if not isinstance(given, Tensor) or given.dtype.is_floating_point or given.dim() != 1:
        c.fail("takes entries by indices that are no constant list; use slices or constant lists of numbers")
    places = given.nonzero().flatten() if str(given.dtype) == "torch.bool" else given
    return chosen(c, x, axis, [int(place) % x.shape[axis] for place in places])


def chosen(c: Call, x: Value, axis: int, places: Sequence[int]) -> Value:
    """The entries at these places of an axis, as few slices as there are runs of equal steps."""
    runs: list[list[int]] = []
    for place in places:
        step = runs[-1][1] - runs[-1][0] if runs and len(runs[-1]) > 1 else None
        if runs and (place - runs[-1][-1] == step or (step is None and place > runs[-1][-1])):
            runs[-1].append(place)
        else:
            runs.append([place])
    if len(runs) > MAX_PARTS:
        c.fail(f"takes entries in an order of {len(runs)} runs; at most {MAX_PARTS} are supported")
    if not runs:
        c.fail("leaves nothing")
    steps = [next((b - a for a, b in pairwise(run)), 1) for run in runs]
    parts = [part(c, x, axis, run[0], run[-1] + 1, step) for run, step in zip(runs, steps, strict=True)]
    return concatenate(c, parts, axis)


def flip(c: Call) -> Value:
    """Axes backwards."""
    x = c.value()
    for axis in c.axes(c["dims"], len(x.shape)):
        x = chosen(c, x, axis, range(x.shape[axis])[::-1])
    return x


def roll(c: Call) -> Value:
    """Entries moved along axes, the last ones to the front."""
    x = c.value()
    if not c["dims"]:
        c.fail("moves over all axes at once; give dims")
    for shift, axis in zip(_listed(c["shifts"]), c["dims"], strict=True):
        axis = c.axis(axis, len(x.shape))
        size = x.shape[axis]
        x = chosen(c, x, axis, [(i - shift) % size for i in range(size)])
    return x


def pad(c: Call) -> Value:
    """Zeros, or another number, around; negative sides crop."""
    mode = c.get("mode", "constant")
    if mode != "constant":
        return reflected(c)
    x, value = c.value(), float(c.get("value") or 0.0)
    ends = [int(end) for end in c["pad"]]
    for i in range(len(ends) // 2):
        axis, (before, after) = len(x.shape) - 1 - i, ends[2 * i : 2 * i + 2]
        if before < 0 or after < 0:
            x = part(c, x, axis, max(-before, 0), x.shape[axis] - max(-after, 0), 1)
    sides = [0] * 2 * len(x.shape)
    for i in range(len(ends) // 2):
        axis = len(x.shape) - 1 - i
        sides[2 * axis : 2 * axis + 2] = (max(end, 0) for end in ends[2 * i : 2 * i + 2])
    if not any(sides):
        return x
    if x.batch is not None and any(sides[2 * x.batch : 2 * x.batch + 2]):
        x = c.t.with_batch(x, None)
    inner = [side for axis in range(len(x.shape)) if axis != x.batch for side in sides[2 * axis : 2 * axis + 2]]
    shape = tuple(size + sum(sides[2 * axis : 2 * axis + 2]) for axis, size in enumerate(x.shape))
    y = c.emit(Pad(tuple(inner)), c.t.plus(x, -value), shape=shape, batch=x.batch)
    return c.t.plus(y, value)


def pixel_shuffle(c: Call) -> Value:
    """(C r^2, H, W) to (C, H r, W r)."""
    x, r = c.t.leading(c.value()), int(c["upscale_factor"])
    channels, height, width = x.inner
    return _moved(c, x, (channels // r**2, r, r, height, width), (0, 3, 1, 4, 2))


def pixel_unshuffle(c: Call) -> Value:
    """(C, H r, W r) to (C r^2, H, W)."""
    x, r = c.t.leading(c.value()), int(c["downscale_factor"])
    channels, height, width = x.inner
    return _moved(c, x, (channels, height // r, r, width // r, r), (0, 2, 4, 1, 3))


def channel_shuffle(c: Call) -> Value:
    """Channels of groups one after the other."""
    x, groups = c.t.leading(c.value()), int(c["groups"])
    channels, *size = x.inner
    return _moved(c, x, (groups, channels // groups, math.prod(size)), (1, 0, 2))


def _moved(c: Call, x: Value, shape: Shape, order: tuple[int, ...]) -> Value:
    parts = c.emit(Reshape(shape), x, shape=(1, *shape), batch=0)
    moved = tuple(shape[axis] for axis in order)
    turned = c.emit(Permute(order), parts, shape=(1, *moved), batch=0)
    return c.t.reshape(turned, c.shape, 0)


VIEWS: dict[str, Handler] = {
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "dropout", "feature_dropout"), same),
    **dict.fromkeys(("alpha_dropout", "feature_alpha_dropout", "positive", "view_as_real_copy"), same),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("view_as", "reshape_as", "_reshape_copy", "ravel"), reshape),
    **dict.fromkeys(("t", "transpose", "swapaxes", "numpy_T", "mT", "adjoint"), transpose),
    **dict.fromkeys(("movedim", "moveaxis"), move_axes),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    **dict.fromkeys(("repeat", "tile"), repeat),
    **dict.fromkeys(("cat", "concat", "concatenate"), join),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unsafe_split"), split),
    **dict.fromkeys(("index", "index_select"), index),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    "permute": permute,
    "slice": slice_,
    "narrow": narrow,
    "select": select,
    "flip": flip,
    "roll": roll,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
}
