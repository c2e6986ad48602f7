"""Costs of our own evaluation (csrc/ckks): transforms of limbs, and rows of residues that go through the memory.

The seconds were fitted to runs of set 1 on the reference machine with two threads (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from fheinfer import _core
from fheinfer.compiler.cost import CostModel
from fheinfer.compiler.plan import Rotations
from fheinfer.params import ParameterSet

NTT_SECONDS = 0.12e-3
"""One limb in or out of evaluation form at N = 2^16, with the basis conversion around it."""
ROW_SECONDS = 0.09e-3
"""One row of a digit times one row of a key: read from memory, once."""
PLAIN_SECONDS = 0.009e-3
"""One row of a ciphertext times one row of a diagonal, both in the cache."""
TAP_SECONDS = 0.02e-3
"""The same in a convolution, where diagonals come from memory."""
ENCODE_SECONDS = 29e-9
"""One value of a diagonal: its part of a Fourier transform and of transforms into a few limbs."""
SERIES_PRODUCTS = 11
"""Products with relinearisation in EvalMod: eight of its series, three double angles."""


@dataclass(frozen=True)
class _Matrix:
    """A factor of CoeffToSlot or SlotToCoeff: see Transform in csrc/ckks/transform.h."""

    diagonals: int
    baby: int
    giant: int


class NativeCost(CostModel):
    def __init__(self, params: ParameterSet, context: _core.Context) -> None:
        super().__init__(params, context)
        ring = self._ring / 65536
        self._ntt, self._row = NTT_SECONDS * ring, ROW_SECONDS * ring
        self._plain, self._tap = PLAIN_SECONDS * ring, TAP_SECONDS * ring

    def seconds(self, report: _core.TraceReport) -> float:
        total = sum(n * self._key_switch(limbs) for limbs, n in report.key_switches.items())
        total += sum(n * self._key_switch(limbs, hoisted=True) for limbs, n in report.hoisted_key_switches.items())
        total += sum(n * self._mod_up(limbs) for limbs, n in report.mod_ups.items())
        total += sum(n * 2 * limbs * self._ntt for limbs, n in report.rescales.items())
        total += sum(n * 2 * limbs * self._tap for limbs, n in report.plain_multiplications.items())
        total += sum(report.encoded_values.values()) * ENCODE_SECONDS
        for degree, counts in report.polynomials.items():
            total += sum(n * self._series(degree, limbs) for limbs, n in counts.items())
        return float(total + (report.bootstraps * self._bootstrap() if report.bootstraps else 0))

    def _digits(self, limbs: int) -> int:
        return -(-limbs // self._per_digit)

    def _special(self, limbs: int) -> int:
        """Special primes of a key of that height, nearly: as many as its widest digit has limbs."""
        return min(self._specials, min(limbs, self._per_digit) + 1)

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
        top, p = self._all, self.params
        total = 2 * self._key_switch(top)  # the trace and the conjugation
        for i, m in enumerate(self._matrices(p.cts_budget)):
            total += self._transform(m, top - i)
        for i, m in enumerate(self._matrices(p.stc_budget)):
            total += self._transform(m, p.stc_budget + 1 - i)
        middle = top - p.cts_budget - 4
        return total + SERIES_PRODUCTS * self._key_switch(middle)

    def _transform(self, m: _Matrix, limbs: int) -> float:
        rows = limbs + self._special(limbs)
        babies = self._mod_up(limbs) + m.baby * self._rows(limbs)
        giants = (m.giant - 1) * (self._mod_down(limbs) + self._mod_up(limbs) + self._rows(limbs))
        return babies + giants + m.diagonals * 2 * rows * self._plain + 2 * self._mod_down(limbs)

    def _matrices(self, budget: int) -> list[_Matrix]:
        """As csrc/ckks/bootstrap.cpp spreads the stages: larger ones first; one of them wraps around."""
        out, left = [], self.params.slots.bit_length() - 1
        for i in range(budget):
            stages = -(-left // (budget - i))
            left -= stages
            diagonals = 2**stages if i == 0 else 2 ** (stages + 1) - 1
            baby = 1
            while baby * baby < diagonals:
                baby *= 2
            out.append(_Matrix(diagonals, baby, -(-diagonals // baby)))
        return out

    def table_bytes(self) -> int:
        p, total = self.params, 0
        for budget, limbs in ((p.cts_budget, self._all), (p.stc_budget, p.stc_budget + 1)):
            for i, m in enumerate(self._matrices(budget)):
                total += m.diagonals * (limbs - i + self._special(limbs)) * 2 * p.slots * 8
        return total

    def working_bytes(self) -> int:
        # Sums of all giant steps, the digits, and what a division holds.
        most = max((m.giant for m in self._matrices(self.params.cts_budget)), default=1)
        return (2 * most + 2 * self.params.digits + 8) * (self._all + self._specials) * self.limb_bytes

    def _heights(self, rotations: Rotations, *, bootstraps: bool) -> list[int]:
        return [limbs for _, limbs in rotations] + [self._all] + [self._all - self.params.cts_budget] * bootstraps

    def key_bytes(self, rotations: Rotations, *, bootstraps: bool) -> int:
        heights = self._heights(rotations, bootstraps=bootstraps)
        to_dense = (self._all + 1) * self.limb_bytes if bootstraps else 0
        return sum(_core.native_key_bytes(self._context, limbs) for limbs in heights) + to_dense

    def key_memory(self, rotations: Rotations, *, bootstraps: bool) -> int:
        return 2 * self.key_bytes(rotations, bootstraps=bootstraps)  # the uniform halves come from seeds
