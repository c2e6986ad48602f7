"""Bootstrapping of the native backend on the chains of sets 1 to 4 and a small ring, under exactly the keys
it says it needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer._testing import ckks, ring
from fheinfer.compiler.presets import preset
from fheinfer.crypto.backends import backend
from fheinfer.crypto.params import NATIVE_EVAL_MOD_LEVELS, parameter_set, parameter_sets
from fheinfer.errors import BackendError
from fheinfer.evaluation.metrics import precision_bits
from tests.conftest import context_of, load, small

Rigs = Callable[..., Any]
SETS = pytest.mark.parametrize("name", ["1", "2", "3", "4"])
BITS = 16.0
"""That the worst of 256 slots keeps, at least: 17.2 measured on every chain."""
SLOTS = 256

fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)


def values(seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, SLOTS)


@SETS
@fixtures
@given(st.integers(0, 1000), st.floats(0.05, 1))
def test_a_bootstrap_keeps_its_bits(native_rig: Rigs, name: str, seed: int, largest: float) -> None:
    r, x = native_rig(name), values(seed)
    y = r.evaluator.bootstrap(r.encrypt(x * largest, parameter_set(name).stc_budget))
    assert r.evaluator.level(y) == parameter_set(name).levels
    bits = precision_bits(np.append(x * largest, 1), np.append(r.decrypt(y), 1))  # relative to 1
    assert bits.minimum > BITS


@SETS
def test_the_result_is_good_for_all_its_levels(native_rig: Rigs, name: str) -> None:
    r, x = native_rig(name), values(7)
    y = r.evaluator.bootstrap(r.encrypt(x, r.context.levels.bootstrap_min))
    for level in range(r.evaluator.level(y) - 1, 0, -2):
        low = r.evaluator.drop_to(y, level)
        assert precision_bits(x, r.decrypt(low)).minimum > BITS
        assert precision_bits(x**2, r.decrypt(r.evaluator.multiply(low, low))).minimum > BITS - 1


@SETS
def test_inputs_above_the_lowest_level(native_rig: Rigs, name: str) -> None:
    r, x = native_rig(name), values(8)
    for level in range(r.context.levels.bootstrap_min, r.params.top_level + 1, 4):
        y = r.evaluator.bootstrap(r.encrypt(x, level))
        assert r.evaluator.level(y) == r.context.levels.after_bootstrap
        assert precision_bits(x, r.decrypt(y)).minimum > BITS


def test_inputs_that_were_computed(native_rig: Rigs) -> None:
    """Not only fresh encryptions: a bootstrap of a bootstrap of a square of a rotation."""
    r, x = native_rig("2"), values(9)
    y = r.evaluator.rotate(r.encrypt(x, 9), 3)
    y = r.evaluator.multiply(y, y)
    y = r.evaluator.bootstrap(r.evaluator.drop_to(r.evaluator.bootstrap(y), 5))
    assert precision_bits(np.roll(x, -3) ** 2, r.decrypt(y)).minimum > BITS - 1


def test_short_periods_and_constants(native_rig: Rigs) -> None:
    r = native_rig("1")
    for period in (1, 2, 16, 64):
        x = np.random.default_rng(period).uniform(-0.5, 0.5, period)
        y = r.evaluator.bootstrap(r.encrypt(x, 4))
        assert np.abs(np.tile(x, SLOTS // period) - r.decrypt(y)).max() < 2**-BITS


def test_below_the_lowest_level(native_rig: Rigs) -> None:
    r = native_rig("4")
    with pytest.raises(BackendError, match="a bootstrap needs level 4, not 3"):
        r.evaluator.bootstrap(r.encrypt(values(0), 3))


# All slots of the ring: no trace, and twice as many values for nearly the same work

ALL = 1024
"""N / 2 at N = 2^11."""


@SETS
@pytest.mark.parametrize("largest", [1.0, 0.1])
def test_a_bootstrap_of_all_slots_keeps_its_bits(native_rig: Rigs, name: str, largest: float) -> None:
    r = native_rig(name, ALL)
    assert r.params.slots == 1 << (r.params.log_n - 1)
    x = np.random.default_rng(5).uniform(-largest, largest, ALL)
    for level in (r.params.stc_budget, r.params.top_level):
        y = r.evaluator.bootstrap(r.encrypt(x, level))
        assert r.evaluator.level(y) == parameter_set(name).levels
        bits = precision_bits(np.append(x, 1), np.append(r.decrypt(y), 1))  # relative to 1
        assert bits.minimum > BITS - 1
        assert bits.median > BITS + 3
    again = r.evaluator.bootstrap(r.evaluator.multiply(y, r.evaluator.rotate(y, 3)))
    assert np.abs(r.decrypt(again) - x * np.roll(x, -3)).max() < 2 ** (1 - BITS)


def test_real_and_imaginary_halves_of_all_coefficients_do_not_mix(native_rig: Rigs) -> None:
    """ModRaise adds multiples of q_0 to all N coefficients; those of imaginary parts are removed."""
    r, x = native_rig("1", ALL), np.zeros(ALL)
    for slot in (0, 1, ALL // 2, ALL - 1):
        x[slot] = 1
        y = r.decrypt(r.evaluator.bootstrap(r.encrypt(x, 3)))
        assert np.abs(y - x).max() < 2 ** (1 - BITS)


@pytest.mark.parametrize("budgets", [(2, 2), (3, 3), (4, 3), (4, 4), (10, 10)])
@pytest.mark.parametrize("policy", _core.KeyPolicy.__members__.values(), ids=lambda keys: keys.name)
def test_any_budgets_of_all_slots_with_the_keys_it_says_it_needs(budgets: tuple[int, int], policy: Any) -> None:
    above = budgets[0] + NATIVE_EVAL_MOD_LEVELS
    levels = budgets[1] + 1
    params = dataclasses.replace(
        small("1", ALL), cts_budget=budgets[0], stc_budget=budgets[1], levels=levels, bootstrap_levels=above
    )
    context = context_of(params)
    needs = sorted(_core.native_bootstrap_rotations(context, policy))
    assert all(0 < abs(k) < ALL for k, _ in needs)
    client, evaluator = _core.ClientKeys.generate(context, f"{0:0>32}"), _core.NativeEvaluator(context, policy)
    load(evaluator, _core.NativeKeys(client), needs)
    x = np.random.default_rng(6).uniform(-1, 1, ALL)
    y = evaluator.bootstrap(evaluator.read(client.encrypt(x, levels)))
    assert evaluator.level(y) == levels
    assert precision_bits(x, client.decrypt(evaluator.write(y), ALL)).minimum > BITS - 1


@SETS
def test_all_slots_take_the_keys_and_levels_of_half_of_them(native_rig: Rigs, name: str) -> None:
    """The keys of the trace, which falls away, make up for larger matrices."""
    few, every = (native_rig(name, slots) for slots in (ALL // 2, ALL))
    shapes = [_core.native_bootstrap_matrices(r.context, _core.KeyPolicy.fast) for r in (few, every)]
    assert [s[0] for s in shapes[0]] == [s[0] for s in shapes[1]]
    assert sum(s[1] for s in shapes[1]) < 2 * sum(s[1] for s in shapes[0])
    assert few.context.levels.after_bootstrap == every.context.levels.after_bootstrap


# Keys


def test_an_unprepared_evaluator_refuses(native_rig: Rigs) -> None:
    r = native_rig("1")
    evaluator = _core.NativeEvaluator(r.context)
    with pytest.raises(BackendError, match="was not prepared"):
        evaluator.bootstrap(evaluator.read(r.keys.encrypt(values(0), 3)))


KINDS = ["relinearisation", "conjugation", "encapsulation"]


@pytest.mark.parametrize("missing", [*KINDS, "rotation", "height"])
def test_preparing_asks_for_every_key(native_rig: Rigs, missing: str) -> None:
    r = native_rig("1")
    keys, evaluator = _core.NativeKeys(r.keys), _core.NativeEvaluator(r.context)
    if missing != "relinearisation":
        evaluator.add_relinearisation_key(keys.relinearisation_key())
    if missing != "conjugation":
        evaluator.add_conjugation_key(keys.conjugation_key())
    if missing != "encapsulation":
        evaluator.add_encapsulation_keys(*keys.encapsulation_keys())
    rotations = sorted(_core.native_bootstrap_rotations(r.context))
    if missing == "rotation":
        del rotations[len(rotations) // 2]
    if missing == "height":
        tallest = max(range(len(rotations)), key=lambda i: rotations[i][1])
        rotations[tallest] = (rotations[tallest][0], rotations[tallest][1] - 1)
    for (k, _), body in zip(rotations, keys.rotation_keys(rotations), strict=True):
        evaluator.add_rotation_key(k, body)
    with pytest.raises(BackendError, match=r"needs the|no key of"):
        evaluator.prepare_bootstrap()


@pytest.mark.parametrize("short", ["relinearisation", "conjugation", "to_sparse", "to_dense"])
def test_keys_that_are_too_short_are_refused_before_or_at_their_use(native_rig: Rigs, short: str) -> None:
    """The right kind of bytes, a rotation key's, of too few limbs."""
    r = native_rig("1")
    keys, evaluator = _core.NativeKeys(r.keys), _core.NativeEvaluator(r.context)
    low = keys.rotation_keys([(1, 2)])[0]
    to_sparse, to_dense = keys.encapsulation_keys()

    def use() -> None:
        evaluator.add_relinearisation_key(low if short == "relinearisation" else keys.relinearisation_key())
        evaluator.add_conjugation_key(low if short == "conjugation" else keys.conjugation_key())
        evaluator.add_encapsulation_keys(
            to_sparse if short != "to_sparse" else keys.relinearisation_key(), low if short == "to_dense" else to_dense
        )
        rotations = sorted(_core.native_bootstrap_rotations(r.context))
        for (k, _), body in zip(rotations, keys.rotation_keys(rotations), strict=True):
            evaluator.add_rotation_key(k, body)
        evaluator.prepare_bootstrap()
        y = evaluator.bootstrap(evaluator.read(r.keys.encrypt(values(0), 3)))
        assert precision_bits(values(0), r.keys.decrypt(evaluator.write(y), SLOTS)).minimum < 0, "a wrong key decrypts"
        raise BackendError("noise")

    with pytest.raises(BackendError):
        use()


