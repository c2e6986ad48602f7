"""Sums of products, against Python's integers: above all, that nothing overflows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer._testing import ring

U64 = NDArray[np.uint64]
EveryInstructionSet = Callable[[Callable[[], U64]], U64]
Residues = Callable[[int, int, int | tuple[int, ...]], U64]

PRIMES = [2**50 - 27, 2**49 - 81, 2**45 - 55, 65537, 17]


def integers(x: U64) -> NDArray[np.object_]:
    return x.astype(object)


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("terms", [1, 2, 3, 15, 16, 63, 2048])
def test_the_greatest_operands_do_not_overflow(terms: int, p: int, every_instruction_set: EveryInstructionSet) -> None:
    xs = np.full((terms, 16), 2**50 - 1, np.uint64)
    ys = np.full((terms, 16), p - 1, np.uint64)
    start = np.full(16, p - 1, np.uint64)
    expected = (terms * (2**50 - 1) * (p - 1) + p - 1) % p
    assert set(every_instruction_set(lambda: ring.sum_of_products(xs, ys, 1, p, start)).tolist()) == {expected}
    combined = every_instruction_set(lambda: ring.linear_combinations(xs, ys[:, :1].T, [p], start[None]))
    assert set(combined.ravel().tolist()) == {expected}


@given(
    p=st.sampled_from(PRIMES),
    terms=st.integers(1, 40),
    repeat=st.sampled_from([1, 2, 4, 8, 16]),
    blocks=st.integers(1, 6),
    accumulate=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_sum_of_products(
    p: int,
    terms: int,
    repeat: int,
    blocks: int,
    accumulate: bool,
    seed: int,
    every_instruction_set: EveryInstructionSet,
    residues: Residues,
) -> None:
    n = 16 * blocks
    xs, ys = residues(seed, p, (terms, n)), residues(seed + 1, p, (terms, n // repeat))
    start = residues(seed + 2, p, n) if accumulate else None
    got = every_instruction_set(lambda: ring.sum_of_products(xs, ys, repeat, p, start))
    expected = (integers(xs) * integers(np.repeat(ys, repeat, axis=1))).sum(axis=0)
    expected = (expected + (0 if start is None else integers(start))) % p
    assert got.tolist() == expected.tolist()


@given(
    primes=st.lists(st.sampled_from(PRIMES), min_size=1, max_size=4),
    terms=st.integers(1, 20),
    blocks=st.sampled_from([1, 2, 3, 16, 17, 33]),
    accumulate=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_linear_combinations(
    primes: list[int],
    terms: int,
    blocks: int,
    accumulate: bool,
    seed: int,
    every_instruction_set: EveryInstructionSet,
    residues: Residues,
) -> None:
    n = 16 * blocks
    xs = residues(seed, 2**50, (terms, n))
    cs = np.stack([residues(seed + k, p, terms) for k, p in enumerate(primes)])
    start = np.stack([residues(seed - k, p, n) for k, p in enumerate(primes, 1 - len(primes))]) if accumulate else None
    got = every_instruction_set(lambda: ring.linear_combinations(xs, cs, primes, start))
    expected = integers(cs) @ integers(xs) + (0 if start is None else integers(start))
    for row, sums, p in zip(got, expected, primes, strict=True):
        assert row.tolist() == (sums % p).tolist()


@given(terms=st.integers(1, 40), bits=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_rounded_quotient(
    terms: int, bits: int, seed: int, every_instruction_set: EveryInstructionSet, residues: Residues
) -> None:
    ys, fractions = residues(seed, 2**50, (terms, 48)), residues(seed + 1, 2**52, terms).tolist()
    got = every_instruction_set(lambda: ring.rounded_quotient(ys, fractions, bits))
    sums = integers(np.zeros(48, np.uint64))
    for y, fraction in zip(ys, fractions, strict=True):
        sums += integers(y) * fraction // 2**52
    assert got.tolist() == ((sums + 2 ** (bits - 1)) // 2**bits).tolist()
