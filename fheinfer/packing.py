"""Tensors in and out of slots, by the layouts of the core."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fheinfer._core import Layout

__all__ = ["Layout", "diagonals", "input_layout", "pack", "rotated", "sizes", "slot_index", "spread", "unpack"]


def input_layout(shape: Sequence[int]) -> Layout:
    """Of an image (C, H, W): pixels side by side, one channel per block. Of a vector (F,): one row.

    Grids are rounded up to powers of two, which is what rotations need.
    """
    if len(shape) == 1:
        return Layout(1, 1, shape[0], 1, 1, _rounded_up(shape[0]))
    channels, height, width = shape
    return Layout(channels, height, width, 1, _rounded_up(height), _rounded_up(width))


def _rounded_up(size: int) -> int:
    return 1 << (size - 1).bit_length()


def rotated(layout: Layout, blocks: int) -> Layout:
    """The same tensor, each replica rotated by so many blocks against the one before; 0 for equal replicas."""
    channels, height, width, gap, grid_height, grid_width, _ = sizes(layout)
    return Layout(channels, height, width, gap, grid_height, grid_width, blocks)


def sizes(layout: Layout) -> tuple[int, int, int, int, int, int, int]:
    """What a layout is made of, in the order that its constructor takes."""
    shape = layout.channels, layout.height, layout.width
    return *shape, layout.gap, layout.grid_height, layout.grid_width, layout.replica_rotation


def slot_index(layout: Layout) -> NDArray[np.int64]:
    """(C, H, W) slot of every element in the first replica."""
    c = np.arange(layout.channels)[:, None, None]
    y = np.arange(layout.height)[None, :, None]
    x = np.arange(layout.width)[None, None, :]
    cells, gap = layout.gap * layout.gap, layout.gap
    row = y * gap + (c % cells) // gap
    column = x * gap + c % gap
    grid = layout.grid_height * layout.grid_width
    return np.asarray((c // cells) * grid + row * layout.grid_width + column, dtype=np.int64)


def diagonals(source: Layout, target: Layout, kernel: int, padding: int) -> NDArray[np.int64]:
    """(out, in, kernel, kernel): the generalised diagonal each number of a convolution's weight lies on, from 0.

    A number joins the slot it is read from to the slot it counts in: the distance is so many blocks, rows and columns,
    and all of one distance share a plaintext (docs/packing.md). Blocks that are alike in every copy of the smaller
    period, or of rotated replicas, are one.
    """
    (block, row, column), (to_block, to_row, to_column) = (
        np.unravel_index(slot_index(layout)[:, 0, 0], (layout.blocks, layout.grid_height, layout.grid_width))
        for layout in (source, target)
    )
    same = min(layout.replica_rotation or layout.blocks for layout in (source, target))
    offsets = (np.arange(kernel) - padding) * source.gap
    blocks = (block - to_block[:, None]) % same
    rows = (row - to_row[:, None])[..., None, None] + offsets[:, None]
    columns = (column - to_column[:, None])[..., None, None] + offsets
    # Distances are few, so their numbers follow from a table of those that occur.
    spans = [blocks[..., None, None], rows, columns]
    least = [int(part.min()) for part in spans]
    shape = [int(part.max()) - low + 1 for part, low in zip(spans, least, strict=True)]
    flat = np.zeros((1,) * 4, np.int64)
    for part, low, size in zip(spans, least, shape, strict=True):
        flat = flat * size + (part - low)
    occurs = np.zeros(math.prod(shape), bool)
    occurs[flat] = True
    return np.asarray((np.cumsum(occurs) - 1)[flat], dtype=np.int64)


def pack(tensor: NDArray[np.floating], layout: Layout) -> NDArray[np.float64]:
    """(C, H, W) to one period of slots; slots without an element are zero."""
    copies = np.zeros((layout.replicas, layout.blocks, layout.grid_height * layout.grid_width))
    copies[0].ravel()[slot_index(layout)] = tensor
    for i in range(1, layout.replicas):
        copies[i] = np.roll(copies[0], -i * layout.replica_rotation, axis=0)
    return copies.ravel()


def unpack(slots: NDArray[np.floating], layout: Layout) -> NDArray[np.float64]:
    """At least one period of slots to (C, H, W)."""
    return np.asarray(slots, dtype=np.float64)[slot_index(layout)]


def spread(numbers: NDArray[np.float64] | float, layout: Layout) -> NDArray[np.float64]:
    """One number, one per channel or, of a vector, one per feature: to what multiplies a (C, H, W) tensor."""
    rows = np.reshape(numbers, (-1, 1, 1))
    return rows if len(rows) in (1, layout.channels) else rows.T
