"""The steps of a plan: one operation on ciphertexts each, and how an evaluator runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.compiler.values import F64, Arrays, Scale
from fheinfer.compiler.work import Work
from fheinfer.crypto.key_policy import KeyPolicy, core_policy
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.packing import Layout, diagonals, pack, spread, unpack

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
    layout: Layout
    in_layout: Layout
    activation: str = ""
    seconds: Mapping[KeyPolicy, float] = field(default_factory=dict)
    multiplications: int = 0

    def apply(
        self,
        evaluator: _core.Evaluator,
        constants: Arrays,
        inputs: Sequence[_core.Ciphertext],
        encoded: _core.LinearMapConstants | None = None,
    ) -> _core.Ciphertext:
        """Runs the step on any evaluator.

        Args:
            constants: the arrays of the plan.
            encoded: what is kept of this step's diagonals, where it is a linear map on the native backend.
        """
        if isinstance(self.op, ops.Bootstrap):
            return evaluator.bootstrap(inputs[0])
        lowered = [evaluator.drop_to(x, self.level + self.depth) for x in inputs]
        return _APPLY[type(self.op)](self, self.op, evaluator, constants, lowered, encoded)

    def trace(self, slots: int, levels: _core.LevelModel, constants: Arrays, policy: KeyPolicy) -> Work:
        """What the step takes with the rotation keys of a policy; needs none.

        Raises:
            PlanError: the kernels end at another level than planned.
        """
        evaluator = _core.TraceEvaluator(slots, levels, core_policy(policy))
        x = evaluator.encrypt(self.level + self.depth)
        y = self.apply(evaluator, constants, [x] * len(self.inputs))
        if evaluator.level(y) != self.level:
            raise PlanError(f"{self.name}: planned for level {self.level}, and its kernel ends at {evaluator.level(y)}")
        return Work.of(evaluator.report())

    def valid_range(self, max_slot: float) -> float:
        """Largest |slot| that the input of an activation may have."""
        return max_slot if isinstance(self.op, ops.Square) else 1.0

    def kept(self, constants: Arrays) -> float:
        """Fraction of a convolution's diagonals that is not all zero: the rest is omitted (csrc/kernels/conv2d.cpp)."""
        if not isinstance(self.op, ops.Conv2d):
            return 1.0
        of = diagonals(self.in_layout, self.layout, self.op.kernel[0], self.op.padding[0])
        alive = np.unique(of[constants[self.op.weight] != 0])
        return len(alive) / (int(of.max()) + 1)

    def slots(self, channels: F64) -> F64:
        """One number per channel (or per feature of a vector), in the slots of every pixel."""
        layout = self.layout
        shape = (layout.channels, layout.height, layout.width)
        return pack(np.broadcast_to(spread(channels, layout), shape), layout)

    def values(self, slots: NDArray[np.floating]) -> F64:
        """Slots of the output as the (C, H, W) tensor that the network computes at this point."""
        return unpack(slots, self.layout) * spread(self.scale, self.layout)


def conv_of(op: ops.Conv2d) -> _core.Conv2d:
    """The core's description of a convolution."""
    return _core.Conv2d(op.kernel[0], op.stride[0], op.padding[0])


_Inputs = Sequence[_core.Ciphertext]
_Encoded = _core.LinearMapConstants | None
_NONE = np.zeros(0)


def linear_map(step: Step, constants: Arrays) -> _core.LinearMap | None:
    """The linear map that a step is, without its bias; None for other steps."""
    op = step.op
    if isinstance(op, ops.Conv2d):
        return _core.LinearMap.conv2d(constants[op.weight], step.in_layout, step.layout, conv_of(op))
    if isinstance(op, ops.Linear):
        return _core.LinearMap.linear(constants[op.weight], step.in_layout, step.layout, op.mask)
    return None


def _conv2d(s: Step, op: ops.Conv2d, e: _core.Evaluator, c: Arrays, x: _Inputs, encoded: _Encoded) -> _core.Ciphertext:
    bias = c[op.bias] if op.bias else _NONE
    return _core.conv2d(e, x[0], c[op.weight], bias, s.in_layout, s.layout, conv_of(op), encoded)


def _linear(s: Step, op: ops.Linear, e: _core.Evaluator, c: Arrays, x: _Inputs, encoded: _Encoded) -> _core.Ciphertext:
    bias = c[op.bias] if op.bias else _NONE
    return _core.linear(e, x[0], c[op.weight], bias, s.in_layout, s.layout, op.mask, encoded)


def _square(s: Step, op: ops.Square, e: _core.Evaluator, c: Arrays, x: _Inputs, _: _Encoded) -> _core.Ciphertext:
    t = e.add_plain(x[0], s.slots(c[op.shift]))
    return e.add_plain(e.multiply(t, t), s.slots(c[op.constant]))


_APPLY: dict[type[ops.Op], Callable[[Step, Any, _core.Evaluator, Arrays, _Inputs, _Encoded], _core.Ciphertext]] = {
    ops.Conv2d: _conv2d,
    ops.Linear: _linear,
    ops.Square: _square,
    ops.Chebyshev: lambda s, op, e, c, x, _: e.chebyshev(x[0], list(c[op.coefficients])),
    ops.Multiply: lambda s, op, e, c, x, _: e.multiply(x[0], x[1]),
    ops.ScaleChannels: lambda s, op, e, c, x, _: e.multiply_plain(x[0], s.slots(c[op.factor])),
    ops.SumPool: lambda s, op, e, c, x, _: _core.sum_pool(e, x[0], s.in_layout),
    ops.Add: lambda s, op, e, c, x, _: e.add(x[0], x[1]),
}
"""How each lowered operation runs on an evaluator."""

_STEPS: tuple[type[ops.Op], ...] = (*_APPLY, ops.Bootstrap)
RUNNABLE: dict[str, type[ops.Op]] = {op.kind: op for op in _STEPS}
"""The operations that a step may be, by kind."""