def test_two_keys_of_one_rotation_serve_by_height(native_rig: Rigs) -> None:
    r, x = native_rig("1"), values(3)
    evaluator, keys = _core.NativeEvaluator(r.context), _core.NativeKeys(r.keys)
    for key in keys.rotation_keys([(9, 4), (9, 12)]):
        evaluator.add_rotation_key(9, key)
    for level in (0, 3, 4, 11):
        y = evaluator.rotate(evaluator.read(r.keys.encrypt(x, level)), 9)
        assert precision_bits(np.roll(x, -9), r.keys.decrypt(evaluator.write(y), SLOTS)).minimum > 25
    with pytest.raises(BackendError, match="no key of 13 limbs"):
        evaluator.rotate(evaluator.read(r.keys.encrypt(x, 12)), 9)
    with pytest.raises(BackendError, match="no key of 1 limbs"):
        evaluator.rotate(evaluator.read(r.keys.encrypt(x, 0)), 8)


@SETS
def test_a_bootstrap_keeps_its_bits_under_few_keys(native_rig: Rigs, name: str) -> None:
    """Baby steps are made of others. On a ring this small only set 1 has enough of them to need fewer keys."""
    r, x = native_rig(name), values(11)
    needs = set(_core.native_bootstrap_rotations(r.context, _core.KeyPolicy.minimal))
    many = set(_core.native_bootstrap_rotations(r.context, _core.KeyPolicy.fast))
    assert len(needs) < len(many) if name == "1" else needs != many
    evaluator, keys = _core.NativeEvaluator(r.context, _core.KeyPolicy.minimal), _core.NativeKeys(r.keys)
    evaluator.add_relinearisation_key(keys.relinearisation_key())
    evaluator.add_conjugation_key(keys.conjugation_key())
    evaluator.add_encapsulation_keys(*keys.encapsulation_keys())
    for (k, _), body in zip(sorted(needs), keys.rotation_keys(sorted(needs)), strict=True):
        evaluator.add_rotation_key(k, body)
    evaluator.prepare_bootstrap()
    y = evaluator.bootstrap(evaluator.read(r.keys.encrypt(x, parameter_set(name).stc_budget)))
    assert evaluator.level(y) == parameter_set(name).levels
    assert precision_bits(x, r.keys.decrypt(evaluator.write(y), SLOTS)).minimum > BITS


