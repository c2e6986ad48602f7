"""The native backend against clear slots, on the chains of sets 1 to 4 and a small ring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fheinfer import _core
from fheinfer._testing import ckks
from fheinfer.approx import activation
from fheinfer.approx.forms import Gate
from fheinfer.approx.measure import error
from fheinfer.errors import BackendError, UsageError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.packing import grid_packing
from tests.layers import layer

Rigs = Callable[[str], Any]
SLOTS = 256
SETS = pytest.mark.parametrize("name", ["1", "2", "3", "4"])
FRESH = 28.0
"""Bits a fresh encryption keeps on this ring: 47 of the scale, less its noise."""
WORK = 25.0
"""And what an operation on it leaves."""

fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)


def values(seed: int, count: int = SLOTS) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, count)


def check(rig: Any, y: Any, expected: Any, *, level: int, bits: float) -> None:
    assert rig.evaluator.level(y) == level
    assert precision_bits(expected, rig.decrypt(y)).minimum > bits


@SETS
def test_encrypt_and_decrypt_at_every_height(native_rig: Rigs, name: str) -> None:
    r, x = native_rig(name), values(0)
    for level in range(r.params.top_level + 1):
        check(r, r.encrypt(x, level), x, level=level, bits=FRESH)


@pytest.mark.parametrize("period", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_vectors_of_every_period_repeat(native_rig: Rigs, period: int) -> None:
    r, x, short = native_rig("1"), values(2), values(period, period)
    ct, long = r.encrypt(x, 3), np.tile(short, SLOTS // period)
    check(r, r.encrypt(short, 3), long, level=3, bits=FRESH - 1)
    check(r, r.evaluator.add_plain(ct, short), x + long, level=3, bits=FRESH)
    check(r, r.evaluator.multiply_plain(ct, short), x * long, level=2, bits=WORK)


@SETS
@fixtures
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 99))
def test_sums_of_different_levels(native_rig: Rigs, name: str, a: int, b: int, seed: int) -> None:
    """Every level has a scale of its own: adding without adjusting it would cost the lower bits."""
    r, x, y = native_rig(name), values(seed), values(seed + 100)
    z = r.evaluator.add(r.encrypt(x, a), r.encrypt(y, b))
    check(r, z, x + y, level=min(a, b), bits=FRESH - 1)


@SETS
@fixtures
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_products_of_different_levels(native_rig: Rigs, name: str, a: int, b: int, seed: int) -> None:
    r, x, y = native_rig(name), values(seed), values(seed + 100)
    z = r.evaluator.multiply(r.encrypt(x, a), r.encrypt(y, b))
    check(r, z, x * y, level=min(a, b) - 1, bits=WORK)


@SETS
def test_products_at_every_level(native_rig: Rigs, name: str) -> None:
    r, x, y = native_rig(name), values(0), values(1)
    for level in range(1, r.params.top_level + 1):
        check(r, r.evaluator.multiply(r.encrypt(x, level), r.encrypt(y, level)), x * y, level=level - 1, bits=WORK)
        check(r, r.evaluator.multiply_plain(r.encrypt(x, level), y), x * y, level=level - 1, bits=WORK)
    with pytest.raises(BackendError, match="no level left"):
        r.evaluator.multiply(r.encrypt(x, 0), r.encrypt(x, 5))
    with pytest.raises(BackendError, match="no level left"):
        r.evaluator.multiply_plain(r.encrypt(x, 0), y)


@SETS
@fixtures
@given(st.integers(0, 20), st.integers(0, 20))
def test_drop_to_keeps_the_message(native_rig: Rigs, name: str, high: int, low: int) -> None:
    r, (low, high) = native_rig(name), sorted((low, high))
    y = r.evaluator.drop_to(r.encrypt(values(0), high), low)
    check(r, y, values(0), level=low, bits=FRESH - 1)
    if low:
        check(r, r.evaluator.multiply(y, y), values(0) ** 2, level=low - 1, bits=WORK)
    for target in (-1, high + 1):
        with pytest.raises(BackendError, match="cannot drop"):
            r.evaluator.drop_to(r.encrypt(values(0), high), target)


@SETS
def test_rotations_at_every_level(native_rig: Rigs, name: str) -> None:
    r, x = native_rig(name), values(0)
    for level in range(r.params.top_level + 1):
        for k in (0, 3, 250, 5 - 1024):
            check(r, r.evaluator.rotate(r.encrypt(x, level), k), np.roll(x, -k), level=level, bits=FRESH - 1)


@pytest.mark.parametrize("degree", [*range(1, 20), 27, 28, 31, 32, 33, 59, 63, 64, 65, 100, 119, 127, 128, 129, 200])
def test_a_series_fits_exactly_the_levels_its_depth_says(native_rig: Rigs, degree: int) -> None:
    """Random coefficients, even and odd; from that level it ends at zero, exactly at the scale there."""
    r, x = native_rig("1"), values(degree)
    depth = r.context.levels.chebyshev_depth(degree)
    coefficients = np.random.default_rng(degree).uniform(-1, 1, degree + 1) / (degree + 1) ** 0.5
    for level in (depth, r.params.top_level):
        y = r.evaluator.chebyshev(r.encrypt(x, level), list(coefficients))
        check(r, y, chebyshev.chebval(x, coefficients), level=level - depth, bits=18)
    with pytest.raises(BackendError, match="no level left for a polynomial"):
        r.evaluator.chebyshev(r.encrypt(x, depth - 1), list(coefficients))


@pytest.mark.parametrize("degree", [2, 3, 5, 6, 14, 60, 64, 128])
def test_a_series_whose_last_coefficients_are_zero_takes_the_same_levels(native_rig: Rigs, degree: int) -> None:
    """A plan counts the levels of the degree; a series that turns out shorter must end where the plan says."""
    r, x = native_rig("1"), values(degree)
    coefficients = np.random.default_rng(degree).normal(size=degree + 1) / 4
    for last in {1, 2, degree // 2, degree - 1}:
        short = coefficients.copy()
        short[last + 1 :] = 0
        y = r.evaluator.chebyshev(r.encrypt(x, 9), list(short))
        check(r, y, chebyshev.chebval(x, short), level=9 - r.context.levels.chebyshev_depth(degree), bits=20)


@SETS
@fixtures
@given(st.integers(2, 200), st.integers(0, 99), st.sampled_from(["all", "even", "odd", "sparse"]))
def test_every_series_equals_slots(native_rig: Rigs, name: str, degree: int, seed: int, kind: str) -> None:
    r, rng = native_rig(name), np.random.default_rng(seed)
    coefficients = rng.uniform(-1, 1, degree + 1) / (degree + 1) ** 0.5
    if kind == "even":
        coefficients[1::2] = 0
    if kind == "odd":
        coefficients[::2] = 0
    if kind == "sparse":
        coefficients[rng.random(degree + 1) < 0.7] = 0
        coefficients[1] = 0.25
    x = rng.uniform(-1, 1, SLOTS)
    top = r.params.top_level
    y = r.evaluator.chebyshev(r.encrypt(x, top), list(coefficients))
    check(r, y, chebyshev.chebval(x, coefficients), level=top - r.context.levels.chebyshev_depth(degree), bits=16)


@pytest.mark.parametrize("name", ["relu:27", "relu:59", "relu:119", "f1g2", "a7", "minimax:5", "minimax:7"])
def test_an_encrypted_relu_errs_as_the_table_says(native_rig: Rigs, name: str) -> None:
    """docs/explanation/activations.md: largest and mean error against ReLU itself; noise of this ring is far below
    both."""
    r, act = native_rig("1"), activation(name)
    x = np.linspace(-1, 1, SLOTS)
    x0 = y = r.encrypt(x, r.params.top_level)
    stages = (act.step if isinstance(act, Gate) else act.polynomials).stages
    for stage in stages:
        y = r.evaluator.chebyshev(y, list(stage))
    if isinstance(act, Gate):
        y = r.evaluator.multiply(x0, y)
    assert r.evaluator.level(y) == r.params.top_level - act.levels
    missed = np.abs(r.decrypt(y) - np.maximum(x, 0))
    table = error(act)
    assert missed.max() <= table.largest + 2**-14
    assert np.abs(missed - np.abs(act.evaluate(x) - np.maximum(x, 0))).max() < 2**-14
    assert np.sqrt(np.mean(missed**2)) == pytest.approx(table.rms, rel=0.1)


def test_a_series_needs_the_levels_the_plan_gives_it(native_rig: Rigs) -> None:
    for degree in range(1, 500):
        assert ckks.series_depth(degree) == native_rig("1").context.levels.chebyshev_depth(degree)


# Kernels, under keys for exactly their manifest


def kernel(rig: Any, level: int, apply: Callable[[Any, Any], Any], *, bits: float) -> None:
    """On slots, and encrypted under the keys that a trace names."""
    context = rig.context
    trace = _core.TraceEvaluator(SLOTS, context.levels)
    apply(trace, trace.encrypt(level))
    manifest = list(trace.report().rotation_keys.items())
    native = _core.NativeEvaluator(context)
    for (rotation, _), key in zip(manifest, _core.NativeKeys(rig.keys).rotation_keys(manifest), strict=True):
        native.add_rotation_key(rotation, key)
    slots, x = _core.SlotsEvaluator(SLOTS, context.levels), values(3)
    expected = apply(slots, slots.encrypt(x, level))
    y = apply(native, native.read(rig.keys.encrypt(x, level)))
    assert native.level(y) == slots.level(expected)
    assert precision_bits(slots.decrypt(expected), rig.keys.decrypt(native.write(y), SLOTS)).minimum > bits


@SETS
@fixtures
@given(
    st.sampled_from([(4, 1, 1, 4), (2, 3, 1, 2), (4, 3, 1, 4), (4, 3, 2, 8), (1, 5, 1, 4), (2, 3, 1, 4), (4, 1, 2, 8)]),
    st.integers(0, 99),
    st.booleans(),
)
def test_convolutions_equal_slots(native_rig: Rigs, name: str, shape: Any, seed: int, sparse: bool) -> None:
    channels, size, stride, outputs = shape
    source = grid_packing((channels, 8, 8), SLOTS)
    target = grid_packing((outputs, 8 // stride, 8 // stride), SLOTS, gap=(stride, stride), height=8, width=8)
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(outputs, channels, size, size)) / (3 * size), rng.normal(size=outputs)
    if sparse:
        weight[rng.random(weight.shape) < 0.8] = 0
        weight[0, 0, 0, 0] = 0.5
    level = 2 + seed % 5
    kernel(native_rig(name), level, lambda e, x: layer(e, x, weight, bias, source, target, stride), bits=22)


def test_convolutions_from_rotated_replicas_equal_slots(native_rig: Rigs) -> None:
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(2, 4, 4, 3, 3)) / 9, rng.normal(size=(2, 4))
    equal = grid_packing((4, 4, 8), SLOTS)  # 128 of 256 slots
    turned = equal.rotated(64)

    def both(e: Any, x: Any) -> Any:
        y = layer(e, x, weight[0], bias[0], equal, turned)
        return layer(e, y, weight[1], bias[1], turned, equal)

    kernel(native_rig("2"), 5, both, bits=20)


def test_a_linear_layer_equals_slots(native_rig: Rigs) -> None:
    rng = np.random.default_rng(4)
    source, target = grid_packing((4, 8, 8), SLOTS), grid_packing((5,), SLOTS)
    weight, bias = rng.normal(size=(5, 256)) / 16, rng.normal(size=5)
    kernel(native_rig("2"), 5, lambda e, x: layer(e, x, weight, bias, source, target), bits=20)


# Sequences


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add_plain", "multiply", "square", "rotate", "series", "bootstrap", "drop"]),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=6,
)


@SETS
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(1, 20))
def test_three_evaluators_agree_on_every_sequence(native_rig: Rigs, name: str, steps: Any, level: int) -> None:
    """Values of slots and ours, levels of all three, and refusals: a plan that fits in one fits in the others."""
    r = native_rig(name)
    slots, trace = _core.SlotsEvaluator(SLOTS, r.context.levels), _core.TraceEvaluator(SLOTS, r.context.levels)
    state = [
        (slots, slots.encrypt(values(0) / 2, level)),
        (trace, trace.encrypt(level)),
        (r.evaluator, r.encrypt(values(0) / 2, level)),
    ]
    for step, number in steps:
        results: list[Any] = []
        for e, x in state:
            try:
                results.append((e, apply(e, x, step, number)))
            except BackendError as error:
                results.append(str(error))
        if isinstance(results[0], str):
            assert results == [results[0]] * 3
            continue
        assert not [r for r in results if isinstance(r, str)]
        state = results
        assert len({e.level(x) for e, x in state}) == 1
    off = np.abs(slots.decrypt(state[0][1]) - r.decrypt(state[2][1])).max()
    assert off < 2**-12


def apply(e: Any, x: Any, name: str, number: int) -> Any:
    """One operation that keeps values in [-1, 1]."""
    half = np.full(1, 0.5)
    if name == "add":
        return e.add(e.multiply_plain(x, half), e.multiply_plain(x if number % 2 else e.rotate(x, 3), half))
    if name == "add_plain":
        return e.add_plain(e.multiply_plain(x, half), values(number, 64) / 2)
    if name == "multiply":
        return e.multiply_plain(x, values(number, 32))
    if name == "rotate":
        return e.rotate(x, (3, 5, 11, 250, 0, 3)[number])
    if name == "series":
        degree = (2, 7, 8, 15, 31, 32)[number]
        return e.chebyshev(x, list(np.random.default_rng(degree).uniform(-1, 1, degree + 1) / (degree + 1)))
    if name == "drop":
        return e.drop_to(x, number)
    return e.multiply(x, x) if name == "square" else e.bootstrap(e.multiply_plain(x, half))


def test_keys_that_must_reach_over_the_whole_chain_are_refused_when_they_do_not(native_rig: Rigs) -> None:
    """Found when they are loaded, not when a run is half done."""
    r = native_rig("1")
    keys = _core.NativeKeys(r.keys)
    short = keys.rotation_keys([(1, 5)])[0]
    to_sparse, _ = keys.encapsulation_keys()
    evaluator = _core.NativeEvaluator(r.context)
    with pytest.raises(BackendError, match="relinearisation key has 5 limbs"):
        evaluator.add_relinearisation_key(short)
    with pytest.raises(BackendError, match="to_dense key has 5 limbs"):
        evaluator.add_encapsulation_keys(to_sparse, short)


def test_openfhes_encapsulation_keys_are_refused_for_our_sets(native_rig: Rigs) -> None:
    with pytest.raises(UsageError, match="NativeKeys"):
        native_rig("1").keys.encapsulation_keys()
