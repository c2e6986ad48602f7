"""The functions that networks are made of, each with the places where its slope jumps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fheinfer.approx.composition import F64
from fheinfer.approx.smooth import gelu, silu
from fheinfer.model import ops
from fheinfer.model.ops import Op

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
"""Klambauer et al., arXiv 1706.02515, section 1, to the digits that PyTorch has."""


@dataclass(frozen=True)
class Kink:
    """A place where a slope jumps, by `jump`: f(x) - jump relu(x - at) has none there."""

    at: float
    jump: float


@dataclass(frozen=True)
class Function:
    """A function of one number: its name in words, its values, and its kinks."""

    name: str
    value: Callable[[F64], F64]
    kinks: tuple[Kink, ...] = ()

    def inside(self, bound: float) -> tuple[Kink, ...]:
        """Returns the kinks that an input in [-bound, bound] can reach."""
        return tuple(kink for kink in self.kinks if kink.jump and abs(kink.at) < bound)

    def largest(self, bound: float) -> float:
        """Returns the largest |value| on [-bound, bound]."""
        x = np.append(np.linspace(-bound, bound, 2001), [k.at for k in self.inside(bound)])
        return float(np.abs(self.value(x)).max())


def leaky_relu(slope: float) -> Function:
    """Returns x where it is positive, else slope * x."""
    return Function("leaky ReLU", lambda x: np.where(x > 0, x, slope * x), (Kink(0, 1 - slope),))


def function_of(op: Op) -> Function | None:
    """Returns the function that an activation is; None for a polynomial, or one with a slope for each channel."""
    make = _FUNCTIONS.get(type(op))
    return make(op) if make else None


def _sigmoid(x: F64) -> F64:
    return (1 + np.tanh(x / 2)) / 2


def _softplus(x: F64, beta: float = 1.0) -> F64:
    return np.logaddexp(0, beta * x) / beta


def _gelu_tanh(x: F64) -> F64:
    return np.asarray(x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), np.float64)


def _elu(x: F64, alpha: float) -> F64:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _selu(x: F64) -> F64:
    return _SELU_SCALE * _elu(x, _SELU_ALPHA)


def _hardsigmoid(x: F64) -> F64:
    return np.clip(x + 3, 0, 6) / 6


def _clip(op: ops.Clip) -> Function:
    return Function("clip", lambda x: np.clip(x, op.low, op.high), (Kink(op.low, 1), Kink(op.high, -1)))


def _gelu(op: ops.Gelu) -> Function:
    return Function("GELU", gelu if op.approximate == "none" else _gelu_tanh)


_FUNCTIONS: dict[type[Op], Callable[[Any], Function]] = {
    ops.Relu: lambda op: Function("ReLU", lambda x: np.maximum(x, 0), (Kink(0, 1),)),
    ops.Clip: _clip,
    ops.LeakyRelu: lambda op: leaky_relu(op.slope),
    ops.Elu: lambda op: Function("ELU", lambda x: _elu(x, op.alpha), (Kink(0, 1 - op.alpha),)),
    ops.Selu: lambda op: Function("SELU", _selu, (Kink(0, _SELU_SCALE * (1 - _SELU_ALPHA)),)),
    ops.Silu: lambda op: Function("SiLU", silu),
    ops.Gelu: _gelu,
    ops.Hardswish: lambda op: Function("hardswish", lambda x: x * _hardsigmoid(x), (Kink(-3, -0.5), Kink(3, -0.5))),
    ops.Hardsigmoid: lambda op: Function("hardsigmoid", _hardsigmoid, (Kink(-3, 1 / 6), Kink(3, -1 / 6))),
    ops.Sigmoid: lambda op: Function("sigmoid", _sigmoid),
    ops.Tanh: lambda op: Function("tanh", np.tanh),
    ops.Softplus: lambda op: Function("softplus", lambda x: _softplus(x, op.beta)),
    ops.Mish: lambda op: Function("Mish", lambda x: x * np.tanh(_softplus(x))),
    ops.Abs: lambda op: Function("|x|", np.abs, (Kink(0, 2),)),
}
"""The function of every activation that is one and the same for all channels, from its operation."""
