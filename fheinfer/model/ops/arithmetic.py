"""Arithmetic between values, and between values and constants. Shapes are equal: the front ends expand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fheinfer.model.ops.base import Invalid, Op, Shape, check_shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Two(Op):
    """An operation on two values of one shape."""

    ARITY = 2
    verb: ClassVar[str] = ""

    def check(self, inputs: Sequence[Shape]) -> None:
        if inputs[0] != inputs[1]:
            raise Invalid(f"{self.verb} values of the shapes {inputs[0]} and {inputs[1]}")


@dataclass(frozen=True)
class Add(_Two):
    """The sum of two values of one shape."""

    kind = "add"
    verb = "adds"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] + inputs[1]


@dataclass(frozen=True)
class Subtract(_Two):
    """The first value less the second, of one shape."""

    kind = "subtract"
    verb = "subtracts"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] - inputs[1]


@dataclass(frozen=True)
class Product(_Two):
    """The product of two values of one shape, entry by entry; that of a value with itself is `Power(2)`."""

    kind = "product"
    verb = "multiplies"
    ranged = True

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] * inputs[1]


@dataclass(frozen=True)
class _Constant(Op):
    """An operation with a constant tensor of `shape`: as many axes as the input, each 1 or of its size."""

    TENSORS = ("value",)
    value: str
    shape: Shape

    def check(self, inputs: Sequence[Shape]) -> None:
        check_shape(self.shape)
        fits = len(self.shape) == len(inputs[0])
        if not fits or any(size not in (1, full) for size, full in zip(self.shape, inputs[0], strict=True)):
            raise Invalid(f"a constant of the shape {self.shape} does not fit a value of the shape {inputs[0]}")

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"value": self.shape}


@dataclass(frozen=True)
class MultiplyConstant(_Constant):
    """The value times a constant."""

    kind = "multiply_constant"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] * tensors["value"]


@dataclass(frozen=True)
class AddConstant(_Constant):
    """The value plus a constant."""

    kind = "add_constant"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] + tensors["value"]
