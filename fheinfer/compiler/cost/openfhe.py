"""Predicts time, memory and key sizes of a plan on OpenFHE's evaluation, from what the trace evaluator counted.

Work is counted in limb-NTTs, the unit hybrid key switching is made of, and in encoded plaintexts. The two speeds
were fitted to runs of set 1 on the reference machine (docs/explanation/performance.md); `fheinfer infer -v` prints
predicted and measured side by side.
"""

from __future__ import annotations

import math

from fheinfer import _core
from fheinfer.compiler.cost.base import CostModel
from fheinfer.compiler.work import Work
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.params import ParameterSet

NTT_SECONDS = 1.0e-3
"""Seconds per limb-NTT at N = 2^16, with the element-wise work around it, two threads of the reference machine."""
ENCODE_SECONDS = 5.0e-3
"""Seconds to encode, multiply and add one plaintext at N = 2^16, per core in use, at few limbs."""


class OpenFheCost(CostModel):
    """Costs under one parameter set. `limbs` counts limbs of Q; special primes are added here."""

    def __init__(self, params: ParameterSet, backend: Backend, policy: _core.KeyPolicy = _core.KeyPolicy.fast) -> None:
        super().__init__(params, backend, policy)  # OpenFHE's bootstrap is the same under all policies
        self._unit = NTT_SECONDS * (self._ring * params.log_n) / (65536 * 16)

    def key_switch_ntts(self, limbs: int, *, hoisted: bool = False) -> float:
        """ModUp: every limb out of NTT form, every digit into the extended basis; ModDown of two polynomials."""
        digits = -(-limbs // self._per_digit)
        down = 2 * (self._specials + limbs)
        return down + (0 if hoisted else self.mod_up_ntts(limbs)) + digits * (limbs + self._specials) * 0.5

    def mod_up_ntts(self, limbs: int) -> float:
        """ModUp alone."""
        return limbs + -(-limbs // self._per_digit) * (limbs + self._specials)

    def seconds(self, work: Work) -> float:
        """Time of what a trace counted."""
        ntts = sum(n * self.key_switch_ntts(limbs) for limbs, n in work.key_switches.items())
        ntts += sum(n * self.key_switch_ntts(limbs, hoisted=True) for limbs, n in work.hoisted_key_switches.items())
        ntts += sum(n * self.mod_up_ntts(limbs) for limbs, n in work.mod_ups.items())
        ntts += sum(n * 4 * limbs for limbs, n in work.rescales.items())
        ntts += sum(n * (self.key_switch_ntts(limbs) + 4 * limbs) for limbs, n in work.products.items())
        for degree, counts in work.polynomials.items():
            ntts += sum(n * self._polynomial_ntts(degree, limbs) for limbs, n in counts.items())
        ntts += work.bootstraps * self._bootstrap_ntts() if work.bootstraps else 0
        encodes = sum(n for n in work.plain_multiplications.values()) * self._ring / 65536
        return ntts * self._unit + encodes * ENCODE_SECONDS

    def _polynomial_ntts(self, degree: int, limbs: int) -> float:
        # Paterson-Stockmeyer: about 2 sqrt(2 degree) products, each with a key switch, at falling levels.
        products = 2 * math.sqrt(2 * degree)
        return products * (self.key_switch_ntts(max(1, limbs - 2)) + 4 * limbs)

    def _bootstrap_ntts(self) -> float:
        rotations = self.params.cts_budget * 2 ** (14 / self.params.cts_budget / 2 + 2)
        low = self.params.levels + self.params.stc_budget
        cts = rotations * self.key_switch_ntts(self._all - 2, hoisted=True)
        stc = rotations * self.key_switch_ntts(low, hoisted=True)
        return cts + stc + self._polynomial_ntts(32, self._all - self.params.cts_budget)

    def bootstrap_rotations(self) -> list[tuple[int, int]]:
        """(rotation, limbs of its key) of CoeffToSlot and SlotToCoeff."""
        return list(self._context.bootstrap_rotations().items())

    def table_bytes(self) -> int:
        """OpenFHE's encoded CoeffToSlot and SlotToCoeff matrices, over Q and P limbs."""
        log_slots = self.params.slots.bit_length() - 1

        def matrices(budget: int, first_limbs: int) -> int:
            layers = -(-log_slots // budget)
            sizes = [layers] * (log_slots // layers) + ([log_slots % layers] if log_slots % layers else [])
            return sum((2 ** (size + 1) - 1) * (first_limbs - i + self._specials) for i, size in enumerate(sizes))

        low = self.params.levels + 1 + self.params.stc_budget
        diagonals = matrices(self.params.cts_budget, self._all - 1) + matrices(self.params.stc_budget, low)
        return diagonals * self.limb_bytes

    def working_bytes(self) -> int:
        """Ciphertexts alive at once inside a bootstrap: hoisted digits and rotations in the extended basis."""
        return 48 * 2 * (self._all + self._specials) * self.limb_bytes

    def key_memory(self, rotations: Rotations, *, bootstraps: bool) -> int:
        """Evaluation keys in the server's memory: as many bytes as on disk."""
        return self.key_bytes(rotations, bootstraps=bootstraps)

    def key_bytes(self, rotations: Rotations, *, bootstraps: bool) -> int:
        """Evaluation keys on disk."""
        full = self._context.evaluation_key_bytes(self._all)
        rotation = sum(self._context.evaluation_key_bytes(limbs) for _, limbs in rotations)
        extra = (self._context.evaluation_key_bytes(self._all - self.params.cts_budget) + full) if bootstraps else 0
        return full + rotation + extra