@pytest.mark.parametrize("keys", _core.KeyPolicy.__members__.values(), ids=lambda keys: keys.name)
@pytest.mark.parametrize(
    "params",
    [s for s in parameter_sets(insecure=True) if preset(s).backend == "native" and s.bootstraps],
    ids=lambda s: s.name,
)
def test_the_rotations_of_a_bootstrap_fit_the_chain(params: Any, keys: Any) -> None:
    context = backend("native").context(params)
    needs = _core.native_bootstrap_rotations(context, keys)
    assert all(0 < abs(k) < 1 << (params.log_n - 1) for k, _ in needs)
    low, high = params.stc_budget + 1, params.top_level + 1
    assert {limbs for _, limbs in needs} == {*range(2, low + 1), *range(high - params.cts_budget + 1, high + 1)}
    assert _core.eval_mod_depth == NATIVE_EVAL_MOD_LEVELS
    assert context.levels.after_bootstrap == params.levels
    assert context.levels.bootstrap_min == params.stc_budget
    assert params.top_level - params.cts_budget - NATIVE_EVAL_MOD_LEVELS == params.levels


# The same bits


@pytest.fixture
def as_before() -> Iterator[None]:
    before = ring.instruction_set()
    yield
    ring.set_instruction_set(before)
    _core.set_threads(1)


