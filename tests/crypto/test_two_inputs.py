"""Two images in real and imaginary parts: every operation is what it is on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fheinfer import _core
from fheinfer.errors import UsageError
from fheinfer.evaluation.metrics import precision_bits

Rigs = Callable[[str], Any]
SLOTS = 256
TOP = 22
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)


class Two:
    def __init__(self, rig: Any) -> None:
        self.rig, self.e = rig, _core.TwoInputs(rig.evaluator)

    def join(self, level: int, *seeds: int) -> tuple[Any, Any, Any]:
        x, y = (np.random.default_rng(seed).uniform(-1, 1, SLOTS) for seed in seeds)
        return self.e.join(*(self.rig.encrypt(v, level) for v in (x, y))), x, y

    def check(self, z: Any, x: Any, y: Any, level: int, bits: float = 12.0) -> None:
        assert self.e.level(z) == level
        for found, wanted in zip(self.e.twice_each(z), (x, y), strict=True):
            assert precision_bits(wanted, self.rig.decrypt(found) / 2).minimum > bits


@pytest.fixture
def two(native_rig: Rigs) -> Two:
    return Two(native_rig("turbo"))


@pytest.mark.parametrize("name", ["turbo", "1"])
def test_both_come_apart_again(native_rig: Rigs, name: str) -> None:
    two = Two(native_rig(name))
    for level in (0, 2, 8, 18):
        two.check(*two.join(level, 1, 2), level)


@fixtures
@given(st.integers(1, TOP // 2), st.integers(0, 99))
def test_sums_products_and_rotations(two: Two, half: int, seed: int) -> None:
    level = 2 * half
    z, x, y = two.join(level, seed, seed + 1)
    w, u, v = two.join(level, seed + 2, seed + 3)
    plain = np.random.default_rng(seed + 4).uniform(-1, 1, SLOTS)
    two.check(two.e.add(z, w), x + u, y + v, level)
    two.check(two.e.add_plain(z, plain), x + plain, y + plain, level)
    two.check(two.e.multiply_plain(z, plain), x * plain, y * plain, level - 1)
    two.check(two.e.multiply(z, w), x * u, y * v, level - 1, 11.0)
    two.check(two.e.rotate(z, 3), np.roll(x, -3), np.roll(y, -3), level)
    square = two.e.multiply(z, z)
    two.check(square, x * x, y * y, level - 1, 11.0)
    two.check(
        two.e.multiply_plain(two.e.add_plain(square, plain), plain),
        (x * x + plain) * plain,
        (y * y + plain) * plain,
        level - 2,
        10.0,
    )


def test_series(two: Two) -> None:
    z, x, y = two.join(TOP, 5, 6)
    coefficients = np.random.default_rng(1).uniform(-1, 1, 8) / 8
    two.check(
        two.e.chebyshev(z, list(coefficients)),
        chebyshev.chebval(x, coefficients),
        chebyshev.chebval(y, coefficients),
        TOP - 3,
        7.0,
    )


def test_what_they_cannot(two: Two, native_rig: Rigs) -> None:
    x = np.ones(SLOTS)
    with pytest.raises(UsageError, match="different levels"):
        two.e.join(two.rig.encrypt(x, 4), two.rig.encrypt(x, 6))
    other = native_rig("1")
    with pytest.raises(UsageError, match="one input"):
        _core.TwoInputs(other.evaluator).bootstrap(other.encrypt(x, 5))
