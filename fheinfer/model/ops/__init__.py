"""Operations of a graph, a frozen dataclass each: fields, shape inference, checks, tensors and the meaning in PyTorch.

Every pass of the compiler and everything else that looks at a graph reads this table. Two kinds of operations: those
that a network is made of (`kind` in `NETWORK`), and those that the compiler makes of them (in `LOWERED`).
"""

from fheinfer.model.ops.activations import (
    Abs,
    Activation,
    Clip,
    Elu,
    Gelu,
    Hardsigmoid,
    Hardswish,
    LeakyRelu,
    Mish,
    Power,
    Prelu,
    Relu,
    Selu,
    Sigmoid,
    Silu,
    Softplus,
    Tanh,
)
from fheinfer.model.ops.arithmetic import Add, AddConstant, MultiplyConstant, Product, Subtract
from fheinfer.model.ops.base import Input, Invalid, Op, Shape
from fheinfer.model.ops.linear import BatchNorm, Conv2d, ConvTranspose2d, Linear, Resample
from fheinfer.model.ops.lowered import Bootstrap, Chebyshev, Multiply, Quadratic, Repack, Square, SumPool
from fheinfer.model.ops.pools import GlobalAvgPool, MaxPool, MeanPool, Reduce
from fheinfer.model.ops.table import ACTIVATIONS, LOWERED, NETWORK, from_fields, to_fields
from fheinfer.model.ops.trained import HERMITE, HerPN, Paf
from fheinfer.model.ops.views import Concat, Expand, Pad, Permute, Reshape, Slice

__all__ = [
    "ACTIVATIONS",
    "HERMITE",
    "LOWERED",
    "NETWORK",
    "Abs",
    "Activation",
    "Add",
    "AddConstant",
    "BatchNorm",
    "Bootstrap",
    "Chebyshev",
    "Clip",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Elu",
    "Expand",
    "Gelu",
    "GlobalAvgPool",
    "Hardsigmoid",
    "Hardswish",
    "HerPN",
    "Input",
    "Invalid",
    "LeakyRelu",
    "Linear",
    "MaxPool",
    "MeanPool",
    "Mish",
    "Multiply",
    "MultiplyConstant",
    "Op",
    "Pad",
    "Paf",
    "Permute",
    "Power",
    "Prelu",
    "Product",
    "Quadratic",
    "Reduce",
    "Relu",
    "Repack",
    "Resample",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Silu",
    "Slice",
    "Softplus",
    "Square",
    "Subtract",
    "SumPool",
    "Tanh",
    "from_fields",
    "to_fields",
]
