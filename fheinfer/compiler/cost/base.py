"""What every cost model answers: time, memory and sizes, from what the trace evaluator counted.

`fheinfer infer -v` prints predicted and measured side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

from fheinfer import _core
from fheinfer.compiler.work import Work
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.generated import special_count
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.params import ParameterSet


class CostModel(ABC):
    """Costs under one parameter set. `limbs` counts limbs of Q; special primes are added by the models."""

    def __init__(self, params: ParameterSet, backend: Backend, policy: _core.KeyPolicy) -> None:
        self.params, self.backend = params, backend
        self._policy = policy
        self._specials = special_count(params)
        self._all = params.limbs(params.top_level)
        self._per_digit = -(-self._all // params.digits)
        self._ring = 1 << params.log_n

    @cached_property
    def _context(self) -> _core.Context:
        """For what follows from the primes themselves: predicting seconds of a set without bootstraps needs none."""
        return self.backend.context(self.params)

    @property
    def limb_bytes(self) -> int:
        """Of one limb in memory."""
        return self._ring * 8

    def key_specials(self, limbs: int) -> int:
        """Special primes of a key of that height."""
        return self._specials

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
        """Two polynomials of one limb, so many bits per coefficient."""
        return 2 * bits * self._ring // 8
