"""Operations of a graph, a frozen dataclass each: fields, shape inference, checks, tensors and the meaning in PyTorch.

Every pass of the compiler and everything else that looks at a graph reads this table. A field named in `TENSORS` holds
the name of a tensor of the model, or None. Shapes are without the batch dimension: (C, H, W) of an image, (F,) of a
vector. `reference` takes and returns batches.

Two kinds of operations: those that a network is made of (`kind` in `NETWORK`), and those that the compiler makes of
them (in `LOWERED`), on values that are ciphertexts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

HERMITE = (1 / math.sqrt(2 * math.pi), 0.5, 1 / math.sqrt(4 * math.pi))
"""ReLU's coefficients on the Hermite polynomials 1, x and (x^2 - 1) / sqrt(2), which are orthonormal under N(0, 1)."""


class Invalid(ValueError):
    """What is wrong with an operation; the verifier adds the name of its node."""


@dataclass(frozen=True)
class Op:
    """One operation. Subclasses say what it takes and what it means."""

    kind: ClassVar[str] = ""
    arity: ClassVar[int] = 1
    TENSORS: ClassVar[tuple[str, ...]] = ()
    activation: ClassVar[bool] = False
    """Whether it is a non-linear function between layers, which the compiler approximates by polynomials."""
    polynomial: ClassVar[bool] = False
    """Whether such an activation is a polynomial already: trained so, and valid only as far as its inputs went."""

    @property
    def tensors(self) -> dict[str, str]:
        """Role -> name of each tensor that the operation has."""
        return {role: name for role in self.TENSORS if (name := getattr(self, role)) is not None}

    def check(self, inputs: Sequence[Shape]) -> None:
        """Raises Invalid for fields or input shapes that cannot be."""

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        """The shape of the output. Only called after `check`."""
        return inputs[0]

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        """Role -> shape that each tensor has to have."""
        return {}

    def check_names(self) -> None:
        """Raises Invalid for tensors without a name, but for those that need not be there."""
        optional = {field.name for field in fields(self) if field.default is None}
        for role in self.TENSORS:
            name = getattr(self, role)
            if not (isinstance(name, str) and name) and not (name is None and role in optional):
                raise Invalid(f"{role} is {name!r}, not the name of a tensor")

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        """What PyTorch computes, in evaluation mode: inputs (B, *shape), tensors by role."""
        raise NotImplementedError(self.kind)


@dataclass(frozen=True)
class Input(Op):
    """The input of the network: an image (C, H, W) or a vector (F,)."""

    kind = "input"
    arity = 0
    shape: Shape

    def check(self, inputs: Sequence[Shape]) -> None:
        if not isinstance(self.shape, tuple) or len(self.shape) not in (1, 3):
            raise Invalid(f"shape {self.shape!r} is neither (C, H, W) nor (F,)")
        for size in self.shape:
            _whole("a size", size, 1)

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0]


