"""What a plan costs before it runs: time, memory and sizes, from what the trace evaluator counted.

There is a model for each kind of evaluation (cost_native.py, cost_openfhe.py); `fheinfer infer -v` prints predicted and
measured side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from fheinfer import _core
from fheinfer.compiler.plan import Rotations
from fheinfer.compiler.work import Work
from fheinfer.crypto.params import ParameterSet

BASE_MEMORY = 600 * 2**20
"""Interpreter, libraries, context and weights."""


class CostModel(ABC):
    """Costs under one parameter set. `limbs` counts limbs of Q; special primes are added by the models."""

    def __init__(self, params: ParameterSet, context: _core.Context) -> None:
        self.params = params
        self._context = context
        self._specials = len(context.p)
        self._all = len(context.q)
        self._per_digit = -(-self._all // params.digits)
        self._ring = 1 << params.log_n

    @property
    def limb_bytes(self) -> int:
        """Of one limb in memory."""
        return self._ring * 8

    @abstractmethod
    def seconds(self, work: Work) -> float:
        """Time of what a trace counted, with two threads of the reference machine."""

    @abstractmethod
    def bootstrap_rotations(self) -> list[tuple[int, int]]:
        """(rotation, limbs of its key) of CoeffToSlot and SlotToCoeff."""

    @abstractmethod
    def table_bytes(self) -> int:
        """Encoded matrices of CoeffToSlot and SlotToCoeff, in memory."""

    @abstractmethod
    def working_bytes(self) -> int:
        """Ciphertexts alive at once inside a bootstrap."""

    @abstractmethod
    def key_bytes(self, rotations: Rotations, *, bootstraps: bool) -> int:
        """Evaluation keys on disk."""

    @abstractmethod
    def key_memory(self, rotations: Rotations, *, bootstraps: bool) -> int:
        """Evaluation keys in the server's memory."""

    def input_bytes(self, level: int) -> int:
        """One polynomial of packed residues: the other is a seed."""
        return sum(q.bit_length() for q in self._context.q[: self.params.limbs(level)]) * self._ring // 8

    def output_bytes(self, bits: int) -> int:
        """Two polynomials of one limb, so many bits a coefficient."""
        return 2 * bits * self._ring // 8


def cost_model(params: ParameterSet, context: _core.Context, keys: _core.KeyPolicy) -> CostModel:
    """The model for the evaluation of this set. OpenFHE's bootstrap is the same under all key policies."""
    from fheinfer.compiler.cost.native import NativeCost
    from fheinfer.compiler.cost.openfhe import OpenFheCost

    return NativeCost(params, context, keys) if params.native else OpenFheCost(params, context)
