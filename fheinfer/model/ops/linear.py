"""Operations that are linear up to a constant: convolutions, linear layers, batch norm and resampling."""

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
    image,
    in_words,
    per_channel,
    positive,
    whole,
    wholes,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Conv2d(Op):
    """A convolution; weight (out_channels, in_channels / groups, *kernel), padded with zeros."""

    kind = "conv2d"
    TENSORS = ("weight", "bias")
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Sides
    weight: str
    bias: str | None = None
    dilation: Pair = 1
    groups: int = 1

    def check(self, inputs: Sequence[Shape]) -> None:
        image(inputs[0])
        _check_windows(self, inputs[0][0])
        if min(self.infer(inputs)) < 1:
            raise Invalid(f"kernel {in_words(self.kernel)} is larger than the padded input {inputs[0][1:]}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        top, bottom, left, right = self.padding
        sizes = zip(inputs[0][1:], (top + bottom, left + right), self.kernel, self.stride, self.dilation, strict=True)
        return (self.out_channels, *((size + pad - d * (k - 1) - 1) // s + 1 for size, pad, k, s, d in sizes))

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        weight = (self.out_channels, inputs[0][0] // self.groups, *self.kernel)
        return {"weight": weight, "bias": (self.out_channels,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        x, padding = padded(inputs[0], self.padding)
        weight, bias = tensors["weight"], tensors.get("bias")
        return functional.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)


@dataclass(frozen=True)
class ConvTranspose2d(Op):
    """A transposed convolution; weight (in_channels, out_channels / groups, *kernel).

    `padding` crops that many rows and columns of the full output, `output_padding` gives back so many at its end.
    """

    kind = "conv_transpose2d"
    TENSORS = ("weight", "bias")
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Sides
    weight: str
    bias: str | None = None
    dilation: Pair = 1
    groups: int = 1
    output_padding: Pair = 0

    def check(self, inputs: Sequence[Shape]) -> None:
        image(inputs[0])
        _check_windows(self, inputs[0][0])
        wholes("output_padding", self.output_padding, 2, 0)
        for added, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if added >= max(s, d):
                raise Invalid(f"output_padding {in_words(self.output_padding)} is not below stride or dilation")
        if min(self.infer(inputs)) < 1:
            raise Invalid(f"padding {self.padding} leaves nothing of the output")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        top, bottom, left, right = self.padding
        full = self._full(inputs[0][1:])
        return self.out_channels, full[0] - top - bottom, full[1] - left - right

    def _full(self, size: Sequence[int]) -> list[int]:
        sizes = zip(size, self.kernel, self.stride, self.dilation, self.output_padding, strict=True)
        return [(n - 1) * s + d * (k - 1) + 1 + added for n, k, s, d, added in sizes]

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        weight = (inputs[0][0], self.out_channels // self.groups, *self.kernel)
        return {"weight": weight, "bias": (self.out_channels,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        top, bottom, left, right = self.padding
        weight, groups = tensors["weight"], self.groups
        y = functional.conv_transpose2d(inputs[0], weight, None, self.stride, 0, 0, groups, self.dilation)
        height, width = self._full(inputs[0].shape[2:])
        y = functional.pad(y, (0, width - y.shape[3], 0, height - y.shape[2]))
        y = y[:, :, top : height - bottom, left : width - right]
        return y + per_channel(tensors["bias"], y) if "bias" in tensors else y


@dataclass(frozen=True)
class Linear(Op):
    """A fully connected layer over all features of its input."""

    kind = "linear"
    TENSORS = ("weight", "bias")
    out_features: int
    weight: str
    bias: str | None = None

    def check(self, inputs: Sequence[Shape]) -> None:
        whole("out_features", self.out_features, 1)

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return (self.out_features,)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (self.out_features, math.prod(inputs[0])), "bias": (self.out_features,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.linear(inputs[0].flatten(1), tensors["weight"], tensors.get("bias"))


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch norm of a vector, a sequence or an image, per channel, with running statistics."""

    kind = "batch_norm"
    TENSORS = ("weight", "bias", "mean", "var")
    eps: float
    weight: str
    bias: str
    mean: str
    var: str

    def check(self, inputs: Sequence[Shape]) -> None:
        if len(inputs[0]) > 3:
            raise Invalid(f"takes a value of at most three axes, not of the shape {inputs[0]}")
        positive("eps", self.eps)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.TENSORS, (inputs[0][0],))

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        t = tensors
        return functional.batch_norm(inputs[0], t["mean"], t["var"], t["weight"], t["bias"], False, 0.0, self.eps)


@dataclass(frozen=True)
class Resample(Op):
    """Every channel x becomes gain * rows x columns^T, of `size`; rows (H', H), columns (W', W), gain (C,) or none.

    It is what pools of uneven windows, upsampling and padding with zeros have in common.
    """

    kind = "resample"
    TENSORS = ("rows", "columns", "gain")
    size: Pair
    rows: str
    columns: str
    gain: str | None = None

    def check(self, inputs: Sequence[Shape]) -> None:
        image(inputs[0])
        wholes("size", self.size, 2, 1)

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0], *self.size)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        channels, height, width = inputs[0]
        return {"rows": (self.size[0], height), "columns": (self.size[1], width), "gain": (channels,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        y = tensors["rows"] @ inputs[0] @ tensors["columns"].mT
        return y * per_channel(tensors["gain"], y) if "gain" in tensors else y


def padded(x: Tensor, sides: Sequence[int], value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """A batch of images and the symmetric padding that an operation of torch adds; uneven sides are added here."""
    from torch.nn import functional

    top, bottom, left, right = sides
    if top == bottom and left == right:
        return x, (top, left)
    return functional.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _check_windows(op: Conv2d | ConvTranspose2d, channels: int) -> None:
    whole("out_channels", op.out_channels, 1)
    wholes("kernel", op.kernel, 2, 1)
    wholes("stride", op.stride, 2, 1)
    wholes("padding", op.padding, 4, 0)
    wholes("dilation", op.dilation, 2, 1)
    whole("groups", op.groups, 1)
    if channels % op.groups or op.out_channels % op.groups:
        raise Invalid(f"{op.groups} groups do not divide {channels} channels and {op.out_channels} out_channels")
