"""Views: the same numbers in another shape or order, with no arithmetic. Axes are counted without the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fheinfer.model.ops.base import Invalid, Op, Shape, axis_of, check_shape, whole, wholes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Reshape(Op):
    """The same numbers in the same order, in another shape."""

    kind = "reshape"
    shape: Shape

    def check(self, inputs: Sequence[Shape]) -> None:
        check_shape(self.shape)
        if math.prod(self.shape) != math.prod(inputs[0]):
            raise Invalid(f"a value of the shape {inputs[0]} does not fit the shape {self.shape}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].reshape(-1, *self.shape)


@dataclass(frozen=True)
class Permute(Op):
    """Axes in another order: axis i of the output is axis order[i] of the input."""

    kind = "permute"
    order: tuple[int, ...]

    def check(self, inputs: Sequence[Shape]) -> None:
        axes = len(inputs[0])
        wholes("order", self.order, axes, 0)
        if sorted(self.order) != list(range(axes)):
            raise Invalid(f"order {self.order} is none of {axes} axes")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return tuple(inputs[0][axis] for axis in self.order)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].permute(0, *(axis + 1 for axis in self.order))


@dataclass(frozen=True)
class Slice(Op):
    """Every `step`-th entry of an axis from `start` up to, but without, `stop`."""

    kind = "slice"
    axis: int
    start: int
    stop: int
    step: int = 1

    def check(self, inputs: Sequence[Shape]) -> None:
        size = inputs[0][axis_of(self.axis, inputs[0])]
        whole("start", self.start, 0)
        whole("stop", self.stop, 1)
        whole("step", self.step, 1)
        if not self.start < self.stop <= size:
            raise Invalid(f"entries {self.start} to {self.stop} are none of an axis of {size}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        sizes = list(inputs[0])
        sizes[self.axis] = len(range(self.start, self.stop, self.step))
        return tuple(sizes)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        every = (slice(None),) * (self.axis + 1)
        return inputs[0][(*every, slice(self.start, self.stop, self.step))]


@dataclass(frozen=True)
class Concat(Op):
    """`count` values one after the other along an axis, alike in all other axes."""

    kind = "concat"
    axis: int
    count: int

    @property
    def arity(self) -> int:
        return self.count if isinstance(self.count, int) else 0

    def check(self, inputs: Sequence[Shape]) -> None:
        whole("count", self.count, 1)
        axis_of(self.axis, inputs[0])
        rest = {(*shape[: self.axis], *shape[self.axis + 1 :]) for shape in inputs}
        if len(rest) != 1 or len({len(shape) for shape in inputs}) != 1:
            raise Invalid(f"joins values of the shapes {', '.join(map(str, inputs))} along axis {self.axis}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        sizes = list(inputs[0])
        sizes[self.axis] = sum(shape[self.axis] for shape in inputs)
        return tuple(sizes)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        return torch.cat(list(inputs), self.axis + 1)


@dataclass(frozen=True)
class Expand(Op):
    """Repeats the one entry of every axis that is larger in `shape`."""

    kind = "expand"
    shape: Shape

    def check(self, inputs: Sequence[Shape]) -> None:
        check_shape(self.shape)
        fits = len(self.shape) == len(inputs[0])
        if not fits or any(size not in (1, wanted) for size, wanted in zip(inputs[0], self.shape, strict=True)):
            raise Invalid(f"a value of the shape {inputs[0]} does not expand to {self.shape}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].expand(-1, *self.shape)


@dataclass(frozen=True)
class Pad(Op):
    """Zeros before and after the entries of every axis: sides are (before axis 0, after axis 0, before axis 1, ...)."""

    kind = "pad"
    sides: tuple[int, ...]

    def check(self, inputs: Sequence[Shape]) -> None:
        wholes("sides", self.sides, 2 * len(inputs[0]), 0)

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return tuple(size + sum(self.sides[2 * i : 2 * i + 2]) for i, size in enumerate(inputs[0]))

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        ends = [self.sides[2 * i + end] for i in reversed(range(len(self.sides) // 2)) for end in (0, 1)]
        return functional.pad(inputs[0], ends)
