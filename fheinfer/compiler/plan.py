"""The frozen result of compilation: steps, levels, scales, key manifest and what a run is predicted to take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer.compiler.policy import KeyPolicy
from fheinfer.compiler.program import PLACED_UNDER, Arrays, Program
from fheinfer.compiler.work import Work
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import InputError
from fheinfer.packing import Layout, diagonals, input_layout, pack, spread, unpack

RESULT_BITS = 36
"""Bits of a coefficient of the result that are sent: the rest would be 2^-20 of the largest logit."""
Rotations = tuple[tuple[int, int], ...]
"""(rotation, limbs of its key), sorted."""


def serving(keys: Iterable[tuple[int, int]], rotation: int, limbs: int) -> tuple[int, int] | None:
    """The lowest of these keys that serves the rotation at this height."""
    heights = [have for k, have in keys if k == rotation and have >= limbs]
    return (rotation, min(heights)) if heights else None


@dataclass(frozen=True)
class ClientSpec:
    """All a client needs to know of a network: how to prepare a picture and how to read the result. No weights."""

    network: str
    params: str
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_scale: float
    input_level: int
    output_scale: float
    outputs: int
    plan: str

    def pack(self, image: NDArray[np.floating]) -> NDArray[np.float64]:
        """Normalised (C, H, W) picture, or (F,) vector, to slots.

        Raises:
            InputError: an input of another shape.
        """
        if np.shape(image) != tuple(self.input_shape):
            raise InputError(f"{self.network} takes inputs of {tuple(self.input_shape)}, not {np.shape(image)}")
        return pack(image / self.input_scale, input_layout(self.input_shape))

    def unpack(self, slots: NDArray[np.floating]) -> NDArray[np.float64]:
        """Decrypted slots to logits."""
        return np.asarray(slots[: self.outputs], dtype=np.float64) * self.output_scale


@dataclass(frozen=True)
class Step:
    """One operation on ciphertexts.

    level    of the output, `depth` below that of its inputs, which are dropped to it where they are higher
    scale    value = slot * scale, one number or one a channel
    seconds  predicted on the reference machine
    multiplications  with plaintexts
    weights  role -> name in `Plan.constants`
    activation  the network's activation that this is a part of, or ""
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    level: int
    depth: int
    scale: float | NDArray[np.float64]
    layout: Layout
    in_layout: Layout
    weights: Mapping[str, str]
    conv: tuple[int, int, int] | None = None
    mask: bool = False
    activation: str = ""
    seconds: float = 0.0
    multiplications: int = 0

    def apply(
        self, evaluator: _core.Evaluator, constants: Arrays, inputs: Sequence[_core.Ciphertext]
    ) -> _core.Ciphertext:
        """Runs the step on any evaluator."""
        if self.op == "bootstrap":
            return evaluator.bootstrap(inputs[0])
        inputs = [evaluator.drop_to(x, self.level + self.depth) for x in inputs]
        x = inputs[0]
        array = {role: constants[name] for role, name in self.weights.items()}
        none = np.zeros(0)
        if self.op == "conv2d":
            assert self.conv is not None
            return _core.conv2d(
                evaluator,
                x,
                array["weight"],
                array.get("bias", none),
                self.in_layout,
                self.layout,
                _core.Conv2d(*self.conv),
            )
        if self.op == "linear":
            return _core.linear(
                evaluator, x, array["weight"], array.get("bias", none), self.in_layout, self.layout, self.mask
            )
        if self.op == "chebyshev":
            return evaluator.chebyshev(x, list(array["coefficients"]))
        if self.op == "quadratic":
            t = evaluator.add_plain(x, self._slots(array["shift"]))
            return evaluator.add_plain(evaluator.multiply(t, t), self._slots(array["constant"]))
        if self.op == "multiply":
            return evaluator.multiply(x, inputs[1])
        if self.op == "gain":
            return evaluator.multiply_plain(x, self._slots(array["factor"]))
        if self.op == "avg_pool":
            return _core.sum_pool(evaluator, x, self.in_layout)
        assert self.op == "add", self.op
        return evaluator.add(x, inputs[1])

    def trace(self, program: Program | Plan, keys: _core.KeyPolicy = PLACED_UNDER) -> Work:
        """What the step takes with these keys, on as many limbs as `level` says; needs none.

        Levels and keys follow from this, and are settled before weights are known: so none of a convolution is zero.
        """
        evaluator = _core.TraceEvaluator(program.params.slots, program.params.level_model(), keys)
        x = evaluator.encrypt(self.level + self.depth)
        constants = dict(program.constants)
        if self.conv:
            constants[self.weights["weight"]] = np.ones_like(constants[self.weights["weight"]])
        y = self.apply(evaluator, constants, [x] * len(self.inputs))
        assert evaluator.level(y) == self.level, f"{self.name}: the levels pass and the kernels disagree"
        return Work.of(evaluator.report())

    def reach(self, params: ParameterSet) -> float:
        """Largest |slot| that an activation's input may have."""
        return params.reach if self.op == "quadratic" else 1.0

    def left(self, constants: Arrays) -> float:
        """Part of a convolution's diagonals that is not zero: the rest is left out (csrc/kernels/conv2d.cpp)."""
        if self.conv is None:
            return 1.0
        kernel, _, padding = self.conv
        of = diagonals(self.in_layout, self.layout, kernel, padding)
        alive = np.unique(of[constants[self.weights["weight"]] != 0])
        return len(alive) / (int(of.max()) + 1)

    def _slots(self, channels: NDArray[np.float64]) -> NDArray[np.float64]:
        """One number a channel (or a feature of a vector), in the slots of every pixel."""
        layout = self.layout
        shape = (layout.channels, layout.height, layout.width)
        return pack(np.broadcast_to(spread(channels, layout), shape), layout)

    def values(self, slots: NDArray[np.floating]) -> NDArray[np.float64]:
        """Slots of the output as the (C, H, W) tensor the network computes at this point."""
        return unpack(slots, self.layout) * spread(self.scale, self.layout)


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to take on the reference machine (docs/performance.md)."""

    seconds: float
    peak_memory: int
    key_bytes: int
    table_bytes: int
    input_bytes: int
    output_bytes: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps in order; the last one computes the logits.

    keys       which rotation keys the steps run on; what they compute is the same up to noise
    rotations  (rotation, limbs of its key), bootstrapping included; one rotation may need keys of several heights
    """

    network: str
    params: ParameterSet
    steps: tuple[Step, ...]
    constants: Arrays
    keys: KeyPolicy
    rotations: Rotations
    client: ClientSpec
    prediction: Prediction

    @property
    def bootstraps(self) -> int:
        return sum(step.op == "bootstrap" for step in self.steps)

    @property
    def multiplications(self) -> int:
        """With plaintexts, outside bootstraps."""
        return sum(step.multiplications for step in self.steps)

    @cached_property
    def last_use(self) -> dict[str, int]:
        """Value -> index of the last step that reads it."""
        return {name: i for i, step in enumerate(self.steps) for name in step.inputs}


def plan_identity(network: str, params: ParameterSet, steps: Sequence[Step], constants: Arrays) -> str:
    """Hex SHA-256 over the steps and the arrays they use: two plans with the same identity compute the same.

    The key policy is not part of it: a client encrypts without knowing which keys the server runs on.
    """
    digest = hashlib.sha256(json.dumps([network, asdict(params)], sort_keys=True).encode())
    for step in steps:
        scale = np.asarray(step.scale).tolist()
        fields = [step.name, step.op, step.inputs, step.level, scale, repr(step.layout), step.conv, step.mask]
        digest.update(json.dumps(fields).encode())
        for name in step.weights.values():
            digest.update(np.ascontiguousarray(constants[name]).tobytes())
    return digest.hexdigest()
