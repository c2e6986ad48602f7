"""The steps of a plan: one operation on ciphertexts each, and how an evaluator runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.compiler.maps import LINEAR, linear_map, shape_map
from fheinfer.compiler.sum_pools import sum_pool
from fheinfer.compiler.values import F64, Arrays, Scale, Value
from fheinfer.compiler.views import VIEWS, view
from fheinfer.compiler.work import Work
from fheinfer.crypto.key_policy import KeyPolicy, core_policy
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.packing import Packing, plain, spread, unpack

BOOTSTRAPPED = (ops.Chebyshev, ops.Quadratic, ops.Square)
"""Operations whose input is known to be in [-1, 1], where a bootstrap may come before."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on ciphertexts.

    level    of the output, `depth` below that of its inputs, which are dropped to it where they are higher
    scale    value = slot * scale, one number or one per channel
    seconds  predicted on the reference machine, by key policy
    multiplications  with plaintexts
    activation  the network's activation that this is a part of, or ""
    """

    name: str
    op: ops.Op
    inputs: tuple[str, ...]
    level: int
    depth: int
    scale: Scale
    packing: Packing
    in_packings: tuple[Packing, ...]
    activation: str = ""
    seconds: Mapping[KeyPolicy, float] = field(default_factory=dict)
    multiplications: int = 0

    def apply(
        self,
        evaluator: _core.Evaluator,
        constants: Arrays,
        inputs: Sequence[Value],
        encoded: _core.LinearMapConstants | None = None,
    ) -> Value:
        """Runs the step on any evaluator.

        Args:
            constants: the arrays of the plan.
            encoded: what is kept of this step's diagonals, where it is a linear map on the native backend.
        """
        if isinstance(self.op, ops.Bootstrap):
            return tuple(evaluator.bootstrap(x) for x in inputs[0])
        lowered = [tuple(evaluator.drop_to(x, self.level + self.depth) for x in value) for value in inputs]
        return _APPLY[type(self.op)](self, self.op, evaluator, constants, lowered, encoded)

    def trace(self, slots: int, levels: _core.LevelModel, constants: Arrays, policy: KeyPolicy) -> Work:
        """What the step takes with the rotation keys of a policy; needs none.

        Raises:
            PlanError: the kernels end at another level than planned.
        """
        evaluator = _core.TraceEvaluator(slots, levels, core_policy(policy))
        x = evaluator.encrypt(self.level + self.depth)
        ends = self.apply(evaluator, constants, [(x,) * packing.ciphertexts for packing in self.in_packings])
        for y in ends:
            if evaluator.level(y) != self.level:
                ends_at = evaluator.level(y)
                raise PlanError(f"{self.name}: planned for level {self.level}, and its kernel ends at {ends_at}")
        return Work.of(evaluator.report())

    def valid_range(self, max_slot: float) -> float:
        """Largest |slot| that the input of an activation may have."""
        return max_slot if isinstance(self.op, ops.Square) else 1.0

    def kept(self, constants: Arrays) -> float:
        """Fraction of a layer's diagonals that is not all zero: the rest is omitted (csrc/kernels/map_builder.cpp)."""
        if not isinstance(self.op, LINEAR) or all(constants[name].all() for name in self.op.tensors.values()):
            return 1.0
        most = shape_map(self.op, constants, self.in_packings[0], self.packing).diagonals
        return linear_map(self.op, constants, self.in_packings[0], self.packing).diagonals / most

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return self.packing.shape

    def slots(self, values: F64) -> F64:
        """One number per channel (or per feature of a vector), or what broadcasts to the output: by ciphertext."""
        return plain(spread(values, self.shape), self.packing)

    def values(self, slots: Sequence[NDArray[np.floating]]) -> F64:
        """Slots of the output's ciphertexts as the tensor that the network computes at this point."""
        return unpack(slots, self.packing) * spread(self.scale, self.shape)


_Encoded = _core.LinearMapConstants | None


def step_map(step: Step, constants: Arrays) -> _core.LinearMap | None:
    """The linear map that a step is, without its bias; None for other steps."""
    if not isinstance(step.op, LINEAR):
        return None
    return linear_map(step.op, constants, step.in_packings[0], step.packing)


def _layer(s: Step, op: Any, e: _core.Evaluator, c: Arrays, x: Sequence[Value], encoded: _Encoded) -> Value:
    found = encoded or linear_map(s.op, c, s.in_packings[0], s.packing)
    ys = tuple(_core.linear_map(e, list(x[0]), found))
    bias = getattr(op, "bias", None)
    return _plus(s, e, ys, c[bias]) if bias else ys


def _plus(s: Step, e: _core.Evaluator, x: Value, values: F64) -> Value:
    return tuple(e.add_plain(one, slots) for one, slots in zip(x, s.slots(values), strict=True))


def _square(s: Step, op: ops.Square, e: _core.Evaluator, c: Arrays, x: Sequence[Value], _: _Encoded) -> Value:
    t = _plus(s, e, x[0], c[op.shift])
    return _plus(s, e, tuple(e.multiply(one, one) for one in t), c[op.constant])


def _sum_pool(s: Step, op: ops.SumPool, e: _core.Evaluator, c: Arrays, x: Sequence[Value], _: _Encoded) -> Value:
    return sum_pool(e, x[0], s.in_packings[0])


def _view(s: Step, op: ops.Op, e: _core.Evaluator, c: Arrays, x: Sequence[Value], _: _Encoded) -> Value:
    every = [one for value in x for one in value]
    return tuple(every[number] for number in view(op, s.in_packings, s.shape)[1])


def _multiplied(
    s: Step, op: ops.MultiplyConstant, e: _core.Evaluator, c: Arrays, x: Sequence[Value], _: _Encoded
) -> Value:
    return tuple(e.multiply_plain(one, slots) for one, slots in zip(x[0], s.slots(c[op.value]), strict=True))


_APPLY: dict[type[ops.Op], Callable[[Step, Any, _core.Evaluator, Arrays, Sequence[Value], _Encoded], Value]] = {
    **dict.fromkeys(LINEAR, _layer),
    **dict.fromkeys(VIEWS, _view),
    ops.Square: _square,
    ops.Chebyshev: lambda s, op, e, c, x, _: tuple(e.chebyshev(one, list(c[op.coefficients])) for one in x[0]),
    ops.Multiply: lambda s, op, e, c, x, _: tuple(e.multiply(a, b) for a, b in zip(*x, strict=True)),
    ops.MultiplyConstant: _multiplied,
    ops.AddConstant: lambda s, op, e, c, x, _: _plus(s, e, x[0], c[op.value]),
    ops.SumPool: _sum_pool,
    ops.Add: lambda s, op, e, c, x, _: tuple(e.add(a, b) for a, b in zip(*x, strict=True)),
}
"""How each lowered operation runs on an evaluator."""

_STEPS: tuple[type[ops.Op], ...] = (*_APPLY, ops.Bootstrap)
RUNNABLE: dict[str, type[ops.Op]] = {op.kind: op for op in _STEPS}
"""The operations that a step may be, by kind."""
