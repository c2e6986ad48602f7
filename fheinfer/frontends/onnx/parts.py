"""Parts of axes, and values joined along them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.translation import Operand
from fheinfer.frontends.translation import Value
from fheinfer.model.ops import Concat, Pad, Slice

MAX_PARTS = 256
"""Slices that one selection of entries may fall into."""


def select(c: Call, x: Value, axis: int, entries: Sequence[int]) -> Value:
    """These entries of an axis, in this order: slices, joined where several are needed."""
    if x.batch == axis:
        x = c.t.with_batch(x, None)
    size = x.shape[axis]
    if list(entries) == list(range(size)):
        return x
    if not entries or min(entries) < 0 or max(entries) >= size:
        c.fail(f"takes entries that an axis of {size} does not have, or none at all")
    runs = _runs(entries)
    if len(runs) > MAX_PARTS:
        c.fail(f"takes entries in {len(runs)} pieces; at most {MAX_PARTS} are supported, use a constant MatMul instead")
    inner = x.axis(axis)
    parts = [c.emit(Slice(inner, run[0], run[-1] + 1, run.step), x, **_sized(x, axis, len(run))) for run in runs]
    return parts[0] if len(parts) == 1 else _joined(c, parts, axis)


def _sized(x: Value, axis: int, size: int) -> dict[str, object]:
    return {"shape": (*x.shape[:axis], size, *x.shape[axis + 1 :]), "batch": x.batch}


def _runs(entries: Sequence[int]) -> list[range]:
    """The entries as ascending ranges with a step each, as few as a walk from the left finds."""
    runs: list[range] = []
    i = 0
    while i < len(entries):
        j = i + 1
        step = entries[j] - entries[i] if j < len(entries) else 0
        while step > 0 and j < len(entries) and entries[j] - entries[j - 1] == step:
            j += 1
        runs.append(range(entries[i], entries[j - 1] + 1, step if j > i + 1 else 1))
        i = j
    return runs


def slice_(c: Call) -> Value:
    """Parts of axes; opsets before 10 have them as attributes."""
    x = c.value()
    starts, ends = c.numbers("starts", 1, "the starts") or [], c.numbers("ends", 2, "the ends") or []
    axes = c.numbers("axes", 3, "the axes") or list(range(len(starts)))
    steps = c.numbers("", 4, "the steps") or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        c.fail("has starts, ends, axes and steps of different lengths, or a step of 0")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        position = c.axis(axis, len(x.shape))
        entries = range(x.shape[position])[start:end:step]
        x = select(c, x, position, entries)
    return x


def gather(c: Call) -> Operand:
    """Entries of an axis by constant indices."""
    x, indices = c.operand(0), c.optional(1, "the indices")
    if not isinstance(x, Value) or indices is None:
        c.fail("looks up rows of a table by encrypted indices; give the network the rows themselves")
    axis = c.axis(int(c.get("axis", 0)), len(x.shape))
    size = x.shape[axis]
    entries = [int(i) + size if i < 0 else int(i) for i in indices.ravel()]
    y = select(c, x, axis, entries)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    batch = y.batch
    if batch is not None and batch > axis:
        batch += indices.ndim - 1
    return c.t.reshape(y, shape, batch)


def split(c: Call) -> list[Operand | None]:
    """Parts of an axis, one after the other."""
    x = c.value()
    axis = c.axis(int(c.get("axis", 0)), len(x.shape))
    size, count = x.shape[axis], int(c.get("num_outputs", len(c.node.output)))
    sizes = c.numbers("split", 1, "the sizes")
    if sizes is None:
        each = -(-size // count)
        sizes = [each] * (count - 1) + [size - each * (count - 1)]
    if sum(sizes) != size or min(sizes) < 0:
        c.fail(f"splits an axis of {size} into {sizes}")
    return [select(c, x, axis, range(a, b)) for a, b in pairwise(map(int, np.cumsum([0, *sizes])))]


def concat(c: Call) -> Operand:
    """Values one after the other; constants between them are zeros of one value, and a sum."""
    operands = [operand for operand in c.operands if operand is not None]
    values = [operand for operand in operands if isinstance(operand, Value)]
    axis = c.axis(int(c.get("axis", 0)), len(values[0].shape))
    batch = next((value.batch for value in values if value.batch != axis), None)
    batch = batch if all(operand.shape[batch or 0] == 1 for operand in operands) else None
    if len({len(operand.shape) for operand in operands}) != 1:
        c.fail(f"joins values of the shapes {', '.join(str(operand.shape) for operand in operands)}")
    parts = [c.t.with_batch(o, batch) if isinstance(o, Value) else o for o in operands]
    return _joined(c, parts, axis)


def _joined(c: Call, parts: Sequence[Operand], axis: int) -> Value:
    """Values and constants along an axis that is not the batch; all have their batch at one place."""
    values = [part for part in parts if isinstance(part, Value)]
    inner, batch = values[0].axis(axis), values[0].batch
    shape = list(values[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    wide: list[Value] = []
    waiting, summand, place = 0, np.zeros(shape), 0  # zeros that the next value gets in front
    for part in parts:
        size = part.shape[axis]
        if isinstance(part, Value):
            wide.append(_zeros(c, part, axis, waiting, 0))
            waiting = 0
        else:
            at = [slice(None)] * len(shape)
            at[axis] = slice(place, place + size)
            if part.shape != tuple(size if i == axis else n for i, n in enumerate(shape)):
                c.fail(f"joins a constant of the shape {part.shape} to values of the shape {values[0].shape}")
            summand[tuple(at)] = part
            waiting += size
        place += size
    wide[-1] = _zeros(c, wide[-1], axis, 0, waiting)
    result = wide[0]
    if len(wide) > 1:
        result = c.emit(Concat(inner, len(wide)), *wide, shape=tuple(shape), batch=batch)
    return c.plus(result, summand) if len(values) < len(parts) else result


def _zeros(c: Call, x: Value, axis: int, before: int, after: int) -> Value:
    if not before and not after:
        return x
    sides = [0] * 2 * len(x.inner)
    sides[2 * x.axis(axis)], sides[2 * x.axis(axis) + 1] = before, after
    return c.emit(Pad(tuple(sides)), x, **_sized(x, axis, before + x.shape[axis] + after))


PARTS: dict[str, Handler] = {"Concat": concat, "Gather": gather, "Slice": slice_, "Split": split}
