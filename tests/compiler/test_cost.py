"""What is predicted of a set without its context: the same as with it, nearly or to the byte."""

from __future__ import annotations

import pytest

from fheinfer import _core
from fheinfer.compiler.cost import NominalCost, cost_model
from fheinfer.crypto.backends import backend
from fheinfer.crypto.key_policy import KEY_POLICIES, KeyPolicy, core_policy
from fheinfer.crypto.params import parameter_set

NATIVE = backend("native")


@pytest.mark.parametrize("name", ["n13-l5-s25", "n14-l8-s25c-d3", "n15-l22-s25c-d3", "n15-l12-s36-d5", "relu"])
def test_keys_weigh_as_much_by_nominal_primes(name: str) -> None:
    params = parameter_set(name)
    real, nominal = cost_model(params, NATIVE, "fast"), NominalCost(params, NATIVE, core_policy("fast"))
    for limbs in range(1, params.limbs(params.top_level) + 1):
        assert abs(nominal.key_specials(limbs) - real.key_specials(limbs)) <= 1
    rotations = tuple((k, limbs) for k, limbs in enumerate(range(1, params.limbs(params.top_level) + 1), start=1))
    sizes = [cost.key_memory(rotations, bootstraps=params.bootstraps) for cost in (real, nominal)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)


@pytest.mark.parametrize("policy", KEY_POLICIES)
@pytest.mark.parametrize("name", ["insecure-tiny", "relu"])
def test_the_rotations_of_a_bootstrap_follow_from_those_of_the_shortest_chain(name: str, policy: KeyPolicy) -> None:
    params = parameter_set(name)
    real = _core.native_bootstrap_rotations(NATIVE.context(params), core_policy(policy))
    assert sorted(cost_model(params, NATIVE, policy).bootstrap_rotations()) == sorted(real)
