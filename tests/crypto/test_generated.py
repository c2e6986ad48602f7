"""Generated parameter sets: names, bounds, and what comes out of small rings against clear values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fheinfer import _core
from fheinfer.crypto.backends import backend
from fheinfer.crypto.generated import generated, log_qp, parse, special_count
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.crypto.security import MAX_LOG_QP, USVP_BITS, primal_attack_bits
from fheinfer.errors import PlanError, UnknownSetError
from fheinfer.evaluation.metrics import precision_bits

PLAIN = (
    "n12-l1-s25-d2",
    "n12-l2-s18-d3",
    "n13-l5-s25",
    "n13-l3-s30-d4",
    "n14-l8-s25",
    "n14-l9-s28-d5",
    "n14-l6-s40-d4",
)
COMPOSITE = ("n13-l2-s25c-d2", "n14-l8-s25c-d5", "n14-l10-s22c-d6")
TALL = (
    "n15-l22-s25c",
    "n15-l14-s40",
    "n16-l40-s25c",
    "n16-l26-s47",
    "n16-l10-s47-b33",
    "n16-l9-s42-q45-b33-openfhe",
)


def names(**fields: Any) -> ParameterSet | None:
    try:
        return generated(**fields)
    except PlanError:
        return None


@given(
    log_n=st.integers(12, 16),
    levels=st.integers(1, 40),
    scale_bits=st.integers(18, 47),
    digits=st.integers(1, 6),
    chain=st.sampled_from(["plain", "composite"]),
    first_bits=st.none() | st.integers(19, 49),
    special_bits=st.none() | st.integers(35, 50),
    budgets=st.sampled_from([(0, 0), (0, 0), (3, 3), (4, 2)]),
    log_slots=st.none() | st.integers(8, 15),
    openfhe=st.booleans(),
)
@settings(max_examples=300)
def test_a_name_says_all_of_a_set(**fields: Any) -> None:
    params = names(**fields)
    if params is not None:
        assert parse(params.name) == params
        assert parameter_set(params.name) == params
        assert len(params.name) <= 64


def test_without_digits_a_name_means_the_fewest_that_are_safe() -> None:
    assert parameter_set("n13-l5-s25").name == "n13-l5-s25-d6"
    assert parameter_set("n16-l40-s25c").name == "n16-l40-s25c-d2"
    with pytest.raises(PlanError, match="n13-l5-s25-d3 has log2"):
        parameter_set("n13-l5-s25-d3")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("n11-l5-s25", "rings are"),
        ("n17-l5-s25", "rings are"),
        ("n13-l50-s25", "bits of security"),
        ("n14-l8-s26c", "18 to 25|20 to 25"),
        ("n14-l7-s25c", "even number"),
        ("n13-l5-s12", "have 19 to 47 bits"),
        ("n15-l12-s25-q25", "q_0 of 25 bits"),
        ("n15-l12-s25-w15", "slots"),
        ("n15-l0-s25", "levels"),
    ],
)
def test_what_no_chain_has_is_refused(name: str, problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        parameter_set(name)


@pytest.mark.parametrize("name", ["n13", "n13-l5", "n13-l5-s25-d3-x", "n13-l5-s25d3", "N13-l5-s25"])
def test_other_names_are_unknown(name: str) -> None:
    with pytest.raises(UnknownSetError, match="like n13-l5-s25"):
        parameter_set(name)


@pytest.mark.parametrize("name", USVP_BITS)
def test_the_formula_agrees_with_the_lattice_estimator(name: str) -> None:
    params = parameter_set(name)
    assert abs(primal_attack_bits(params.log_n, backend("native").context(params).log_qp) - USVP_BITS[name]) < 0.15


@pytest.mark.parametrize("log_n", MAX_LOG_QP)
def test_larger_moduli_and_smaller_rings_are_less_secure(log_n: int) -> None:
    bits = [primal_attack_bits(log_n, MAX_LOG_QP[log_n] + more) for more in (-20, 0, 20)]
    assert bits == sorted(bits, reverse=True)
    assert 125 < bits[1] < 129


@pytest.mark.parametrize("name", PLAIN + COMPOSITE + TALL)
def test_chains_are_what_their_sizes_say(name: str) -> None:
    params = parameter_set(name)
    made = backend("openfhe" if name.endswith("openfhe") else "native").context(params)
    assert abs(made.log_qp - log_qp(params)) <= 1
    assert made.log_qp <= MAX_LOG_QP[params.log_n]
    assert primal_attack_bits(params.log_n, made.log_qp) > 128
    assert len(made.p) == special_count(params)
    assert len({*made.q, *made.p}) == len(made.q) + len(made.p)
    assert max(*made.q, *made.p) < 2**50
    assert all(p % (2 << params.log_n) == 1 for p in (*made.q, *made.p))


def unit(params: ParameterSet) -> float:
    """Standard deviation of what a rescaling adds to a slot (fheinfer/evaluation/noise.py)."""
    return float(math.sqrt(params.slots * (1 + 2 * (1 << params.log_n) / 3) / 12) / 2**params.scale_bits)


@pytest.mark.parametrize("name", PLAIN + COMPOSITE)
@pytest.mark.parametrize("of", ["native", "openfhe"])
def test_small_rings_compute_what_the_clear_values_say(name: str, of: str) -> None:
    """A product, a rotation, and rescalings down to level 0: within a few units of noise."""
    params = parameter_set(name)
    if of == "openfhe" and params.composite:
        pytest.skip("OpenFHE evaluates no composite-prime chain")
    made, tag = backend(of), f"{name:0>32}"[-32:]
    context = made.context(params)
    keys = _core.ClientKeys.generate(context, tag)
    evaluator, maker = made.evaluator(context, tag, _core.KeyPolicy.fast), made.key_maker(keys)
    evaluator.add_relinearisation_key(maker.relinearisation_key())
    evaluator.add_rotation_key(3, maker.rotation_keys([(3, params.limbs(params.top_level))])[0])
    rng = np.random.default_rng(1)
    x, y, factor = (rng.uniform(-1, 1, params.slots) for _ in range(3))

    def check(z: Any, expected: Any, units: float) -> None:
        got = np.asarray(keys.decrypt(evaluator.write(z), params.slots))
        errors = np.sort(np.abs(got - expected))
        if of == "native":
            assert errors[-1] < 5 * units * unit(params)
        else:  # OpenFHE divides by special primes more coarsely, most of all in a few slots
            assert errors[len(errors) * 49 // 50] < 16 * units * unit(params)
        assert precision_bits(expected, got).median > 5

    a, b = (evaluator.read(keys.encrypt(v, params.levels)) for v in (x, y))
    check(a, x, 2)
    product = evaluator.multiply(a, b)
    check(product, x * y, 3)
    check(evaluator.rotate(a, 3), np.roll(x, -3), 3)
    z, expected = product, x * y
    while evaluator.level(z):
        z, expected = evaluator.multiply_plain(z, factor), expected * factor
    check(z, expected, 6)
