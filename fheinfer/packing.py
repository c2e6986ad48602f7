"""Where the elements of a tensor are: in which ciphertext of a tuple, and in which of its slots.

Multiplexed packing (Lee et al., ePrint 2021/1688), over any number of ciphertexts: neighbouring pixels of a channel
stand `gap` slots apart, and the gap x gap cells between them hold other channels, so that a strided convolution
multiplies the gap and keeps the grid. A channel that is larger than the slots is cut into bands of rows. Views
(reshape, slice, transpose, concatenation) are other numbers for the same slots, and cost nothing
(docs/explanation/packing.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.errors import PlanError

__all__ = [
    "Packing",
    "canonical",
    "grid_packing",
    "input_packing",
    "of_places",
    "pack",
    "plain",
    "rounded_up",
    "spread",
    "unpack",
]

Places = NDArray[np.int64]
Shape = tuple[int, ...]
MAX_CIPHERTEXTS = 1 << 13
"""Of one value in a plan."""
MOST_SLOTS = 1 << 15
"""Of any set: N/2 for N = 2^16."""
_COUNTS = ("band", "period", "rotation", "ciphertexts", "block", "width")
MAX_PLACES = 1 << 24
"""Elements of a value, at most, that a file may claim."""


@dataclass(frozen=True, eq=False)
class Packing:
    """A tensor in a tuple of ciphertexts.

    Element (c, y, x) is in slot `place % period` of ciphertext `place // period`, where
    place = start[c, y // band] + (y % band) * row + x * column. Slots repeat with `period`.

    shape        of the tensor, of any rank
    grid         (C, H, W): the same elements in the same order; (n, 1, 1) where rows and columns have no regular places
    start        (C, bands)
    row, column  slots from a pixel to the one below it, and to the one at its right
    band         rows in one band
    period       slots after which a ciphertext repeats, a power of two
    rotation     slots by which each replica is rotated against the one before; 0 for equal replicas
    ciphertexts  how many there are
    block        slots of one grid, which move together where replicas are rotated
    width        slots in a row of the grid; 0 where the places are of no grid
    """

    shape: Shape
    grid: tuple[int, int, int]
    start: Places
    row: int
    column: int
    band: int
    period: int
    rotation: int = 0
    ciphertexts: int = 1
    block: int = 1
    width: int = 0

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What makes two packings the same."""
        sizes = (self.shape, self.grid, self.row, self.column, self.band, self.period, self.rotation, self.ciphertexts)
        return *sizes, self.start.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packing) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.grid)

    @property
    def replicas(self) -> int:
        """Replicas that differ."""
        return self.period // self.rotation if self.rotation else 1

    @property
    def total(self) -> int:
        """Slots after which all of a ciphertext repeats, rotated replicas included."""
        return self.period * self.replicas

    @property
    def is_image(self) -> bool:
        """Whether rows and columns are regular, as convolutions need them."""
        return self.grid == canonical(self.shape)

    @property
    def gap(self) -> tuple[int, int] | None:
        """Rows and columns of the grid from a pixel to the next; None where there is no grid."""
        if not self.is_image or not self.width or not self.row or not self.column or self.row % self.width:
            return None
        return self.row // self.width, self.column

    def places(self) -> Places:
        """The place of every element, in the tensor's shape."""
        _, height, width = self.grid
        y = np.arange(height)
        rows = self.start[:, y // self.band] + (y % self.band) * self.row
        return (rows[:, :, None] + np.arange(width) * self.column).reshape(self.shape)

    @cached_property
    def distinct(self) -> bool:
        """Whether no two elements share a slot, as they may in a view."""
        return len(np.unique(self.places())) == self.size

    def rotated(self, slots: int) -> Packing:
        """The same with each replica rotated by so many slots against the one before it."""
        return replace(self, rotation=slots)

    def describe(self) -> str:
        """In a few words, for tables."""
        text = "x".join(map(str, self.shape))
        if self.ciphertexts > 1:
            text += f" in {self.ciphertexts} ciphertexts"
        if self.is_image and self.grid[1:] != (1, 1) and self.column > 1:
            text += f", gap {self.column}"
        return text + (f", replicas rotated by {self.rotation}" if self.rotation else "")

    def to_json(self) -> dict[str, Any]:
        """As files hold it."""
        return {
            "shape": list(self.shape),
            "grid": list(self.grid),
            "start": self.start.tolist(),
            "strides": [self.row, self.column],
            "band": self.band,
            "period": self.period,
            "rotation": self.rotation,
            "ciphertexts": self.ciphertexts,
            "block": self.block,
            "width": self.width,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], slots: int) -> Packing:
        """What `to_json` made, for a set of so many slots.

        Raises:
            ValueError: of another form, or places beyond the slots.
        """
        names = {"shape", "grid", "start", "strides", *_COUNTS}
        if not isinstance(content, Mapping) or set(content) != names:
            raise ValueError("a packing has other fields")
        if not all(isinstance(content[name], list) for name in ("shape", "grid", "start", "strides")):
            raise ValueError("a packing has numbers where lists are")
        numbers = [*content["shape"], *content["grid"], *content["strides"]]
        numbers += [content[name] for name in _COUNTS]
        if not all(type(n) is int and 0 <= n <= MAX_PLACES for n in numbers):
            raise ValueError("a packing has numbers that are no sizes")
        shape, grid = tuple(content["shape"]), tuple(content["grid"])
        row, column = content["strides"]
        rest = {name: content[name] for name in _COUNTS}
        if len(grid) != 3 or min(grid) < 1 or not 1 <= math.prod(grid) <= MAX_PLACES or not shape:
            raise ValueError(f"a packing of impossible shape {shape}")
        if math.prod(shape) != math.prod(grid) or rest["band"] < 1:
            raise ValueError(f"a packing of shape {shape} in a grid {grid}")
        if not all(_power_of_two(rest[name]) for name in ("period", "block")) or rest["period"] > slots:
            raise ValueError(f"a packing of period {rest['period']} in {slots} slots")
        rotation = rest["rotation"]
        if rotation and not (_power_of_two(rotation) and rotation < rest["period"]):
            raise ValueError(f"replicas rotated by {rotation} in a period of {rest['period']}")
        start = np.asarray(content["start"])
        if start.dtype.kind != "i" or start.shape != (grid[0], -(-grid[1] // rest["band"])):
            raise ValueError("a packing whose places do not fit its grid")
        if rest["block"] > rest["period"] or rest["ciphertexts"] > MAX_CIPHERTEXTS:
            raise ValueError(f"a packing of {rest['ciphertexts']} ciphertexts, in blocks of {rest['block']}")
        packing = cls(shape, grid, start.astype(np.int64), row, column, **rest)
        places = packing.places()
        if packing.total > slots or places.min() < 0 or places.max() >= rest["period"] * rest["ciphertexts"]:
            raise ValueError("a packing with places beyond its ciphertexts")
        if len(np.unique(places // rest["period"])) != rest["ciphertexts"]:  # few bytes could claim any number of them
            raise ValueError("a packing with a ciphertext that holds nothing")
        of_row = packing.start[:, np.arange(grid[1]) // packing.band] // packing.period
        if (places.reshape(grid) // packing.period != of_row[:, :, None]).any():
            raise ValueError("a packing with rows that leave their ciphertext")
        return packing


def canonical(shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W) of a tensor: (F,) is F channels of a pixel, (C, L) is C channels of one row."""
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def rounded_up(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def grid_packing(
    shape: Sequence[int], slots: int, *, gap: tuple[int, int] = (1, 1), height: int = 0, width: int = 0
) -> Packing:
    """Channels in the cells between pixels `gap` rows and columns apart, on grids of `height` x `width` slots.

    The sizes of a grid default to the next powers of two. As many ciphertexts as it takes.

    Raises:
        PlanError: one row is longer than the slots.
    """
    channels, rows, columns = canonical(shape)
    height, width = height or rounded_up(rows * gap[0]), width or rounded_up(columns * gap[1])
    if width * gap[0] > slots:
        needs = width * gap[0]
        enough = needs <= MOST_SLOTS
        most = f"there are {slots}" if enough else f"no set has more than {MOST_SLOTS} (N = 2^16)"
        advice = "make the input narrower, or choose a set of more slots" if enough else "make the input narrower"
        raise PlanError(f"a row of {columns} pixels needs {needs} slots and {most}; {advice}")
    c, cells = np.arange(channels), gap[0] * gap[1]
    block, cell = c // cells, c % cells
    corner = cell // gap[1] * width + cell % gap[1]
    grid, blocks = height * width, -(-channels // cells)
    if grid > slots:
        band = slots // width // gap[0]
        bands = -(-rows // band)
        start = (block[:, None] * bands + np.arange(bands)) * slots + corner[:, None]
        count, period, grid = blocks * bands, slots, slots
    else:
        each = slots // grid
        count, band = -(-blocks // each), rows
        period = rounded_up(blocks) * grid if count == 1 else slots
        start = (block // each * period + block % each * grid + corner)[:, None]
    where = (channels, rows, columns)
    return Packing(
        tuple(shape), where, start.astype(np.int64), gap[0] * width, gap[1], band, period, 0, count, grid, width
    )


def input_packing(shape: Sequence[int], slots: int) -> Packing:
    """Of an input: pixels side by side, one channel after the other."""
    return grid_packing(shape, slots)


def of_places(places: Places, period: int, ciphertexts: int, shape: Shape, block: int, width: int = 0) -> Packing:
    """The packing of a view whose elements are at these places (in `shape`), on grids of that size and width."""
    channels, height, width = canonical(shape)
    found = places.reshape(channels, height, width)
    column = int(found[0, 0, 1] - found[0, 0, 0]) if width > 1 else 0
    row = int(found[0, 1, 0] - found[0, 0, 0]) if height > 1 else 0
    ciphertext = found[:, :, 0] // period
    ends = (found[:, 1:, 0] - found[:, :-1, 0] != row) | (ciphertext[:, 1:] != ciphertext[:, :-1])
    breaks = np.flatnonzero(ends.any(axis=0)) + 1
    band = int(np.gcd.reduce(breaks)) if len(breaks) else height  # no band goes on in another ciphertext
    if row < 0 or column < 0 or band < 1:
        return _elementwise(places, period, ciphertexts, shape, block)
    start = found[:, ::band, 0]
    packing = Packing(
        shape, (channels, height, width), start.copy(), row, column, band, period, 0, ciphertexts, block, width
    )
    if not np.array_equal(packing.places(), places.reshape(shape)):
        return _elementwise(places, period, ciphertexts, shape, block)
    return packing


def _elementwise(places: Places, period: int, ciphertexts: int, shape: Shape, block: int) -> Packing:
    start = places.reshape(-1, 1).copy()
    return Packing(shape, (start.size, 1, 1), start, 0, 0, 1, period, 0, ciphertexts, block)


def plain(values: NDArray[np.floating] | float, packing: Packing) -> NDArray[np.float64]:
    """Values that broadcast to the tensor's shape, as (ciphertexts, total) slots; slots without an element are zero."""
    slots = np.zeros(packing.ciphertexts * packing.period)
    slots[packing.places()] = values
    first = slots.reshape(packing.ciphertexts, packing.period)
    turns = [np.roll(first, -i * packing.rotation, axis=1) for i in range(packing.replicas)]
    return np.concatenate(turns, axis=1)


def pack(tensor: NDArray[np.floating], packing: Packing) -> NDArray[np.float64]:
    """A tensor as (ciphertexts, total) slots; slots without an element are zero."""
    return plain(np.asarray(tensor, np.float64).reshape(packing.shape), packing)


def unpack(slots: NDArray[np.floating] | Sequence[NDArray[np.floating]], packing: Packing) -> NDArray[np.float64]:
    """At least one period of slots of each ciphertext to the tensor."""
    first = np.stack([np.asarray(one, np.float64)[: packing.period] for one in slots])
    return first.reshape(-1)[packing.places()]


def spread(numbers: NDArray[np.float64] | float, shape: Sequence[int]) -> NDArray[np.float64]:
    """One number, or one per channel: as what broadcasts to a tensor of that shape. Others stay as they are."""
    array = np.asarray(numbers, np.float64)
    return array.reshape(-1, *[1] * (len(shape) - 1)) if array.ndim == 1 and len(shape) > 1 else array
