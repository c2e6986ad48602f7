"""The linear map of each layer: which weights join which places (csrc/kernels/map_builder.h finds the rotations)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.compiler.values import F64, Arrays
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.packing import Packing

LAYERS = (ops.Conv2d, ops.ConvTranspose2d, ops.Linear, ops.Resample)
"""The operations that have weights, one level each."""
LINEAR = (*LAYERS, ops.Repack)
"""Operations that are one linear map, of one level."""


def linear_map(op: ops.Op, constants: Arrays, source: Packing, target: Packing) -> _core.LinearMap:
    """The map of a linear operation, without its bias, from one packing to another.

    Raises:
        PlanError: packings that the operation cannot work between.
    """
    return _map(op, constants, source, target, shape_only=False)


def shape_map(op: ops.Op, constants: Arrays, source: Packing, target: Packing) -> _core.LinearMap:
    """The same with no weight zero, to be counted only: rotations, levels and predictions are settled before weights
    are known. Those of all networks are kept, since sets are compared and layers repeat."""
    key = shape_key(op, constants), source, target
    found = _SHAPES.get(key)
    if found is None:
        ones = {
            name: np.broadcast_to(1.0, constants[name].shape)
            for role, name in op.tensors.items()
            if role in ("weight", "gain", "factor")
        }
        if len(_SHAPES) >= _MOST_SHAPES:
            _SHAPES.clear()
        found = _SHAPES[key] = _map(op, {**constants, **ones}, source, target, shape_only=True)
    return found


_SHAPES: dict[tuple[object, ...], _core.LinearMap] = {}
_MOST_SHAPES = 512


def _map(op: ops.Op, constants: Arrays, source: Packing, target: Packing, *, shape_only: bool) -> _core.LinearMap:
    block = min(source.block, target.block) if source.rotation or target.rotation else 1
    sides = (source.ciphertexts, source.period, source.rotation), (target.ciphertexts, target.period, target.rotation)
    builder = _core.MapBuilder(*sides[0], *sides[1], block, shape_only)
    if isinstance(op, ops.Conv2d):
        _convolution(builder, op, constants[op.weight], source, target)
    elif isinstance(op, ops.ConvTranspose2d):
        _transposed(builder, op, constants[op.weight], source, target)
    elif isinstance(op, ops.Linear):
        _dense(builder, constants[op.weight], source, target)
    elif isinstance(op, ops.Resample):
        gain = constants[op.gain] if op.gain else np.ones(source.grid[0])
        _resampled(builder, constants[op.rows], constants[op.columns], gain, source, target)
    elif isinstance(op, ops.Repack):
        _repacked(builder, constants[op.factor] if op.factor else None, source, target)
    else:
        raise PlanError(f"{op.kind} is no linear operation")
    return builder.finish()


def shape_key(op: ops.Op, constants: Arrays) -> tuple[object, ...]:
    """What of an operation its shape depends on: all but its tensors; of a resample, which pixels it joins."""
    joined = (constants[name] != 0 for name in (op.rows, op.columns)) if isinstance(op, ops.Resample) else ()
    values = ((f.name, getattr(op, f.name)) for f in fields(op) if f.name not in op.TENSORS)
    return op.kind, *values, *((array.shape, array.tobytes()) for array in joined)


@dataclass(frozen=True)
class _Run:
    """Rows, or columns, that one kernel offset joins: output `out` + i * out_step with input `into` + i * in_step."""

    out: int
    out_step: int
    into: int
    in_step: int
    count: int

    def part(self, first: int, end: int) -> _Run:
        return _Run(
            self.out + first * self.out_step,
            self.out_step,
            self.into + first * self.in_step,
            self.in_step,
            end - first,
        )


def _gathered(outputs: int, inputs: int, stride: int, offset: int) -> _Run | None:
    """Output i reads input i * stride + offset, where there is one."""
    first = max(0, -(offset // stride))
    end = min(outputs, (inputs - 1 - offset) // stride + 1)
    return _Run(first, 1, first * stride + offset, stride, end - first) if end > first else None


def _scattered(outputs: int, inputs: int, stride: int, offset: int) -> _Run | None:
    """Input i goes to output i * stride + offset, where there is one."""
    run = _gathered(inputs, outputs, stride, offset)
    return run and _Run(run.into, run.in_step, run.out, run.out_step, run.count)


def _banded(run: _Run, out_band: int, in_band: int) -> Iterator[_Run]:
    """The run cut where a band of the output or of the input ends."""
    index = np.arange(run.count)
    bands = np.stack([(run.out + index * run.out_step) // out_band, (run.into + index * run.in_step) // in_band])
    cuts = [0, *(np.flatnonzero((np.diff(bands) != 0).any(axis=0)) + 1).tolist(), run.count]
    for first, end in pairwise(cuts):
        yield run.part(first, end)


def _images(op: ops.Op, source: Packing, target: Packing) -> None:
    if not source.is_image or not target.is_image:
        raise PlanError(f"a {op.kind} needs images with regular rows and columns")


def _join(
    builder: _core.MapBuilder, rows: _Run, columns: _Run, source: Packing, target: Packing, weights: F64, groups: int
) -> None:
    """Adds one kernel offset: `weights` is (out, in / groups)."""
    for run in _banded(rows, target.band, source.band):
        outs = (
            target.start[:, run.out // target.band] + run.out % target.band * target.row + columns.out * target.column
        )
        ins = source.start[:, run.into // source.band] + run.into % source.band * source.row
        builder.add(
            (run.count, columns.count),
            (run.in_step * source.row, columns.in_step * source.column),
            (run.out_step * target.row, columns.out_step * target.column),
            outs,
            ins + columns.into * source.column,
            weights,
            groups,
        )


def _convolution(builder: _core.MapBuilder, op: ops.Conv2d, weight: F64, source: Packing, target: Packing) -> None:
    _images(op, source, target)
    (_, height, width), (_, out_height, out_width) = source.grid, target.grid
    for ky in range(op.kernel[0]):
        rows = _gathered(out_height, height, op.stride[0], ky * op.dilation[0] - op.padding[0])
        for kx in range(op.kernel[1]):
            columns = _gathered(out_width, width, op.stride[1], kx * op.dilation[1] - op.padding[2])
            if rows and columns:
                _join(builder, rows, columns, source, target, weight[:, :, ky, kx], op.groups)


def _transposed(
    builder: _core.MapBuilder, op: ops.ConvTranspose2d, weight: F64, source: Packing, target: Packing
) -> None:
    _images(op, source, target)
    (channels, height, width), (_, out_height, out_width) = source.grid, target.grid
    # (in, out / groups) to (out, in / groups)
    by_group = weight.reshape(op.groups, channels // op.groups, -1, *weight.shape[2:])
    turned = by_group.transpose(0, 2, 1, 3, 4).reshape(op.out_channels, channels // op.groups, *weight.shape[2:])
    for ky in range(op.kernel[0]):
        rows = _scattered(out_height, height, op.stride[0], ky * op.dilation[0] - op.padding[0])
        for kx in range(op.kernel[1]):
            columns = _scattered(out_width, width, op.stride[1], kx * op.dilation[1] - op.padding[2])
            if rows and columns:
                _join(builder, rows, columns, source, target, turned[:, :, ky, kx], op.groups)


_ONE = ((1, 1), (0, 0), (0, 0))
"""A pattern of one place."""


def _dense(builder: _core.MapBuilder, weight: F64, source: Packing, target: Packing) -> None:
    builder.add(*_ONE, target.places().ravel(), source.places().ravel(), weight)


def _resampled(builder: _core.MapBuilder, rows: F64, columns: F64, gain: F64, source: Packing, target: Packing) -> None:
    channels, height, width = source.grid
    if source.shape != (channels, height, width):
        raise PlanError("a resample needs an image")
    ins, outs = source.places(), target.places()
    for down, below in zip(*np.nonzero(rows), strict=True):
        for right, beside in zip(*np.nonzero(columns), strict=True):
            weights = (gain * rows[down, below] * columns[right, beside])[:, None]
            builder.add(*_ONE, outs[:, down, right], ins[:, below, beside], weights, channels)


def _repacked(builder: _core.MapBuilder, factor: F64 | None, source: Packing, target: Packing) -> None:
    channels = target.grid[0]
    by_channel = np.ones((channels, 1)) if factor is None else factor.reshape(-1, 1)
    if source.grid == target.grid and len(by_channel) == channels:
        _, height, width = target.grid
        whole = _Run(0, 1, 0, 1, height), _Run(0, 1, 0, 1, width)
        _join(builder, *whole, source, target, np.broadcast_to(by_channel, (channels, 1)), channels)
        return
    shape = target.shape
    weights = np.broadcast_to(by_channel.reshape(-1, *[1] * (len(shape) - 1)), shape).reshape(-1, 1)
    builder.add(*_ONE, target.places().ravel(), source.places().ravel(), weights, target.size)


def distances(op: ops.Conv2d, source: Packing, target: Packing) -> NDArray[np.int64]:
    """(out, in, kernel, kernel): the generalised diagonal that each weight of a convolution is on, from 0.

    A weight joins the slot it is read from to the slot it counts in, and all of one distance share a plaintext
    (docs/explanation/packing.md). Distances are alike in every copy of the smaller period, and of rotated replicas.
    """
    same = min(p.rotation or p.period for p in (source, target))
    first_in, first_out = source.start[:, 0], target.start[:, 0]
    apart = (first_in - first_out[:, None])[..., None, None]
    rows = (np.arange(op.kernel[0]) * op.dilation[0] - op.padding[0]) * source.row
    columns = (np.arange(op.kernel[1]) * op.dilation[1] - op.padding[2]) * source.column
    found = (apart + rows[:, None] + columns) % same
    pair = (first_in // source.period + (first_out // target.period)[:, None] * source.ciphertexts)[..., None, None]
    _, numbers = np.unique(found + pair * same, return_inverse=True)
    return np.asarray(numbers.reshape(found.shape), dtype=np.int64)
