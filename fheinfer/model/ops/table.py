"""The table of all operations, and an operation from and to the fields that a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from fheinfer.model.ops import activations as act
from fheinfer.model.ops import arithmetic, linear, lowered, pools, trained, views
from fheinfer.model.ops.base import Input, Invalid, Op

_NETWORK: tuple[type[Op], ...] = (
    *(Input, linear.Conv2d, linear.BatchNorm, act.Relu, act.Silu, act.Gelu, trained.HerPN, trained.Paf),
    *(arithmetic.Add, pools.MaxPool, pools.MeanPool, pools.GlobalAvgPool, linear.Linear),
    *(linear.ConvTranspose2d, linear.Resample, pools.Reduce),
    *(arithmetic.Subtract, arithmetic.Product, arithmetic.MultiplyConstant, arithmetic.AddConstant),
    *(act.Power, act.Clip, act.LeakyRelu, act.Prelu, act.Elu, act.Selu, act.Hardswish, act.Hardsigmoid),
    *(act.Sigmoid, act.Tanh, act.Softplus, act.Mish, act.Abs),
    *(views.Reshape, views.Permute, views.Slice, views.Concat, views.Expand, views.Pad),
)
_LOWERED: tuple[type[Op], ...] = (
    *(lowered.Chebyshev, lowered.Quadratic, lowered.Square, lowered.Multiply, lowered.Repack),
    *(lowered.SumPool, lowered.Bootstrap),
)
NETWORK: dict[str, type[Op]] = {op.kind: op for op in _NETWORK}
"""What a network is made of."""
LOWERED: dict[str, type[Op]] = {op.kind: op for op in _LOWERED}
"""What the compiler makes of it."""
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
    if missing := [name for name, field in expected.items() if field.default is MISSING and name not in given]:
        raise Invalid(f"{kind} lacks {', '.join(missing)}")
    made = table[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    made.check_names()
    return made


def to_fields(op: Op) -> dict[str, Any]:
    """The fields of an operation by name, as `from_fields` takes them; those at their default are omitted."""
    return {field.name: _written(op, field) for field in fields(op) if not _at_default(op, field)}


def _at_default(op: Op, field: Field[Any]) -> bool:
    return field.default is not MISSING and replace(op, **{field.name: field.default}) == op


def _written(op: Op, field: Field[Any]) -> Any:
    """Sizes of both axes, or all sides, that are equal are one number, as in the files of version 0.1."""
    value = getattr(op, field.name)
    same = field.type in ("Pair", "Sides") and isinstance(value, tuple) and len(set(value)) == 1
    return value[0] if same else value
