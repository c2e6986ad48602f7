"""The transform: against its definition, against OpenFHE's, and alike in every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer._testing import ring
from fheinfer.errors import PlanError

U64 = NDArray[np.uint64]
EveryInstructionSet = Callable[[Callable[[], U64]], U64]
Primes = Callable[[int, int, int], tuple[int, ...]]
Residues = Callable[[int, int, int], U64]


def root(n: int, p: int) -> int:
    """A primitive 2n-th root of unity."""
    return next(r for g in range(2, p) if pow(r := pow(g, (p - 1) // (2 * n), p), n, p) == p - 1)


def reverse_bits(i: int, bits: int) -> int:
    return int(f"{i:0{bits}b}"[::-1], 2)


@pytest.mark.parametrize("bits", [50, 49, 45, 20])
@pytest.mark.parametrize("log_n", [4, 5, 6, 7, 8])
def test_position_i_holds_the_value_at_an_odd_power(
    log_n: int,
    bits: int,
    every_instruction_set: EveryInstructionSet,
    primes: Primes,
    residues: Residues,
) -> None:
    n = 1 << log_n
    (p,) = primes(bits, n, 1)
    psi = root(n, p)
    ntt = ring.Ntt(n, p, psi)
    x = residues(log_n, p, n)
    expected = []
    for i in range(n):
        at, value = pow(psi, 2 * reverse_bits(i, log_n) + 1, p), 0
        for coefficient in reversed(x.tolist()):
            value = (value * at + coefficient) % p
        expected.append(value)
    got = every_instruction_set(lambda: ntt.forward(x))
    assert got.tolist() == expected
    np.testing.assert_array_equal(every_instruction_set(lambda: ntt.inverse(got)), x)


@given(log_n=st.integers(4, 13), bits=st.integers(18, 50), which=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_every_instruction_set_gives_the_same_and_back(
    log_n: int,
    bits: int,
    which: int,
    seed: int,
    every_instruction_set: EveryInstructionSet,
    primes: Primes,
    residues: Residues,
) -> None:
    n = 1 << log_n
    p = primes(bits, n, 1)[0] if bits < 25 else primes(bits, n, which + 1)[which]
    ntt = ring.Ntt(n, p, root(n, p))
    x = residues(seed, p, n)
    values = every_instruction_set(lambda: ntt.forward(x))
    assert values.max() < p
    np.testing.assert_array_equal(every_instruction_set(lambda: ntt.inverse(values)), x)
    np.testing.assert_array_equal(
        every_instruction_set(lambda: ntt.forward(every_instruction_set(lambda: ntt.inverse(x)))), x
    )


@pytest.mark.parametrize("log_n", [11, 12, 13, 14, 15, 16])
def test_as_openfhe(log_n: int, every_instruction_set: EveryInstructionSet, primes: Primes, residues: Residues) -> None:
    n = 1 << log_n
    for seed, bits in enumerate((50, 49, 45)):
        p = primes(bits, n, 2)[1]
        x = residues(seed, p, n)
        limb = ring.OpenFheLimb(n, p, x, False)
        ntt = ring.Ntt(n, p, limb.psi)
        limb.transform()
        expected = limb.values()
        np.testing.assert_array_equal(every_instruction_set(partial(ntt.forward, x)), expected)
        np.testing.assert_array_equal(every_instruction_set(partial(ntt.inverse, expected)), x)


def test_refuses_what_is_no_root(primes: Primes) -> None:
    (p,) = primes(50, 64, 1)
    for n, psi in ((64, 1), (64, 2), (48, root(64, p)), (8, root(8, p)), (32, root(64, p))):
        with pytest.raises(PlanError):
            ring.Ntt(n, p, psi)
