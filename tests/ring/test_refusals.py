"""What the testing module is given is checked: a mistake in a test must not end the process.

It shares the types and the instruction set of `_core`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fheinfer import _core
from fheinfer._testing import ckks, ring
from fheinfer.errors import UsageError

P, N = 0x3FFFFFFD20001, 16
X = np.arange(N, dtype=np.uint64)
M = np.ones((2, N), np.uint64)
BAD_MODULI = [0, 1, 2, 4, 1 << 50, (1 << 50) + 1, (1 << 64) - 1]

OF_A_MODULUS: dict[str, Callable[[int], Any]] = {
    "add": lambda p: ring.add(X, X, p),
    "subtract": lambda p: ring.subtract(X, X, p),
    "multiply": lambda p: ring.multiply(X, X, p),
    "multiply_by": lambda p: ring.multiply_by(X, 0, p),
    "subtract_multiply": lambda p: ring.subtract_multiply(X, X, 0, p),
    "switch to": lambda p: ring.switch_modulus(X, P, p),
    "switch from": lambda p: ring.switch_modulus(X, p, P),
    "lift": lambda p: ring.lift(X, p),
    "sum_of_products": lambda p: ring.sum_of_products(M, M, 1, p, None),
    "linear_combinations": lambda p: ring.linear_combinations(M, [[1, 1]], [p], None),
    "Ntt": lambda p: ring.Ntt(N, p, 3),
    "OpenFheLimb": lambda p: ring.OpenFheLimb(N, p, X, False),
    "uniform": lambda p: ckks.uniform(N, p, bytes(32), 0, 0),
    "ntt_ms": lambda p: _core.ntt_ms(N, p, 1),
    "openfhe_ntt_ms": lambda p: _core.openfhe_ntt_ms(N, p, 1),
    "conversion_ms": lambda p: _core.conversion_ms(N, p, 1),
}


@pytest.mark.parametrize("name", OF_A_MODULUS)
@pytest.mark.parametrize("p", BAD_MODULI)
def test_a_modulus_that_none_can_reckon_with_is_refused(name: str, p: int) -> None:
    with pytest.raises(UsageError):
        OF_A_MODULUS[name](p)


BAD_SHAPES: dict[str, Callable[[], Any]] = {
    "not a multiple of 16": lambda: ring.add(X[:5], X[:5], P),
    "of two sizes": lambda: ring.add(X, np.arange(32), P),
    "a repeat of 0": lambda: ring.sum_of_products(M, M, 0, P, None),
    "no matrix": lambda: ring.sum_of_products(X, X, 1, P, None),
    "a number": lambda: ring.linear_combinations(np.uint64(1), M, [P], None),
    "a factor above its modulus": lambda: ring.multiply_by(X, P, P),
    "no power of two": lambda: ring.automorphism(np.arange(48), 5),
    "an even automorphism": lambda: ring.automorphism(X, 4),
    "a shift of 64": lambda: ring.rounded_quotient(M, [1, 1], 64),
    "a short limb": lambda: ring.OpenFheLimb(N, P, X[:4], False),
    "a transform of 12": lambda: _core.ntt_ms(12, P, 1),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_operands_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        BAD_SHAPES[name]()


def test_parts_of_the_evaluation_know_the_size_of_a_chain() -> None:
    context = _core.Context(_core.ParameterSet(6, 8, 48, 45, 50, 2, 0, 0, 3, native=True, allow_insecure=True))
    whole, specials = np.zeros((4, 64), np.uint64), len(context.p)
    assert len(ckks.mod_up(context, whole, specials)) == 2
    for bad in (
        lambda: ckks.mod_up(context, whole, specials + 1),
        lambda: ckks.mod_up(context, np.zeros((5, 64)), 1),
        lambda: ckks.mod_up(context, np.zeros(64), 1),
        lambda: ckks.primes(context, 4),
        lambda: ckks.primes(context, -1),
        lambda: ckks.divide(context, whole, 9, 0, True),
        lambda: ckks.divide(context, np.zeros((4 + specials + 1, 64)), 3, 3, True),
        lambda: ckks.switch_key(context, whole, np.zeros((2, 5, 64)), np.zeros((2, 5, 64)), 9, 1, True),
        lambda: ckks.chacha20_block(b"short", 0, [0, 0, 0]),
    ):
        with pytest.raises(UsageError):
            bad()


def test_both_modules_use_one_instruction_set() -> None:
    before = ring.instruction_set()
    try:
        for name in ring.instruction_sets():
            ring.set_instruction_set(name)
            assert ring.instruction_set() == _core.instruction_set() == name
        with pytest.raises(UsageError, match="mmx"):
            ring.set_instruction_set("mmx")
    finally:
        ring.set_instruction_set(before)
