"""Arithmetic and activations, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from fheinfer.frontends.torch_export.call import Call, Handler, numbers
from fheinfer.frontends.translation import Value
from fheinfer.model import ops
from fheinfer.model.ops import Op


def add(c: Call) -> Value:
    """self + alpha * other."""
    return _sum(c, c["self"], c["other"], float(c.get("alpha", 1)))


def subtract(c: Call) -> Value:
    """self - alpha * other."""
    return _sum(c, c["self"], c["other"], -float(c.get("alpha", 1)))


def reverse_subtract(c: Call) -> Value:
    """other - alpha * self."""
    return _sum(c, c["other"], c["self"], -float(c.get("alpha", 1)))


def _sum(c: Call, left: Any, right: Any, alpha: float) -> Value:
    if isinstance(left, Value) and isinstance(right, Value):
        if alpha in (1, -1):
            return c.emit(ops.Add() if alpha == 1 else ops.Subtract(), *c.t.common(left, right))
        return c.emit(ops.Add(), *c.t.common(left, c.t.times(right, alpha)))
    if isinstance(left, Value):
        return c.t.plus(left, alpha * numbers(right), _name(c, right) if alpha == 1 else "")
    return c.t.plus(c.t.times(right, alpha), numbers(left), _name(c, left))


def multiply(c: Call) -> Value:
    """self * other; of a value with itself, its square."""
    left, right = c["self"], c["other"]
    if not isinstance(left, Value):
        left, right = right, left
    if not isinstance(right, Value):
        return c.t.times(left, numbers(right), _name(c, right))
    if left == right:
        return c.emit(ops.Power(2), left)
    return c.emit(ops.Product(), *c.t.common(left, right))


def divide(c: Call) -> Value:
    """self / other, other constant."""
    if isinstance(c["other"], Value):
        c.fail("divides by a value that depends on the input; divide by a constant")
    if c.get("rounding_mode"):
        c.fail("rounds; leave that to the client")
    divisor = numbers(c["other"])
    if not divisor.all():
        c.fail("divides by zero")
    return c.t.times(c.value(), 1 / divisor)


def _name(c: Call, given: Any) -> str:
    return c.names.get(id(given), "") if isinstance(given, Tensor) else ""


def power(c: Call) -> Value:
    """A whole power of at most 8."""
    x, exponent = c["self"], c["exponent"]
    if isinstance(exponent, Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    if not isinstance(x, Value) or isinstance(exponent, Value | Tensor):
        c.fail("has an exponent that is no single constant; use whole powers from 2 to 8")
    if exponent == 1:
        return x
    if exponent not in range(2, 9):
        c.fail(f"is a power of {exponent}; use whole powers from 2 to 8")
    return c.emit(ops.Power(int(exponent)), x)


def clamp(c: Call) -> Value:
    """Between two numbers, or above or below one."""
    x, low, high = c.value(), _bound(c, c.get("min")), _bound(c, c.get("max"))
    low, high = _bound(c, c.get("min_val", low)), _bound(c, c.get("max_val", high))
    if low is not None and high is not None:
        return c.emit(ops.Clip(low, high), x)
    if low is not None:  # low + relu(x - low)
        return c.t.plus(c.emit(ops.Relu(), c.t.plus(x, -low)), low)
    if high is not None:
        rest = c.emit(ops.Relu(), c.t.plus(c.t.times(x, -1), high))
        return c.t.plus(c.t.times(rest, -1), high)
    return x


def _bound(c: Call, given: Any) -> float | None:
    if isinstance(given, Tensor) and given.numel() == 1:
        given = given.item()
    if isinstance(given, Value | Tensor):
        c.fail("has bounds that are no single constants; use numbers")
    return None if given is None else float(given)


def elu(c: Call) -> Value:
    """ELU with the scales that SELU and CELU have."""
    alpha, scale, inside = (float(c.get(name, 1)) for name in ("alpha", "scale", "input_scale"))
    if inside == 1:
        return c.t.times(c.emit(ops.Elu(alpha), c.value()), scale)
    if scale != inside or scale < 0:
        c.fail("is an ELU with scales of its own; use nn.ELU, nn.SELU or nn.CELU")
    return c.emit(ops.Elu(alpha), c.value())


def celu(c: Call) -> Value:
    """alpha times the ELU of x / alpha."""
    alpha = float(c["alpha"])
    if alpha == 0:
        c.fail("has an alpha of 0")
    return c.t.times(c.emit(ops.Elu(), c.t.times(c.value(), 1 / alpha)), alpha)


def prelu(c: Call) -> Value:
    """A slope per channel, or one for all."""
    x, weight = c.value(), c.needed("weight")
    shared = weight.numel() == 1
    if not shared:
        x = c.t.leading(x)
    array = numbers(weight).reshape(-1)
    return c.emit(ops.Prelu(c.tensor("weight", weight, array), shared), x)


def cast(c: Call) -> Value:
    """Another kind of floating-point numbers."""
    dtype = c.get("dtype") or getattr(c.get("other"), "dtype", None)
    if dtype is not None and not dtype.is_floating_point:
        c.fail(f"makes {str(dtype).removeprefix('torch.')} of its input, which rounds; keep floating-point numbers")
    return c.value()


def _simple(make: Callable[[Call], Op]) -> Handler:
    def translate(c: Call) -> Value:
        return c.emit(make(c), c.value("self" if "self" in c.arguments else "input"))

    return translate


def constant_like(c: Call) -> Any:
    """zeros_like and the like: what depends on the shape of its input only."""
    first = next(iter(c.arguments))
    arguments = {name: value for name, value in c.arguments.items() if name != first and value is not None}
    import torch

    return c.target(torch.zeros(c.value(first).shape), **arguments)


ELEMENTWISE: dict[str, Handler] = {
    "add": add,
    "sub": subtract,
    "subtract": subtract,
    "rsub": reverse_subtract,
    "mul": multiply,
    "multiply": multiply,
    "div": divide,
    "divide": divide,
    "true_divide": divide,
    "neg": lambda c: c.t.times(c.value(), np.asarray(-1.0)),
    "negative": lambda c: c.t.times(c.value(), np.asarray(-1.0)),
    "square": _simple(lambda c: ops.Power(2)),
    "pow": power,
    "relu": _simple(lambda c: ops.Relu()),
    "relu6": _simple(lambda c: ops.Clip(0.0, 6.0)),
    "hardtanh": clamp,
    "clamp": clamp,
    "clip": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp,
    "leaky_relu": _simple(lambda c: ops.LeakyRelu(float(c["negative_slope"]))),
    "prelu": prelu,
    "_prelu_kernel": prelu,
    "elu": elu,
    "celu": celu,
    "selu": _simple(lambda c: ops.Selu()),
    "silu": _simple(lambda c: ops.Silu()),
    "gelu": _simple(lambda c: ops.Gelu(c["approximate"])),
    "hardswish": _simple(lambda c: ops.Hardswish()),
    "hardsigmoid": _simple(lambda c: ops.Hardsigmoid()),
    "sigmoid": _simple(lambda c: ops.Sigmoid()),
    "tanh": _simple(lambda c: ops.Tanh()),
    "softplus": _simple(lambda c: ops.Softplus(float(c["beta"]), float(c["threshold"]))),
    "mish": _simple(lambda c: ops.Mish()),
    "abs": _simple(lambda c: ops.Abs()),
    **dict.fromkeys(("to", "_to_copy", "type_as", "float", "double"), cast),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"), constant_like),
}
