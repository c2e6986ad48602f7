"""The primes of the chains that OpenFHE bootstraps on. See docs/explanation/precision.md, the fit of q_0."""

from __future__ import annotations

import dataclasses
import math

import pytest

from fheinfer.compiler.presets import preset
from fheinfer.crypto.backends import backend
from fheinfer.crypto.parameter_set import CHAIN_VERSION
from fheinfer.crypto.params import (
    NATIVE_EVAL_MOD_LEVELS,
    ParameterSet,
    parameter_set,
    parameter_sets,
)

SETS = [s for s in parameter_sets(insecure=True) if preset(s).backend == "openfhe"]
OPENFHE = backend("openfhe")
CANDIDATES = 60
"""Primes congruent to 1 modulo 2N: near 2^46 one number in 16 of that form is one, so the nearest to a given point is
beyond 60 of them on both sides in one case of 2,000."""


def misfit(params: ParameterSet, q: list[int]) -> float:
    """Relative error of q_0^2 against what EvalBootstrap takes it for, 2^(2 first - scale) q_top."""
    return q[0] ** 2 / (2.0 ** (2 * params.first_bits - params.scale_bits) * q[-1]) - 1


def bound(params: ParameterSet, q: list[int]) -> float:
    return 2 * CANDIDATES * (2 << params.log_n) / q[0]


@pytest.mark.parametrize("params", SETS, ids=lambda p: p.name)
def test_the_first_prime_fits_what_a_bootstrap_of_openfhe_assumes(params: ParameterSet) -> None:
    for made in (params, dataclasses.replace(params, log_n=11, slots=256, insecure=True)):
        q = OPENFHE.context(made).q
        assert abs(misfit(made, q)) <= bound(made, q)
        assert q[0] % (2 << made.log_n) == 1
        assert len(set(q)) == len(q)


@pytest.mark.parametrize("name", ["2-openfhe", "3-openfhe", "4-openfhe"])
def test_the_noise_of_the_fit_is_below_that_of_a_bootstrap(name: str) -> None:
    """A coefficient holds a multiple of q_0 with a standard deviation of sqrt(33/12), and the misfit of each comes back
    as noise. OpenFHE's own primes (those of a native set) leave 8.1 to 8.4 bits; measured then: 8.4 to 8.8."""
    params = parameter_set(name)

    def bits(q: list[int]) -> float:
        room = 2.0 ** (params.first_bits - params.scale_bits)
        return -math.log2(abs(misfit(params, q)) * math.sqrt(33 / 12 * 2 * params.slots) * room)

    above = params.cts_budget + NATIVE_EVAL_MOD_LEVELS
    own = dataclasses.replace(params, levels=params.top_level - above, bootstrap_levels=above, insecure=True)
    assert own.top_level == params.top_level
    assert bits(backend("native").context(own).q) < 8.5
    assert bits(OPENFHE.context(params).q) > 14


def test_the_version_of_the_chain_is_part_of_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys made under other primes of the same sizes are of another set."""
    before = parameter_set("1").identity
    monkeypatch.setattr("fheinfer.crypto.parameter_set.CHAIN_VERSION", CHAIN_VERSION + 1)
    assert parameter_set("1").identity != before