@SETS
@pytest.mark.parametrize("slots", [SLOTS, ALL])
@pytest.mark.usefixtures("as_before")
def test_a_bootstrap_has_the_same_bits_for_all_threads_and_instruction_sets(
    native_rig: Rigs, name: str, slots: int
) -> None:
    r = native_rig(name, slots)
    x = r.encrypt(np.resize(values(1), slots), 6)
    results = {}
    for instructions in ring.instruction_sets():
        ring.set_instruction_set(instructions)
        for threads in (1, 2, 4):
            _core.set_threads(threads)
            y = r.evaluator.chebyshev(r.evaluator.bootstrap(x), [0, 0.5, 0, 0.25, 0.125])
            results[instructions, threads] = r.evaluator.write(y)
    assert len(set(results.values())) == 1, {key: hash(value) for key, value in results.items()}
    assert len(results) >= 3


@pytest.mark.usefixtures("as_before")
def test_tables_have_the_same_bits_for_every_instruction_set(native_rig: Rigs) -> None:
    """Keys expanded and matrices encoded under one instruction set serve all others."""
    r = native_rig("1")
    keys, needs = _core.NativeKeys(r.keys), sorted(_core.native_bootstrap_rotations(r.context))
    bodies = [keys.relinearisation_key(), keys.conjugation_key(), *keys.encapsulation_keys()]
    rotations = keys.rotation_keys(needs)
    x, results = r.keys.encrypt(values(2), 3), set()
    for instructions in ring.instruction_sets():
        ring.set_instruction_set(instructions)
        evaluator = _core.NativeEvaluator(r.context)
        evaluator.add_relinearisation_key(bodies[0])
        evaluator.add_conjugation_key(bodies[1])
        evaluator.add_encapsulation_keys(bodies[2], bodies[3])
        for (k, _), body in zip(needs, rotations, strict=True):
            evaluator.add_rotation_key(k, body)
        evaluator.prepare_bootstrap()
        results.add(evaluator.write(evaluator.bootstrap(evaluator.read(x))))
    assert len(results) == 1


# The range of EvalMod


def tail(terms: int, bound: Fraction) -> Fraction:
    """P(|sum of `terms` independent uniforms on [-1/2, 1/2]| > bound), exactly (Irwin and Hall)."""
    x = Fraction(terms, 2) - bound  # P(S < x) for a sum of uniforms on [0, 1], by symmetry twice
    below = sum((-1) ** k * math.comb(terms, k) * (x - k) ** terms for k in range(math.floor(x) + 1))
    return 2 * Fraction(below, math.factorial(terms))


def test_the_tail_is_the_tail() -> None:
    assert tail(1, Fraction(1, 4)) == Fraction(1, 2)
    assert tail(2, Fraction(1, 2)) == Fraction(1, 4)
    assert tail(33, Fraction(33, 2)) == 0
    sums = np.random.default_rng(0).uniform(-0.5, 0.5, (400_000, 33)).sum(axis=1)
    assert np.mean(np.abs(sums) > 3.5) == pytest.approx(float(tail(33, Fraction(7, 2))), rel=0.03)


def test_a_coefficient_leaves_the_range_of_the_sine_with_negligible_probability() -> None:
    """docs/explanation/precision.md. ModRaise adds q_0 I with I = round(sum over the 32 places of the sparse secret of
    c_1 / q_0), each term uniform on [-1/2, 1/2]; one uniform more only widens the tail."""
    assert (ckks.eval_mod_range, ckks.sparse_weight) == (12, 32)
    leaves = Fraction(2 * ckks.eval_mod_range + 1, 2)  # |I| > 12 is |sum| > 12.5
    bound, exact = tail(ckks.sparse_weight + 1, leaves), tail(ckks.sparse_weight, leaves)
    assert exact < bound
    run = bound * 16384 * 19
    print(f"per coefficient 2^{math.log2(bound):.1f}, per run 2^{math.log2(run):.1f}")
    assert run < Fraction(1, 2**30)
    assert math.log2(run) == pytest.approx(-37.46, abs=0.01)


def test_the_values_of_a_bootstrap_stay_in_the_range(native_rig: Rigs) -> None:
    """The largest |I| of many small bootstraps is what the sum predicts: not above the range, and not far below."""
    rng = np.random.default_rng(0)
    q0 = native_rig("1").context.q[0]
    n, weight, largest = 2048, ckks.sparse_weight, 0.0
    for _ in range(200):
        c1 = rng.integers(-q0 // 2, q0 // 2, n).astype(np.float64) / q0
        places, signs = rng.choice(n, weight, replace=False), rng.choice([-1, 1], weight)
        total = sum(s * np.roll(c1, p) * np.where(np.arange(n) < p, -1, 1) for p, s in zip(places, signs, strict=True))
        largest = max(largest, np.abs(np.round(total)).max())
    assert 7 <= largest <= ckks.eval_mod_range
