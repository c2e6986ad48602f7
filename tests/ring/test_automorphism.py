"""Automorphisms, against their definition on coefficients and against OpenFHE's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer._testing import ring

U64 = NDArray[np.uint64]
EveryInstructionSet = Callable[[Callable[[], U64]], U64]
Primes = Callable[[int, int, int], tuple[int, ...]]
Residues = Callable[[int, int, int], U64]


@given(log_n=st.integers(4, 10), k=st.integers(0), seed=st.integers(0, 2**32))
def test_x_to_the_k(
    log_n: int, k: int, seed: int, every_instruction_set: EveryInstructionSet, primes: Primes, residues: Residues
) -> None:
    n = 1 << log_n
    k = k % n * 2 + 1
    (p,) = primes(50, 1 << 10, 1)
    x = residues(seed, p, n)
    ntt = ring.Ntt(n, p, next(r for g in range(2, 99) if pow(r := pow(g, (p - 1) // (2 * n), p), n, p) == p - 1))
    expected = [0] * n
    for i, value in enumerate(x.tolist()):
        power = i * k % (2 * n)
        expected[power % n] = value if power < n else -value % p
    values = ntt.forward(x)
    moved = every_instruction_set(lambda: ring.automorphism(values, k))
    assert ntt.inverse(moved).tolist() == expected


@pytest.mark.parametrize("log_n", [11, 16])
def test_as_openfhe(log_n: int, every_instruction_set: EveryInstructionSet, primes: Primes, residues: Residues) -> None:
    n = 1 << log_n
    (p,) = primes(50, n, 1)
    x = residues(3, p, n)
    for k in (ring.rotation_exponent(n, 1), ring.rotation_exponent(n, -7), 2 * n - 1):
        limb = ring.OpenFheLimb(n, p, x, True)
        limb.automorphism(k)
        np.testing.assert_array_equal(every_instruction_set(partial(ring.automorphism, x, k)), limb.values())


def test_rotations_compose() -> None:
    n = 1 << 12
    for k in (0, 1, 5, -1, -1000, n // 2, 3 * n):
        assert ring.rotation_exponent(n, k) == pow(5, k % (n // 2), 2 * n)
        assert ring.rotation_exponent(n, k) * ring.rotation_exponent(n, -k) % (2 * n) == 1
