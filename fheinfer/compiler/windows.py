"""Arithmetic of convolutions as the compiler needs it: one after the other, and two side by side, as one.

Along one axis a convolution is y[q] = sum_b w[b] x[q * stride + first + b * step], with zeros outside of x: `first` is
minus the padding, `step` the dilation. Two in a row are one whose offsets are the sums of theirs; two of one value that
are added are one whose offsets are those of both. That holds as long as all offsets lie on one grid, and as the second
reads no zeros where the first would have computed something (`joined`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fheinfer.model.ops import Conv2d, Shape

F64 = NDArray[np.float64]
Index = NDArray[np.int64]

LARGEST = 1 << 26
"""Numbers of a weight that merging may make."""


@dataclass(frozen=True)
class Window:
    """One axis of a convolution: offsets first, first + step, ... (`count` of them), moved by `stride` per output."""

    first: int
    step: int
    count: int
    stride: int

    @property
    def offsets(self) -> Index:
        """Where it reads for output 0."""
        return self.first + self.step * np.arange(self.count)

    @property
    def last(self) -> int:
        """The largest offset."""
        return self.first + self.step * (self.count - 1)

    def padding(self, size: int, out: int) -> tuple[int, int] | None:
        """Zeros before and after `size` entries so that there are `out` outputs; None where no padding gives that."""
        before, reach = -self.first, self.last - self.first
        least = max(0, (out - 1) * self.stride + self.last + 1 - size)
        for after in (before, least):  # alike on both sides where that does
            if before >= 0 and (size + before + after - reach - 1) // self.stride + 1 == out:
                return before, after
        return None


def windows(op: Conv2d) -> tuple[Window, Window]:
    """Rows and columns of a convolution."""
    top, _, left, _ = op.padding
    rows, columns = (
        Window(-pad, d, k, s) for pad, d, k, s in zip((top, left), op.dilation, op.kernel, op.stride, strict=True)
    )
    return rows, columns


def joined(first: Window, second: Window, size: int, middle: int, out: int) -> Window | None:
    """One axis of the second convolution on the output of the first; None where zeros between them matter.

    `size` entries become `middle`, then `out`. Outputs -1 and `middle` of the first are zeros for the second: it must
    read neither, or the first would have found nothing but zeros there.
    """
    lowest, highest = second.first, (out - 1) * second.stride + second.last
    if lowest < 0 and first.last - first.stride >= 0:
        return None
    if highest >= middle and middle * first.stride + first.first < size:
        return None
    return _grid(np.add.outer(first.offsets, first.stride * second.offsets), first.stride * second.stride)


def united(a: Window, b: Window) -> Window | None:
    """One axis of the sum of two convolutions of one value."""
    return _grid(np.concatenate([a.offsets, b.offsets]), a.stride) if a.stride == b.stride else None


def _grid(offsets: Index, stride: int) -> Window:
    first, last = int(offsets.min()), int(offsets.max())
    step = int(np.gcd.reduce((offsets - first).ravel())) or 1
    return Window(first, step, (last - first) // step + 1, stride)


def placed(op: Conv2d, rows: Window, columns: Window, image: Shape, out: Shape) -> Conv2d | None:
    """The convolution with these windows on an image (C, H, W); its weights are yet to be named."""
    sides = rows.padding(image[1], out[1]), columns.padding(image[2], out[2])
    if sides[0] is None or sides[1] is None:
        return None
    return replace(
        op,
        out_channels=out[0],
        kernel=(rows.count, columns.count),
        stride=(rows.stride, columns.stride),
        padding=(*sides[0], *sides[1]),
        dilation=(rows.step, columns.step),
        groups=1,
    )


def dense(weight: F64, groups: int) -> F64:
    """The weight of a grouped convolution as that of one group, zeros between the groups."""
    out, width, *kernel = weight.shape
    if groups == 1:
        return weight
    result = np.zeros((groups, out // groups, groups, width, *kernel))
    for g in range(groups):
        result[g, :, g] = weight.reshape(groups, out // groups, width, *kernel)[g]
    return result.reshape(out, groups * width, *kernel)


def grouped(weight: F64) -> tuple[F64, int]:
    """The same weight with as many groups as its zeros allow, and their number."""
    out, channels, *kernel = weight.shape
    used = (weight != 0).any(axis=(2, 3))
    for groups in _divisors(math.gcd(out, channels)):
        blocks = used.reshape(groups, out // groups, groups, channels // groups).any(axis=(1, 3))
        if groups > 1 and not (blocks & ~np.eye(groups, dtype=bool)).any():
            parts = weight.reshape(groups, out // groups, groups, channels // groups, *kernel)
            own = np.stack([parts[g, :, g] for g in range(groups)])
            return np.ascontiguousarray(own.reshape(out, channels // groups, *kernel)), groups
    return weight, 1


def _divisors(number: int) -> list[int]:
    return [d for d in range(number, 0, -1) if number % d == 0]


def product(first: Conv2d, w1: F64, second: Conv2d, w2: F64, rows: Window, columns: Window) -> tuple[F64, int] | None:
    """The weight of the second convolution after the first on the windows that `joined` gave, and its groups.

    None where it would be too large to compute.
    """
    depthwise = w1.shape[1] == 1 and first.groups == w1.shape[0]
    channels = first.groups * w1.shape[1]
    if len(w2) * channels * rows.count * columns.count > LARGEST:
        return None
    left = dense(w2, second.groups)
    right = w1[:, 0] if depthwise else dense(w1, first.groups)
    result = np.zeros((len(w2), channels, rows.count, columns.count))
    places = [
        ((a.offsets + a.stride * b.offsets[:, None]) - w.first) // w.step
        for a, b, w in zip(windows(first), windows(second), (rows, columns), strict=True)
    ]
    for b0, b1 in np.ndindex(*second.kernel):
        for a0, a1 in np.ndindex(*first.kernel):
            part = left[:, :, b0, b1] * right[:, a0, a1] if depthwise else left[:, :, b0, b1] @ right[:, :, a0, a1]
            result[:, :, places[0][b0, a0], places[1][b1, a1]] += part
    return grouped(result) if second.groups > 1 or (first.groups > 1 and not depthwise) else (result, 1)


def spread(op: Conv2d, weight: F64, rows: Window, columns: Window) -> F64:
    """The weight (of one group) on the larger windows that `united` gave."""
    result = np.zeros((len(weight), weight.shape[1] * op.groups, rows.count, columns.count))
    at_rows, at_columns = (
        (own.offsets - w.first) // w.step for own, w in zip(windows(op), (rows, columns), strict=True)
    )
    result[:, :, at_rows[:, None], at_columns] = dense(weight, op.groups)
    return result
