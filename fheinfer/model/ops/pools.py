"""Pools and reductions: one value of many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fheinfer.model.ops.base import (
    Invalid,
    Op,
    Pair,
    Shape,
    Sides,
    axis_of,
    flag,
    image,
    in_words,
    wholes,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Pool(Op):
    """Windows, side by side where no stride is given; pixels that do not fill one are ignored."""

    kernel: Pair
    stride: Pair = None
    padding: Sides = 0

    def __post_init__(self) -> None:
        if self.stride is None:
            object.__setattr__(self, "stride", self.kernel)
        super().__post_init__()

    @property
    def reach(self) -> tuple[int, int]:
        """Pixels from the first to the last of a window, less one."""
        return self.kernel[0] - 1, self.kernel[1] - 1

    def check(self, inputs: Sequence[Shape]) -> None:
        image(inputs[0])
        wholes("kernel", self.kernel, 2, 1)
        wholes("stride", self.stride, 2, 1)
        wholes("padding", self.padding, 4, 0)
        if any(side > most for side, most in zip(self.padding, _doubled(self.reach), strict=True)):
            raise Invalid(f"padding {self.padding} leaves windows of {in_words(self.kernel)} without a pixel")
        if min(self.infer(inputs)) < 1:
            where = "padded input" if any(self.padding) else "input"
            raise Invalid(f"a window of {in_words(self.kernel)} is larger than the {where} {inputs[0][1:]}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        channels, *size = inputs[0]
        top, bottom, left, right = self.padding
        spans = zip(size, (top + bottom, left + right), self.reach, self.stride, strict=True)
        return (channels, *((n + pad - reach - 1) // s + 1 for n, pad, reach, s in spans))


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest value of each window; pixels outside the image do not count."""

    kind = "max_pool"
    ranged = True
    dilation: Pair = 1

    @property
    def reach(self) -> tuple[int, int]:
        return self.dilation[0] * (self.kernel[0] - 1), self.dilation[1] * (self.kernel[1] - 1)

    def check(self, inputs: Sequence[Shape]) -> None:
        wholes("kernel", self.kernel, 2, 1)
        wholes("dilation", self.dilation, 2, 1)
        super().check(inputs)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        top, bottom, left, right = self.padding
        x = functional.pad(inputs[0], (left, right, top, bottom), value=-math.inf) if any(self.padding) else inputs[0]
        return functional.max_pool2d(x, self.kernel, self.stride, 0, self.dilation)


@dataclass(frozen=True)
class MeanPool(_Pool):
    """The mean of each window; pixels outside count as zeros, or not at all without `count_include_pad`."""

    kind = "mean_pool"
    count_include_pad: bool = True

    def check(self, inputs: Sequence[Shape]) -> None:
        super().check(inputs)
        flag("count_include_pad", self.count_include_pad)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        top, bottom, left, right = self.padding
        x = functional.pad(inputs[0], (left, right, top, bottom)) if any(self.padding) else inputs[0]
        y = functional.avg_pool2d(x, self.kernel, self.stride)
        if self.count_include_pad or not any(self.padding):
            return y
        ones = functional.pad(inputs[0].new_ones(1, 1, *inputs[0].shape[2:]), (left, right, top, bottom))
        return y / functional.avg_pool2d(ones, self.kernel, self.stride)


@dataclass(frozen=True)
class GlobalPool(Op):
    """One value per channel: (C, H, W) to (C,)."""

    def check(self, inputs: Sequence[Shape]) -> None:
        image(inputs[0])

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0],)


@dataclass(frozen=True)
class GlobalAvgPool(GlobalPool):
    """The mean of each channel."""

    kind = "avg_pool"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].mean(dim=(2, 3))


@dataclass(frozen=True)
class Reduce(Op):
    """The sum over `axes`, or the mean; with `keepdims` they stay, of size 1. All axes without it give (1,)."""

    kind = "reduce"
    axes: tuple[int, ...]
    mean: bool
    keepdims: bool = False

    def check(self, inputs: Sequence[Shape]) -> None:
        if not isinstance(self.axes, tuple) or not self.axes or len(set(self.axes)) != len(self.axes):
            raise Invalid(f"axes {self.axes!r} are not a tuple of different axes")
        for axis in self.axes:
            axis_of(axis, inputs[0])
        flag("mean", self.mean)
        flag("keepdims", self.keepdims)

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        if self.keepdims:
            return tuple(1 if axis in self.axes else size for axis, size in enumerate(inputs[0]))
        return tuple(size for axis, size in enumerate(inputs[0]) if axis not in self.axes) or (1,)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        x, axes = inputs[0], [axis + 1 for axis in self.axes]
        y = x.mean(axes, self.keepdims) if self.mean else x.sum(axes, self.keepdims)
        return y if y.dim() > 1 else y.unsqueeze(1)


def _doubled(pair: Sequence[int]) -> tuple[int, int, int, int]:
    return pair[0], pair[0], pair[1], pair[1]
