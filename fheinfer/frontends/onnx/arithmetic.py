"""Arithmetic, entry by entry, between values and with constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np

from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.translation import Operand
from fheinfer.frontends.translation import Value
from fheinfer.model.ops import Add, Power, Product, Relu, Subtract

_REAL = ("float16", "float32", "float64", "bfloat16")


def _operands(c: Call) -> tuple[Operand, Operand]:
    """Both operands of arithmetic; opsets before 7 align the second with an axis of the first."""
    a, b = c.operands[:2]
    if a is None or b is None:
        c.fail("has an operand that is absent; export the model again")
    if c.get("broadcast") and "axis" in c.attributes:
        rank, axis = len(a.shape), c.axis(c.get("axis"), len(a.shape))
        shape = (*b.shape, *[1] * (rank - axis - len(b.shape)))
        b = c.t.reshape(b, shape, b.batch) if isinstance(b, Value) else b.reshape(shape)
    return a, b


def _add(c: Call, a: Operand, b: Operand) -> Operand:
    if isinstance(a, Value) and isinstance(b, Value):
        return c.emit(Add(), *c.t.common(a, b))
    if isinstance(a, Value):
        return c.plus(a, np.asarray(b))
    return c.plus(b, a) if isinstance(b, Value) else a + b


def _subtract(c: Call, a: Operand, b: Operand) -> Operand:
    if isinstance(a, Value) and isinstance(b, Value):
        return c.emit(Subtract(), *c.t.common(a, b))
    if isinstance(a, Value):
        return c.plus(a, -np.asarray(b))
    return c.plus(c.times(b, -1.0), a) if isinstance(b, Value) else a - b


def _multiply(c: Call, a: Operand, b: Operand) -> Operand:
    if isinstance(a, Value) and isinstance(b, Value):
        if a == b:
            return c.emit(Power(2), a)
        return c.emit(Product(), *c.t.common(a, b))
    if isinstance(a, Value):
        return c.times(a, np.asarray(b))
    return c.times(b, a) if isinstance(b, Value) else a * b


def divide(c: Call) -> Operand:
    """Division by a constant."""
    a, b = _operands(c)
    if isinstance(b, Value):
        c.fail("divides by a value that depends on the input; multiply by an approximation of its reciprocal instead")
    if not b.all():
        c.fail("divides by a constant that is zero")
    return c.times(a, 1 / b.astype(np.float64)) if isinstance(a, Value) else a / b


def power(c: Call) -> Operand:
    """Powers of 1 to 8."""
    x, exponents = c.value(0), c.constant(1, "the exponent").astype(np.float64)
    exponent = exponents.flat[0] if exponents.size else math.nan
    if (exponents != exponent).any() or exponent not in range(1, 9):
        c.fail("only one whole exponent of 1 to 8 is supported; replace others by an activation or fine-tune without")
    x = c.t.expand(x, exponents.shape)
    return x if exponent == 1 else c.emit(Power(int(exponent)), x)


def larger(c: Call, a: Operand, b: Operand, sign: float) -> Operand:
    """max(a, b), or min(a, b) with `sign` -1, by one ReLU: b + sign relu(sign (a - b))."""
    if not isinstance(a, Value):
        a, b = b, a
    difference = _subtract(c, a, b)
    if not isinstance(difference, Value):
        return np.asarray((np.maximum if sign > 0 else np.minimum)(np.asarray(a), np.asarray(b)))
    relu = c.times(c.emit(Relu(), c.times(difference, sign)), sign)
    return _add(c, relu, b)


def _many(function: Callable[[Call, Operand, Operand], Operand], mean: bool = False) -> Handler:
    def handler(c: Call) -> Operand:
        operands = [operand for operand in c.operands if operand is not None]
        result = reduce(lambda a, b: function(c, a, b), operands)
        return _multiply(c, result, np.asarray(1 / len(operands))) if mean and len(operands) > 1 else result

    return handler


def _two(function: Callable[[Call, Operand, Operand], Operand]) -> Handler:
    return lambda c: function(c, *_operands(c))


def negative(c: Call) -> Operand:
    """-x."""
    return c.times(c.value(), -1.0)


def identity(c: Call) -> Operand:
    """The value itself."""
    return c.value()


def cast_like(c: Call) -> Operand:
    """A cast to the type of another value, which is real here too."""
    like = c.operand(1)
    if not isinstance(like, Value) and (like is None or like.dtype.name not in _REAL):
        c.fail("casts a value to whole numbers or truth values; nothing encrypted is rounded")
    return c.value()


def cast(c: Call) -> Operand:
    """A cast between real types, which changes nothing here."""
    if c.get("to") not in (1, 10, 11, 16):
        c.fail("casts a value to whole numbers or truth values; nothing encrypted is rounded")
    return c.value()


def dropout(c: Call) -> list[Operand | None]:
    """The value itself: inference drops nothing."""
    training = c.optional(2, "training_mode")
    if training is not None and training.any():
        c.fail("is in training mode; export the model in evaluation mode (model.eval())")
    return [c.value(), None]


ARITHMETIC: dict[str, Handler] = {
    "Add": _two(_add),
    "Cast": cast,
    "CastLike": cast_like,
    "Div": divide,
    "Dropout": dropout,
    "Identity": identity,
    "Max": _many(lambda c, a, b: larger(c, a, b, 1.0)),
    "Mean": _many(_add, mean=True),
    "Min": _many(lambda c, a, b: larger(c, a, b, -1.0)),
    "Mul": _two(_multiply),
    "Neg": negative,
    "Pow": power,
    "Sub": _two(_subtract),
    "Sum": _many(_add),
}
