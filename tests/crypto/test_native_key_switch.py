"""Rescaling and key switching: bit for bit OpenFHE's where we round as it does, otherwise the nearest integer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer import _core
from fheinfer._testing import ckks, ring
from fheinfer.crypto.params import parameter_set

U64 = NDArray[np.uint64]
Unpack = Callable[[bytes, list[int], int], U64]
TAG = "ab" * 16


@dataclasses.dataclass(frozen=True)
class Ring:
    context: Any
    keys: Any
    n: int

    @property
    def primes(self) -> list[int]:
        return [*self.context.q, *self.context.p]

    def ciphertext(self, seed: int, limbs: int) -> Any:
        return self.keys.encrypt(np.random.default_rng(seed).uniform(-1, 1, 64), limbs - 1)

    def coefficients(self, rows: U64, primes: list[int]) -> U64:
        """Out of evaluation form, with OpenFHE's transform."""
        out = []
        for row, p in zip(rows, primes, strict=True):
            limb = ring.OpenFheLimb(self.n, p, row, True)
            limb.transform()
            out.append(limb.values())
        return np.array(out)


@cache
def made(log_n: int, digits: int, top_level: int) -> Ring:
    params = _core.ParameterSet(log_n, 64, 49, 45, 50, digits, 0, 0, top_level, native=True, allow_insecure=True)
    context = _core.Context(params)
    return Ring(context, _core.ClientKeys.generate(context, TAG), 1 << log_n)


RINGS = [(11, 1, 3), (11, 2, 9), (11, 3, 10), (12, 2, 4), (12, 4, 13), (11, 5, 24)]


def compose(rows: U64, primes: list[int]) -> NDArray[np.object_]:
    """Integers in [0, product of the primes) by the Chinese remainder theorem."""
    product = int(np.prod([int(p) for p in primes], dtype=object))
    total = np.zeros(rows.shape[1], dtype=object)
    for row, p in zip(rows, primes, strict=True):
        factor = product // p
        total += row.astype(object) * (factor * pow(factor, -1, p))
    return total % product


