"""Non-linear functions of one value, as PyTorch has them: the compiler approximates them by polynomials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fheinfer.model.ops.base import Invalid, Op, Shape, flag, number, positive, whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Activation(Op):
    """A function of every entry."""

    activation = ranged = True


@dataclass(frozen=True)
class Relu(Activation):
    """max(x, 0)."""

    kind = "relu"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].relu()


@dataclass(frozen=True)
class Clip(Activation):
    """x between `low` and `high`, which it becomes outside: ReLU6 and hard tanh are such."""

    kind = "clip"
    low: float
    high: float

    def check(self, inputs: Sequence[Shape]) -> None:
        number("low", self.low)
        number("high", self.high)
        if self.low >= self.high:
            raise Invalid(f"low {self.low} is not below high {self.high}")

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].clamp(self.low, self.high)


@dataclass(frozen=True)
class LeakyRelu(Activation):
    """x where it is positive, else slope * x."""

    kind = "leaky_relu"
    slope: float = 0.01

    def check(self, inputs: Sequence[Shape]) -> None:
        number("slope", self.slope)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.leaky_relu(inputs[0], self.slope)


@dataclass(frozen=True)
class Prelu(Activation):
    """x where it is positive, else weight * x; a weight per channel, (C,), or one for all if `shared`."""

    kind = "prelu"
    TENSORS = ("weight",)
    weight: str
    shared: bool = False

    def check(self, inputs: Sequence[Shape]) -> None:
        flag("shared", self.shared)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (1 if self.shared else inputs[0][0],)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.prelu(inputs[0], tensors["weight"])


@dataclass(frozen=True)
class Elu(Activation):
    """x where it is positive, else alpha * (exp(x) - 1)."""

    kind = "elu"
    alpha: float = 1.0

    def check(self, inputs: Sequence[Shape]) -> None:
        number("alpha", self.alpha)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.elu(inputs[0], self.alpha)


@dataclass(frozen=True)
class Selu(Activation):
    """An ELU of fixed alpha and scale, which keeps mean and variance (Klambauer et al., arXiv 1706.02515)."""

    kind = "selu"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.selu(inputs[0])


@dataclass(frozen=True)
class Silu(Activation):
    """x / (1 + exp(-x))."""

    kind = "silu"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.silu(inputs[0])


@dataclass(frozen=True)
class Gelu(Activation):
    """x times the normal distribution function at x; with `approximate` "tanh", PyTorch's approximation of it."""

    kind = "gelu"
    approximate: str = "none"

    def check(self, inputs: Sequence[Shape]) -> None:
        if self.approximate not in ("none", "tanh"):
            raise Invalid(f"approximate is {self.approximate!r}, neither 'none' nor 'tanh'")

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.gelu(inputs[0], approximate=self.approximate)


@dataclass(frozen=True)
class Hardswish(Activation):
    """x * clip(x + 3, 0, 6) / 6."""

    kind = "hardswish"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.hardswish(inputs[0])


@dataclass(frozen=True)
class Hardsigmoid(Activation):
    """clip(x + 3, 0, 6) / 6."""

    kind = "hardsigmoid"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.hardsigmoid(inputs[0])


@dataclass(frozen=True)
class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    kind = "sigmoid"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].sigmoid()


@dataclass(frozen=True)
class Tanh(Activation):
    """The hyperbolic tangent."""

    kind = "tanh"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].tanh()


@dataclass(frozen=True)
class Softplus(Activation):
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above `threshold`."""

    kind = "softplus"
    beta: float = 1.0
    threshold: float = 20.0

    def check(self, inputs: Sequence[Shape]) -> None:
        positive("beta", self.beta)
        number("threshold", self.threshold)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.softplus(inputs[0], self.beta, self.threshold)


@dataclass(frozen=True)
class Mish(Activation):
    """x tanh(log(1 + exp(x)))."""

    kind = "mish"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.mish(inputs[0])


@dataclass(frozen=True)
class Abs(Activation):
    """The absolute value."""

    kind = "abs"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].abs()


@dataclass(frozen=True)
class Power(Activation):
    """x to a small power, which needs no approximation: squares are the activations of many encrypted networks."""

    kind = "power"
    polynomial = True
    exponent: int

    def check(self, inputs: Sequence[Shape]) -> None:
        if whole("exponent", self.exponent, 2) > 8:
            raise Invalid(f"exponent is {self.exponent}; at most 8 is supported")

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] ** self.exponent
