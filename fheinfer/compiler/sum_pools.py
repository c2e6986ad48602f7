"""Sums of all pixels of each channel by rotations, at no level: where they come out, and how they are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fheinfer import _core
from fheinfer.compiler.values import Value
from fheinfer.packing import Packing, Shape, of_places


def summable(source: Packing) -> bool:
    """Whether rotations can sum the pixels: they are in regular rows and columns, and bands stand in the same slots.

    All pixels of a band are in one ciphertext. All channels whose first bands share a ciphertext have their other bands
    in one ciphertext, too.
    """
    if not source.is_image or source.rotation:
        return False
    _, height, width = source.grid
    ciphertext, slot = np.divmod(source.start, source.period)
    reach = (min(source.band, height) - 1) * source.row + (width - 1) * source.column
    return bool(slot.max() + reach < source.period and (slot == slot[:, :1]).all()) and len(
        np.unique(ciphertext, axis=0)
    ) == len(np.unique(ciphertext[:, 0]))


def sum_packing(source: Packing, shape: Shape) -> Packing:
    """Where the sums are: in the slot of each channel's first pixel; other slots hold parts of sums."""
    ciphertext, slot = np.divmod(source.start[:, 0], source.period)
    used, number = np.unique(ciphertext, return_inverse=True)
    return of_places(number * source.period + slot, source.period, len(used), shape, source.block)


def sum_pool(e: _core.Evaluator, xs: Sequence[_core.Ciphertext], source: Packing) -> Value:
    """The sum of every channel, as `sum_packing` says."""
    _, height, width = source.grid
    rows = [_summed(e, x, width, source.column) for x in xs]
    sums = []
    for bands in np.unique(source.start // source.period, axis=0):
        parts = [
            _summed(e, rows[ciphertext], min(source.band, height - first), source.row)
            for ciphertext, first in zip(bands, range(0, height, source.band), strict=True)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = e.add(total, part)
        sums.append(total)
    return tuple(sums)


def _summed(e: _core.Evaluator, x: _core.Ciphertext, count: int, step: int) -> _core.Ciphertext:
    """The sum of so many slots, `step` apart, in the slot of the first: by the bits of their number, from the highest.

    What other slots hold is of no matter: each partial sum reaches only as far as its own slots.
    """
    total, terms = x, 1
    for bit in f"{count:b}"[1:]:
        total, terms = e.add(total, e.rotate(total, terms * step)), 2 * terms
        if bit == "1":
            total, terms = e.add(x, e.rotate(total, step)), terms + 1
    return total
