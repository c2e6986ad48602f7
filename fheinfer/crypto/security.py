"""What the security of a parameter set rests on: bounds that are enforced, and estimates.

The bound on log2(QP) is that of the HomomorphicEncryption.org tables for 128 bits, a classical attacker and a ternary
secret, as in OpenFHE 1.4.2 (HEStd_128_classic); csrc/crypto/context.cpp refuses a chain above it. The main secret is
dense ternary, errors have a standard deviation of 3.19. Bootstrapping switches to an ephemeral secret of weight 32 only
modulo q_0 and one special prime (ePrint 2022/024), where a closed form gives about 170 bits; hybrid attacks on it were
not estimated.

Those tables were made with another cost model: at their bounds the primal attack costs 125.6 to 126.2 bits under MATZOV
for N = 2^12 to 2^15. Generated sets (crypto/generated.py) keep both, the table and 128 bits by `primal_attack_bits`.
"""

from __future__ import annotations

import math
from functools import lru_cache

MAX_LOG_QP = {12: 109, 13: 218, 14: 438, 15: 881, 16: 1747}
"""log2(QP) that 128 bits allow, by log2(N)."""
ERROR_DEVIATION = 3.19
"""Standard deviation of the errors of encryption and of keys."""
REQUIRED_BITS = 128.2
"""`primal_attack_bits` of a generated set: 128, and a little for what the formula leaves out."""

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

_SIEVE = (0.29613500308205365, 20.387885985467914)
"""log2 of the gates of a sieve in dimension b is the first times b plus the second (MATZOV, list decoding)."""
_CALLS = 5.46
"""Calls of a sieve for each block of the basis."""


@lru_cache(maxsize=4096)
def primal_attack_bits(log_n: int, log_qp: int) -> float:
    """Estimates log2 of the gates of the primal (uSVP) attack on a dense ternary secret.

    The success condition of Alkim et al. (ePrint 2015/1092, section 6.3) with the secret scaled to the errors, the
    dimension that is best for the attacker, free dimensions, and the MATZOV cost of a sieve: what the lattice estimator
    does. For the sets in USVP_BITS it agrees with the estimator to 0.15 bits.

    Args:
        log_n: log2 of the ring dimension.
        log_qp: log2 of the largest modulus under the secret.
    """
    n = 1 << log_n
    low, high = 60, n
    while high - low > 1:
        block = (low + high) // 2
        low, high = (low, block) if _succeeds(block, n, log_qp)[0] else (block, high)
    dimension = _succeeds(high, n, log_qp)[1]
    free = max(0.0, high * math.log(4 / 3) / math.log(high / (2 * math.pi * math.e)))
    slope, constant = _SIEVE
    calls = _CALLS * max(dimension - high, 1) / (1 - 2**-slope)
    return math.log2(calls) + slope * (high - free) + constant


def _succeeds(block: int, n: int, log_q: int) -> tuple[bool, float]:
    """Whether BKZ of that block size finds the secret, in the dimension that is best for it."""
    root = ((math.pi * block) ** (1 / block) * block / (2 * math.pi * math.e)) ** (1 / (2 * (block - 1)))
    slope, scaling = math.log2(root), math.log2(ERROR_DEVIATION / math.sqrt(2 / 3))
    dimension = math.sqrt(((n + 1) * log_q - n * scaling) / slope)
    samples = min(max(dimension, block) - n - 1, 2 * n)
    dimension = samples + n + 1
    shortest = (2 * block - dimension - 1) * slope + (samples * log_q + n * scaling) / dimension
    return math.log2(math.sqrt(block) * ERROR_DEVIATION) <= shortest, dimension


def estimate(name: str) -> str:
    """The estimate for a named set in words, or "-" where none was made."""
    if name in USVP_BITS:
        return f"{USVP_BITS[name]:.1f}"
    return "{} to {}".format(*OPENFHE_USVP_BITS) if name.endswith("-openfhe") and "insecure" not in name else "-"
