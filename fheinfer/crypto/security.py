"""What the security of a parameter set rests on: bounds that are enforced, and estimates by the lattice estimator.

The bound on log2(QP) is that of the HomomorphicEncryption.org tables for 128 bits, a classical attacker and a ternary
secret, as in OpenFHE 1.4.2 (HEStd_128_classic); csrc/crypto/context.cpp refuses a chain above it. The main secret is
dense ternary, errors have a standard deviation of 3.19. Bootstrapping switches to an ephemeral secret of weight 32 only
modulo q_0 and one special prime (ePrint 2022/024), where a closed form gives about 170 bits; hybrid attacks on it were
not estimated.
"""

from __future__ import annotations

MAX_LOG_QP = {15: 881, 16: 1747}
"""log2(QP) that 128 bits allow, by log2(N)."""

USVP_BITS = {
    "1": 141.8,
    "2": 134.6,
    "3": 134.6,
    "4": 130.4,
    "relu": 141.8,
    "paf": 133.2,
    "quad": 137.1,
    "turbo": 133.3,
}
"""Estimated cost of the primal (uSVP) attack in bits, by set, under the MATZOV cost model of the lattice estimator
(ePrint 2015/046). The -openfhe sets have 128.8 to 132.6. Under core-SVP the same attack takes 95 to 108 bits: that
model leaves out all polynomial factors, and the tables are not made with it."""
OPENFHE_USVP_BITS = (128.8, 132.6)
"""Least and most over the -openfhe sets."""


def estimate(name: str) -> str:
    """The estimate for a named set in words, or "-" where none was made."""
    if name in USVP_BITS:
        return f"{USVP_BITS[name]:.1f}"
    return "{} to {}".format(*OPENFHE_USVP_BITS) if name.endswith("-openfhe") and "insecure" not in name else "-"
