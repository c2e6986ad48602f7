"""Element-wise arithmetic, against Python's integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer._testing import ring

U64 = NDArray[np.uint64]
EveryInstructionSet = Callable[[Callable[[], U64]], U64]
Residues = Callable[[int, int, int], U64]

PRIMES = st.sampled_from([2**50 - 27, 2**49 - 81, 2**45 - 55, 65537, 17])
SEEDS = st.integers(0, 2**32)
SIZES = st.sampled_from([16, 32, 48, 80])


@given(p=PRIMES, n=SIZES, factor=st.integers(0), seed=SEEDS)
def test_arithmetic(
    p: int, n: int, factor: int, seed: int, every_instruction_set: EveryInstructionSet, residues: Residues
) -> None:
    x, y, any_residue = residues(seed, p, n), residues(seed + 1, p, n), residues(seed + 2, 2**50, n)
    factor %= p
    a, b, c = x.astype(object), y.astype(object), any_residue.astype(object)
    assert every_instruction_set(lambda: ring.add(x, y, p)).tolist() == ((a + b) % p).tolist()
    assert every_instruction_set(lambda: ring.subtract(x, y, p)).tolist() == ((a - b) % p).tolist()
    assert every_instruction_set(lambda: ring.multiply(x, y, p)).tolist() == (a * b % p).tolist()
    assert every_instruction_set(lambda: ring.multiply_by(any_residue, factor, p)).tolist() == (c * factor % p).tolist()
    got = every_instruction_set(lambda: ring.subtract_multiply(x, y, factor, p))
    assert got.tolist() == ((a - b) * factor % p).tolist()


@given(p=PRIMES, modulus=PRIMES, n=SIZES, seed=SEEDS)
def test_switch_modulus(
    p: int, modulus: int, n: int, seed: int, every_instruction_set: EveryInstructionSet, residues: Residues
) -> None:
    x = residues(seed, modulus, n)
    x[:2] = modulus // 2, modulus // 2 + 1  # the last that is positive, the first that is not
    expected = [(v if v <= modulus // 2 else v - modulus) % p for v in x.tolist()]
    assert every_instruction_set(lambda: ring.switch_modulus(x, modulus, p)).tolist() == expected


@given(p=PRIMES, x=st.lists(st.integers(-(2**62) + 1, 2**62 - 1), min_size=16, max_size=16))
def test_lift(p: int, x: list[int], every_instruction_set: EveryInstructionSet) -> None:
    x[:4] = 0, p, -p, 1 - 2**62
    assert every_instruction_set(lambda: ring.lift(np.array(x, np.int64), p)).tolist() == [v % p for v in x]
