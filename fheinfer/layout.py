"""Tensors in and out of slots, by the layouts of the core."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fheinfer._core import Layout

__all__ = ["Layout", "image_layout", "pack", "slot_index", "unpack"]


def image_layout(channels: int, height: int, width: int) -> Layout:
    """Pixels side by side, one channel a block."""
    return Layout(channels, height, width, 1, height, width)


def slot_index(layout: Layout) -> NDArray[np.int64]:
    """(C, H, W) slot of every element."""
    c = np.arange(layout.channels)[:, None, None]
    y = np.arange(layout.height)[None, :, None]
    x = np.arange(layout.width)[None, None, :]
    cells, gap = layout.gap * layout.gap, layout.gap
    row = y * gap + (c % cells) // gap
    column = x * gap + c % gap
    grid = layout.grid_height * layout.grid_width
    return np.asarray((c // cells) * grid + row * layout.grid_width + column, dtype=np.int64)


def pack(tensor: NDArray[np.floating], layout: Layout) -> NDArray[np.float64]:
    """(C, H, W) to one period of slots; slots without an element are zero."""
    slots = np.zeros(layout.period)
    slots[slot_index(layout)] = tensor
    return slots


def unpack(slots: NDArray[np.floating], layout: Layout) -> NDArray[np.float64]:
    """At least one period of slots to (C, H, W)."""
    return np.asarray(slots, dtype=np.float64)[slot_index(layout)]
