"""A prime for every two levels: half the limbs, with a sprout prime in the odd levels (csrc/ckks/chain.h)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fheinfer import _core
from fheinfer._testing import ckks
from fheinfer.crypto.backends import backend
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import BackendError, PlanError, UsageError
from fheinfer.evaluation.metrics import precision_bits
from tests.crypto.test_native_key_switch import Ring, centred, compose, made

Rigs = Callable[[str], Any]
SLOTS = 256
TOP = 22
FRESH, WORK = 15.5, 12.0
"""Bits that a fresh encryption and an operation keep at a scale of 25 bits on this ring."""
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
levels = st.integers(0, TOP)


@pytest.fixture
def r(native_rig: Rigs) -> Any:
    return native_rig("turbo")


def values(seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, SLOTS)


def at(r: Any, x: Any, level: int) -> Any:
    """Encrypted above, and brought there."""
    return r.evaluator.drop_to(r.encrypt(x, level + level % 2), level)


def check(r: Any, y: Any, expected: Any, *, level: int, bits: float = WORK) -> None:
    assert r.evaluator.level(y) == level
    assert precision_bits(expected, r.decrypt(y)).minimum > bits


def test_two_levels_share_a_prime(r: Any) -> None:
    primes = [ckks.primes(r.context, level) for level in range(TOP + 1)]
    sprout = primes[1][0]
    for level, have in enumerate(primes):
        assert len(have) == r.params.limbs(level)
        assert have == ([sprout] if level % 2 else []) + r.context.q[: level // 2 + 1]
    assert abs(np.log2(sprout) - 25) < 0.1
    assert all(abs(np.log2(p) - 50) < 0.1 and p < 2**50 for p in r.context.q[1:])


def test_the_scale_comes_back_every_two_levels(r: Any) -> None:
    """By p / r and by r, from the top: what is left of the squares of the deviations stays small."""
    sprout, scale = ckks.primes(r.context, 1)[0], 2.0**25
    for p in r.context.q[:0:-1]:
        scale = scale**4 * sprout / p**2
        assert abs(scale / 2**25 - 1) < 1e-6


def test_encryption_is_at_even_levels(r: Any) -> None:
    for level in range(TOP + 1):
        if level % 2:
            with pytest.raises(UsageError, match="even levels"):
                r.encrypt(values(0), level)
        else:
            check(r, r.encrypt(values(0), level), values(0), level=level, bits=FRESH)


@pytest.mark.parametrize("shape", [(11, 2, 10), (11, 3, 22)], ids=str)
@settings(max_examples=15)
@given(data=st.data())
def test_division_rounds_to_the_nearest_integer(shape: tuple[int, int, int], data: st.DataObject) -> None:
    """Even to odd by p / r: r x / p, modulo r too; odd to even by r; two levels by p; with special primes too."""
    r = composite(*shape)
    level = data.draw(st.integers(1, shape[2]), "level")
    to = data.draw(st.integers(max(0, level - 2), level), "to")
    specials = data.draw(st.integers(0 if to < level else 1, len(r.context.p)), "specials")
    primes, kept = [*ckks.primes(r.context, level), *r.context.p[:specials]], ckks.primes(r.context, to)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x = np.array([rng.integers(0, p, r.n, dtype=np.uint64) for p in primes])
    raised = ckks.primes(r.context, 1)[0] if to % 2 and not level % 2 else 1
    divisor = int(np.prod([p for p in primes if p not in kept], dtype=object))
    value = compose(r.coefficients(x, primes), primes) * raised
    exact = (value - centred(value, divisor)) // divisor
    ours = r.coefficients(ckks.divide(r.context, x, level, to, True), kept)
    for row, p in zip(ours, kept, strict=True):
        np.testing.assert_array_equal(row, (exact % p).astype(np.uint64))


def composite(log_n: int, digits: int, top_level: int) -> Ring:
    params = _core.ParameterSet(
        log_n, 64, 31, 25, 45, digits, 0, 0, top_level, native=True, allow_insecure=True, composite=True
    )
    context = _core.Context(params)
    return Ring(context, made(log_n, digits, 9).keys, 1 << log_n)


@fixtures
@given(levels, levels, st.integers(0, 99))
def test_sums_and_products_of_all_levels(r: Any, a: int, b: int, seed: int) -> None:
    x, y, low = values(seed), values(seed + 100), min(a, b)
    check(r, r.evaluator.add(at(r, x, a), at(r, y, b)), x + y, level=low)
    check(r, r.evaluator.add_plain(at(r, x, a), y), x + y, level=a)
    if low:
        check(r, r.evaluator.multiply(at(r, x, a), at(r, y, b)), x * y, level=low - 1)
        check(r, r.evaluator.multiply_plain(at(r, x, low), y), x * y, level=low - 1)


@fixtures
@given(levels, levels)
def test_drop_to_keeps_the_message(r: Any, a: int, b: int) -> None:
    low, high = sorted((a, b))
    check(r, r.evaluator.drop_to(at(r, values(0), high), low), values(0), level=low)


def test_rotations_at_every_level(r: Any) -> None:
    for level in range(TOP + 1):
        for k in (0, 3, 250, 5 - 1024):
            check(r, r.evaluator.rotate(at(r, values(0), level), k), np.roll(values(0), -k), level=level)


def test_all_levels_one_after_another(r: Any) -> None:
    """x, 1, x, 1, ... by products with 1/x and x: an error of the scales would grow from level to level."""
    x = np.sign(values(3)) * np.random.default_rng(4).uniform(0.9, 1.1, SLOTS)
    y = r.encrypt(x, TOP)
    for level in range(TOP, 0, -1):
        other, wanted = (x, x) if level % 2 else (1 / x, np.ones(SLOTS))
        y = r.evaluator.multiply(y, r.evaluator.drop_to(r.encrypt(other, TOP), level))
        check(r, y, wanted, level=level - 1, bits=9)


@pytest.mark.parametrize("degree", [2, 3, 7, 15, 27, 59])
def test_a_series_ends_where_its_depth_says(r: Any, degree: int) -> None:
    coefficients = np.random.default_rng(degree).uniform(-1, 1, degree + 1) / (degree + 1)
    depth = r.context.levels.chebyshev_depth(degree)
    for level in (depth, depth + 1, TOP):
        y = r.evaluator.chebyshev(at(r, values(1), level), list(coefficients))
        check(r, y, chebyshev.chebval(values(1), coefficients), level=level - depth, bits=8)
    with pytest.raises(BackendError, match="no level left"):
        r.evaluator.chebyshev(at(r, values(1), depth - 1), list(coefficients))


@pytest.mark.parametrize("name", ["turbo", "quad", "insecure-tiny-turbo"])
def test_special_primes_cover_the_digit_with_the_half_prime(name: str) -> None:
    """Where they did not, a conjugation at an odd level of quad left noise larger than the values."""
    params = parameter_set(name)
    context = backend("native").context(params)
    size = ckks.per_digit(context)
    first = sum(np.log2(p) for p in [*ckks.primes(context, 1), *context.q[1:size]])
    assert sum(np.log2(p) for p in context.p) >= first + 6
    narrow = dataclasses.replace(parameter_set("quad"), special_bits=50)
    with pytest.raises(PlanError, match="narrower than a digit"):
        backend("native").context(narrow)


@pytest.mark.parametrize("change", [{"levels": 21}, {"cts_budget": 2, "stc_budget": 2, "bootstrap_levels": 10}])
def test_what_a_composite_prime_chain_cannot_be(change: dict[str, Any]) -> None:
    params = dataclasses.replace(parameter_set("turbo"), log_n=11, slots=256, insecure=True, **change)
    with pytest.raises(PlanError, match="chain"):
        backend("native").context(params)


def test_openfhe_does_not_evaluate_a_composite_prime_chain() -> None:
    params = dataclasses.replace(parameter_set("turbo"), log_n=11, slots=256, insecure=True)
    with pytest.raises(PlanError, match="set turbo has a composite-prime chain, which OpenFHE does not evaluate"):
        backend("openfhe").context(params)