@dataclass(frozen=True)
class Conv2d(Op):
    """A convolution: `kernel` and `stride` are those of both axes, `padding` that of all four sides."""

    kind = "conv2d"
    TENSORS = ("weight", "bias")
    out_channels: int
    kernel: int
    stride: int
    padding: int
    weight: str
    bias: str | None = None

    def check(self, inputs: Sequence[Shape]) -> None:
        _image(inputs[0])
        _whole("out_channels", self.out_channels, 1)
        _whole("kernel", self.kernel, 1)
        _whole("stride", self.stride, 1)
        _whole("padding", self.padding, 0)
        if min(self.infer(inputs)) < 1:
            raise Invalid(f"kernel {self.kernel} is larger than the padded input {inputs[0][1:]}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        sizes = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in inputs[0][1:])
        return (self.out_channels, *sizes)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (self.out_channels, inputs[0][0], self.kernel, self.kernel), "bias": (self.out_channels,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.conv2d(inputs[0], tensors["weight"], tensors.get("bias"), self.stride, self.padding)


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch norm of an image, with running statistics."""

    kind = "batch_norm"
    TENSORS = ("weight", "bias", "mean", "var")
    eps: float
    weight: str
    bias: str
    mean: str
    var: str

    def check(self, inputs: Sequence[Shape]) -> None:
        _image(inputs[0])
        _positive("eps", self.eps)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.TENSORS, (inputs[0][0],))

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        t = tensors
        return functional.batch_norm(inputs[0], t["mean"], t["var"], t["weight"], t["bias"], False, 0.0, self.eps)


@dataclass(frozen=True)
class Relu(Op):
    """max(x, 0)."""

    kind = "relu"
    activation = True

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].relu()


@dataclass(frozen=True)
class Silu(Op):
    """x / (1 + exp(-x))."""

    kind = "silu"
    activation = True

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.silu(inputs[0])


@dataclass(frozen=True)
class Gelu(Op):
    """x times the normal distribution function at x."""

    kind = "gelu"
    activation = True

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.gelu(inputs[0])


@dataclass(frozen=True)
class HerPN(Op):
    """A quadratic in place of a ReLU, each Hermite term normalised (Park et al., AESPA, arXiv 2201.06699).

    weight * sum_i f_i (h_i(x) - mean_i) / sqrt(var_i + eps) + bias per channel, h_1 = x, h_2 = (x^2 - 1) / sqrt(2).
    """

    kind = "herpn"
    activation = polynomial = True
    TENSORS = ("weight", "bias", "mean", "var")
    eps: float
    weight: str
    bias: str
    mean: str
    var: str

    def check(self, inputs: Sequence[Shape]) -> None:
        _positive("eps", self.eps)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        channels = inputs[0][0]
        return {"weight": (channels,), "bias": (channels,), "mean": (2, channels), "var": (2, channels)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        x, t = inputs[0], tensors
        terms = []
        for i, h in enumerate((x, (x * x - 1) / math.sqrt(2))):
            weight = t["weight"] * HERMITE[i + 1]
            terms.append(functional.batch_norm(h, t["mean"][i], t["var"][i], weight, None, False, 0.0, self.eps))
        return terms[0] + terms[1] + _per_channel(t["bias"], x)


@dataclass(frozen=True)
class Paf(Op):
    """(x + x s(x / scale)) / 2, s a composite of odd polynomials (Tong et al., SmartPAF, arXiv 2404.03216).

    `degrees` are those of the polynomials in the order they are applied; `coefficients` holds those of x, x^3, ... of
    one after the other.
    """

    kind = "paf"
    activation = polynomial = True
    TENSORS = ("coefficients", "scale")
    degrees: tuple[int, ...]
    coefficients: str
    scale: str

    def check(self, inputs: Sequence[Shape]) -> None:
        if not isinstance(self.degrees, tuple) or not self.degrees:
            raise Invalid(f"degrees {self.degrees!r} are no tuple of odd numbers")
        for degree in self.degrees:
            if _whole("a degree", degree, 1) % 2 == 0:
                raise Invalid(f"degree {degree} is even; polynomials of a PAF are odd")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Coefficients of each polynomial."""
        return tuple((degree + 1) // 2 for degree in self.degrees)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"coefficients": (sum(self.lengths),), "scale": (1,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        x = inputs[0]
        s = x / tensors["scale"]
        for stage in torch.split(tensors["coefficients"], list(self.lengths)):
            square, value = s * s, stage[-1]
            for coefficient in stage[:-1].flip(0):
                value = value * square + coefficient
            s = value * s
        return 0.5 * (x + x * s)


@dataclass(frozen=True)
class Add(Op):
    """The sum of two values of one shape."""

    kind = "add"
    arity = 2

    def check(self, inputs: Sequence[Shape]) -> None:
        if inputs[0] != inputs[1]:
            raise Invalid(f"adds values of the shapes {inputs[0]} and {inputs[1]}")

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] + inputs[1]


@dataclass(frozen=True)
class _Pool(Op):
    """Windows side by side; pixels that do not fill one are ignored."""

    kernel: int

    def check(self, inputs: Sequence[Shape]) -> None:
        _image(inputs[0])
        _whole("kernel", self.kernel, 1)
        if min(self.infer(inputs)) < 1:
            raise Invalid(f"a window of {self.kernel} is larger than the input {inputs[0][1:]}")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        channels, height, width = inputs[0]
        return channels, height // self.kernel, width // self.kernel


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest value of each window."""

    kind = "max_pool"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.max_pool2d(inputs[0], self.kernel)


@dataclass(frozen=True)
class MeanPool(_Pool):
    """The mean of each window."""

    kind = "mean_pool"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.avg_pool2d(inputs[0], self.kernel)


@dataclass(frozen=True)
class _GlobalPool(Op):
    """One value per channel: (C, H, W) to (C,)."""

    def check(self, inputs: Sequence[Shape]) -> None:
        _image(inputs[0])

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0],)


@dataclass(frozen=True)
class GlobalAvgPool(_GlobalPool):
    """The mean of each channel."""

    kind = "avg_pool"

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0].mean(dim=(2, 3))


@dataclass(frozen=True)
class Linear(Op):
    """A fully connected layer over all features of its input.

    `mask` is the compiler's: clear the partial sums beside the features, at one level more. Without it a client that
    decrypts would see them.
    """

    kind = "linear"
    TENSORS = ("weight", "bias")
    out_features: int
    weight: str
    bias: str | None = None
    mask: bool = False

    def check(self, inputs: Sequence[Shape]) -> None:
        _whole("out_features", self.out_features, 1)
        if not isinstance(self.mask, bool):
            raise Invalid(f"mask is {self.mask!r}, neither true nor false")

    def infer(self, inputs: Sequence[Shape]) -> Shape:
        return (self.out_features,)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (self.out_features, math.prod(inputs[0])), "bias": (self.out_features,)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.linear(inputs[0].flatten(1), tensors["weight"], tensors.get("bias"))


# What the compiler makes of these ---------------------------------------------------------------------------------


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
        _positive("bound", self.bound)
        _positive("unit", self.unit)

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
        _positive("bound", self.bound)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.TENSORS, (inputs[0][0],))

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        x = inputs[0]
        c0, c1, c2 = (_per_channel(tensors[role], x) for role in self.TENSORS)
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
        _positive("bound", self.bound)

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.TENSORS, (inputs[0][0],))

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        x, t = inputs[0], tensors
        return (x + _per_channel(t["shift"], x)).square() + _per_channel(t["constant"], x)


@dataclass(frozen=True)
class Multiply(Op):
    """The product of two values; `bound` is the range of the activation that it completes."""

    kind = "multiply"
    arity = 2
    bound: float

    def check(self, inputs: Sequence[Shape]) -> None:
        if inputs[0] != inputs[1]:
            raise Invalid(f"multiplies values of the shapes {inputs[0]} and {inputs[1]}")
        _positive("bound", self.bound)

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] * inputs[1]


@dataclass(frozen=True)
class ScaleChannels(Op):
    """Every channel times a factor, which brings a value to another scale."""

    kind = "scale_channels"
    TENSORS = ("factor",)
    factor: str

    def tensor_shapes(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"factor": (inputs[0][0],)}

    def reference(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        return inputs[0] * _per_channel(tensors["factor"], inputs[0])


@dataclass(frozen=True)
class SumPool(_GlobalPool):
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


_NETWORK = (
    *(Input, Conv2d, BatchNorm, Relu, Silu, Gelu, HerPN, Paf),
    *(Add, MaxPool, MeanPool, GlobalAvgPool, Linear),
)
_LOWERED = (Chebyshev, Quadratic, Square, Multiply, ScaleChannels, SumPool, Bootstrap)
NETWORK: dict[str, type[Op]] = {op.kind: op for op in _NETWORK}
LOWERED: dict[str, type[Op]] = {op.kind: op for op in _LOWERED}
ACTIVATIONS: dict[str, type[Op]] = {kind: op for kind, op in NETWORK.items() if op.activation}


def from_fields(kind: object, given: Mapping[str, Any], known: Mapping[str, type[Op]] | None = None) -> Op:
    """The operation of that kind with these fields, as a file holds them; lists become tuples.

    Raises:
        Invalid: an unknown kind, a field that it does not have, one that is missing, or one of another type.
    """
    table = NETWORK if known is None else known
    if not isinstance(kind, str) or kind not in table:
        raise Invalid(f"unknown operation {kind!r}; there are {', '.join(table)}")
    expected = {field.name: field for field in fields(table[kind])}
    if unknown := sorted(set(given) - set(expected)):
        raise Invalid(f"{kind} has no {', '.join(unknown)}; it has {', '.join(expected) or 'no fields'}")
    op = table[kind]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        made = op(**values)
    except TypeError:
        missing = [n for n in expected if n not in values]
        raise Invalid(f"{kind} lacks {', '.join(missing)}") from None
    made.check_names()
    return made


def to_fields(op: Op) -> dict[str, Any]:
    """The fields of an operation by name, as `from_fields` takes them; those at their default are omitted."""
    return {f.name: value for f in fields(op) if (value := getattr(op, f.name)) != f.default}


def _image(shape: Shape) -> None:
    if len(shape) != 3:
        raise Invalid(f"takes an image (C, H, W), not a value of the shape {shape}")


def _whole(what: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 31:
        raise Invalid(f"{what} is {value!r}, not a whole number of {least} or more")
    return value


def _positive(what: str, value: object) -> None:
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 < value < math.inf:
        raise Invalid(f"{what} is {value!r}, not a positive number")


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))
