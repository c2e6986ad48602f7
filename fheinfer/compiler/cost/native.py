"""Costs of the native backend (csrc/ckks): transforms of limbs, and rows of residues that go through the memory.

The seconds were fitted to runs of set 1 on the reference machine with two threads (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from fheinfer import _core
from fheinfer.compiler.cost.base import CostModel
from fheinfer.compiler.work import Work
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.params import ParameterSet

NTT_SECONDS = 0.12e-3
"""One limb in or out of evaluation form at N = 2^16, with the basis conversion around it."""
ROW_SECONDS = 0.09e-3
"""One row of a digit times one row of a key: read from memory, once."""
PLAIN_SECONDS = 0.009e-3
"""One row of a ciphertext times one row of a diagonal, both in the cache."""
DIAGONAL_SECONDS = 0.02e-3
"""The same in a convolution, where diagonals come from memory."""
ENCODE_SECONDS = 29e-9
"""One value of a diagonal: its part of a Fourier transform and of transforms into a few limbs."""
SERIES_PRODUCTS = 11
"""Products with relinearisation in EvalMod: eight of its series, three double angles."""


@dataclass(frozen=True)
class _Matrix:
    """A factor of CoeffToSlot or SlotToCoeff: see Steps in csrc/ckks/matrix.h."""

    limbs: int
    diagonals: int
    hoisted: int
    baby: int
    giant: int


class NativeCost(CostModel):
    """Time, bytes and memory of a run of the native backend; see the module."""

    def __init__(self, params: ParameterSet, backend: Backend, policy: _core.KeyPolicy = _core.KeyPolicy.fast) -> None:
        super().__init__(params, backend, policy)
        self._matrices = [_Matrix(*shape) for shape in _core.native_bootstrap_matrices(self._context, policy)]
        ring = self._ring / 65536
        self._ntt, self._row = NTT_SECONDS * ring, ROW_SECONDS * ring
        self._plain, self._diagonal = PLAIN_SECONDS * ring, DIAGONAL_SECONDS * ring

    def seconds(self, work: Work) -> float:
        """Time of this work with two threads of the reference machine."""
        total = sum(n * self._key_switch(limbs) for limbs, n in work.key_switches.items())
        total += sum(n * self._key_switch(limbs, hoisted=True) for limbs, n in work.hoisted_key_switches.items())
        total += sum(n * self._mod_up(limbs) for limbs, n in work.mod_ups.items())
        total += sum(n * 2 * limbs * self._ntt for limbs, n in work.rescales.items())
        total += sum(n * 2 * limbs * self._diagonal for limbs, n in work.plain_multiplications.items())
        total += sum(work.encoded_values.values()) * ENCODE_SECONDS
        total += sum(n * self._key_switch(limbs) for limbs, n in work.products.items())
        for degree, counts in work.polynomials.items():
            total += sum(n * self._series(degree, limbs) for limbs, n in counts.items())
        return float(total + (work.bootstraps * self._bootstrap() if work.bootstraps else 0))

    def _digits(self, limbs: int) -> int:
        return -(-limbs // self._per_digit)

    def _special(self, limbs: int) -> int:
        """Special primes of a key of that height, nearly: as many as its widest digit has limbs."""
        return min(self._specials, limbs, self._per_digit)

    def _mod_up(self, limbs: int) -> float:
        # Every limb out of evaluation form, and the rows of every digit into it but the digit's own, which are there.
        return self._digits(limbs) * (limbs + self._special(limbs)) * self._ntt

    def _rows(self, limbs: int) -> float:
        return 2 * self._digits(limbs) * (limbs + self._special(limbs)) * self._row

    def _mod_down(self, limbs: int) -> float:
        return (self._special(limbs) + limbs) * self._ntt

    def _key_switch(self, limbs: int, *, hoisted: bool = False) -> float:
        return (0 if hoisted else self._mod_up(limbs)) + self._rows(limbs) + 2 * self._mod_down(limbs)

    def _series(self, degree: int, limbs: int) -> float:
        # Products fall through the levels; those of a ReLU's even series are about 1.5 sqrt(degree), and the linear
        # combinations between them cost nearly as much again.
        products, depth = 2.6 * degree**0.5, degree.bit_length()
        return float(products) * self._key_switch(max(1, limbs - depth // 2))

    def _bootstrap(self) -> float:
        total = 2 * self._key_switch(self._all)  # the trace and the conjugation
        total += sum(self._transform(m) for m in self._matrices)
        middle = self._all - self.params.cts_budget - 4
        return total + SERIES_PRODUCTS * self._key_switch(middle)

    def _transform(self, m: _Matrix) -> float:
        limbs, rows = m.limbs, m.limbs + self._special(m.limbs)
        babies = self._mod_up(limbs) + m.baby * self._rows(limbs)
        babies += (m.baby // m.hoisted - 1) * self._key_switch(limbs)
        giants = (m.giant - 1) * (self._mod_down(limbs) + self._mod_up(limbs) + self._rows(limbs))
        return babies + giants + m.diagonals * 2 * rows * self._plain + 2 * self._mod_down(limbs)

    def bootstrap_rotations(self) -> list[tuple[int, int]]:
        """(rotation, limbs of its key) of CoeffToSlot and SlotToCoeff under the policy."""
        return _core.native_bootstrap_rotations(self._context, self._policy)

    def table_bytes(self) -> int:
        """Encoded matrices of CoeffToSlot and SlotToCoeff, in memory."""
        rows = sum(m.diagonals * (m.limbs + self._special(m.limbs)) for m in self._matrices)
        return rows * 2 * self.params.slots * 8

    def working_bytes(self) -> int:
        """Ciphertexts and digits alive at once in the largest linear map of a bootstrap, or in a key switch."""
        # Sums of all giant steps, the parts of the baby steps with their digits, and what a division holds.
        digits = self.params.digits
        most = max((2 * m.giant + (m.baby // m.hoisted) * (digits + 1) for m in self._matrices), default=digits + 3)
        return (most + digits + 7) * (self._all + self._specials) * self.limb_bytes

    def _heights(self, rotations: Rotations, *, bootstraps: bool) -> list[int]:
        needed = self.backend.needs_conjugation(self.params, bootstraps=bootstraps)
        conjugation = [self._all - self.params.cts_budget] if needed else []
        return [limbs for _, limbs in rotations] + [self._all] + conjugation

    def key_bytes(self, rotations: Rotations, *, bootstraps: bool) -> int:
        """Evaluation keys on disk, with the uniform halves as seeds."""
        heights = self._heights(rotations, bootstraps=bootstraps)
        to_dense = (self._all + 1) * self.limb_bytes if bootstraps else 0
        return sum(_core.native_key_bytes(self._context, limbs) for limbs in heights) + to_dense

    def key_memory(self, rotations: Rotations, *, bootstraps: bool) -> int:
        """Evaluation keys in the server's memory, with the uniform halves made."""
        return 2 * self.key_bytes(rotations, bootstraps=bootstraps)  # the uniform halves come from seeds
