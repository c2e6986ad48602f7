"""Every rotation key has a user."""

from __future__ import annotations

from typing import get_args

import pytest

import fheinfer
from fheinfer.compiler.keys import BOOTSTRAP, COEFF_TO_SLOT, SLOT_TO_COEFF, rotation_keys
from fheinfer.crypto.key_policy import KEY_POLICIES, KeyPolicy
from fheinfer.frontends import zoo
from fheinfer.model.ops import Conv2d, Linear, SumPool
from tests.conftest import NETWORK, TINY


@pytest.mark.parametrize("policy", KEY_POLICIES)
@pytest.mark.parametrize("name", [TINY, f"{TINY}-openfhe"])
def test_every_key_has_users_that_are_in_the_plan(name: str, policy: KeyPolicy) -> None:
    plan = fheinfer.compile(zoo.placeholder(zoo.network(NETWORK)), name)
    keys = rotation_keys(plan, policy)
    assert tuple((key.rotation, key.limbs) for key in keys) == plan.keys[policy].rotations
    parts = {COEFF_TO_SLOT, SLOT_TO_COEFF} if plan.backend.name == "native" else {BOOTSTRAP}
    users = {user for key in keys for user in key.users}
    assert all(key.users for key in keys)
    rotating = {step.name for step in plan.steps if isinstance(step.op, Conv2d | SumPool | Linear)}
    assert parts <= users <= parts | rotating
    assert {"bn1", "fc"} <= users


def test_there_are_no_other_policies() -> None:
    assert set(KEY_POLICIES) == set(get_args(KeyPolicy))
