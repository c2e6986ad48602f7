"""OpenFHE's evaluation against clear slots, on the chain of set 1 and a small ring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fheinfer import _core
from fheinfer.approx.chebyshev import relu
from fheinfer.errors import BackendError, UsageError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.packing import grid_packing
from tests.layers import layer

Rigs = Callable[[str], Any]
SLOTS = 256


def values(seed: int, count: int = SLOTS) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, count)


def check(rig: Any, y: Any, expected: Any, *, level: int, bits: float) -> None:
    assert rig.evaluator.level(y) == level
    assert precision_bits(expected, rig.decrypt(y)).minimum > bits


@pytest.mark.parametrize("level", [0, 1, 8, 22])
def test_encrypt_and_decrypt_at_every_height(rig: Rigs, level: int) -> None:
    r, x = rig("1"), values(0)
    check(r, r.encrypt(x, level), x, level=level, bits=26)


def test_short_vectors_repeat_under_encryption(rig: Rigs) -> None:
    r, x = rig("1"), values(0, 32)
    check(r, r.encrypt(x, 3), np.tile(x, 8), level=3, bits=26)
    short = values(1, 16)
    ct = r.encrypt(values(2), 3)
    check(r, r.evaluator.add_plain(ct, short), values(2) + np.tile(short, 16), level=3, bits=26)
    check(r, r.evaluator.multiply_plain(ct, short), values(2) * np.tile(short, 16), level=2, bits=24)


@pytest.mark.parametrize(("a", "b"), [(8, 8), (8, 5), (2, 8), (22, 0), (1, 0)])
def test_sums_of_different_levels(rig: Rigs, a: int, b: int) -> None:
    """Every level has a scale of its own: adding without adjusting it would cost the lower bits."""
    r = rig("1")
    y = r.evaluator.add(r.encrypt(values(0), a), r.encrypt(values(1), b))
    check(r, y, values(0) + values(1), level=min(a, b), bits=25)


@pytest.mark.parametrize(("a", "b"), [(5, 5), (5, 8), (8, 1), (2, 7)])
def test_products_lose_one_level(rig: Rigs, a: int, b: int) -> None:
    r = rig("1")
    z = r.evaluator.multiply(r.encrypt(values(0), a), r.encrypt(values(1), b))
    check(r, z, values(0) * values(1), level=min(a, b) - 1, bits=24)


@pytest.mark.parametrize("target", [8, 7, 3, 1, 0])
def test_drop_to_keeps_the_message(rig: Rigs, target: int) -> None:
    r = rig("1")
    y = r.evaluator.drop_to(r.encrypt(values(0), 8), target)
    check(r, y, values(0), level=target, bits=25)
    if target:
        check(r, r.evaluator.multiply(y, y), values(0) ** 2, level=target - 1, bits=24)


@pytest.mark.parametrize("k", [3, 5, 11, 250, -6 + 1024 + 6 - 1021])
def test_rotations(rig: Rigs, k: int) -> None:
    r = rig("1")
    check(r, r.evaluator.rotate(r.encrypt(values(0), 20), k), np.roll(values(0), -k), level=20, bits=25)


def test_negative_rotations_use_the_key_of_their_automorphism(rig: Rigs) -> None:
    """Slots repeat with 256; the automorphism, and so the key, repeats with N/2 = 1024."""
    r, x = rig("1"), values(0)
    check(r, r.evaluator.rotate(r.encrypt(x, 4), 3 - 1024), np.roll(x, -3), level=4, bits=25)


def test_hoisted_rotations_in_a_convolution_equal_slots(rig: Rigs) -> None:
    """A convolution whose kernel offsets are hoisted rotations, then a Horner sum, under a key made for exactly its
    manifest."""
    context, tag = rig("1").context, "c0" * 16
    packing = grid_packing((4, 8, 8), SLOTS)
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 4, 3, 3)) / 6, rng.normal(size=4)
    trace = _core.TraceEvaluator(SLOTS, context.levels)
    layer(trace, trace.encrypt(5), weight, bias, packing, packing)
    manifest = list(trace.report().rotation_keys.items())
    assert {limbs for _, limbs in manifest} == {6}

    keys = _core.ClientKeys.generate(context, tag)
    evaluator = _core.OpenFheEvaluator(context, tag)
    for (rotation, _), body in zip(manifest, keys.rotation_keys(manifest), strict=True):
        evaluator.add_rotation_key(rotation, body)
    slots = _core.SlotsEvaluator(SLOTS, context.levels)
    x = values(3)
    expected = layer(slots, slots.encrypt(x, 5), weight, bias, packing, packing)
    y = layer(evaluator, evaluator.read(keys.encrypt(x, 5)), weight, bias, packing, packing)
    assert evaluator.level(y) == slots.level(expected) == 4
    assert precision_bits(slots.decrypt(expected), keys.decrypt(evaluator.write(y), SLOTS)).minimum > 22


@pytest.mark.parametrize("degree", [1, 5, 6, 13, 14, 27, 28, 59, 60, 119, 120, 247])
def test_a_series_fits_exactly_the_levels_its_depth_says(rig: Rigs, degree: int) -> None:
    """From that level it ends at zero: OpenFHE needs no more."""
    r = rig("1")
    depth = r.evaluator.levels.chebyshev_depth(degree)
    coefficients, x = relu(degree), values(degree)
    y = r.evaluator.chebyshev(r.encrypt(x, depth), list(coefficients))
    check(r, y, chebyshev.chebval(x, coefficients), level=0, bits=18)
    if degree > 1:
        with pytest.raises(BackendError, match="no level left for a polynomial"):
            r.evaluator.chebyshev(r.encrypt(x, depth - 1), list(coefficients))


@pytest.mark.parametrize("degree", [2, 3, 5, 6, 14, 60])
def test_a_series_whose_last_coefficients_are_zero_takes_the_same_levels(rig: Rigs, degree: int) -> None:
    """The ReLU series has no odd terms; for six coefficients that end in zero OpenFHE took a level too many."""
    r, x = rig("1"), values(degree)
    coefficients = np.random.default_rng(degree).normal(size=degree + 1) / 4
    coefficients[2:] = 0
    y = r.evaluator.chebyshev(r.encrypt(x, 8), list(coefficients))
    check(r, y, chebyshev.chebval(x, coefficients), level=8 - r.evaluator.levels.chebyshev_depth(degree), bits=24)


def test_a_series_with_even_and_odd_terms_and_a_constant(rig: Rigs) -> None:
    r, coefficients, x = rig("1"), np.random.default_rng(5).normal(size=28) / 10, values(9)
    y = r.evaluator.chebyshev(r.encrypt(x, 8), list(coefficients))
    check(r, y, chebyshev.chebval(x, coefficients), level=3, bits=20)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add_plain", "multiply", "square", "rotate", "series", "bootstrap", "drop"]),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(1, 20))
def test_three_evaluators_agree_on_every_sequence_of_operations(rig: Rigs, steps: Any, level: int) -> None:
    """Values of slots and OpenFHE, levels of all three, and refusals: a plan that fits in one fits in the others."""
    r = rig("1")
    slots, trace = _core.SlotsEvaluator(SLOTS, r.context.levels), _core.TraceEvaluator(SLOTS, r.context.levels)
    state = [
        (slots, slots.encrypt(values(0) / 2, level)),
        (trace, trace.encrypt(level)),
        (r.evaluator, r.encrypt(values(0) / 2, level)),
    ]
    for name, number in steps:
        results: list[Any] = []
        for e, x in state:
            try:
                results.append((e, apply(e, x, name, number)))
            except BackendError as error:
                results.append(str(error))
        if isinstance(results[0], str):
            assert results == [results[0]] * 3
            continue
        assert not [r for r in results if isinstance(r, str)]
        state = results
        assert len({e.level(x) for e, x in state}) == 1
    off = np.abs(slots.decrypt(state[0][1]) - r.decrypt(state[2][1])).max()
    assert off < 2**-7  # a bootstrap on this ring keeps about 12 bits


def apply(e: Any, x: Any, name: str, number: int) -> Any:
    """One operation that keeps values in [-1, 1]."""
    if name == "add":
        return (
            e.add(e.multiply_plain(x, np.full(1, 0.5)), x if number % 2 else e.rotate(x, 3))
            if number
            else e.add(e.multiply_plain(x, np.full(1, 0.25)), e.multiply_plain(x, np.full(1, 0.5)))
        )
    if name == "add_plain":
        return e.add_plain(e.multiply_plain(x, np.full(1, 0.5)), values(number, 64) / 2)
    if name == "multiply":
        return e.multiply_plain(x, values(number, 32))
    if name == "rotate":
        return e.rotate(x, (3, 5, 11, 250, 0, 3)[number])
    if name == "series":
        return e.chebyshev(x, list(relu((5, 13, 27, 5, 59, 7)[number])))
    if name == "drop":
        return e.drop_to(x, number)
    return e.multiply(x, x) if name == "square" else e.bootstrap(x)


def test_missing_and_short_rotation_keys_are_errors(rig: Rigs) -> None:
    r = rig("1")
    x = r.encrypt(values(0), 6)
    with pytest.raises(BackendError, match="no key for rotation 7"):
        r.evaluator.rotate(x, 7)
    evaluator = _core.OpenFheEvaluator(r.context, f"{1:0>32}")
    evaluator.add_rotation_key(7, r.keys.rotation_keys([(7, 3)])[0])
    with pytest.raises(BackendError, match="the key for rotation 7 has 3 limbs, 7 are needed"):
        evaluator.rotate(evaluator.read(r.keys.encrypt(values(0), 6)), 7)
    low = evaluator.read(r.keys.encrypt(values(0), 2))
    turned = evaluator.write(evaluator.rotate(low, 7))
    assert precision_bits(np.roll(values(0), -7), r.keys.decrypt(turned, SLOTS)).minimum > 24


def test_two_rotations_of_one_automorphism_cannot_have_two_keys(rig: Rigs) -> None:
    """A short key for k - N/2 once replaced the tall key for k without a word, and the process crashed."""
    r = rig("1")
    evaluator = _core.OpenFheEvaluator(r.context, f"{1:0>32}")
    tall, short = r.keys.rotation_keys([(9, 8), (9 - 1024, 2)])
    evaluator.add_rotation_key(9, tall)
    for same in (9, 9 - 1024, 9 + 1024):
        with pytest.raises(UsageError, match="rotation 9 has a key already"):
            evaluator.add_rotation_key(same, short)
    y = evaluator.rotate(evaluator.read(r.keys.encrypt(values(0), 7)), 9)
    assert precision_bits(np.roll(values(0), -9), r.keys.decrypt(evaluator.write(y), SLOTS)).minimum > 24


def test_a_product_without_relinearisation_key_is_an_error(rig: Rigs) -> None:
    r = rig("1")
    evaluator = _core.OpenFheEvaluator(r.context, f"{1:0>32}")
    with pytest.raises(BackendError):
        evaluator.multiply(*[evaluator.read(r.keys.encrypt(values(0), 3))] * 2)


def test_keys_too_short_for_their_use_are_refused_when_they_are_loaded(rig: Rigs) -> None:
    """Each of these crashed OpenFHE when it was used."""
    r = rig("1")
    evaluator = _core.OpenFheEvaluator(r.context, f"{1:0>32}")
    short = r.keys.rotation_keys([(1, 3)])[0]
    to_sparse, _ = r.keys.encapsulation_keys()
    for what, load in (
        ("relinearisation", lambda: evaluator.add_relinearisation_key(short)),
        ("conjugation", lambda: evaluator.add_conjugation_key(short)),
        ("to_dense", lambda: evaluator.add_encapsulation_keys(to_sparse, short)),
    ):
        with pytest.raises(BackendError, match=f"the {what} key has 3 limbs"):
            load()  # type: ignore[no-untyped-call]


def test_ciphertexts_of_other_keys_and_evaluators_do_not_mix(rig: Rigs) -> None:
    r, other = rig("1"), rig("4")
    with pytest.raises(BackendError):
        r.evaluator.add(r.encrypt(values(0), 3), other.encrypt(values(0), 3))
    slots = _core.SlotsEvaluator(SLOTS, r.context.levels)
    with pytest.raises(UsageError, match="not a ciphertext of the OpenFHE evaluator"):
        r.evaluator.multiply(*[slots.encrypt(values(0), 3)] * 2)


def test_two_evaluators_under_the_same_keys_live_side_by_side(rig: Rigs) -> None:
    """OpenFHE keeps keys in maps of the whole process; the end of one evaluator must not take those of another."""
    r = rig("1")
    first, second = (_core.OpenFheEvaluator(r.context, f"{1:0>32}") for _ in range(2))
    for evaluator in (first, second):
        evaluator.add_relinearisation_key(r.keys.relinearisation_key())
    del first
    x = second.read(r.keys.encrypt(values(0), 3))
    y = second.multiply(x, x)
    assert precision_bits(values(0) ** 2, r.keys.decrypt(second.write(y), SLOTS)).minimum > 24
