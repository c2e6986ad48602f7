"""Costs of the native backend (csrc/ckks): transforms of limbs, base conversions, and rows of residues.

The constants are processor time of one thread for each kind of inner loop at N = 2^16, fitted by least squares to 350
measurements: rotations, hoisted rotations, products, linear maps and series on twelve chains, plain and composite, at
N = 2^12 to 2^16 and two to 22 limbs (docs/explanation/parameters.md). `THREADS` takes that to the wall-clock time of
two threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from fheinfer import _core
from fheinfer.compiler.cost.base import CostModel
from fheinfer.compiler.work import Work
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.generated import key_specials
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.params import NATIVE_EVAL_MOD_LEVELS, ParameterSet

NTT_SECONDS = 0.240e-3
"""One limb in or out of evaluation form, with permutations and element-wise passes around it."""
CONVERSION_SECONDS = 0.0084e-3
"""One limb of a base conversion for each limb that it is made of."""
ROW_SECONDS = 0.0262e-3
"""One row of a digit times one row of a key."""
DIAGONAL_SECONDS = 0.0235e-3
"""One row of a ciphertext times one row of a diagonal."""
ENCODE_SECONDS = 19.3e-9
"""One value of a diagonal: its part of a Fourier transform, and of rounding."""
ENCODE_LIMB_SECONDS = 8.8e-9
"""One value of a diagonal in each limb: its part of a transform."""
CALL_SECONDS = 0.028e-3
"""A key switch, whatever the ring."""
THREADS = 0.55
"""Wall-clock time of two threads, of the processor time of one."""
SHORT_SCALE = 26
"""Bits of a scale up to which half of a real diagonal's transform is enough (docs/explanation/native.md)."""
SERIES_SWITCHES = 1.9
"""Key switches of a series of degree d, by the root of d, with what is computed between them."""
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
        self._matrices = _matrices(params, policy) if params.bootstraps else []
        ring = self._ring / 65536
        self._ntt = NTT_SECONDS * ring * params.log_n / 16
        self._conversion, self._row, self._diagonal = (
            seconds * ring for seconds in (CONVERSION_SECONDS, ROW_SECONDS, DIAGONAL_SECONDS)
        )
        self._encode, self._call, self._threads = ENCODE_SECONDS, CALL_SECONDS, THREADS
        self._encode_limb = ENCODE_LIMB_SECONDS / (2 if params.scale_bits <= SHORT_SCALE else 1)

    def seconds(self, work: Work) -> float:
        """Time of this work with two threads of the reference machine."""
        total = sum(n * self._key_switch(limbs) for limbs, n in work.key_switches.items())
        total += sum(n * self._key_switch(limbs, hoisted=True) for limbs, n in work.hoisted_key_switches.items())
        total += sum(n * self._mod_up(limbs) for limbs, n in work.mod_ups.items())
        total += sum(n * 2 * limbs * self._ntt for limbs, n in work.rescales.items())
        total += sum(n * 2 * limbs * self._diagonal for limbs, n in work.plain_multiplications.items())
        total += sum(n * (self._encode + limbs * self._encode_limb) for limbs, n in work.encoded_values.items())
        total += sum(n * self._key_switch(limbs) for limbs, n in work.products.items())
        for degree, counts in work.polynomials.items():
            total += sum(n * self._series(degree, limbs) for limbs, n in counts.items())
        total += work.bootstraps * self._bootstrap() if work.bootstraps else 0
        return float(total) * self._threads

    def _digits(self, limbs: int) -> int:
        return -(-limbs // self._per_digit)

    def _special(self, limbs: int) -> int:
        """Special primes of a key of that height, nearly: as many as its widest digit has limbs."""
        return min(self._specials, limbs, self._per_digit)

    def _mod_up(self, limbs: int) -> float:
        # Every limb out of evaluation form, and the rows of every digit into it but the digit's own, which are there.
        all_rows = limbs + self._special(limbs)
        sizes = [min(self._per_digit, limbs - first) for first in range(0, limbs, self._per_digit)]
        products = sum(size * (all_rows - size) for size in sizes)
        return len(sizes) * all_rows * self._ntt + products * self._conversion

    def _rows(self, limbs: int) -> float:
        return 2 * self._digits(limbs) * (limbs + self._special(limbs)) * self._row

    def _mod_down(self, limbs: int) -> float:
        special = self._special(limbs)
        return (special + limbs) * self._ntt + special * limbs * self._conversion

    def _key_switch(self, limbs: int, *, hoisted: bool = False) -> float:
        return (0 if hoisted else self._mod_up(limbs)) + self._rows(limbs) + 2 * self._mod_down(limbs) + self._call

    def _series(self, degree: int, limbs: int) -> float:
        # Products fall through the levels; the linear combinations between them cost nearly as much again.
        middle = degree.bit_length() // (4 if self.params.composite else 2)
        return SERIES_SWITCHES * math.sqrt(degree) * self._key_switch(max(1, limbs - middle))

    def _bootstrap(self) -> float:
        trace = max(0, self.params.log_n - self.params.slots.bit_length())
        total = (trace + 1) * self._key_switch(self._all)  # and the conjugation
        total += sum(self._transform(m) for m in self._matrices)
        middle = self._all - self.params.cts_budget - 4
        return total + SERIES_PRODUCTS * self._key_switch(middle)

    def _transform(self, m: _Matrix) -> float:
        limbs, rows = m.limbs, m.limbs + self._special(m.limbs)
        babies = self._mod_up(limbs) + m.baby * self._rows(limbs)
        babies += (m.baby // m.hoisted - 1) * self._key_switch(limbs)
        giants = (m.giant - 1) * (self._mod_down(limbs) + self._mod_up(limbs) + self._rows(limbs))
        return babies + giants + m.diagonals * 2 * rows * self._diagonal + 2 * self._mod_down(limbs)

    def bootstrap_rotations(self) -> list[tuple[int, int]]:
        """(rotation, limbs of its key) of CoeffToSlot and SlotToCoeff under the policy."""
        lowest, rotations, _ = _shapes(*_bootstrap(self.params), self._policy)
        up, low = self._all - lowest, self.params.stc_budget + 1
        return [(k, limbs if limbs <= low else limbs + up) for k, limbs in rotations]

    def key_specials(self, limbs: int) -> int:
        """Special primes of a key of that height: as few as cover its digits."""
        return _core.native_key_specials(self._context, limbs)

    def _switching_key(self, limbs: int) -> int:
        return _core.native_key_bytes(self._context, limbs)

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
        return sum(self._switching_key(limbs) for limbs in heights) + to_dense

    def key_memory(self, rotations: Rotations, *, bootstraps: bool) -> int:
        """Evaluation keys in the server's memory, with the uniform halves made."""
        return 2 * self.key_bytes(rotations, bootstraps=bootstraps)  # the uniform halves come from seeds


class NominalCost(NativeCost):
    """The same by nominal sizes of primes, for a set that is only looked at: OpenFHE keeps every context it makes."""

    def key_specials(self, limbs: int) -> int:
        """Special primes of a key of that height."""
        return key_specials(self.params, limbs)

    def _switching_key(self, limbs: int) -> int:
        rows = limbs + self.params.composite + self.key_specials(limbs)
        return self._digits(limbs) * rows * self.limb_bytes


def _bootstrap(params: ParameterSet) -> tuple[int, int, int, int]:
    return params.log_n, params.slots, params.cts_budget, params.stc_budget


def _matrices(params: ParameterSet, policy: _core.KeyPolicy) -> list[_Matrix]:
    """The factors of SlotToCoeff, which are at the bottom of the chain, and of CoeffToSlot, which are at its top."""
    lowest, _, shapes = _shapes(*_bootstrap(params), policy)
    up = params.limbs(params.top_level) - lowest
    low = params.stc_budget
    return list(shapes[:low]) + [replace(m, limbs=m.limbs + up) for m in shapes[low:]]


@lru_cache(maxsize=64)
def _shapes(
    log_n: int, slots: int, cts_budget: int, stc_budget: int, policy: _core.KeyPolicy
) -> tuple[int, tuple[tuple[int, int], ...], tuple[_Matrix, ...]]:
    """Limbs, rotations and factors for the shortest chain that bootstraps: OpenFHE keeps every context it makes."""
    top = stc_budget + 1 + cts_budget + NATIVE_EVAL_MOD_LEVELS
    shortest = _core.Context(
        _core.ParameterSet(
            log_n, slots, 49, 47, 50, top + 1, cts_budget, stc_budget, top, native=True, allow_insecure=True
        )
    )
    rotations = _core.native_bootstrap_rotations(shortest, policy)
    shapes = _core.native_bootstrap_matrices(shortest, policy)
    return top + 1, tuple(rotations), tuple(_Matrix(*shape) for shape in shapes)
