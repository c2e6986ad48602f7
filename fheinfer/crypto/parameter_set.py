"""What a parameter set is: CKKS and nothing else. Frozen, with a hash that keys and ciphertexts carry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

CHAIN_VERSION = 3
"""Version of how primes follow from sizes (csrc/crypto/context.cpp); part of every identity."""

NATIVE_EVAL_MOD_LEVELS = 8
"""Levels of the native backend's EvalMod: five for a series of degree 30, three double angles."""
OPENFHE_EVAL_MOD_LEVELS = 10
"""Levels of OpenFHE's EvalMod: one normalisation, six for its degree-32 series, three double angles."""

Chain = Literal["plain", "composite"]


@dataclass(frozen=True)
class ParameterSet:
    """What fixes the ring, the modulus chain and the bootstrapping of CKKS.

    log_n         log2 of the ring dimension N
    slots         slots that carry data, a power of two up to N/2
    first_bits    size of q_0 in bits; log2(q_0 / scale) is the room that EvalMod leaves around a message
    scale_bits    log2 of the scale
    special_bits  size of each special prime of hybrid key switching, in bits
    digits        dnum of hybrid key switching
    cts_budget, stc_budget  levels of CoeffToSlot and SlotToCoeff; both 0 for a set without bootstrapping
    levels        level of what a bootstrap returns, or of the whole chain where there is no bootstrapping
    bootstrap_levels  levels of the chain above `levels`, which a bootstrap consumes
    chain         "plain": a prime of scale_bits per level; "composite": a prime of twice scale_bits per two levels and
                  a sprout prime for odd levels (docs/explanation/native.md), half the limbs
    insecure      below 128 bits, for tests; marked so wherever it appears
    """

    name: str
    log_n: int
    slots: int
    first_bits: int
    scale_bits: int
    special_bits: int
    digits: int
    cts_budget: int
    stc_budget: int
    levels: int
    bootstrap_levels: int = 0
    chain: Chain = "plain"
    insecure: bool = False

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012 - read where files carry a set

    @property
    def bootstraps(self) -> bool:
        """Whether the chain has levels for bootstrapping."""
        return self.cts_budget > 0

    @property
    def composite(self) -> bool:
        """Whether two levels share a prime."""
        return self.chain == "composite"

    @property
    def top_level(self) -> int:
        """Multiplicative depth of the modulus chain."""
        return self.levels + self.bootstrap_levels

    @property
    def max_slot(self) -> float:
        """How large slot values may get: 1 where bootstraps need it so, else what q_0 has room for even squared.

        Noise does not grow with the values: every bit of room is one of precision.
        """
        return 1.0 if self.bootstraps else 2.0 ** max(0, (self.first_bits - 1 - self.scale_bits) // 2)

    @property
    def identity(self) -> bytes:
        """32 bytes over every field that changes a key or a ciphertext (not the name), and the version of the chain."""
        fields = {name: value for name, value in asdict(self).items() if name != "name"}
        return hashlib.sha256(json.dumps(fields | {"version": CHAIN_VERSION}, sort_keys=True).encode()).digest()

    def limbs(self, level: int) -> int:
        """Limbs of a ciphertext at a level: the primes of Q that are in use."""
        return level // 2 + 1 + level % 2 if self.composite else level + 1

    def encrypts_at(self, level: int) -> bool:
        """Whether a client can encrypt at a level: odd ones of a composite chain have a limb that OpenFHE lacks."""
        return not (self.composite and level % 2)


def key_identity(params: ParameterSet, backend: str) -> bytes:
    """What keys and ciphertexts are of: 32 bytes over the parameters and the backend. Names of sets do not count.

    Every container carries it (`artifact.Artifact.identity`), and two parties that agree on it can work together.
    """
    return hashlib.sha256(params.identity + backend.encode()).digest()


def ciphertext_bytes(params: ParameterSet, level: int) -> int:
    """Bytes of the body of a ciphertext at a level, at most: two polynomials, and their counts."""
    return 2 * params.limbs(level) * (1 << params.log_n) * 8 + 64


def ciphertext_bound(params: ParameterSet) -> int:
    """Bytes of the body of the largest ciphertext of a set."""
    return ciphertext_bytes(params, params.top_level)


def public_key_bytes(params: ParameterSet) -> int:
    """Bytes of the body of a public key: a polynomial over Q, the sprout prime where there is one, and one special."""
    return (params.limbs(params.top_level) + params.composite + 1) * (1 << params.log_n) * 8 + 64
