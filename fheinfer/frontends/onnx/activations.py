"""Activations that are one operation of ONNX; `patterns` makes such of those that are several."""

from __future__ import annotations

import math

import numpy as np

from fheinfer.frontends.onnx.arithmetic import larger
from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.translation import Operand
from fheinfer.model.ops import (
    Abs,
    Add,
    Clip,
    Elu,
    Gelu,
    Hardsigmoid,
    Hardswish,
    LeakyRelu,
    Mish,
    Op,
    Prelu,
    Relu,
    Selu,
    Sigmoid,
    Silu,
    Softplus,
    Tanh,
)

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
"""Defaults of ONNX's Selu, which are the constants of PyTorch's."""


def _plain(op: Op) -> Handler:
    return lambda c: c.emit(op, c.value())


def clip(c: Call) -> Operand:
    """Between bounds; with one bound or none it is a ReLU, or nothing."""
    x, bounds = c.value(), []
    for index, (name, none) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        array = c.optional(index, f"the bound {name}")
        bounds.append(float(c.get(name, none)) if array is None else float(array.reshape(-1)[0]))
    low, high = (math.copysign(math.inf, bound) if abs(bound) >= 3.4e38 else bound for bound in bounds)
    if low >= high:
        return c.plus(c.times(x, 0.0), high)
    if math.isfinite(low) and math.isfinite(high):
        return c.emit(Clip(low, high), x)
    if math.isfinite(low):
        return larger(c, x, np.asarray(low), 1.0)
    return larger(c, x, np.asarray(high), -1.0) if math.isfinite(high) else x


def leaky_relu(c: Call) -> Operand:
    """x, or alpha x below zero."""
    return c.emit(LeakyRelu(float(c.get("alpha", 0.01))), c.value())


def prelu(c: Call) -> Operand:
    """x, or slope x below zero, for a slope of any shape: a x + (1 - a) relu(x) where it is not per channel."""
    x, slope = c.value(), c.constant(1, "the slope")
    if slope.ndim == 1 and c.t.opset < 7 and slope.size > 1:
        slope = slope.reshape(-1, *[1] * (len(x.shape) - 2))
    x, array = c.t.constant(x, slope)
    if array.size == 1:
        return c.emit(Prelu(c.tensor("slope", array.reshape(1)), shared=True), x)
    if array.size == array.shape[0] == x.inner[0]:
        return c.emit(Prelu(c.tensor("slope", array.reshape(-1))), x)
    positive = c.emit(Relu(), x)
    return c.emit(Add(), *c.t.common(c.times(x, slope), c.times(positive, 1 - slope)))


def elu(c: Call) -> Operand:
    """x, or alpha (exp(x) - 1) below zero."""
    return c.emit(Elu(float(c.get("alpha", 1.0))), c.value())


def celu(c: Call) -> Operand:
    """x, or alpha (exp(x / alpha) - 1) below zero."""
    alpha = float(c.get("alpha", 1.0))
    return c.times(c.emit(Elu(1.0), c.times(c.value(), 1 / alpha)), alpha)


def selu(c: Call) -> Operand:
    """gamma times x, or times alpha (exp(x) - 1) below zero."""
    alpha, gamma = float(c.get("alpha", SELU_ALPHA)), float(c.get("gamma", SELU_GAMMA))
    if math.isclose(alpha, SELU_ALPHA, rel_tol=1e-5) and math.isclose(gamma, SELU_GAMMA, rel_tol=1e-5):
        return c.emit(Selu(), c.value())
    return c.times(c.emit(Elu(alpha), c.value()), gamma)


def hard_sigmoid(c: Call) -> Operand:
    """clip(alpha x + beta, 0, 1)."""
    alpha, beta = float(c.get("alpha", 0.2)), float(c.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return c.emit(Hardsigmoid(), c.value())
    return c.emit(Clip(0.0, 1.0), c.plus(c.times(c.value(), alpha), beta))


def gelu(c: Call) -> Operand:
    """x times the normal distribution function, or its approximation by tanh."""
    approximate = c.get("approximate", "none")
    return c.emit(Gelu(approximate if isinstance(approximate, str) else "none"), c.value())


def swish(c: Call) -> Operand:
    """x sigmoid(alpha x)."""
    alpha = float(c.get("alpha", 1.0))
    if alpha == 0:
        return c.times(c.value(), 0.5)
    return c.times(c.emit(Silu(), c.times(c.value(), alpha)), 1 / alpha)


ACTIVATIONS: dict[str, Handler] = {
    "Abs": _plain(Abs()),
    "Celu": celu,
    "Clip": clip,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _plain(Hardswish()),
    "LeakyRelu": leaky_relu,
    "Mish": _plain(Mish()),
    "PRelu": prelu,
    "Relu": _plain(Relu()),
    "Selu": selu,
    "Sigmoid": _plain(Sigmoid()),
    "Softplus": _plain(Softplus()),
    "Swish": swish,
    "Tanh": _plain(Tanh()),
}
