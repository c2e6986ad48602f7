"""Where the elements of a tensor are in the slots of one or several ciphertexts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
MAX_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class Packing:
    """A tensor (C, H, W) over `ciphertexts` vectors of `period` slots.

    start   (C, bands): ciphertext * period + slot of the first pixel of each band of rows of a channel
    row, column  strides in slots
    band    rows of a band
    """

    shape: tuple[int, int, int]
    start: NDArray[np.int64]
    row: int
    column: int
    band: int
    period: int
    rotation: int = 0
    ciphertexts: int = 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packing) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.shape, self.period, self.ciphertexts))

    def index(self) -> NDArray[np.int64]:
        """(C, H, W): ciphertext * period + slot of every element."""
        _, height, width = self.shape
        y, x = np.arange(height), np.arange(width)
        rows = self.start[:, y // self.band] + (y % self.band) * self.row
        return np.asarray(rows[:, :, None] + x * self.column, dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """As files hold it."""
        return {
            "shape": list(self.shape),
            "start": self.start.tolist(),
            "row": self.row,
            "column": self.column,
            "band": self.band,
            "period": self.period,
            "rotation": self.rotation,
            "ciphertexts": self.ciphertexts,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], slots: int) -> Packing:
        """The packing in a file, checked.

        Raises:
            ValueError: fields that are missing, unknown or impossible, or two elements in one slot.
        """
        names = ("shape", "start", "row", "column", "band", "period", "rotation", "ciphertexts")
        if not isinstance(content, Mapping) or set(content) != set(names):
            raise ValueError("a packing has other fields")
        shape = tuple(content["shape"])
        numbers = [*shape, *(content[name] for name in names[2:])]
        if len(shape) != 3 or not all(type(n) is int and 0 <= n <= MAX_VALUES for n in numbers):
            raise ValueError("a packing with numbers that cannot be")
        if min(*shape, content["band"], content["period"], content["ciphertexts"]) < 1 or content["period"] > slots:
            raise ValueError("a packing of nothing, or of more slots than there are")
        if math.prod(shape) > MAX_VALUES or content["ciphertexts"] > 4096:
            raise ValueError("a packing of too many values")
        start = np.asarray(content["start"])
        bands = -(-shape[1] // content["band"])
        if start.shape != (shape[0], bands) or start.dtype.kind != "i":
            raise ValueError("a packing whose starts do not fit its shape")
        made = cls(shape, start.astype(np.int64), **{name: content[name] for name in names[2:]})
        index = made.index().ravel()
        if index.min() < 0 or index.max() >= made.period * made.ciphertexts or len(np.unique(index)) < len(index):
            raise ValueError("a packing outside its slots, or with two elements in one slot")
        return made


def pack(tensor: NDArray[np.floating], packing: Packing) -> list[F64]:
    """One period of slots per ciphertext; slots without an element are zero."""
    slots = np.zeros(packing.ciphertexts * packing.period)
    slots[packing.index()] = tensor.reshape(packing.shape)
    return list(slots.reshape(packing.ciphertexts, packing.period))


def unpack(slots: Sequence[NDArray[np.floating]], packing: Packing) -> F64:
    """(C, H, W) of at least one period of slots per ciphertext."""
    flat = np.concatenate([np.asarray(part, np.float64)[: packing.period] for part in slots])
    return np.asarray(flat[packing.index()])
