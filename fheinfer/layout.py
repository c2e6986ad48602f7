"""Tensors in and out of slots, by the layouts of the core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fheinfer._core import Layout

__all__ = ["Layout", "diagonals", "input_layout", "pack", "skewed", "slot_index", "spread", "unpack"]


def input_layout(shape: Sequence[int]) -> Layout:
    """Of a picture (C, H, W): pixels side by side, one channel a block. Of a vector (F,): one row."""
    if len(shape) == 1:
        return Layout(1, 1, shape[0], 1, 1, 1 << (shape[0] - 1).bit_length())
    channels, height, width = shape
    return Layout(channels, height, width, 1, height, width)


def skewed(layout: Layout, skew: int) -> Layout:
    """The same tensor, each copy rotated by `skew` blocks against the one before; 0 for equal copies."""
    sizes = (layout.channels, layout.height, layout.width, layout.gap, layout.grid_height, layout.grid_width)
    return Layout(*sizes, replica_rotation=skew)


def slot_index(layout: Layout) -> NDArray[np.int64]:
    """(C, H, W) slot of every element in the first copy."""
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
    period, or of skewed copies, are one.
    """
    (block, row, column), (to_block, to_row, to_column) = (
        np.unravel_index(slot_index(layout)[:, 0, 0], (layout.blocks, layout.grid_height, layout.grid_width))
        for layout in (source, target)
    )
    same = min(layout.replica_rotation or layout.blocks for layout in (source, target))
    reach = (np.arange(kernel) - padding) * source.gap
    blocks = (block - to_block[:, None]) % same
    rows = (row - to_row[:, None])[..., None, None] + reach[:, None]
    columns = (column - to_column[:, None])[..., None, None] + reach
    distances = np.stack(np.broadcast_arrays(blocks[..., None, None], rows, columns), axis=-1)
    numbers = np.unique(distances.reshape(-1, 3), axis=0, return_inverse=True)[1]
    return np.asarray(numbers, dtype=np.int64).reshape(distances.shape[:-1])


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
    """One number, one a channel or, of a vector, one a feature: to what multiplies a (C, H, W) tensor."""
    rows = np.reshape(numbers, (-1, 1, 1))
    return rows if len(rows) in (1, layout.channels) else rows.T
