"""Bootstrapping on the chains of the published sets, with exactly the keys the manifest names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fheinfer import _core
from fheinfer.compiler.presets import preset
from fheinfer.crypto.backends import backend
from fheinfer.crypto.params import ParameterSet, parameter_set, parameter_sets
from fheinfer.errors import BackendError
from fheinfer.evaluation.metrics import precision_bits

Rigs = Callable[[str], Any]
BITS = {"1": 11.0, "2": 11.0, "3": 11.0, "4": 11.0}
"""Bits that the worst of 256 slots keeps. Most of the error is the sine in place of the identity: on this small ring
coefficients of a random message are eight times as large as with 16,384 slots, and that error grows with their cube."""


@pytest.mark.parametrize("name", ["1", "2", "3", "4"])
def test_the_chain_of_every_set_bootstraps_with_its_trimmed_keys(rig: Rigs, name: str) -> None:
    r = rig(name)
    x = np.random.default_rng(int(name)).uniform(-1, 1, 256) / 2
    y = r.evaluator.bootstrap(r.encrypt(x, 1))
    assert r.evaluator.level(y) == parameter_set(f"{name}-openfhe").levels
    assert precision_bits(x, r.decrypt(y)).minimum > BITS[name]
    # The result is good for all its levels.
    last = r.evaluator.drop_to(y, 1)
    assert precision_bits(x**2, r.decrypt(r.evaluator.multiply(last, last))).minimum > BITS[name] - 2


def test_a_short_period_bootstraps_as_well(rig: Rigs) -> None:
    r, x = rig("1"), np.random.default_rng(0).uniform(-0.5, 0.5, 64)
    y = r.evaluator.bootstrap(r.encrypt(x, 4))
    assert precision_bits(np.tile(x, 4), r.decrypt(y)).minimum > 9


def test_a_constant_offset_is_the_worst_case_of_the_sine(rig: Rigs) -> None:
    """EvalMod returns sin(2 pi m / q_0) q_0 / 2 pi for a coefficient m. With q_0 / scale = 8, the mean of all slots,
    which is one coefficient, comes back short by 8 ((2 pi)^2 / 6) (mean / 8)^3: a message should have a small mean."""
    r = rig("1")
    for mean in (0.05, 0.1, 0.2):
        error = np.mean(r.decrypt(r.evaluator.bootstrap(r.encrypt(np.full(256, mean), 1)))) - mean
        assert error == pytest.approx(-8 * (2 * np.pi) ** 2 / 6 * (mean / 8) ** 3, rel=0.15)


OPENFHE = [s for s in parameter_sets(insecure=True) if preset(s).backend == "openfhe"]


@pytest.mark.parametrize("params", OPENFHE, ids=lambda s: s.name)
def test_the_depth_of_a_bootstrap_is_openfhes(params: ParameterSet) -> None:
    budgets = params.cts_budget, params.stc_budget
    depth = _core.bootstrap_depth(*budgets)
    assert params.bootstrap_levels == backend("openfhe").bootstrap_levels(params) == depth
    assert depth == _core.openfhe_bootstrap_depth(*budgets)


def test_level_zero_cannot_be_bootstrapped(rig: Rigs) -> None:
    r = rig("1")
    with pytest.raises(BackendError, match="a bootstrap needs level 1, not 0"):
        r.evaluator.bootstrap(r.encrypt(np.ones(256) / 9, 0))


def test_an_unprepared_evaluator_refuses(rig: Rigs) -> None:
    r = rig("1")
    evaluator = _core.OpenFheEvaluator(r.context, f"{1:0>32}")
    with pytest.raises(BackendError, match="was not prepared"):
        evaluator.bootstrap(evaluator.read(r.keys.encrypt(np.ones(256) / 9, 1)))


@pytest.mark.parametrize("missing", ["relinearisation", "conjugation", "encapsulation", "rotation", "height"])
def test_preparing_asks_for_every_key(rig: Rigs, missing: str) -> None:
    r = rig("1")
    evaluator = _core.OpenFheEvaluator(r.context, f"{1:0>32}")
    if missing != "relinearisation":
        evaluator.add_relinearisation_key(r.keys.relinearisation_key())
    if missing != "conjugation":
        evaluator.add_conjugation_key(r.keys.conjugation_key())
    if missing != "encapsulation":
        evaluator.add_encapsulation_keys(*r.keys.encapsulation_keys())
    rotations = list(r.context.bootstrap_rotations().items())
    if missing == "rotation":
        del rotations[len(rotations) // 2]
    if missing == "height":
        k, limbs = rotations[0]
        rotations[0] = (k, limbs - 1)
    for (k, _), body in zip(rotations, r.keys.rotation_keys(rotations), strict=True):
        evaluator.add_rotation_key(k, body)
    with pytest.raises(BackendError, match=r"needed|needs|no key"):
        evaluator.prepare_bootstrap()


def test_rotations_of_a_bootstrap_are_keys_of_their_own() -> None:
    """In [1, N/2) and so no two the same automorphism; none taller than the chain."""
    for params in OPENFHE:
        rotations = backend("openfhe").context(params).bootstrap_rotations()
        assert all(0 < k < 1 << (params.log_n - 1) for k in rotations)
        assert set(rotations.values()) <= set(range(1, params.top_level + 2))
        assert min(rotations.values()) < params.top_level  # those of SlotToCoeff are short
