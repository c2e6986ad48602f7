"""Operations that the compiler makes of a network's, on values that are ciphertexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fheinfer.model.ops.base import Invalid, Op, Shape, per_channel, positive
from fheinfer.model.ops.pools import GlobalPool

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Chebyshev(Op):
    """sum_k c_k T_k(x) on slots in [-1, 1].

    bound  largest |value| of the input that it has to serve: the scale of the input is chosen so that this is 1
    unit   value that a slot of 1 in the output means, as long as the coefficients are not rescaled
    """

    kind = "chebyshev"
    TENSORS = ("coefficients",)
    coefficients: str
    bound: float
    unit: float

    def check(self, inputs: Sequence[Shape]) -> None:
        positive("bound", self.bound)
        positive("unit", self.unit)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        x = inputs[0]
        high, higher = torch.zeros_like(x), torch.zeros_like(x)
        for c in tensors["coefficients"][1:].flip(0):  # Clenshaw: b_k = c_k + 2 x b_(k+1) - b_(k+2)
            high, higher = c + 2 * x * high - higher, high
        return tensors["coefficients"][0] + x * high - higher


@dataclass(frozen=True)
class Quadratic(Op):
    """c2 x^2 + c1 x + c0 per channel, before scales are chosen."""

    kind = "quadratic"
    TENSORS = ("c0", "c1", "c2")
    c0: str
    c1: str
    c2: str
    bound: float

    def check(self, inputs: Sequence[Shape]) -> None:
        positive("bound", self.bound)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.TENSORS, (inputs[0][0],))

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        x = inputs[0]
        c0, c1, c2 = (per_channel(tensors[role], x) for role in self.TENSORS)
        return (c2 * x + c1) * x + c0


@dataclass(frozen=True)
class Square(Op):
    """(x + shift)^2 + constant per channel: a quadratic at the scale that makes its leading coefficient 1."""

    kind = "square"
    TENSORS = ("shift", "constant")
    shift: str
    constant: str
    bound: float

    def check(self, inputs: Sequence[Shape]) -> None:
        positive("bound", self.bound)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.TENSORS, (inputs[0][0],))

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        x, t = inputs[0], tensors
        return (x + per_channel(t["shift"], x)).square() + per_channel(t["constant"], x)


@dataclass(frozen=True)
class Multiply(Op):
    """The product of two values.

    bound   range of the first, or of the activation that the product completes
    second  range of the second; None where it is a polynomial of the first, whose coefficients take any scale
    """

    kind = "multiply"
    ARITY = 2
    bound: float
    second: float | None = None

    def check(self, inputs: Sequence[Shape]) -> None:
        if inputs[0] != inputs[1]:
            raise Invalid(f"multiplies values of the shapes {inputs[0]} and {inputs[1]}")
        positive("bound", self.bound)
        if self.second is not None:
            positive("second", self.second)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] * inputs[1]


@dataclass(frozen=True)
class Repack(Op):
    """The same value in other slots, each channel times a factor where there is one."""

    kind = "repack"
    TENSORS = ("factor",)
    factor: str | None = None

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"factor": (inputs[0][0],)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] * per_channel(tensors["factor"], inputs[0]) if "factor" in tensors else inputs[0]


@dataclass(frozen=True)
class SumPool(GlobalPool):
    """The sum over height and width of each channel; the next layer has the division."""

    kind = "sum_pool"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].sum(dim=(2, 3))


@dataclass(frozen=True)
class Bootstrap(Op):
    """The same value at a higher level."""

    kind = "bootstrap"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0]
