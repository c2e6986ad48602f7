"""Parameter sets: frozen, named, identified by a hash that every key and ciphertext carries."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from fheinfer.errors import UnknownSetError

if TYPE_CHECKING:
    from fheinfer import _core

MAX_LOG_QP = {15: 881, 16: 1747}
"""log2(QP) that 128 bits allow, by log2(N): HomomorphicEncryption.org tables, ternary secret, as in OpenFHE 1.4.2."""

CHAIN = 2
"""Version of how primes follow from sizes. 2: q_0 is fitted to what OpenFHE's bootstrap assumes (docs/precision.md)."""

OPENFHE_EVAL_MOD_DEPTH = 10
"""Levels of OpenFHE's EvalMod: one normalisation, six for its degree-32 series, three double angles."""
EVAL_MOD_DEPTH = 8
"""Levels of ours: five for a series of degree 30, three double angles."""


@dataclass(frozen=True)
class ParameterSet:
    """Everything that fixes the CKKS context, and the activation that goes with it.

    log_n         log2 of the ring dimension N
    slots         slots that carry data, a power of two up to N/2
    first_bits    size of q_0; log2(q_0 / scale) is the room EvalMod leaves around a message
    scale_bits    size of every other prime of Q, and of the scale
    special_bits  size of the special primes P of hybrid key switching
    digits        dnum of hybrid key switching
    cts_budget, stc_budget  levels of CoeffToSlot and SlotToCoeff; both 0 for a set without bootstraps
    levels        level of what a bootstrap returns, or of the chain where there is none; ours takes its SlotToCoeff out
                  of these, OpenFHE's does not
    activation    what stands for a ReLU (`fheinfer approx list`)
    network       what the set is made for, and evaluates unless told otherwise
    native        evaluated by our own kernels; otherwise by OpenFHE
    paired        a prime of twice scale_bits for every two levels: half the limbs, where there are no bootstraps
    insecure      a set for tests, below 128 bits and marked so wherever it appears
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
    activation: str
    network: str = "resnet20"
    native: bool = True
    insecure: bool = False
    paired: bool = False

    @property
    def bootstraps(self) -> bool:
        """Whether it can."""
        return self.cts_budget > 0

    @property
    def bootstrap_depth(self) -> int:
        """Levels a bootstrap consumes above the level it returns."""
        if not self.bootstraps:
            return 0
        if self.native:
            return self.cts_budget + EVAL_MOD_DEPTH
        return self.cts_budget + self.stc_budget + OPENFHE_EVAL_MOD_DEPTH

    @property
    def bootstrap_input(self) -> int:
        """Lowest level a bootstrap takes its input at: SlotToCoeff comes first in ours; OpenFHE adjusts the scale."""
        return self.stc_budget if self.native else 1

    @property
    def top_level(self) -> int:
        """Multiplicative depth of the modulus chain."""
        return self.levels + self.bootstrap_depth

    @property
    def identity(self) -> bytes:
        """32 bytes over every field that changes a key or a ciphertext (not the name), and the version of the chain."""
        fields = {k: v for k, v in asdict(self).items() if k not in ("name", "activation", "network")}
        return hashlib.sha256(json.dumps(fields | {"chain": CHAIN}, sort_keys=True).encode()).digest()

    def core(self) -> _core.ParameterSet:
        """The same set for the C++ core."""
        from fheinfer import _core

        return _core.ParameterSet(
            log_n=self.log_n,
            slots=self.slots,
            first_bits=self.first_bits,
            scale_bits=self.scale_bits,
            special_bits=self.special_bits,
            digits=self.digits,
            cts_budget=self.cts_budget,
            stc_budget=self.stc_budget,
            top_level=self.top_level,
            native=self.native,
            allow_insecure=self.insecure,
            paired=self.paired,
        )

    def level_model(self) -> _core.LevelModel:
        """Levels for evaluators that work without a context (slots, trace)."""
        from fheinfer import _core

        return _core.LevelModel(
            top=self.top_level,
            after_bootstrap=self.levels if self.bootstraps else 0,
            bootstrap_min=self.bootstrap_input,
            openfhe_series=not self.native,
            paired=self.paired,
        )

    @property
    def reach(self) -> float:
        """How large slots may get: 1 where bootstraps want them so, else what q_0 has room for even squared.

        Noise does not grow with the values: every bit of reach is one of precision.
        """
        return 1.0 if self.bootstraps else 2.0 ** max(0, (self.first_bits - 1 - self.scale_bits) // 2)

    @property
    def two_pictures(self) -> bool:
        """Whether one evaluation serves two, in real and imaginary parts; bootstraps keep real parts only."""
        return self.native and not self.bootstraps

    def limbs(self, level: int) -> int:
        """Limbs of a ciphertext at a level."""
        return self.level_model().limbs(level)

    def encrypts_at(self, level: int) -> bool:
        """Whether a client can: odd levels of a paired chain have a limb that OpenFHE does not know."""
        return not (self.paired and level % 2)


# Sets 1 to 4 keep the ReLU degree, digits, bootstrapping budgets, N and slots of Rovida & Leporati's four sets
# (ePrint 2024/460), whose modulus chains are above today's 128-bit bound. The chain is re-cut, with every prime below
# 2^50 and log2(QP) at most 1747: for our own evaluation, and for OpenFHE's as the reference. Ours has fewer levels (no
# normalisation in EvalMod, one less in its series), so its primes can be larger and its bootstraps are finer.
_SETS = {
    s.name: s
    for s in (
        ParameterSet("1", 16, 16384, 49, 47, 50, 2, 3, 3, levels=10, activation="relu:59"),
        ParameterSet("2", 16, 16384, 49, 47, 49, 3, 4, 4, levels=13, activation="relu:200"),
        ParameterSet("3", 16, 16384, 49, 47, 49, 3, 5, 4, levels=12, activation="relu:119"),
        ParameterSet("4", 16, 16384, 49, 47, 49, 2, 4, 4, levels=11, activation="relu:59"),
        ParameterSet("1-openfhe", 16, 16384, 48, 45, 50, 2, 3, 3, levels=8, activation="relu:59", native=False),
        ParameterSet("2-openfhe", 16, 16384, 46, 43, 49, 3, 4, 4, levels=10, activation="relu:200", native=False),
        ParameterSet("3-openfhe", 16, 16384, 46, 43, 49, 3, 5, 4, levels=9, activation="relu:119", native=False),
        ParameterSet("4-openfhe", 16, 16384, 45, 42, 50, 2, 4, 4, levels=8, activation="relu:59", native=False),
        # What a network of ReLUs that a user brings runs on: set 1, whose activation is what `fheinfer search` finds.
        ParameterSet("relu", 16, 16384, 49, 47, 50, 2, 3, 3, levels=10, activation="relu:59"),
        # A level more: both PAFs of a residual block, of three levels each, in one bootstrap; or one of seven.
        ParameterSet(
            *("paf", 16, 16384, 49, 47, 50, 2, 3, 3),
            levels=11,
            activation="relu:119",
            network="resnet20+f1",
        ),
        # Quadratics, all levels at once: short scales, two levels a prime. docs/performance.md has what was weighed.
        ParameterSet(
            *("quad", 16, 16384, 35, 25, 48, 2, 0, 0),
            levels=40,
            activation="relu:3",
            network="resnet20-herpn",
            paired=True,
        ),
        ParameterSet(
            *("turbo", 15, 16384, 35, 25, 45, 3, 0, 0),
            levels=22,
            activation="relu:3",
            network="resnet20-turbo",
            paired=True,
        ),
        ParameterSet(
            *("insecure-tiny-turbo", 11, 512, 35, 25, 45, 3, 0, 0),
            levels=10,
            activation="relu:3",
            network="resnet8-tiny-turbo",
            insecure=True,
            paired=True,
        ),
        ParameterSet("insecure-tiny", 11, 512, 49, 47, 50, 2, 2, 2, levels=9, activation="relu:59", insecure=True),
        ParameterSet(
            *("insecure-tiny-openfhe", 11, 512, 48, 45, 50, 2, 2, 2),
            levels=8,
            activation="relu:59",
            native=False,
            insecure=True,
        ),
    )
}


def parameter_sets(*, insecure: bool = False) -> tuple[ParameterSet, ...]:
    """The sets by number; those for tests only when asked for."""
    return tuple(s for s in _SETS.values() if insecure or not s.insecure)


def parameter_set(name: str | int) -> ParameterSet:
    """The set of that name: 1, "1" and "set1" are the same; "1+minimax:7" is set 1 with that activation.

    Raises:
        UnknownSetError: with the names there are.
    """
    key, plus, activation = str(name).removeprefix("set").partition("+")
    if key in _SETS and activation:
        return replace(_SETS[key], name=f"{key}+{activation}", activation=activation)
    if key not in _SETS or plus:
        known = ", ".join(s.name for s in parameter_sets())
        raise UnknownSetError(f"no parameter set {name!r}; there are {known} (see `fheinfer sets`)")
    return _SETS[key]


def ciphertext_bound(params: ParameterSet) -> int:
    """Bytes of the largest ciphertext payload of a set."""
    return ciphertext_bytes(params, params.top_level)


def ciphertext_bytes(params: ParameterSet, level: int) -> int:
    """Bytes of a ciphertext payload at a level, at most: two polynomials, and their counts."""
    return 2 * params.limbs(level) * (1 << params.log_n) * 8 + 64
