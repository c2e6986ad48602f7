"""Every rotation key has a user, and what the keys weigh is what the plan predicts and the files hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from fheinfer.compiler.policy import KEY_POLICIES, KeyPolicy

import fheinfer
from fheinfer.compiler.keys import BOOTSTRAP, COEFF_TO_SLOT, SLOT_TO_COEFF, rotation_keys
from fheinfer.crypto.keygen import manifest_plan
from fheinfer.crypto.keystore import Manifest, rotation_file
from fheinfer.crypto.params import parameter_set
from tests.conftest import NETWORK, TINY


@pytest.mark.parametrize("policy", KEY_POLICIES)
@pytest.mark.parametrize("name", [TINY, f"{TINY}-openfhe"])
def test_every_key_has_users_that_are_in_the_plan(name: str, policy: KeyPolicy) -> None:
    plan = manifest_plan(NETWORK, parameter_set(name), policy)
    keys = rotation_keys(plan)
    assert [(key.rotation, key.limbs) for key in keys] == list(plan.rotations)
    parts = {COEFF_TO_SLOT, SLOT_TO_COEFF} if plan.params.native else {BOOTSTRAP}
    users = {user for key in keys for user in key.users}
    assert all(key.users for key in keys)
    assert parts <= users <= parts | {step.name for step in plan.steps if step.op in ("conv2d", "avg_pool", "linear")}
    assert {"bn1", "fc"} <= users


def test_bytes_are_those_of_the_files(tiny_keys: Path, tiny_plan: fheinfer.Plan) -> None:
    files = Manifest.load(tiny_keys / f"set{TINY}" / "server" / "manifest.json").files
    for key in rotation_keys(tiny_plan):
        assert files[rotation_file(key.rotation, key.limbs)].bytes == pytest.approx(key.bytes, abs=1024)
