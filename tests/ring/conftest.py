"""What the tests of the ring arithmetic share: every instruction set that this processor has, and primes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fheinfer._testing import ring

U64 = NDArray[np.uint64]


@pytest.fixture(scope="session")
def every_instruction_set() -> Callable[[Callable[[], U64]], U64]:
    """Calls a function under every instruction set, and returns what it gives under all of them."""

    def call(function: Callable[[], U64]) -> U64:
        before, results = ring.instruction_set(), {}
        try:
            for name in ring.instruction_sets():
                ring.set_instruction_set(name)
                results[name] = function()
        finally:
            ring.set_instruction_set(before)
        for name, result in results.items():
            np.testing.assert_array_equal(result, results["portable"], name)
        return results["portable"]

    return call


def _is_prime(p: int) -> bool:
    """Miller and Rabin's test with the bases that decide for every number below 2^64."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if p in bases:
        return True
    odd = (p - 1) // ((p - 1) & -(p - 1))
    for base in bases:
        power, exponent = pow(base, odd, p), odd
        while power not in (1, p - 1) and exponent < (p - 1) // 2:
            power, exponent = power * power % p, exponent * 2
        if power != p - 1 and not (power == 1 and exponent == odd):
            return False
    return True


@cache
def _primes(bits: int, n: int, count: int) -> tuple[int, ...]:
    found: list[int] = []
    p = (1 << bits) // (2 * n) * (2 * n) + 1
    while len(found) < count:
        p -= 2 * n
        assert p > 1
        if _is_prime(p):
            found.append(p)
    return tuple(found)


@pytest.fixture(scope="session")
def primes() -> Callable[[int, int, int], tuple[int, ...]]:
    """The `count` greatest primes below 2^bits that have a 2n-th root of unity: primes(bits, n, count)."""
    return _primes


def _residues(seed: int, bound: int, shape: int | tuple[int, ...]) -> U64:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, bound, shape, dtype=np.uint64)
    kind = rng.integers(0, 4)
    if kind == 0:
        x[...] = bound - 1
    if kind == 1:
        x[rng.random(x.shape) < 0.5] = 0
        x[rng.random(x.shape) < 0.5] = bound - 1
    return x


@pytest.fixture(scope="session")
def residues() -> Callable[[int, int, int | tuple[int, ...]], U64]:
    """Numbers below a bound, for one seed in two the extreme ones: residues(seed, bound, shape)."""
    return _residues
