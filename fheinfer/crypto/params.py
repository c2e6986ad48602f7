"""Parameter sets: CKKS and nothing else. Frozen, named, identified by a hash that keys and ciphertexts carry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from fheinfer.errors import UnknownSetError

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
                  a sprout prime for odd levels (docs/native.md), half the limbs
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


def _native(name: str, special_bits: int, digits: int, budgets: tuple[int, int], levels: int) -> ParameterSet:
    """A set of N = 2^16 and 16,384 slots for bootstraps of the native backend."""
    above = budgets[0] + NATIVE_EVAL_MOD_LEVELS
    return ParameterSet(name, 16, 16384, 49, 47, special_bits, digits, *budgets, levels, above)


def _openfhe(
    name: str, first_bits: int, scale_bits: int, special_bits: int, digits: int, budgets: tuple[int, int], levels: int
) -> ParameterSet:
    """The same for OpenFHE's bootstraps, which consume more levels."""
    above = sum(budgets) + OPENFHE_EVAL_MOD_LEVELS
    return ParameterSet(name, 16, 16384, first_bits, scale_bits, special_bits, digits, *budgets, levels, above)


def _tiny(
    name: str,
    first_bits: int,
    scale_bits: int,
    special_bits: int,
    digits: int,
    budgets: tuple[int, int],
    levels: int,
    *,
    above: int = 0,
    chain: Chain = "plain",
) -> ParameterSet:
    """A set for tests, on a small ring and far below 128 bits."""
    return ParameterSet(
        name, 11, 512, first_bits, scale_bits, special_bits, digits, *budgets, levels, above, chain, insecure=True
    )


# Sets 1 to 4 keep the digits, bootstrapping budgets, N and slots of Rovida and Leporati's four sets (ePrint 2024/460),
# whose modulus chains are above today's 128-bit bound. The chain is re-cut with every prime below 2^50 and log2(QP) at
# most 1747: for the native backend, and (-openfhe) for OpenFHE's as the reference. The native bootstrap takes fewer
# levels (no normalisation in EvalMod, one less in its series), so its primes can be larger and its output is finer.
_SETS = {
    s.name: s
    for s in (
        _native("1", 50, 2, (3, 3), 10),
        _native("2", 49, 3, (4, 4), 13),
        _native("3", 49, 3, (5, 4), 12),
        _native("4", 49, 2, (4, 4), 11),
        _openfhe("1-openfhe", 48, 45, 50, 2, (3, 3), 8),
        _openfhe("2-openfhe", 46, 43, 49, 3, (4, 4), 10),
        _openfhe("3-openfhe", 46, 43, 49, 3, (5, 4), 9),
        _openfhe("4-openfhe", 45, 42, 50, 2, (4, 4), 8),
        # Set 1 by another name: what a network of ReLUs that a user brings runs on.
        _native("relu", 50, 2, (3, 3), 10),
        # A level more: both PAFs of a residual block, of three levels each, in one bootstrap; or one of seven.
        _native("paf", 50, 2, (3, 3), 11),
        # Quadratics, all levels at once: short scales, two levels per prime. docs/performance.md has what was weighed.
        ParameterSet("quad", 16, 16384, 35, 25, 48, 2, 0, 0, levels=40, chain="composite"),
        ParameterSet("turbo", 15, 16384, 35, 25, 45, 3, 0, 0, levels=22, chain="composite"),
        _tiny("insecure-tiny", 49, 47, 50, 2, (2, 2), 9, above=2 + NATIVE_EVAL_MOD_LEVELS),
        _tiny("insecure-tiny-openfhe", 48, 45, 50, 2, (2, 2), 8, above=4 + OPENFHE_EVAL_MOD_LEVELS),
        _tiny("insecure-tiny-turbo", 35, 25, 45, 3, (0, 0), 10, chain="composite"),
    )
}


def parameter_sets(*, insecure: bool = False) -> tuple[ParameterSet, ...]:
    """The named sets in order; those for tests only when asked for."""
    return tuple(s for s in _SETS.values() if insecure or not s.insecure)


def parameter_set(name: str | int) -> ParameterSet:
    """The set of that name: 1, "1" and "set1" are the same.

    Raises:
        UnknownSetError: with the names there are.
    """
    key = str(name).removeprefix("set")
    if key not in _SETS:
        known = ", ".join(s.name for s in parameter_sets())
        raise UnknownSetError(f"no parameter set {name!r}; there are {known} (see `fheinfer sets`)")
    return _SETS[key]
