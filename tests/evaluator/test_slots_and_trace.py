"""The two evaluators that do not encrypt: exact values, and levels and counts without values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fheinfer import _core
from fheinfer.approx.chebyshev import relu
from fheinfer.errors import BackendError, UsageError

LEVELS = _core.LevelModel(top=12, after_bootstrap=8, bootstrap_min=1)
SLOTS = 64
EVALUATORS = ("slots", "trace")


def fresh(kind: str, level: int) -> tuple[Any, Any]:
    if kind == "slots":
        slots = _core.SlotsEvaluator(SLOTS, LEVELS)
        return slots, slots.encrypt(np.linspace(-1, 1, SLOTS), level)
    trace = _core.TraceEvaluator(SLOTS, LEVELS)
    return trace, trace.encrypt(level)


def values(seed: int, count: int = SLOTS) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).uniform(-1, 1, count)


@settings(max_examples=50)
@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_chebyshev_series_equal_numpy(degree: int, seed: int) -> None:
    evaluator, x = _core.SlotsEvaluator(SLOTS, LEVELS), values(seed)
    coefficients = np.random.default_rng(seed + 1).normal(size=degree + 1)
    y = evaluator.chebyshev(evaluator.encrypt(x, 12), list(coefficients))
    assert np.abs(evaluator.decrypt(y) - chebyshev.chebval(x, coefficients)).max() < 1e-11 * degree


def test_the_relu_series_is_a_relu() -> None:
    evaluator, x = _core.SlotsEvaluator(SLOTS, LEVELS), np.linspace(-1, 1, SLOTS)
    y = evaluator.decrypt(evaluator.chebyshev(evaluator.encrypt(x, 12), list(relu(119))))
    assert np.abs(y - np.maximum(x, 0)).max() < 0.5 / 119


@given(st.integers(-3 * SLOTS, 3 * SLOTS), st.integers(0, 2**32 - 1))
def test_rotation_moves_slot_i_plus_k_to_slot_i(k: int, seed: int) -> None:
    evaluator, x = _core.SlotsEvaluator(SLOTS, LEVELS), values(seed)
    assert np.array_equal(evaluator.decrypt(evaluator.rotate(evaluator.encrypt(x, 3), k)), np.roll(x, -k))


def test_short_vectors_repeat() -> None:
    evaluator, x = _core.SlotsEvaluator(SLOTS, LEVELS), values(0)
    ct, short = evaluator.encrypt(x, 3), values(1, 16)
    assert np.array_equal(evaluator.decrypt(evaluator.add_plain(ct, short)), x + np.tile(short, 4))
    assert np.array_equal(evaluator.decrypt(evaluator.multiply_plain(ct, short)), x * np.tile(short, 4))


def test_arithmetic_is_exact() -> None:
    evaluator, x, y = _core.SlotsEvaluator(SLOTS, LEVELS), values(0), values(1)
    a, b = evaluator.encrypt(x, 3), evaluator.encrypt(y, 5)
    assert np.array_equal(evaluator.decrypt(evaluator.add(a, b)), x + y)
    assert np.array_equal(evaluator.decrypt(evaluator.multiply(a, a)), x * x)
    assert np.array_equal(evaluator.decrypt(evaluator.bootstrap(a)), x)
    assert np.array_equal(evaluator.decrypt(evaluator.drop_to(a, 1)), x)


@pytest.mark.parametrize("kind", EVALUATORS)
def test_levels_fall_as_documented(kind: str) -> None:
    e, x = fresh(kind, 7)
    level = e.level
    assert level(x) == 7
    assert level(e.add(x, fresh(kind, 4)[1])) == 4
    assert level(e.add_plain(x, np.ones(1))) == 7
    assert level(e.multiply_plain(x, np.ones(1))) == 6
    assert level(e.multiply(x, x)) == 6
    assert level(e.rotate(x, 5)) == 7
    assert level(e.chebyshev(x, [0.0] * 59 + [1.0])) == 1
    assert level(e.bootstrap(x)) == 8
    assert level(e.drop_to(x, 7)) == 7
    assert level(e.drop_to(x, 0)) == 0


@pytest.mark.parametrize("kind", EVALUATORS)
def test_running_out_of_levels_is_an_error(kind: str) -> None:
    e, x = fresh(kind, 0)
    for operation, what in (
        (lambda: e.multiply(x, x), "product"),
        (lambda: e.multiply_plain(x, np.ones(4)), "multiplication"),
        (lambda: e.chebyshev(fresh(kind, 5)[1], [0.0] * 32 + [1.0]), "polynomial"),
    ):
        with pytest.raises(BackendError, match=f"no level left for a {what}"):
            operation()  # type: ignore[no-untyped-call]
    with pytest.raises(BackendError, match="a bootstrap needs level 1, not 0"):
        e.bootstrap(x)
    for target in (8, -1):
        with pytest.raises(BackendError, match=f"cannot drop from level 7 to level {target}"):
            e.drop_to(fresh(kind, 7)[1], target)


@pytest.mark.parametrize("kind", EVALUATORS)
def test_a_set_without_bootstrapping_refuses_one(kind: str) -> None:
    levels = _core.LevelModel(top=5, after_bootstrap=0, bootstrap_min=1)
    e: Any = _core.SlotsEvaluator(8, levels) if kind == "slots" else _core.TraceEvaluator(8, levels)
    x = e.encrypt(np.ones(8), 3) if kind == "slots" else e.encrypt(3)
    with pytest.raises(BackendError, match="has no bootstrapping"):
        e.bootstrap(x)


@pytest.mark.parametrize("kind", EVALUATORS)
@pytest.mark.parametrize("count", [0, 3, 48, 128])
def test_vectors_that_do_not_repeat_are_refused(kind: str, count: int) -> None:
    e, x = fresh(kind, 3)
    for operation in (e.add_plain, e.multiply_plain):
        with pytest.raises(UsageError, match="do not repeat in 64 slots"):
            operation(x, np.ones(count))


def test_slots_are_a_power_of_two_and_the_same_for_both_addends() -> None:
    with pytest.raises(UsageError, match="power of two"):
        _core.SlotsEvaluator(48, LEVELS)
    e, other = _core.SlotsEvaluator(16, LEVELS), _core.SlotsEvaluator(8, LEVELS)
    for operation in (e.add, e.multiply):
        with pytest.raises(UsageError, match="different numbers of slots"):
            operation(e.encrypt(np.ones(16), 3), other.encrypt(np.ones(8), 3))


def test_ciphertexts_of_another_evaluator_are_refused() -> None:
    (slots, x), (trace, y) = fresh("slots", 3), fresh("trace", 3)
    with pytest.raises(UsageError, match="not a ciphertext of the slots evaluator"):
        slots.multiply(y, y)
    with pytest.raises(UsageError, match="not a ciphertext of the trace evaluator"):
        trace.multiply(x, x)


def test_a_trace_counts_by_limbs_and_forgets_when_reset() -> None:
    e, x = fresh("trace", 7)
    e.rotate(x, 3)
    e.rotate(e.drop_to(x, 2), 3)
    e.rotate(x, 0)
    e.multiply(x, x)
    e.chebyshev(x, [0.0] * 6)
    e.bootstrap(x)
    e.multiply_plain(x, np.ones(2))
    report = e.report()
    assert report.rotation_keys == {3: 8}  # the tallest use
    assert report.key_switches == {8: 1, 3: 1}
    assert report.polynomials == {5: {8: 1}}
    assert report.products == {8: 1}
    assert report.bootstraps == 1
    assert report.plain_multiplications == {8: 1}
    assert report.rescales == {8: 1}
    e.reset()
    assert e.report().rotation_keys == {}
    assert e.report().bootstraps == 0


# OpenFHE 1.4.2, src/pke/examples/FUNCTION_EVALUATION.md: degree -> depth, less the level of its change of variable.
@pytest.mark.parametrize(
    ("degrees", "depth"),
    [
        ((1, 5), 3),
        ((6, 13), 4),
        ((14, 27), 5),
        ((28, 59), 6),
        ((60, 119), 7),
        ((120, 247), 8),
        ((248, 495), 9),
        ((496, 1007), 10),
        ((1008, 2031), 11),
    ],
    ids=str,
)
def test_depths_are_those_openfhe_documents(degrees: tuple[int, int], depth: int) -> None:
    levels = _core.LevelModel(top=12, after_bootstrap=8, bootstrap_min=1, openfhe_series=True)
    assert {levels.chebyshev_depth(d) for d in range(degrees[0], degrees[1] + 1)} == {depth}


def test_our_own_depth_is_the_least_there_is() -> None:
    for degree in range(1, 300):
        assert LEVELS.chebyshev_depth(degree) == math.ceil(math.log2(degree + 1))


@pytest.mark.parametrize("degree", [-1, 0, 2032])
def test_impossible_degrees_are_refused(degree: int) -> None:
    with pytest.raises(UsageError, match="Chebyshev"):
        _core.LevelModel(12, 8, 1, openfhe_series=True).chebyshev_depth(degree)
    if degree < 1:
        with pytest.raises(UsageError, match="Chebyshev"):
            LEVELS.chebyshev_depth(degree)