def centred(x: NDArray[np.object_], modulus: int) -> NDArray[np.object_]:
    x = x % modulus
    return np.where(x > modulus // 2, x - modulus, x)


@pytest.mark.parametrize("shape", RINGS, ids=str)
def test_rescaling_is_openfhes(shape: tuple[int, int, int], unpack: Unpack) -> None:
    r = made(*shape)
    for limbs in range(2, shape[2] + 2):
        body = r.ciphertext(limbs, limbs)
        ours = unpack(ckks.rescale(r.context, body), r.context.q, r.n)
        theirs = unpack(ckks.openfhe_rescale(r.context, body), r.context.q, r.n)
        assert ours.shape == (2, limbs - 1, r.n)
        np.testing.assert_array_equal(ours, theirs)


def openfhe_key(r: Ring, body: bytes) -> tuple[U64, U64, int, int]:
    """(b, a, limbs, special primes) of one of OpenFHE's evaluation keys."""
    digits, limbs, specials = np.frombuffer(body[:12], "<u4").tolist()
    halves = np.frombuffer(body[12:], "<u8").reshape(digits, 2, limbs + specials, r.n)
    return halves[:, 0], halves[:, 1], limbs, specials


def rotated(r: Ring, x: U64, key: bytes, exponent: int, *, rounded: bool) -> U64:
    b, a, limbs, specials = openfhe_key(r, key)
    assert specials == len(r.context.p)
    kb, ka = ckks.switch_key(r.context, x[1], b, a, limbs, specials, rounded)
    sums = [ring.add(c, k, p) for c, k, p in zip(x[0], kb, r.context.q, strict=False)]
    return np.array([[ring.automorphism(row, exponent) for row in half] for half in (sums, ka)])


@pytest.mark.parametrize("height", ["full", "short"])
@pytest.mark.parametrize("shape", RINGS, ids=str)
def test_key_switching_with_openfhes_own_key_is_openfhes(
    shape: tuple[int, int, int], height: str, unpack: Unpack
) -> None:
    """All special primes, a remainder taken off as OpenFHE does; a key of the whole chain, or one just high enough."""
    r, rotation = made(*shape), 3
    full = len(r.context.q)
    tall = r.keys.rotation_keys([(rotation, full)])[0]
    evaluator = _core.OpenFheEvaluator(r.context, TAG)
    evaluator.add_rotation_key(rotation, tall)
    exponent = ring.rotation_exponent(r.n, rotation)
    for limbs in range(1, full + 1):
        body = r.ciphertext(limbs, limbs)
        x = unpack(body, r.context.q, r.n)
        theirs = unpack(evaluator.write(evaluator.rotate(evaluator.read(body), rotation)), r.context.q, r.n)
        if height == "short":
            # Another key of the same rotation: its own OpenFHE result.
            key = r.keys.rotation_keys([(rotation, limbs)])[0]
            other = _core.OpenFheEvaluator(r.context, TAG)
            other.add_rotation_key(rotation, key)
            theirs = unpack(other.write(other.rotate(other.read(body), rotation)), r.context.q, r.n)
        else:
            key = tall
        ours = rotated(r, x, key, exponent, rounded=False)
        np.testing.assert_array_equal(ours, theirs)
        # Rounding to the nearest differs, and by no more than the number of primes divided by.
        nearest = rotated(r, x, key, exponent, rounded=True)
        assert np.any(nearest != ours)
        off = [
            centred(r.coefficients(row[None], [p])[0].astype(object), p)
            for half in range(2)
            for row, p in zip(_subtract(nearest[half], ours[half], r.context.q), r.context.q, strict=False)
        ]
        assert max(np.abs(o).max() for o in off) <= len(r.context.p)


def _subtract(x: U64, y: U64, primes: list[int]) -> U64:
    return np.array([ring.subtract(a, b, p) for a, b, p in zip(x, y, primes, strict=False)])


@pytest.mark.parametrize("shape", [(11, 2, 9), (12, 4, 13)], ids=str)
def test_the_digits_of_mod_up_are_congruent_to_what_they_are_digits_of(
    shape: tuple[int, int, int], unpack: Unpack
) -> None:
    """Each is a number below digit-count times its primes' product, the same modulo every prime."""
    r = made(*shape)
    size = ckks.per_digit(r.context)
    for limbs in (1, size, size + 1, len(r.context.q)):
        x = unpack(r.ciphertext(0, limbs), r.context.q, r.n)
        for specials in (1, len(r.context.p)):
            primes = [*r.context.q[:limbs], *r.context.p[:specials]]
            digits = ckks.mod_up(r.context, x[1], specials)
            assert len(digits) == -(-limbs // size)
            for j, digit in enumerate(digits):
                own = range(j * size, min(limbs, (j + 1) * size))
                value = compose(r.coefficients(digit, primes), primes)
                product = int(np.prod([r.context.q[i] for i in own], dtype=object))
                exact = compose(
                    r.coefficients(x[1][own.start : own.stop], [r.context.q[i] for i in own]),
                    [r.context.q[i] for i in own],
                )
                assert np.all((value - exact) % product == 0)
                assert value.max() < len(own) * product


@settings(max_examples=15)
@given(st.sampled_from([(11, 2, 9), (11, 3, 10)]), st.data())
def test_division_rounds_to_the_nearest_integer(shape: tuple[int, int, int], data: st.DataObject) -> None:
    r = made(*shape)
    limbs = data.draw(st.integers(1, len(r.context.q)), "limbs")
    specials = data.draw(st.integers(0, len(r.context.p)), "specials")
    drop = data.draw(st.integers(0, limbs - 1), "drop")
    assume(specials + drop > 0)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    primes = [*r.context.q[:limbs], *r.context.p[:specials]]
    x = np.array([rng.integers(0, p, r.n, dtype=np.uint64) for p in primes])
    gone, kept = primes[limbs - drop :], r.context.q[: limbs - drop]
    divisor = int(np.prod(gone, dtype=object))
    value = compose(r.coefficients(x, primes), primes)
    exact = (value - centred(value, divisor)) // divisor
    ours = r.coefficients(ckks.divide(r.context, x, limbs - 1, limbs - drop - 1, True), kept)
    for row, p in zip(ours, kept, strict=True):
        np.testing.assert_array_equal(row, (exact % p).astype(np.uint64))


def test_few_special_primes_for_few_limbs(native_rig: Callable[[str], Any]) -> None:
    """P stays 6 bits above the widest digit: not more than OpenFHE's primes, and fewer for short keys."""
    for name in ("1", "2", "3", "4"):
        context = native_rig(name).context
        bits = np.log2(np.array([float(q) for q in context.q]))
        p = np.log2(np.array([float(q) for q in context.p]))
        size = ckks.per_digit(context)
        assert size == -(-len(context.q) // parameter_set(name).digits)
        for limbs in range(1, len(context.q) + 1):
            widest = max(bits[j : min(j + size, limbs)].sum() for j in range(0, limbs, size))
            specials = ckks.specials_for(context, limbs)
            assert specials == len(p) or p[:specials].sum() >= widest + 6
            assert specials == 1 or p[: specials - 1].sum() < widest + 6
            assert p[:specials].sum() > widest  # never short of it
        assert ckks.specials_for(context, 1) < ckks.specials_for(context, len(context.q))
